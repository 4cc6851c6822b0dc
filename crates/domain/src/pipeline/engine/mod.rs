//! Templates' engine: minijinja, with numbers that are exact.
//!
//! minijinja's numbers are 128-bit integers and 64-bit floating point. `number` adds those that fit neither, [`value`] converts
//! JSON to values and back without losing a digit. An operator cannot be taught to the engine, so `rewrite` puts a function of
//! `operators` in its place before a template is compiled, and `filters` replaces the filters and tests that look at numbers.
//! `text` says how a value stands in text, `names` has `now()` and `omit`; `encode` and `date` are filters for what APIs ask for.

mod date;
mod encode;
mod error;
mod filters;
mod format;
mod names;
mod number;
mod operators;
mod program;
mod rewrite;
mod text;
mod value;

use minijinja::Environment;

pub(super) use error::Refusal;
pub(super) use names::{NOW, OMIT, Omitted, is_omit, is_omitted, omitted};
pub(super) use program::Program;
pub(super) use text::{path_text, text_of, xml_text};
pub(super) use value::{from_fields, from_json, from_texts, holds_undefined, is_true, to_json};

/// Adds exact numbers to an environment.
pub(super) fn install(environment: &mut Environment<'static>) {
    operators::install(environment);
    filters::install(environment);
    text::install(environment);
    names::install(environment);
    encode::install(environment);
    date::install(environment);
}

//! Templates' engine: minijinja, with numbers that are exact.
//!
//! minijinja's numbers are 128-bit integers and 64-bit floating point. `number` adds those that fit neither, [`value`] converts
//! JSON to values and back without losing a digit. An operator cannot be taught to the engine, so `rewrite` puts a function of
//! `operators` in its place before a template is compiled, and `filters` replaces the filters and tests that look at numbers.
//! `text` says how a value stands in text.

mod filters;
mod format;
mod number;
mod operators;
mod program;
mod rewrite;
mod text;
mod value;

use std::sync::LazyLock;

use minijinja::{Environment, Error, ErrorKind, State};

pub(super) use program::Program;
pub(super) use text::{path_text, text_of};
pub(super) use value::{from_fields, from_json, from_texts, to_json};

/// What one filter of the engine may cost: its result is bounded before it is made.
const FUEL: u64 = 50_000;

static PLAIN: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment
});

/// Adds exact numbers to an environment.
pub(super) fn install(environment: &mut Environment<'static>) {
    operators::install(environment);
    filters::install(environment);
    text::install(environment);
}

/// Why a template cannot be applied, in a sentence of ours: it holds no value of a row, so that people may read it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refusal(String);

/// An error with such a sentence.
fn refused(why: impl Into<String>) -> Error {
    let refusal = Refusal(why.into());
    Error::new(ErrorKind::InvalidOperation, refusal.0.clone()).with_source(refusal)
}

/// Something that the engine itself does, with its own filters.
fn plain_state<T>(run: impl FnOnce(&mut State<'_, '_>) -> Result<T, Error>) -> Result<T, Error> {
    run(&mut PLAIN.empty_state())
}

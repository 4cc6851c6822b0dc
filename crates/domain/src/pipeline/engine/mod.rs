//! Templates' engine: minijinja, with numbers that are exact.
//!
//! minijinja's numbers are 128-bit integers and 64-bit floating point. `number` adds those that fit neither, [`value`] converts
//! JSON to values and back without losing a digit. An operator cannot be taught to the engine, so `rewrite` puts a function of
//! `operators` in its place before a template is compiled, and `filters` replaces the filters and tests that look at numbers.

mod filters;
mod number;
mod operators;
mod program;
mod rewrite;
mod value;

use std::sync::LazyLock;

use minijinja::{Environment, Error, State};

pub(super) use program::Program;
pub(super) use value::{from_fields, from_json, from_texts, to_json};

static PLAIN: LazyLock<Environment<'static>> = LazyLock::new(Environment::new);

/// Adds exact numbers to an environment.
pub(super) fn install(environment: &mut Environment<'static>) {
    operators::install(environment);
    filters::install(environment);
}

/// Something that the engine itself does, with its own filters.
fn plain_state<T>(run: impl FnOnce(&mut State<'_, '_>) -> Result<T, Error>) -> Result<T, Error> {
    run(&mut PLAIN.empty_state())
}

//! Errors of the engine, in sentences of ours.

use minijinja::{Error, ErrorKind};

/// Why a template cannot be applied, in a sentence of ours: it holds no value of a row, so that people may read it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(String);

/// An error with such a sentence.
pub(super) fn refused(why: impl Into<String>) -> Error {
    let refusal = Refusal(why.into());
    Error::new(ErrorKind::InvalidOperation, refusal.0.clone()).with_source(refusal)
}

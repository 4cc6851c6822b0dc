//! Names of ours that every template can read: `now()` and `omit`.

use std::sync::Arc;

use minijinja::value::{Object, ObjectRepr};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use super::error::refused;

/// Where the time of `now()` is found among the values of a template. No template can write this name.
pub const NOW: &str = "now()";

/// The value that leaves out what it is the value of.
pub const OMIT: &str = "omit";

/// Adds them.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.add_function("now", now);
    environment.add_global(OMIT, Value::from_object(Omit));
}

/// Seconds since the Unix epoch, rounded down. The time is passed in: all of one rendering read the same.
fn now(state: &State<'_, '_>) -> Value {
    state.lookup(NOW).unwrap_or_else(|| Value::from(0))
}

/// What `omit` is.
#[derive(Debug)]
struct Omit;

impl Object for Omit {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

/// Whether a value is `omit`.
pub fn is_omit(value: &Value) -> bool {
    value.downcast_object_ref::<Omit>().is_some()
}

/// Ends the rendering of a text in which `omit` is written: the whole text is left out.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("`omit` cannot stand here, where a value is needed")]
pub struct Omitted;

/// The error that says so.
pub fn omitted() -> Error {
    Error::new(ErrorKind::InvalidOperation, Omitted.to_string()).with_source(Omitted)
}

/// Whether an error is [`omitted`].
pub fn is_omitted(error: &Error) -> bool {
    use std::error::Error as _;
    error.source().is_some_and(|source| source.is::<Omitted>())
}

/// Why an `omit` that nothing leaves out is refused.
///
/// # Errors
/// Always.
pub(super) fn refuse_omit<T>() -> Result<T, Error> {
    Err(refused("`omit` cannot be computed with; it stands for a whole value"))
}

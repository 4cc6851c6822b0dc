//! A batch that an answer holds: its other rows in this worker make no further call.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// When an answer held a batch last, as far as this worker knows. SQL knows for all of them; what was claimed afterwards may run.
#[derive(Debug, Default)]
pub struct HeldAt(Mutex<Option<Instant>>);

impl HeldAt {
    /// An answer holds the batch.
    pub(super) fn set(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether one did since that moment.
    pub(super) fn is_after(&self, moment: Instant) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| at >= moment)
    }
}

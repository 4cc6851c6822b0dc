//! How a run distributes rows.

use std::time::Duration;

/// How a run distributes rows.
#[derive(Clone, Debug)]
pub struct DispatchPolicy {
    /// Rows in flight for an owner that has no quota of its own.
    pub rows_per_owner: u32,
    /// Rows of a whole run; none: no cap.
    pub rows_per_run: Option<u32>,
    /// How long after its start time a queued row counts as lost.
    pub lost_after: Duration,
    /// How long a stored file may wait for its extraction before its message is enqueued again.
    pub extraction_grace: Duration,
    /// Whether runs look for dead workers. Not where the only worker is in this process, and looks for itself.
    pub looks_for_dead: bool,
}

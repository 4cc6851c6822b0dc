//! Something that is stuck.

use serde::Serialize;
use serde_json::Value;

/// Something that is stuck.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// What.
    pub what: &'static str,
    /// How many rows, batches, objects, …
    pub count: usize,
    /// What fixes it.
    pub repair: &'static str,
    /// Whether `--apply` does that; otherwise it is for people.
    pub by_apply: bool,
    /// Which ones: a list.
    pub detail: Value,
    /// Fixed by this run.
    pub applied: usize,
    /// Planned, and found otherwise when its turn came: somebody else was faster.
    pub overtaken: usize,
}

impl Finding {
    pub(crate) fn new(
        what: &'static str,
        count: usize,
        repair: &'static str,
        by_apply: bool,
        detail: Value,
    ) -> Self {
        Self { what, count, repair, by_apply, detail, applied: 0, overtaken: 0 }
    }
}

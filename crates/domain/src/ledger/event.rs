//! What a callback reports.

use serde::{Deserialize, Serialize};

/// What a callback reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Event {
    /// The batch exists.
    #[serde(rename = "batch.created")]
    Created,
    /// Another percent is done.
    #[serde(rename = "batch.progress")]
    Progress,
    /// The first row of this run failed.
    #[serde(rename = "batch.row_failed_first")]
    RowFailedFirst,
    /// The canary (or the ceiling), or an answer, held the batch.
    #[serde(rename = "batch.held")]
    Held,
    /// A dependency of this run fails, its circuit breaker is open: rows wait.
    #[serde(rename = "batch.delayed")]
    Delayed,
    /// This run ended and no row failed.
    #[serde(rename = "batch.succeeded")]
    Succeeded,
    /// This run ended by being cancelled.
    #[serde(rename = "batch.cancelled")]
    Cancelled,
    /// This run ended.
    #[serde(rename = "batch.finished")]
    Finished,
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Created,
        Self::Progress,
        Self::RowFailedFirst,
        Self::Held,
        Self::Delayed,
        Self::Succeeded,
        Self::Cancelled,
        Self::Finished,
    ];

    /// The event's type on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "batch.created",
            Self::Progress => "batch.progress",
            Self::RowFailedFirst => "batch.row_failed_first",
            Self::Held => "batch.held",
            Self::Delayed => "batch.delayed",
            Self::Succeeded => "batch.succeeded",
            Self::Cancelled => "batch.cancelled",
            Self::Finished => "batch.finished",
        }
    }
}

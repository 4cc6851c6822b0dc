//! One thing that a batch or a row waits for.

use penstock_domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One thing that is waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Wait {
    /// For programs: `paused`, `owner_quota`, `backoff`, `breaker_open`, …
    pub reason: String,
    /// For people.
    pub sentence: String,
    /// When it moves next, where that can be told.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
}

/// A wait of these three parts.
pub(super) fn wait(reason: &str, sentence: impl Into<String>, until: Option<Timestamp>) -> Wait {
    Wait { reason: reason.to_owned(), sentence: sentence.into(), until }
}

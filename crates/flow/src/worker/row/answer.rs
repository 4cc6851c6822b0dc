//! What came of a call: its answer, or why it was not made.

use std::time::Duration;

use penstock_domain::limit::Reason;
use penstock_domain::outcome::Verdict;
use penstock_domain::time::Timestamp;
use penstock_downstream::{Failure, Refusal, Response};

/// The end of a call.
pub(crate) struct Answer {
    /// When it ended.
    pub(crate) ended_at: Timestamp,
    /// When it left.
    pub(crate) left_at: Timestamp,
    /// What it means for the row.
    pub(crate) verdict: Verdict,
    /// The response, if one came.
    pub(crate) response: Option<Response>,
    /// Why there is none, or why it cannot be used.
    pub(crate) failure: Option<Failure>,
    /// When the call may be repeated at the earliest, where the response asks for it.
    pub(crate) not_before: Option<Timestamp>,
    /// Whether the call was a probe of the breaker.
    pub(crate) probe: bool,
    /// Whether it was throttled while calls for other rows succeeded.
    pub(crate) alone: bool,
    /// Whether it is the row's own part of the answer of a bulk call.
    pub(crate) item: bool,
}

impl Answer {
    /// The same answer for one more row: they share its body.
    pub(crate) fn share(&self) -> Self {
        Self {
            verdict: self.verdict.clone(),
            response: self.response.as_ref().map(Response::share),
            failure: self.failure.clone(),
            ..*self
        }
    }
}

/// Why a call was not made.
#[derive(Clone)]
pub(crate) enum NotMade {
    /// See [`Called::Waits`](penstock_downstream::Called::Waits).
    Waits {
        /// Until when.
        until: Timestamp,
        /// For which limit.
        reason: Reason,
        /// For how long the dependency has refused everything.
        refused_for: Duration,
    },
    /// The dependency's token endpoint refuses.
    Refused(Refusal),
    /// The worker drains, the batch is held, a heartbeat is late, or the call could not be recorded.
    NotNow,
    /// Another row of the same recorded call was requeued until then.
    NotAlone(Timestamp),
}

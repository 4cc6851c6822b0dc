//! What a caller is asked for, and what it answers.

use std::time::Duration;

use async_trait::async_trait;
#[cfg(doc)]
use penstock_domain::limit::{Decision, Denied};
use penstock_domain::limit::{Past, Reason};
use penstock_domain::outcome::{Repetition, Verdict};
use penstock_domain::pipeline::{AnswerFormat, Dependency, RowContext, Step};
use penstock_domain::time::Timestamp;

use crate::credentials::oauth2::Refusal;
use crate::failure::Failure;
use crate::limiter::Spend;
use crate::response::Response;

/// Who calls what.
pub struct Demand<'a> {
    /// The dependency.
    pub dependency: &'a Dependency,
    /// The owner's name.
    pub owner: &'a str,
    /// What the call takes of its dependency's limits.
    pub spend: Spend,
    /// How long the call may take, from connecting to the end of the answer.
    pub timeout: Duration,
    /// What the answer's body is read as.
    pub answer: AnswerFormat,
    /// What it is to make the call again when its outcome is unknown.
    pub repetition: Repetition,
    /// Whether an earlier try with the same key had no answer, so that it may still be under way.
    pub unanswered_before: bool,
    /// Whether anything of the answer's body is read: a body that nobody reads may be anything.
    pub reads_body: bool,
    /// What the definition says about answers, and the row whose values it may read.
    pub rules: Option<Rules<'a>>,
    /// The `traceparent` (W3C Trace Context), when the row is traced.
    pub traceparent: Option<String>,
    /// The row's own past at the step.
    pub past: Past,
    /// For a call that is made at most once: records that it is about to be made, once it has a permit.
    pub note: Option<&'a dyn Note>,
}

/// A step's `responses`, as they read one row.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    /// The step.
    pub step: &'a Step,
    /// The row.
    pub row: RowContext<'a>,
}

/// Something that is recorded before a call.
#[async_trait]
pub trait Note: Sync {
    /// Records it. False: it was not recorded, and the call may not be made.
    async fn write(&self) -> bool;
}

/// What came of it.
#[derive(Debug)]
pub enum Called {
    /// It may not be made before a moment.
    Waits {
        /// When.
        until: Timestamp,
        /// Which limit.
        reason: Reason,
        /// For how long the dependency has refused everything, see [`Denied::refused_for`].
        refused_for: Duration,
    },
    /// The dependency's token endpoint refuses: nobody was called, and nothing of the batch can be.
    Refused(Refusal),
    /// The row's lease would not have covered the call, or it could not be recorded: it was not made.
    NotCovered,
    /// It was made, or cannot be made at all.
    Answered {
        /// What to do about it.
        verdict: Verdict,
        /// The answer, if one came.
        response: Option<Response>,
        /// Why there is none, or why it cannot be used.
        failure: Option<Failure>,
        /// When the call may be repeated at the earliest, where the answer asks for it.
        not_before: Option<Timestamp>,
        /// From sending to the end of the answer.
        elapsed: Duration,
        /// Whether it was a probe, see [`Decision::Granted`].
        probe: bool,
        /// Whether it was throttled for a reason of its row's own, so that it holds up no other.
        alone: bool,
    },
}

impl Called {
    /// Of a call that cannot be made at all.
    pub(super) fn unmade(code: &str) -> Self {
        Self::Answered {
            verdict: Verdict::Fail { code: code.to_owned() },
            response: None,
            failure: None,
            not_before: None,
            elapsed: Duration::ZERO,
            probe: false,
            alone: false,
        }
    }
}

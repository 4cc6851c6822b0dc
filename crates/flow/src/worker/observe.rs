//! Observers of a row's steps: the log, or an operator at a terminal.

use std::time::Duration;

use penstock_domain::outcome::Verdict;
use penstock_downstream::Failure;

use crate::telemetry::traces::ROW_LINES;

/// One call, without its content.
#[derive(Debug)]
pub struct StepSeen<'a> {
    /// The step's name.
    pub step: &'a str,
    /// The request's method.
    pub method: &'a str,
    /// The request's path as the definition writes it.
    pub path_template: &'a str,
    /// The request's path. It can hold a row's values: never log it.
    pub path: &'a str,
    /// The answer's status; none when there was no answer.
    pub status: Option<u16>,
    /// Why there was none, or why it cannot be used.
    pub failure: Option<&'a Failure>,
    /// What the answer means for the row.
    pub verdict: &'a Verdict,
    /// From sending to the end of the answer.
    pub elapsed: Duration,
}

/// Receives each step of a row.
pub trait Observer: Send + Sync {
    /// A call has ended.
    fn step(&self, seen: &StepSeen<'_>);
}

/// The log: a line for each step, at `debug`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Log;

impl Observer for Log {
    fn step(&self, seen: &StepSeen<'_>) {
        tracing::debug!(
            target: ROW_LINES,
            step = seen.step,
            method = seen.method,
            http_status = seen.status,
            code = seen.verdict.code(),
            cause = seen.failure.map(|failure| failure.cause.name()),
            milliseconds = seen.elapsed.as_secs_f64() * 1e3,
            "a step was called"
        );
    }
}

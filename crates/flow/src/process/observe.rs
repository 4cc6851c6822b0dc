//! Who listens to a row's steps: nobody, the metrics, or an operator at a terminal.

use std::time::Duration;

use penstock_domain::outcome::Verdict;

/// One call, without its content.
#[derive(Debug)]
pub struct StepSeen<'a> {
    /// The step's name.
    pub step: &'a str,
    /// The request's method.
    pub method: &'a str,
    /// The request's path. It can hold a row's values: never log it.
    pub path: &'a str,
    /// The answer's status; none when there was no answer.
    pub status: Option<u16>,
    /// What it was judged to be.
    pub verdict: &'a Verdict,
    /// From sending to the end of the answer.
    pub elapsed: Duration,
}

/// Hears of each step of a row.
pub trait Observer: Send + Sync {
    /// A call has ended.
    fn step(&self, seen: &StepSeen<'_>);
}

/// Nobody listens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody;

impl Observer for Nobody {
    fn step(&self, _seen: &StepSeen<'_>) {}
}

//! A row of the simulation, and how the API treats it.

use super::world::STEP;
use crate::limit::Past;
use crate::retry;
use crate::row::RowError;

/// How an API treats a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// It is done.
    Good,
    /// It is answered 500 each time.
    Bad,
    /// It is answered 429 each time, with this many seconds of `Retry-After`.
    Refused(Option<f64>),
    /// It is answered 500 each time, with this many seconds of `Retry-After`.
    Waiting(f64),
}

/// What the API is like at a moment.
#[derive(Clone, Copy, Debug)]
pub(super) enum Api {
    /// Well.
    Well,
    /// Answers 500 to everything between two moments (seconds).
    Down(f64, f64),
    /// Is not reachable between two moments.
    Away(f64, f64),
    /// Takes this many calls, then answers 429 without a word until a moment.
    Quota(u32, f64),
    /// Fails a share of all calls.
    Flaky(f64),
}

pub(super) struct Row {
    pub(super) kind: Kind,
    pub(super) error: Option<RowError>,
    pub(super) attempts: u32,
    pub(super) calls: u32,
    /// When a worker took it up first.
    pub(super) first_at: Option<f64>,
    /// Seconds.
    pub(super) ended: Option<f64>,
    pub(super) done: bool,
}

impl Row {
    pub(super) fn past(&self) -> Past {
        self.error.as_ref().map_or(Past::Clean, |error| retry::past(error.throttled, &error.attempts, STEP))
    }
}

pub(super) enum Event {
    /// A run of the dispatcher.
    Run,
    /// A released row may start.
    Ready,
    /// The lane is looked at again.
    Look,
    Sent(bool),
    Answered {
        past: Past,
        probe: bool,
        left_at: f64,
    },
}

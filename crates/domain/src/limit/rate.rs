//! How often calls may come: GCRA (the generic cell rate algorithm, ITU-T I.371, "virtual scheduling").
//!
//! The state is one number, the *theoretical arrival time*: when the bucket will be empty again if nothing more comes.
//! A call that leaves at `s` moves it to `max(tat, s) + cost·interval`, and may leave when that is no more than the
//! tolerance ahead of `s`. After a call it is therefore at least `cost·interval` and at most the tolerance ahead of where
//! the call left, and each call moves it on by its cost. It follows that for any calls, the one granted first leaving at
//! `a` and the one granted last at `b`, their costs are at most `(b − a + tolerance) / interval`: with a tolerance of
//! `burst·interval`, exactly burst + rate·t. The order in which they leave does not matter, so somebody further away may
//! be granted a later moment than who asks after him; and a call may leave later than at its moment, as long as that is
//! not after the theoretical arrival time that it found ([`RatePolicy::slack`]).
//!
//! Three things carry this from where calls *leave* to where they *arrive*, though the network and the scheduler delay
//! some calls and not others:
//!
//! - [`ARRIVAL_MARGIN_US`] is taken off the tolerance, so that a late first call and a punctual last one stay apart. A
//!   burst smaller than 1 + margin·rate has less room than that; what is missing is charged to the first call after a
//!   quiet time, and the rest of the room is what the burst leaves. An API that counts exactly and allows no burst at
//!   all can only be served exactly below its rate.
//! - The rate in use is [`SAFETY`] of the one allowed: clocks differ, and slack builds up where calls are counted.
//! - What is not known (lost state, the end of a pause) starts empty, never full. What was never used is full.

use std::time::Duration;

use super::micros;

/// Share of the allowed rate that is used.
pub const SAFETY: f64 = 0.995;

/// How much later than its followers a call may arrive.
pub const ARRIVAL_MARGIN_US: f64 = 25_000.0;

/// Of that, how much later than allowed a call may leave. What leaves later is not made; the rest is the network's.
pub const LATE_US: f64 = 15_000.0;

/// How often calls may come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RatePolicy {
    /// Microseconds between two calls of cost 1 in the long run.
    pub interval_us: f64,
    /// Calls at once after a quiet time.
    pub burst: u32,
}

impl RatePolicy {
    /// `limit` calls in a `period`, and `burst` at once.
    pub fn new(limit: u32, period: Duration, burst: u32) -> Self {
        Self { interval_us: micros(period) / f64::from(limit) / SAFETY, burst }
    }

    /// At most `limit` calls in *any* `period`, with a burst inside it: a bucket of `burst` that fills again with the rest in a
    /// period. Calls arrive later than they leave, and not all by the same time, so the period that the dependency counts may
    /// have been longer by the margin where they left.
    pub fn sliding(limit: u32, period: Duration, burst: u32) -> Self {
        // A limit of one call in a period has no rest: its calls are a period apart.
        let rest = f64::from(limit.saturating_sub(burst).max(1));
        let within = (micros(period) + ARRIVAL_MARGIN_US) / (rest + 1.0);
        Self { interval_us: (micros(period) / rest / SAFETY).max(within), burst }
    }

    /// The part of the margin that the burst has room for.
    fn margin(&self) -> f64 {
        ARRIVAL_MARGIN_US.min((f64::from(self.burst) - 1.0) * self.interval_us)
    }

    /// How far ahead of a call's moment the theoretical arrival time may be after it.
    pub fn tolerance(&self) -> f64 {
        f64::from(self.burst) * self.interval_us - self.margin()
    }

    /// What the first call after a quiet time pays besides.
    pub fn first_surcharge(&self) -> f64 {
        ARRIVAL_MARGIN_US - self.margin()
    }

    /// The theoretical arrival time of a bucket from which one call may be taken at `at`, and the next an interval later.
    pub(super) fn empty_at(&self, at: f64) -> f64 {
        at + self.tolerance() - self.interval_us
    }

    /// The same of a bucket of which nothing is known. Calls that were granted before may leave for `cold_wait_us` yet; and where
    /// an interval is longer, the last one may have left a moment ago, for nothing is lost and asked for again sooner than
    /// in [`ARRIVAL_MARGIN_US`]. Not both waits one after the other: whoever asks first would be sent away at every rate.
    pub(super) fn unknown_at(&self, now: f64, cold_wait_us: f64) -> f64 {
        self.empty_at(now + cold_wait_us.max(self.interval_us - ARRIVAL_MARGIN_US))
    }

    /// When a call that cannot leave before `soonest` may leave.
    pub(super) fn moment(&self, tat: f64, soonest: f64, cost: u32) -> f64 {
        soonest.max(tat + f64::from(cost) * self.interval_us - self.tolerance())
    }

    /// How much later than at its moment `at` a call may leave that found this theoretical arrival time. Nothing after a
    /// quiet time; after a burst, as much as the burst is ahead of the rate.
    pub(super) fn slack(tat: f64, at: f64) -> f64 {
        (tat - at).max(0.0)
    }

    /// The theoretical arrival time after a call that leaves at `at`; `factor` is the share of the rate that is used.
    pub(super) fn charged(&self, tat: f64, at: f64, cost: u32, factor: f64) -> f64 {
        let first = if tat < at { self.first_surcharge() } else { 0.0 };
        tat.max(at) + first + f64::from(cost) * self.interval_us / factor
    }

    /// No reservation leads further ahead: beyond it, the clock was turned back.
    pub(super) fn furthest(&self, now: f64) -> f64 {
        let slowest = f64::from(self.burst) * self.interval_us / super::adaptive_rate::SLOWEST;
        now + super::MAX_WAIT_US + self.tolerance() + slowest + ARRIVAL_MARGIN_US
    }
}

//! The circuit breaker (Nygard, *Release It!*): opens on a share of failures, or on so many in a row that the share of
//! what was good before says nothing any more; tries a few probes, closes again.
//!
//! It is about the dependency and not about rows. So each row's failure counts once as long as other calls go well: what
//! fails again and again is the row. A share of failures beside calls that go well opens it only when it is not the rows' own: when calls of rows that
//! had failed before go well about as often as first ones, or no such call came for a while. Once it is open, probes are
//! calls of rows with a clean past as long as there are any, and only those decide. Where all rows have failed before, they
//! are the probes themselves; and when that has lasted for [`ROWS_OWN_AFTER_US`] their failures are taken for their own:
//! they call as if there were no breaker, and end by their attempts. Where no connection is made, which no row can be
//! the reason of, that takes [`UNREACHABLE_US`].

use serde::Serialize;

use super::past::{BEHIND_OTHERS_US, COURTESY_US, Past};
use super::{Denied, PROBE_RETRY_US, Reason, micros};
use crate::pipeline::Breaker as BreakerPolicy;

/// What the breaker lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Everything.
    Closed,
    /// Nothing.
    Open,
    /// A few probes.
    HalfOpen,
}

impl BreakerState {
    /// All of them, with their names.
    pub const ALL: [(Self, &str); 3] =
        [(Self::Closed, "closed"), (Self::Open, "open"), (Self::HalfOpen, "half_open")];
}

/// How long it has not been closed when failures of rows that had all failed before are taken for their own.
pub const ROWS_OWN_AFTER_US: f64 = 60_000_000.0;

/// The same while no connection is made.
pub const UNREACHABLE_US: f64 = 600_000_000.0;

/// A share of failures beside good calls opens it no sooner than this long after the first of them, or a third of the
/// window: by then rows that failed have been tried again, and show whose fault it is.
pub const SETTLE_US: f64 = 10_000_000.0;

/// Failures of rows that had failed before count when no call has gone well for this long.
pub const BESIDE_US: f64 = 2_000_000.0;

/// First calls that go well this many times as often as repeated ones show that failures are the rows' own.
const MUCH_BETTER: u32 = 4;

/// A row that had to let others go first comes back after this part of the time for which it has not been closed.
const PART: f64 = 1.0 / 8.0;

/// But no later than that.
const LATEST_US: f64 = 60_000_000.0;

/// A run of failures that chance brings less often than this is not due to chance.
const BY_CHANCE: f64 = 1e-4;

/// Whose fault failures are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// That of the rows that failed: others' calls go well.
    Rows,
    /// The dependency's: what failed once often goes well the next time.
    Dependency,
}

/// A breaker's counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Breaker {
    window_start: f64,
    good: u32,
    bad: u32,
    /// Of these, calls of rows that had failed before; their failures are in none of the other counts.
    again_good: u32,
    again_bad: u32,
    /// When the window's first failure came; 0: none did.
    bad_at: f64,
    /// When a call last went well.
    good_at: f64,
    /// Failures since then. While it is half open, of probes that decide.
    run: u32,
    /// Until when it is open; 0: it is closed. After that moment it is half open.
    open_until: f64,
    /// Since when it has not been closed.
    opened_at: f64,
    probes_out: u32,
    probes_good: u32,
    probing_since: f64,
    /// When a row with a clean past asked last while it was not closed.
    clean_at: f64,
    /// When it was last found that no connection can be made.
    unreachable_at: f64,
    /// Whether a probe went well since it opened: for some rows the dependency works.
    mixed: bool,
}

impl Breaker {
    /// Whether a call may pass.
    pub(super) fn admits(&mut self, policy: &BreakerPolicy, now: f64, past: Past) -> Result<(), Denied> {
        if self.open_until > 0.0 && !past.is_suspect() {
            self.clean_at = now;
        }
        if self.is_left_to_its_rows(now, past) {
            return Ok(());
        }
        if let Some(until) = self.shut_until(policy, now) {
            return Err(Denied::new(until - now, Reason::BreakerOpen));
        }
        if self.open_until == 0.0 || !past.is_suspect() || now >= self.others_until() {
            return Ok(());
        }
        let later = ((now - self.opened_at) * PART).min(LATEST_US).max(micros(policy.open_for));
        let until = if self.are_others_there() { now + later } else { self.others_until() };
        Err(Denied::of_row(until - now, Reason::BreakerOpen))
    }

    /// Until when no call may pass; none: one may.
    pub(super) fn shut_until(&self, policy: &BreakerPolicy, now: f64) -> Option<f64> {
        if self.open_until == 0.0 {
            return None;
        }
        if now < self.open_until {
            return Some(self.open_until);
        }
        // A probe whose worker died reports nothing: after a while others may go.
        let patience = self.probing_since + micros(policy.open_for);
        (self.probes_out >= policy.probes && now < patience).then(|| patience.min(now + PROBE_RETRY_US))
    }

    /// Until when rows that have failed before let others go first.
    fn others_until(&self) -> f64 {
        let asked = if self.are_others_there() { self.clean_at + BEHIND_OTHERS_US } else { 0.0 };
        asked.max(self.open_until + COURTESY_US)
    }

    /// Whether a row with a clean past has asked since the breaker was about to try again.
    fn are_others_there(&self) -> bool {
        self.clean_at >= self.open_until - COURTESY_US
    }

    /// Whether it has not been closed for so long that failures of rows which had all failed before are their own.
    fn is_the_rows_own(&self, now: f64) -> bool {
        let is_unreachable = self.unreachable_at > 0.0 && now - self.unreachable_at < ROWS_OWN_AFTER_US;
        now - self.opened_at >= if is_unreachable { UNREACHABLE_US } else { ROWS_OWN_AFTER_US }
    }

    /// Whether a row calls as if there were no breaker.
    fn is_left_to_its_rows(&self, now: f64, past: Past) -> bool {
        self.open_until > 0.0 && past.is_suspect() && !self.are_others_there() && self.is_the_rows_own(now)
    }

    /// Until when it is open, and not even probes pass.
    pub(super) fn open_until(&self, now: f64, past: Past) -> Option<f64> {
        (now < self.open_until && !self.is_left_to_its_rows(now, past)).then_some(self.open_until)
    }

    /// A call passes; whether it is a probe.
    pub(super) fn called(&mut self, policy: &BreakerPolicy, now: f64, past: Past) -> bool {
        if self.open_until == 0.0 || self.is_left_to_its_rows(now, past) {
            return false;
        }
        if self.probes_out >= policy.probes {
            self.probes_out = 0;
        }
        if self.probes_out == 0 {
            self.probing_since = now;
        }
        self.probes_out += 1;
        true
    }

    /// Calls of rows with one past have ended. While it is not closed only probes count: the
    /// others began before it opened.
    pub(super) fn reported(&mut self, policy: &BreakerPolicy, now: f64, calls: &Calls) {
        if calls.unreachable {
            self.unreachable_at = now;
        }
        if self.open_until > 0.0 {
            if now >= self.open_until && calls.probe {
                self.probed(policy, now, calls);
            }
            return;
        }
        if now - self.window_start > micros(policy.window) {
            *self = self.closed(now);
        }
        self.good += calls.good;
        if calls.good > 0 {
            (self.good_at, self.run) = (now, 0);
        }
        let whose = self.whose(policy);
        if calls.past.is_suspect() {
            self.again_good += calls.good;
            self.again_bad += calls.bad;
            if whose != Some(Whose::Rows) && now - self.good_at > BESIDE_US {
                self.run += calls.bad;
            }
        } else {
            self.bad += calls.bad;
            self.run += calls.bad;
            if calls.bad > 0 && self.bad_at == 0.0 {
                self.bad_at = now;
            }
        }
        let first = self.first_good() + self.bad;
        let share_passed = u64::from(self.bad) * 10_000 >= u64::from(policy.failure_bp) * u64::from(first);
        let shows = match whose {
            Some(whose) => whose == Whose::Dependency,
            None => self.good == 0 || now - self.bad_at >= SETTLE_US.min(micros(policy.window) / 3.0),
        };
        let by_share = first >= policy.min_calls && share_passed && shows;
        if calls.bad > 0 && (by_share || f64::from(self.run) >= self.longest_run(policy, whose)) {
            *self = Self { opened_at: now, ..self.opened(policy, now) };
        }
    }

    fn first_good(&self) -> u32 {
        self.good - self.again_good
    }

    /// Whose fault failures beside good calls are; none: too few rows that failed were tried again.
    fn whose(&self, policy: &BreakerPolicy) -> Option<Whose> {
        let again = self.again_good + self.again_bad;
        if again < (policy.min_calls / 2).max(1) {
            return None;
        }
        let (first_good, first) = (self.first_good(), self.first_good() + self.bad);
        let much_better = u64::from(self.again_good) * u64::from(first) * u64::from(MUCH_BETTER)
            < u64::from(first_good) * u64::from(again);
        Some(if much_better { Whose::Rows } else { Whose::Dependency })
    }

    /// This many failures in a row open it. Where they are the rows' own, more than chance brings in a file of such rows.
    fn longest_run(&self, policy: &BreakerPolicy, whose: Option<Whose>) -> f64 {
        let least = f64::from(policy.min_calls);
        let bad = f64::from(self.bad.saturating_sub(self.run));
        let good = f64::from(self.first_good());
        if whose != Some(Whose::Rows) || bad == 0.0 || good == 0.0 {
            return least;
        }
        least.max(BY_CHANCE.ln() / (bad / (bad + good)).ln())
    }

    fn probed(&mut self, policy: &BreakerPolicy, now: f64, calls: &Calls) {
        self.probes_out = self.probes_out.saturating_sub(calls.good + calls.bad);
        if calls.good > 0 {
            (self.good_at, self.run, self.mixed) = (now, 0, true);
            self.probes_good += calls.good;
            if self.probes_good >= policy.probes {
                *self = self.closed(now);
                return;
            }
        }
        let theirs = calls.past.is_suspect() && (self.are_others_there() || self.is_the_rows_own(now));
        if calls.bad == 0 || theirs {
            return;
        }
        self.run += calls.bad;
        let most = if self.mixed { policy.probes.saturating_mul(2) } else { policy.probes };
        if self.run >= most {
            *self = self.opened(policy, now);
        }
    }

    /// Closed from now on.
    fn closed(&self, now: f64) -> Self {
        Self { window_start: now, good_at: self.good_at, ..Self::default() }
    }

    /// Open from now on.
    fn opened(&self, policy: &BreakerPolicy, now: f64) -> Self {
        Self {
            open_until: now + micros(policy.open_for),
            opened_at: self.opened_at,
            good_at: self.good_at,
            clean_at: self.clean_at,
            unreachable_at: self.unreachable_at,
            mixed: self.mixed,
            ..Self::default()
        }
    }

    /// A probe was not made, or showed nothing: another may go.
    pub(super) fn returned(&mut self) {
        self.probes_out = self.probes_out.saturating_sub(1);
    }

    /// The clock was set back.
    pub(super) fn set_back(&mut self, by: f64) {
        for time in [
            &mut self.window_start,
            &mut self.bad_at,
            &mut self.good_at,
            &mut self.open_until,
            &mut self.opened_at,
            &mut self.probing_since,
            &mut self.clean_at,
            &mut self.unreachable_at,
        ] {
            super::set_back(time, by);
        }
    }

    /// What it lets through at a moment.
    pub fn state(&self, now: f64) -> BreakerState {
        if self.open_until == 0.0 {
            BreakerState::Closed
        } else if now < self.open_until {
            BreakerState::Open
        } else {
            BreakerState::HalfOpen
        }
    }
}

/// Calls that have ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Calls {
    /// Calls that went well.
    pub(super) good: u32,
    /// Calls that failed.
    pub(super) bad: u32,
    /// Whether they were probes.
    pub(super) probe: bool,
    /// Their rows' past.
    pub(super) past: Past,
    /// Whether no connection could be made.
    pub(super) unreachable: bool,
}

#[cfg(test)]
mod tests;

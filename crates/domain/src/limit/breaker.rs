//! The circuit breaker (Nygard, *Release It!*): opens on a share of failures, or on so many in a row that the share of
//! what was good before says nothing any more; tries a few probes, closes again.

use serde::Serialize;

use super::micros;
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

/// A breaker's counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Breaker {
    window_start: f64,
    good: u32,
    bad: u32,
    /// Failures since the last success.
    run: u32,
    /// Until when it is open; 0: it is closed. Behind that moment it is half open.
    open_until: f64,
    probes_out: u32,
    probes_good: u32,
    probing_since: f64,
}

impl Breaker {
    /// Until when no call may pass; none: one may.
    pub(super) fn shut_until(&self, policy: &BreakerPolicy, now: f64) -> Option<f64> {
        if self.open_until == 0.0 {
            return None;
        }
        if now < self.open_until {
            return Some(self.open_until);
        }
        // A probe whose worker died tells nothing: after a while others may go.
        let patience = self.probing_since + micros(policy.open_for);
        (self.probes_out >= policy.probes && now < patience).then_some(patience)
    }

    /// Until when it is open, and not even probes pass.
    pub(super) fn open_until(&self, now: f64) -> Option<f64> {
        (now < self.open_until).then_some(self.open_until)
    }

    /// A call passes; whether it is a probe.
    pub(super) fn called(&mut self, policy: &BreakerPolicy, now: f64) -> bool {
        if self.open_until == 0.0 {
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

    /// Calls have ended, so many well and so many badly. While it is not closed only probes count: the others began
    /// before it opened.
    pub(super) fn told(&mut self, policy: &BreakerPolicy, now: f64, good: u32, bad: u32, probe: bool) {
        let opened = Self { open_until: now + micros(policy.open_for), ..Self::default() };
        if self.open_until > 0.0 {
            if now < self.open_until || !probe {
                return;
            }
            if bad > 0 {
                *self = opened;
                return;
            }
            self.probes_good += good;
            if self.probes_good >= policy.probes {
                *self = Self { window_start: now, ..Self::default() };
            }
            return;
        }
        if now - self.window_start > micros(policy.window) {
            *self = Self { window_start: now, ..Self::default() };
        }
        self.good += good;
        self.bad += bad;
        self.run = if good > 0 { bad } else { self.run + bad };
        let calls = self.good + self.bad;
        let share_passed = u64::from(self.bad) * 10_000 >= u64::from(policy.failure_bp) * u64::from(calls);
        if bad > 0 && (self.run >= policy.min_calls || calls >= policy.min_calls && share_passed) {
            *self = opened;
        }
    }

    /// A probe was not made, or told nothing: another may go.
    pub(super) fn returned(&mut self) {
        self.probes_out = self.probes_out.saturating_sub(1);
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

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: f64 = 1e15;

    fn policy(min_calls: u32, probes: u32) -> BreakerPolicy {
        BreakerPolicy { min_calls, probes, ..BreakerPolicy::default() }
    }

    #[test]
    fn it_opens_probes_and_closes() {
        let policy = policy(4, 2);
        let mut breaker = Breaker::default();
        let mut now = NOW;
        breaker.told(&policy, now, 2, 0, false);
        breaker.told(&policy, now, 0, 1, false);
        assert_eq!(breaker.shut_until(&policy, now), None, "too few calls to judge");
        breaker.told(&policy, now, 0, 1, false);
        assert_eq!(breaker.shut_until(&policy, now), Some(now + 10e6));
        now += 10e6;
        for _ in 0..2 {
            assert_eq!(breaker.shut_until(&policy, now), None);
            assert!(breaker.called(&policy, now));
        }
        assert!(breaker.shut_until(&policy, now).is_some(), "two probes are out");
        breaker.told(&policy, now, 0, 1, true);
        assert_eq!(breaker.state(now), BreakerState::Open);
        now += 10e6;
        for _ in 0..2 {
            assert_eq!(breaker.shut_until(&policy, now), None);
            breaker.called(&policy, now);
            breaker.told(&policy, now, 1, 0, true);
        }
        assert_eq!(breaker.state(now), BreakerState::Closed);
    }

    #[test]
    fn what_began_before_it_opened_is_no_probe() {
        let policy = policy(1, 1);
        let mut breaker = Breaker::default();
        breaker.told(&policy, NOW, 0, 1, false);
        let now = NOW + 11e6;
        breaker.told(&policy, now, 5, 0, false);
        breaker.told(&policy, now, 0, 5, false);
        assert_eq!(breaker.state(now), BreakerState::HalfOpen);
    }

    #[test]
    fn a_probe_that_never_answers_does_not_keep_it_shut_for_ever() {
        let policy = policy(1, 1);
        let mut breaker = Breaker::default();
        breaker.told(&policy, NOW, 0, 1, false);
        assert_eq!(breaker.shut_until(&policy, NOW + 10e6), None);
        breaker.called(&policy, NOW + 10e6);
        assert_eq!(breaker.shut_until(&policy, NOW + 11e6), Some(NOW + 20e6));
        assert_eq!(breaker.shut_until(&policy, NOW + 20e6), None);
    }

    #[test]
    fn a_good_past_does_not_hide_an_outage() {
        let policy = policy(20, 1);
        let mut breaker = Breaker::default();
        breaker.told(&policy, NOW, 5000, 0, false);
        (0..19).for_each(|_| breaker.told(&policy, NOW, 0, 1, false));
        breaker.told(&policy, NOW, 1, 0, false);
        (0..19).for_each(|_| breaker.told(&policy, NOW, 0, 1, false));
        assert_eq!(breaker.state(NOW), BreakerState::Closed);
        breaker.told(&policy, NOW, 0, 1, false);
        assert_eq!(breaker.state(NOW), BreakerState::Open, "twenty in a row");
    }

    #[test]
    fn old_failures_are_forgotten() {
        let policy = policy(4, 1);
        let mut breaker = Breaker::default();
        breaker.told(&policy, NOW, 0, 3, false);
        breaker.told(&policy, NOW + 31e6, 0, 3, false);
        assert_eq!(breaker.state(NOW + 31e6), BreakerState::Closed);
    }
}

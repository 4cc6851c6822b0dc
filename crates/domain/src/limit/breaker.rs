//! The circuit breaker (Nygard, *Release It!*): opens on a share of failures, tries a few probes, closes again.

use serde::Serialize;

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

/// A breaker's counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Breaker {
    window_start: f64,
    good: u32,
    bad: u32,
    /// Until when it is open; 0: it is closed. Behind that moment it is half open.
    open_until: f64,
    probes_out: u32,
    probes_good: u32,
    probing_since: f64,
}

impl Breaker {
    /// Until when no call may pass; none: one may.
    pub(super) fn shut_until(&mut self, policy: &BreakerPolicy, now: f64) -> Option<f64> {
        if self.open_until == 0.0 {
            return None;
        }
        if now < self.open_until {
            return Some(self.open_until);
        }
        #[allow(clippy::cast_precision_loss, reason = "seconds")]
        let patience = policy.open_for.as_micros() as f64;
        if self.probes_out >= policy.probes {
            // A probe whose worker died tells nothing: after a while others may go.
            if now - self.probing_since < patience {
                return Some(self.probing_since + patience);
            }
            self.probes_out = 0;
        }
        None
    }

    /// A call passes.
    pub(super) fn called(&mut self, now: f64) {
        if self.open_until > 0.0 {
            if self.probes_out == 0 {
                self.probing_since = now;
            }
            self.probes_out += 1;
        }
    }

    /// A call has ended, well or badly.
    pub(super) fn told(&mut self, policy: &BreakerPolicy, now: f64, healthy: bool) {
        #[allow(clippy::cast_precision_loss, reason = "seconds")]
        let (window, open_for) = (policy.window.as_micros() as f64, policy.open_for.as_micros() as f64);
        if self.open_until > 0.0 {
            if now < self.open_until {
                return;
            }
            if !healthy {
                *self = Self { open_until: now + open_for, ..Self::default() };
            } else {
                self.probes_good += 1;
                if self.probes_good >= policy.probes {
                    *self = Self { window_start: now, ..Self::default() };
                }
            }
            return;
        }
        if now - self.window_start > window {
            *self = Self { window_start: now, ..Self::default() };
        }
        if healthy {
            self.good += 1;
        } else {
            self.bad += 1;
        }
        let calls = self.good + self.bad;
        if calls >= policy.min_calls && u64::from(self.bad) * 10_000 >= u64::from(policy.failure_bp) * u64::from(calls) {
            *self = Self { open_until: now + open_for, ..Self::default() };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_probes_and_closes() {
        let policy = BreakerPolicy { min_calls: 4, probes: 2, ..BreakerPolicy::default() };
        let mut breaker = Breaker::default();
        let mut now = 1e15;
        for healthy in [true, true, false] {
            breaker.told(&policy, now, healthy);
        }
        assert_eq!(breaker.shut_until(&policy, now), None, "too few calls to judge");
        breaker.told(&policy, now, false);
        assert_eq!(breaker.shut_until(&policy, now), Some(now + 10e6));
        now += 10e6;
        for _ in 0..2 {
            assert_eq!(breaker.shut_until(&policy, now), None);
            breaker.called(now);
        }
        assert!(breaker.shut_until(&policy, now).is_some(), "two probes are out");
        breaker.told(&policy, now, false);
        assert_eq!(breaker.state(now), BreakerState::Open);
        now += 10e6;
        for _ in 0..2 {
            assert_eq!(breaker.shut_until(&policy, now), None);
            breaker.called(now);
            breaker.told(&policy, now, true);
        }
        assert_eq!(breaker.state(now), BreakerState::Closed);
    }

    #[test]
    fn a_probe_that_never_answers_does_not_keep_it_shut_for_ever() {
        let policy = BreakerPolicy { min_calls: 1, probes: 1, ..BreakerPolicy::default() };
        let mut breaker = Breaker::default();
        let now = 1e15;
        breaker.told(&policy, now, false);
        assert_eq!(breaker.shut_until(&policy, now + 10e6), None);
        breaker.called(now + 10e6);
        assert_eq!(breaker.shut_until(&policy, now + 11e6), Some(now + 20e6));
        assert_eq!(breaker.shut_until(&policy, now + 20e6), None);
    }
}

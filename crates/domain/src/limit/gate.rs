//! The state of one gate.

use super::breaker::{Breaker, BreakerState};
use super::{
    ARRIVAL_MARGIN_US, Decision, MAX_WAIT_US, RECOVERY_PER_SECOND, Reason, SLOW_DOWN_EVERY_US, SLOWEST,
};
use crate::pipeline::Breaker as BreakerPolicy;

/// How often calls may come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RatePolicy {
    /// Microseconds between two calls in the long run.
    pub interval_us: f64,
    /// Calls at once after a quiet time.
    pub burst: u32,
}

/// What a gate allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatePolicy {
    /// The rate.
    pub rate: Option<RatePolicy>,
    /// Calls under way.
    pub concurrency: Option<u32>,
    /// The breaker.
    pub breaker: Option<BreakerPolicy>,
    /// How long a gate whose state was lost stays shut: reservations made before may still come.
    pub cold_wait_us: f64,
}

/// What a call tells about its dependency.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Feedback {
    /// Whether it spoke for the dependency's health; none: neither way.
    pub healthy: Option<bool>,
    /// Until when the dependency asked to be left alone, microseconds since the epoch.
    pub pause_until: Option<f64>,
    /// Whether it said that calls come too fast.
    pub throttled: bool,
}

/// A gate as an operator sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Snapshot {
    /// When the next call could be made, microseconds since the epoch.
    pub free_at: f64,
    /// Until when it is paused; 0: it is not.
    pub paused_until: f64,
    /// Share of the rate that is used now.
    pub factor: f64,
    /// Calls under way.
    pub in_flight: usize,
    /// The breaker.
    pub breaker: BreakerState,
}

/// The state of one dependency's (or owner's) limits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gate {
    /// The theoretical arrival time of GCRA; none: unknown.
    tat: Option<f64>,
    paused_until: f64,
    /// The slow-down and when it was set; none: full speed.
    slowed: Option<(f64, f64)>,
    slots: Vec<(u64, f64)>,
    breaker: Breaker,
}

impl Gate {
    fn factor(&self, now: f64) -> f64 {
        self.slowed.map_or(1.0, |(factor, at)| (factor + RECOVERY_PER_SECOND * (now - at).max(0.0) / 1e6).min(1.0))
    }

    fn start(&self, policy: &GatePolicy, interval: f64, burst: f64, now: f64) -> f64 {
        self.tat.unwrap_or(now + policy.cold_wait_us + (burst - 1.0) * interval)
    }

    /// Whether a call could pass, and after how long; takes nothing.
    pub(super) fn look(&mut self, policy: &GatePolicy, now: f64, cost: u32) -> Decision {
        if self.paused_until > now {
            return Decision::Denied { until: self.paused_until, reason: Reason::Paused };
        }
        if let Some(breaker) = &policy.breaker
            && let Some(until) = self.breaker.shut_until(breaker, now)
        {
            return Decision::Denied { until, reason: Reason::BreakerOpen };
        }
        if let Some(most) = policy.concurrency {
            self.slots.retain(|(_, expires)| *expires > now);
            if self.slots.len() >= most as usize {
                return Decision::Denied { until: now + 50_000.0, reason: Reason::Concurrency };
            }
        }
        let Some(rate) = &policy.rate else { return Decision::Granted { wait: 0.0 } };
        let interval = rate.interval_us / self.factor(now);
        let burst = f64::from(rate.burst);
        let tat = self.start(policy, interval, burst, now).max(now) + f64::from(cost) * interval;
        let wait = (tat - burst * interval - now).max(0.0);
        if wait > MAX_WAIT_US {
            Decision::Denied { until: now + wait, reason: Reason::Rate }
        } else {
            Decision::Granted { wait }
        }
    }

    /// Takes what [`Gate::look`] granted.
    pub(super) fn take(&mut self, policy: &GatePolicy, now: f64, cost: u32, wait: f64, token: u64, lease_us: f64) {
        if let Some(rate) = &policy.rate {
            let interval = rate.interval_us / self.factor(now);
            let tat = self.start(policy, interval, f64::from(rate.burst), now);
            let margin = if tat < now { ARRIVAL_MARGIN_US } else { 0.0 };
            self.tat = Some(tat.max(now) + margin + f64::from(cost) * interval);
        }
        if policy.concurrency.is_some() {
            self.slots.push((token, now + wait + lease_us));
        }
        if policy.breaker.is_some() {
            self.breaker.called(now);
        }
    }

    /// A call under way has ended.
    pub fn release(&mut self, token: u64) {
        self.slots.retain(|(held, _)| *held != token);
    }

    /// A call has ended and tells something.
    pub fn report(&mut self, policy: &GatePolicy, now: f64, token: Option<u64>, feedback: &Feedback) {
        if let Some(token) = token {
            self.release(token);
        }
        if let Some(until) = feedback.pause_until {
            self.paused_until = self.paused_until.max(until);
        } else if feedback.throttled && self.slowed.is_none_or(|(_, at)| now - at >= SLOW_DOWN_EVERY_US) {
            self.slowed = Some(((self.factor(now) / 2.0).max(SLOWEST), now));
        }
        if let (Some(policy), Some(healthy)) = (&policy.breaker, feedback.healthy) {
            self.breaker.told(policy, now, healthy);
        }
    }

    /// The gate as an operator sees it.
    pub fn snapshot(&self, now: f64) -> Snapshot {
        Snapshot {
            free_at: self.tat.unwrap_or(now).max(self.paused_until),
            paused_until: if self.paused_until > now { self.paused_until } else { 0.0 },
            factor: self.factor(now),
            in_flight: self.slots.iter().filter(|(_, expires)| *expires > now).count(),
            breaker: self.breaker.state(now),
        }
    }
}

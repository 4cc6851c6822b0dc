//! What a limiter knows of one dependency, or of one owner there.

use std::time::Duration;

use super::breaker::{Breaker, BreakerState, Calls};
use super::meter::Whole;
use super::past::Past;
use super::rate::RatePolicy;
use super::throttle::Throttle;
use super::{Ask, Denied, MAX_WAIT_US, Reason, SLOT_RETRY_US, duration, set_back};
use crate::cause::{Cause, Stage};
use crate::pipeline::Breaker as BreakerPolicy;

/// A slot that is taken is reported again more often than this.
const SILENT_US: f64 = 5_000_000.0;

/// What a limiter allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LimitPolicy {
    /// The rate.
    pub rate: Option<RatePolicy>,
    /// Calls under way.
    pub concurrency: Option<u32>,
    /// The breaker.
    pub breaker: Option<BreakerPolicy>,
    /// How long a state of which nothing is known admits no call: reservations made before may still be used, and calls under
    /// way are reported again meanwhile.
    pub cold_wait_us: f64,
}

/// What a call shows of its dependency when it has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Feedback {
    /// Whether it spoke for the dependency's health; none: neither way.
    pub healthy: Option<bool>,
    /// How long the dependency asked to be left alone, microseconds.
    pub pause: Option<f64>,
    /// Whether the dependency answered that calls come too fast.
    pub throttled: bool,
    /// Whether the call was a probe, see [`Decision::Granted`](super::Decision::Granted).
    pub probe: bool,
    /// The row's past when it asked.
    pub past: Past,
    /// How long ago the call left, microseconds.
    pub elapsed: f64,
    /// Why the dependency could not be asked or did not answer.
    pub cause: Option<Cause>,
}

/// A limiter's state as an operator sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Snapshot {
    /// When the next call could be made.
    pub free_in: Duration,
    /// How long the pause still lasts that the dependency asked for.
    pub paused_for: Duration,
    /// How long a period of the calendar is used up.
    pub used_up_for: Duration,
    /// Pauses in a row after which no call went through.
    pub refusals: u32,
    /// Share of the rate that is used now, in (0, 1].
    pub factor: f64,
    /// Calls under way; only counted where they are limited.
    pub in_flight: usize,
    /// The breaker.
    pub breaker: BreakerState,
    /// Why the last call failed, unless one has succeeded since.
    pub cause: Option<Cause>,
}

impl Snapshot {
    /// Two states that both have to admit a call, as one.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            free_in: self.free_in.max(other.free_in),
            paused_for: self.paused_for.max(other.paused_for),
            used_up_for: self.used_up_for.max(other.used_up_for),
            refusals: self.refusals.max(other.refusals),
            factor: self.factor.min(other.factor),
            in_flight: self.in_flight.max(other.in_flight),
            breaker: if self.breaker == BreakerState::Closed { other.breaker } else { self.breaker },
            cause: self.cause.or(other.cause),
        }
    }
}

/// What a call needs to be admitted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Look {
    /// Microseconds until the call's moment.
    pub(super) wait: f64,
    /// Whether it is not known yet which slots are taken.
    pub(super) cold: bool,
}

impl Look {
    /// Passing both.
    pub(super) fn and(self, other: Self) -> Self {
        Self { wait: self.wait.max(other.wait), cold: self.cold || other.cold }
    }
}

/// The state of one dependency's (or owner's) limits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LimiterState {
    /// GCRA's theoretical arrival time; none: unknown.
    tat: Option<f64>,
    throttle: Throttle,
    /// Since when it has been known who calls; none: not yet.
    known_since: Option<f64>,
    /// Token and end of each lease.
    slots: Vec<(u64, f64)>,
    breaker: Breaker,
    cause: Option<Cause>,
    /// When it was used last.
    used_at: f64,
    /// When it was used first without knowing what had been used before; 0: it is known.
    pub(super) lost_at: f64,
    /// When a call left last that no rate counted; 0: none did.
    uncounted_at: f64,
}

impl LimiterState {
    /// Has to be called before each use. When the clock shows less than it did, it was set back by that much, and every stored
    /// time moves back with it. When nobody used the state for long although slots are taken, the clock may have been set
    /// forward, and the slots have not ended: those that are taken are reported again.
    pub(super) fn tick(&mut self, now: f64) {
        if self.used_at == 0.0 {
            self.lost_at = now;
        }
        let (used_at, by) = (self.used_at, self.used_at - now);
        self.used_at = now;
        if by <= 0.0 {
            if -by > SILENT_US && self.slots.iter().any(|(_, ends)| *ends > used_at) {
                self.known_since = Some(now);
            }
            return;
        }
        for time in [&mut self.tat, &mut self.known_since].into_iter().flatten() {
            set_back(time, by);
        }
        for (_, ends) in &mut self.slots {
            set_back(ends, by);
        }
        set_back(&mut self.lost_at, by);
        set_back(&mut self.uncounted_at, by);
        self.throttle.set_back(by);
        self.breaker.set_back(by);
    }

    /// The dependency's state was lost at `lost_at`, 0: was not; then so were those of its owners. One of which nothing is known
    /// besides was never used, or was forgotten when that changed nothing.
    pub(super) fn lost_with(&mut self, lost_at: f64) {
        self.lost_at = lost_at;
    }

    /// When what had been used before was lost; 0: it was not. Has to be asked before [`LimiterState::recall`].
    pub fn lost_at(&mut self, now: f64) -> f64 {
        self.tick(now);
        self.lost_at
    }

    /// What was lost at `lost_at` had not been used for `unused_us` microseconds by now; none: never. Where it was lost again
    /// meanwhile, that says nothing.
    pub fn recall(&mut self, now: f64, lost_at: f64, unused_us: Option<f64>) {
        self.tick(now);
        if lost_at > 0.0 && self.lost_at.total_cmp(&lost_at).is_eq() {
            self.lost_at = unused_us.map_or(0.0, |unused| lost_at.min(now - unused).max(1.0));
        }
    }

    /// What its meters have to know.
    pub(super) fn whole(&self, policy: &LimitPolicy, now: f64) -> Whole {
        Whole {
            lost_at: self.lost_at,
            cold_wait_us: policy.cold_wait_us,
            paused_until: self.throttle.paused_until,
            factor: self.throttle.adaptive_rate.factor(now),
        }
    }

    /// GCRA's state at a moment. What was used before a loss is not known: the bucket is empty then. So it is after a pause: the
    /// dependency said when it takes a call again, not how many.
    fn tat(&self, policy: &LimitPolicy, rate: &RatePolicy, now: f64) -> f64 {
        let unknown = || {
            let since = self.lost_at.max(self.uncounted_at);
            if since > 0.0 { rate.unknown_at(since, policy.cold_wait_us) } else { 0.0 }
        };
        let tat = self.tat.unwrap_or_else(unknown).min(rate.furthest(now));
        let paused_until = self.throttle.paused_until;
        if paused_until > 0.0 { tat.max(rate.empty_at(paused_until)) } else { tat }
    }

    /// From when on slots are given away: those that were taken before the state was lost are known by then.
    fn slots_from(&mut self, policy: &LimitPolicy, now: f64) -> f64 {
        *self.known_since.get_or_insert(now) + policy.cold_wait_us
    }

    /// Whether a call could pass, and when; takes nothing.
    pub(super) fn look(&mut self, policy: &LimitPolicy, now: f64, ask: &Ask) -> Result<Look, Denied> {
        let moment = policy.rate.map(|rate| {
            let tat = self.tat(policy, &rate, now);
            // A call that costs more than the burst has all of it, and owes the rest.
            rate.moment(tat, now + ask.lead_us, ask.cost.min(rate.burst))
        });
        let slots_from = self.slots_from(policy, now);
        self.throttle.admits(now, ask)?;
        if let Some(breaker) = &policy.breaker {
            self.breaker.admits(breaker, now, ask.past)?;
        }
        self.slot_free(policy, now, None)?;
        let wait = moment.map_or(0.0, |moment| moment - now);
        if wait > MAX_WAIT_US {
            return Err(Denied::new(wait, Reason::Rate));
        }
        let cold = policy.concurrency.is_some() && now < slots_from;
        Ok(Look { wait: if cold { wait.max(slots_from - now) } else { wait }, cold })
    }

    /// Charges what [`LimiterState::look`] granted; the slack that the call has, where there is a rate.
    pub(super) fn charge(&mut self, policy: &LimitPolicy, now: f64, wait: f64, ask: &Ask) -> Option<f64> {
        let Some(rate) = &policy.rate else {
            self.uncounted_at = now + wait;
            return None;
        };
        let tat = self.tat(policy, rate, now);
        self.tat = Some(rate.charged(tat, now + wait, ask.cost, self.throttle.adaptive_rate.factor(now)));
        Some(RatePolicy::slack(tat, now + wait))
    }

    /// A call is granted for a moment; whether it finds out for all others whether the dependency works again.
    pub(super) fn call(&mut self, policy: &LimitPolicy, now: f64, at: f64, ask: &Ask) -> bool {
        let tried = self.throttle.granted(at, ask);
        policy.breaker.as_ref().is_some_and(|breaker| self.breaker.called(breaker, now, ask.past)) || tried
    }

    /// Whether a call whose moment has come may still be made.
    pub(super) fn still_open(&mut self, policy: &LimitPolicy, now: f64, ask: &Ask) -> Result<(), Denied> {
        self.throttle.not_paused(now)?;
        if policy.breaker.is_some()
            && let Some(until) = self.breaker.open_until(now, ask.past)
        {
            return Err(Denied::new(until - now, Reason::BreakerOpen));
        }
        let slots_from = self.slots_from(policy, now);
        if policy.concurrency.is_some() && now + ask.lead_us < slots_from {
            return Err(Denied::new(slots_from - now, Reason::Concurrency));
        }
        self.slot_free(policy, now, Some(ask.token))
    }

    fn slot_free(&mut self, policy: &LimitPolicy, now: f64, token: Option<u64>) -> Result<(), Denied> {
        let Some(most) = policy.concurrency else { return Ok(()) };
        self.slots.retain(|(_, ends)| *ends > now);
        let held = token.is_some_and(|token| self.slots.iter().any(|(holder, _)| *holder == token));
        if held || self.slots.len() < most as usize {
            return Ok(());
        }
        Err(Denied::new(SLOT_RETRY_US, Reason::Concurrency))
    }

    /// Takes a call's slot, or renews it.
    pub(super) fn take_slot(&mut self, policy: &LimitPolicy, from: f64, ask: &Ask) {
        if policy.concurrency.is_some() {
            self.slots.retain(|(token, _)| *token != ask.token);
            self.slots.push((ask.token, from + ask.lease_us));
        }
    }

    /// A call has ended: gives its slot back and learns from it. Whether it was throttled for a reason of its row's own, so
    /// that it holds up no other.
    pub fn report(&mut self, policy: &LimitPolicy, now: f64, token: u64, feedback: &Feedback) -> bool {
        self.tick(now);
        self.slots.retain(|(held, _)| *held != token);
        let own = self.throttle.reported(policy.rate.as_ref(), now, token, feedback);
        if feedback.healthy == Some(true) {
            self.cause = None;
        }
        self.cause = feedback.cause.or(self.cause);
        match (&policy.breaker, feedback.healthy) {
            (Some(policy), Some(healthy)) => {
                let (good, bad) = (u32::from(healthy), u32::from(!healthy));
                let unreachable = feedback.cause.is_some_and(|cause| cause.stage() < Stage::Answer);
                let calls = Calls { good, bad, probe: feedback.probe, past: feedback.past, unreachable };
                self.breaker.reported(policy, now, &calls);
            }
            (Some(_), None) if feedback.probe => self.breaker.returned(),
            _ => {}
        }
        own
    }

    /// This many calls of rows with a clean past went well, the newest of which left this long ago: what a worker has collected.
    pub fn went_well(&mut self, policy: &LimitPolicy, now: f64, calls: u32, elapsed: f64) {
        self.tick(now);
        self.throttle.passed(now - elapsed);
        self.cause = None;
        if let Some(policy) = &policy.breaker {
            self.breaker.reported(policy, now, &Calls { good: calls, ..Calls::default() });
        }
    }

    /// The state as an operator sees it.
    pub fn snapshot(&self, policy: &LimitPolicy, now: f64) -> Snapshot {
        if self.used_at > now {
            let mut ticked = self.clone();
            ticked.tick(now);
            return ticked.snapshot(policy, now);
        }
        let mut free_at = self.throttle.paused_until.max(now);
        if let Some(rate) = &policy.rate {
            free_at = free_at.max(rate.moment(self.tat(policy, rate, now), now, 1));
        }
        if let Some(until) = policy.breaker.as_ref().and_then(|breaker| self.breaker.shut_until(breaker, now))
        {
            free_at = free_at.max(until);
        }
        Snapshot {
            used_up_for: Duration::ZERO,
            free_in: duration(free_at - now),
            paused_for: duration(self.throttle.paused_until - now),
            refusals: self.throttle.refusals,
            factor: self.throttle.adaptive_rate.factor(now),
            in_flight: self.slots.iter().filter(|(_, ends)| *ends > now).count(),
            breaker: self.breaker.state(now),
            cause: self.cause,
        }
    }

    /// Whether forgetting the state changes nothing for anybody: it is not paused, nothing runs, its bucket is full.
    pub fn is_idle(&self, now: f64) -> bool {
        let quiet = |at: f64| at < now - MAX_WAIT_US;
        quiet(self.tat.unwrap_or(0.0))
            && self.slots.iter().all(|(_, ends)| *ends <= now)
            && self.breaker.state(now) == BreakerState::Closed
            && self.throttle.is_idle(now)
    }
}

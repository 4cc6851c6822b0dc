//! Limits in this process: one worker, nobody to share with.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use penstock_domain::limit::meter::MOST_LIVE;
use penstock_domain::limit::{
    self, Ask, CalendarPolicy, Decision, Denied, Feedback, Lead, LimitPolicy, LimiterState, MeterPolicy,
    MeterState, Metered, Scope, Snapshot,
};
use penstock_domain::time::Clock;

use crate::limiter::{CallLimits, CallMeter, Limiter, Permit};
use crate::reported_windows::{ReportedWindows, WindowAsk, WindowPart};

/// When there are more owners' states at a dependency, those that hold nothing are dropped.
const MOST_OWNERS: usize = 10_000;

/// When more calls are known that may be corrected, those of which nothing could be returned any more are forgotten.
const MOST_DUE: usize = 10_000;

/// When to ask again where too many values are not full again.
const NO_ROOM_US: f64 = 1e6;

/// The process's start on the limiter's clock, microseconds: any time that leaves room before it, for 0 stands for none.
const START_US: f64 = 1e12;

/// States by name, under one lock: a decision takes less than a microsecond.
pub struct LocalLimiter {
    epoch: Instant,
    /// A test's own time.
    clock: Option<Arc<dyn Clock>>,
    states: Mutex<HashMap<String, Kept>>,
    reported_windows: Mutex<HashMap<String, ReportedWindows>>,
}

#[derive(Default)]
struct Kept {
    dependency: LimiterState,
    owners: HashMap<String, LimiterState>,
    /// By the limit's name, then by whose they are.
    meters: HashMap<String, HashMap<String, MeterState>>,
    /// The arrival times after calls that are corrected when their answers are there, by limit and call.
    due: HashMap<(String, u64), f64>,
}

impl Kept {
    fn meter(&self, meter: &CallMeter) -> Option<MeterState> {
        self.meters.get(&meter.id)?.get(&meter.member).copied()
    }

    fn keep(&mut self, meter: &CallMeter, state: MeterState) {
        match self.meters.get_mut(&meter.id) {
            Some(members) => {
                members.insert(meter.member.clone(), state);
            }
            None => {
                self.meters.insert(meter.id.clone(), HashMap::from([(meter.member.clone(), state)]));
            }
        }
    }

    /// Whether there is room for a value that is not full any more. Those that are full again are forgotten first.
    fn has_room(&mut self, meter: &CallMeter, now: f64) -> bool {
        let Some(members) = self.meters.get_mut(&meter.id) else { return true };
        if meter.scope != Scope::Value || members.len() < MOST_LIVE || members.contains_key(&meter.member) {
            return true;
        }
        members.retain(|_, state| !Metered::is_full(state, now));
        members.len() < MOST_LIVE
    }
}

impl LocalLimiter {
    /// A limiter that knows nothing yet: every state starts empty, because a process before this one may just have used its
    /// burst, unless it is told for how long it has not been used. Its time is the process's own, which nobody can set.
    pub fn new() -> Self {
        Self {
            epoch: Instant::now(),
            clock: None,
            states: Mutex::default(),
            reported_windows: Mutex::default(),
        }
    }

    /// Takes the time from `clock`: for tests that compare decisions at given moments.
    #[must_use]
    pub fn timed_by(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock: Some(clock), ..self }
    }

    fn now(&self) -> f64 {
        match &self.clock {
            Some(clock) => micros(clock.as_ref()),
            None => START_US + limit::micros(self.epoch.elapsed()),
        }
    }

    /// By how much this limiter's clock is ahead of the one that shows the time since 1970.
    fn shift(&self, limits: &CallLimits) -> f64 {
        if self.clock.is_some() { 0.0 } else { self.now() - limits.at_us }
    }

    /// Works on a call's states under the lock.
    fn with<T>(
        &self,
        limits: &CallLimits,
        work: impl FnOnce(&mut [(&mut LimiterState, &LimitPolicy)], f64) -> T,
    ) -> T {
        let now = self.now();
        let mut all = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = match all.get_mut(&limits.dependency) {
            Some(kept) => kept,
            None => all.entry(limits.dependency.clone()).or_default(),
        };
        Self::with_states(kept, limits, now, work)
    }

    fn with_states<T>(
        kept: &mut Kept,
        limits: &CallLimits,
        now: f64,
        work: impl FnOnce(&mut [(&mut LimiterState, &LimitPolicy)], f64) -> T,
    ) -> T {
        let dependency = (&mut kept.dependency, &limits.policy);
        let Some((name, policy)) = &limits.owner else { return work(&mut [dependency], now) };
        if kept.owners.len() > MOST_OWNERS {
            kept.owners.retain(|_, state| !state.is_idle(now));
        }
        let owner = match kept.owners.get_mut(name) {
            Some(state) => state,
            None => kept.owners.entry(name.clone()).or_default(),
        };
        work(&mut [dependency, (owner, policy)], now)
    }
}

impl Default for LocalLimiter {
    fn default() -> Self {
        Self::new()
    }
}

/// A limit by the calendar, by this limiter's clock.
fn here(policy: MeterPolicy, shift: f64) -> MeterPolicy {
    let MeterPolicy::Calendar(calendar) = policy else { return policy };
    let (from, until) = (calendar.from + shift, calendar.until + shift);
    MeterPolicy::Calendar(CalendarPolicy { from, until, ..calendar })
}

/// The clock in microseconds since the epoch.
pub(crate) fn micros(clock: &dyn Clock) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit exactly")]
    let millis = clock.now().millis() as f64;
    millis * 1000.0
}

#[async_trait]
impl Limiter for LocalLimiter {
    async fn lead(&self) -> Result<Lead, Denied> {
        Ok(Lead::default())
    }

    async fn acquire(&self, limits: &CallLimits, ask: &Ask) -> Decision {
        if limits.meters.is_empty() {
            return self.with(limits, |states, now| limit::acquire(states, now, ask));
        }
        let now = self.now();
        let shift = self.shift(limits);
        let mut all = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = all.entry(limits.dependency.clone()).or_default();
        if let Some(full) = limits.meters.iter().find(|meter| !kept.has_room(meter, now)) {
            return Decision::Denied(Denied::of_row(NO_ROOM_US, full.scope.reason()));
        }
        let mut states: Vec<MeterState> =
            limits.meters.iter().map(|meter| kept.meter(meter).unwrap_or_default()).collect();
        let decision = Self::with_states(kept, limits, now, |of_call, now| {
            let mut meters: Vec<Metered<'_>> = states
                .iter_mut()
                .zip(&limits.meters)
                .map(|(state, meter)| Metered {
                    state,
                    policy: here(meter.policy, shift),
                    cost: meter.cost,
                    scope: meter.scope,
                })
                .collect();
            limit::acquire_all(of_call, &mut meters, now, ask)
        });
        let granted = matches!(decision, Decision::Granted { .. });
        for (state, meter) in states.into_iter().zip(&limits.meters) {
            if let Some(call) = meter.corrected.filter(|_| granted) {
                if kept.due.len() >= MOST_DUE {
                    kept.due.retain(|_, charged_to| *charged_to > now);
                }
                kept.due.insert((meter.id.clone(), call), state.charged_to());
            }
            if state != MeterState::default() {
                kept.keep(meter, state);
            }
        }
        decision
    }

    async fn lost_at(&self, limits: &CallLimits) -> Option<f64> {
        Some(self.with(limits, |states, now| states[0].0.lost_at(now)))
    }

    async fn recall(&self, limits: &CallLimits, lost_at: f64, unused: Option<Duration>) -> bool {
        self.with(limits, |states, now| states[0].0.recall(now, lost_at, unused.map(limit::micros)));
        true
    }

    async fn deposit(&self, limits: &CallLimits, meter: usize, amount: u32) -> bool {
        let shift = self.shift(limits);
        let mut all = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = all.entry(limits.dependency.clone()).or_default();
        if let Some(meter) = limits.meters.get(meter)
            && let MeterPolicy::Calendar(calendar) = here(meter.policy, shift)
        {
            let mut state = kept.meter(meter).unwrap_or_default();
            state.deposit(&calendar, amount);
            kept.keep(meter, state);
        }
        true
    }

    async fn correct(&self, limits: &CallLimits, actual: &[u32]) {
        let (now, shift) = (self.now(), self.shift(limits));
        let mut all = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = all.entry(limits.dependency.clone()).or_default();
        for (meter, actual) in limits.meters.iter().zip(actual) {
            let charged_to = meter.corrected.and_then(|call| kept.due.remove(&(meter.id.clone(), call)));
            let mut state = kept.meter(meter).unwrap_or_default();
            let policy = here(meter.policy, shift);
            limit::meter::correct(&mut state, &policy, meter.cost, *actual, charged_to, now);
            kept.keep(meter, state);
        }
    }

    async fn confirm(&self, limits: &CallLimits, ask: &Ask) -> Result<(), Denied> {
        self.with(limits, |states, now| limit::confirm(states, now, ask))
    }

    async fn report(&self, permit: Permit, feedback: Feedback) -> bool {
        let feedback = permit.limits.feedback(feedback);
        self.with(&permit.limits, |states, now| {
            states.iter_mut().zip(&feedback).fold(false, |own, ((state, policy), feedback)| {
                state.report(policy, now, permit.token, feedback) || own
            })
        })
    }

    async fn peek(&self, limits: &CallLimits) -> Option<Snapshot> {
        let now = self.now();
        let shift = self.shift(limits);
        let all = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let unknown = LimiterState::default();
        let kept = all.get(&limits.dependency);
        let mut whole = kept.map_or(&unknown, |kept| &kept.dependency).snapshot(&limits.policy, now);
        for meter in &limits.meters {
            let state = kept.and_then(|kept| kept.meter(meter)).unwrap_or_default();
            let policy = here(meter.policy, shift);
            let free_in = limit::duration(limit::meter::free_in(&state, &policy, now));
            whole.free_in = whole.free_in.max(free_in);
            if limit::meter::is_used_up(&state, &policy, now) {
                whole.used_up_for = whole.used_up_for.max(free_in);
            }
        }
        let Some((name, policy)) = &limits.owner else { return Some(whole) };
        let owner = kept.and_then(|kept| kept.owners.get(name)).unwrap_or(&unknown);
        Some(whole.and(owner.snapshot(policy, now)))
    }

    async fn take_of_window(&self, budget: &str, ask: &WindowAsk) -> Option<WindowPart> {
        let now = self.now() / 1e3;
        let mut all = self.reported_windows.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() > MOST_OWNERS {
            all.retain(|_, windows| !windows.is_over(now));
        }
        Some(all.entry(budget.to_owned()).or_default().take(now, ask))
    }

    fn cold_wait_us(&self) -> f64 {
        0.0
    }
}

//! Limits in this process: one worker, nobody to share with.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use penstock_domain::limit::{
    self, Ask, Decision, Denied, Feedback, Lead, LimitPolicy, LimiterState, Snapshot,
};
use penstock_domain::time::Clock;

use crate::limiter::{CallLimits, Limiter, Permit};

/// When there are more owners' states at a dependency, those that hold nothing are dropped.
const MOST_OWNERS: usize = 10_000;

/// The process's start on the limiter's clock, microseconds: any time that leaves room before it, for 0 stands for none.
const START_US: f64 = 1e12;

/// States by name, under one lock: a decision takes less than a microsecond.
pub struct LocalLimiter {
    epoch: Instant,
    /// A test's own time.
    clock: Option<Arc<dyn Clock>>,
    states: Mutex<HashMap<String, Kept>>,
}

#[derive(Default)]
struct Kept {
    dependency: LimiterState,
    owners: HashMap<String, LimiterState>,
}

impl LocalLimiter {
    /// A limiter that knows nothing yet: every state starts empty, because a process before this one may just have
    /// used its burst. Its time is the process's own, which nobody can set.
    pub fn new() -> Self {
        Self { epoch: Instant::now(), clock: None, states: Mutex::default() }
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
        self.with(limits, |states, now| limit::acquire(states, now, ask))
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
        let all = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let unknown = LimiterState::default();
        let kept = all.get(&limits.dependency);
        let whole = kept.map_or(&unknown, |kept| &kept.dependency).snapshot(&limits.policy, now);
        let Some((name, policy)) = &limits.owner else { return Some(whole) };
        let owner = kept.and_then(|kept| kept.owners.get(name)).unwrap_or(&unknown);
        Some(whole.and(owner.snapshot(policy, now)))
    }

    fn cold_wait_us(&self) -> f64 {
        0.0
    }
}

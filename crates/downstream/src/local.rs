//! Limits in this process: one worker, nobody to share with.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use penstock_domain::limit::{self, Ask, Decision, Denied, Feedback, Gate, GatePolicy, Lead, Snapshot};
use penstock_domain::time::Clock;

use crate::limiter::{Gates, Grant, Limiter};

/// When there are more owners' gates at a dependency, those that tell nothing are dropped.
const MOST_OWNERS: usize = 10_000;

/// The process's start on the gates' clock, microseconds: any time that leaves room before it, for 0 stands for none.
const START_US: f64 = 1e12;

/// Gates by name, under one lock: a decision takes less than a microsecond.
pub struct LocalLimiter {
    epoch: Instant,
    /// A test's own time.
    clock: Option<Arc<dyn Clock>>,
    gates: Mutex<HashMap<String, Kept>>,
}

#[derive(Default)]
struct Kept {
    dependency: Gate,
    owners: HashMap<String, Gate>,
}

impl LocalLimiter {
    /// A limiter that knows nothing yet: every gate starts empty, because a process before this one may just have
    /// used its burst. Its time is the process's own, which nobody can set.
    pub fn new() -> Self {
        Self { epoch: Instant::now(), clock: None, gates: Mutex::default() }
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

    /// Works on a call's gates under the lock.
    fn with<T>(&self, gates: &Gates, work: impl FnOnce(&mut [(&mut Gate, &GatePolicy)], f64) -> T) -> T {
        let now = self.now();
        let mut all = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = match all.get_mut(&gates.dependency) {
            Some(kept) => kept,
            None => all.entry(gates.dependency.clone()).or_default(),
        };
        let dependency = (&mut kept.dependency, &gates.policy);
        let Some((name, policy)) = &gates.owner else { return work(&mut [dependency], now) };
        if kept.owners.len() > MOST_OWNERS {
            kept.owners.retain(|_, gate| !gate.is_idle(now));
        }
        let owner = match kept.owners.get_mut(name) {
            Some(gate) => gate,
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

    async fn acquire(&self, gates: &Gates, ask: &Ask) -> Decision {
        self.with(gates, |passing, now| limit::acquire(passing, now, ask))
    }

    async fn confirm(&self, gates: &Gates, ask: &Ask) -> Result<(), Denied> {
        self.with(gates, |passing, now| limit::confirm(passing, now, ask))
    }

    async fn report(&self, grant: Grant, feedback: Feedback) -> bool {
        let told = grant.gates.told(feedback);
        self.with(&grant.gates, |passing, now| {
            passing
                .iter_mut()
                .zip(&told)
                .fold(false, |own, ((gate, policy), told)| gate.report(policy, now, grant.token, told) || own)
        })
    }

    async fn peek(&self, gates: &Gates) -> Option<Snapshot> {
        let now = self.now();
        let all = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        let unknown = Gate::default();
        let kept = all.get(&gates.dependency);
        let whole = kept.map_or(&unknown, |kept| &kept.dependency).snapshot(&gates.policy, now);
        let Some((name, policy)) = &gates.owner else { return Some(whole) };
        let owner = kept.and_then(|kept| kept.owners.get(name)).unwrap_or(&unknown);
        Some(whole.and(owner.snapshot(policy, now)))
    }

    fn cold_wait_us(&self) -> f64 {
        0.0
    }
}

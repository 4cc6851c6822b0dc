//! Limits in this process: one worker, nobody to share with.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use penstock_domain::limit::{self, Ask, Decision, Denied, Feedback, Gate, GatePolicy, Snapshot};
use penstock_domain::time::Clock;

use crate::limiter::{Gates, Grant, Limiter};

/// Owners' gates that were not used for so long are dropped when there are many.
const MOST_GATES: usize = 100_000;

/// Gates by name, under one lock: a decision takes less than a microsecond.
pub struct LocalLimiter {
    clock: Arc<dyn Clock>,
    gates: Mutex<HashMap<String, Gate>>,
}

impl LocalLimiter {
    /// A limiter that knows nothing yet: every gate starts empty, because a process before this one may just have
    /// used its burst.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, gates: Mutex::default() }
    }

    fn now(&self) -> f64 {
        micros(self.clock.as_ref())
    }

    /// Works on a call's gates under the lock.
    fn with<T>(&self, gates: &Gates, work: impl FnOnce(&mut [(&mut Gate, &GatePolicy)], f64) -> T) -> T {
        let now = self.now();
        let mut kept = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() > MOST_GATES {
            kept.retain(|_, gate| !gate.is_idle(now));
        }
        let mut dependency = kept.remove(&gates.dependency).unwrap_or_default();
        let done = match &gates.owner {
            None => work(&mut [(&mut dependency, &gates.policy)], now),
            Some((name, policy)) => {
                let own = kept.entry(name.clone()).or_default();
                work(&mut [(&mut dependency, &gates.policy), (own, policy)], now)
            }
        };
        kept.insert(gates.dependency.clone(), dependency);
        done
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
    async fn acquire(&self, gates: &Gates, ask: &Ask) -> Decision {
        self.with(gates, |passing, now| limit::acquire(passing, now, ask))
    }

    async fn confirm(&self, gates: &Gates, ask: &Ask) -> Result<(), Denied> {
        self.with(gates, |passing, now| limit::confirm(passing, now, ask))
    }

    async fn report(&self, grant: Grant, feedback: Feedback) {
        let told_owner = grant.gates.pauses_owner();
        let health = Feedback { healthy: feedback.healthy, probe: feedback.probe, ..Feedback::default() };
        let slower = Feedback { healthy: None, probe: false, ..feedback };
        self.with(&grant.gates, |passing, now| {
            for (place, (gate, policy)) in passing.iter_mut().enumerate() {
                let word = match (place, told_owner) {
                    (0, false) => feedback,
                    (0, true) => health,
                    (_, true) => slower,
                    (_, false) => Feedback::default(),
                };
                gate.report(policy, now, grant.token, &word);
            }
        });
    }

    async fn peek(&self, gates: &Gates) -> Option<Snapshot> {
        let now = self.now();
        let kept = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(&gates.dependency).map(|gate| gate.snapshot(&gates.policy, now))
    }

    fn cold_wait_us(&self) -> f64 {
        0.0
    }
}

//! Limits in this process: one worker, nobody to share with.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use penstock_domain::limit::{self, Decision, Feedback, Gate, Snapshot};
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
}

/// The clock in microseconds since the epoch.
pub(crate) fn micros(clock: &dyn Clock) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit exactly")]
    let millis = clock.now().millis() as f64;
    millis * 1000.0
}

#[async_trait]
impl Limiter for LocalLimiter {
    async fn acquire(&self, gates: &Gates, cost: u32, token: u64, lease_us: f64) -> Decision {
        let now = self.now();
        let mut kept = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() > MOST_GATES {
            kept.retain(|_, gate| gate.snapshot(now).free_at > now - 60e6);
        }
        let mut dependency = kept.remove(&gates.dependency).unwrap_or_default();
        let decision = match &gates.owner {
            None => limit::acquire(&mut [(&mut dependency, &gates.policy)], now, cost, token, lease_us),
            Some((name, policy)) => {
                let own = kept.entry(name.clone()).or_default();
                limit::acquire(&mut [(&mut dependency, &gates.policy), (own, policy)], now, cost, token, lease_us)
            }
        };
        kept.insert(gates.dependency.clone(), dependency);
        decision
    }

    async fn report(&self, grant: Grant, feedback: Feedback) {
        let now = self.now();
        let mut kept = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        let told_owner = grant.gates.pauses_owner();
        let health = Feedback { healthy: feedback.healthy, ..Feedback::default() };
        let slower = Feedback { healthy: None, ..feedback };
        if let Some((name, policy)) = &grant.gates.owner {
            let word = if told_owner { slower } else { Feedback::default() };
            kept.entry(name.clone()).or_default().report(policy, now, Some(grant.token), &word);
        }
        let word = if told_owner { health } else { feedback };
        kept.entry(grant.gates.dependency.clone()).or_default().report(
            &grant.gates.policy,
            now,
            Some(grant.token),
            &word,
        );
    }

    async fn peek(&self, gates: &Gates) -> Option<Snapshot> {
        let now = self.now();
        let kept = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(&gates.dependency).map(|gate| gate.snapshot(now))
    }

    fn cold_wait_us(&self) -> f64 {
        0.0
    }
}

//! The local limiter, in the paused clock's time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use penstock_domain::limit::{Ask, Decision, Denied, Feedback, Lead, Snapshot};
use penstock_domain::time::Clock;
use penstock_downstream::{CallLimits, Limiter, LocalLimiter, Permit};
use tokio::sync::oneshot;

use crate::awake::Awake;

/// The limiter. The clock stands still from a call's permit until its end is reported.
pub struct TestLimiter {
    inner: LocalLimiter,
    calls: Mutex<HashMap<u64, oneshot::Sender<()>>>,
}

impl TestLimiter {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { inner: LocalLimiter::new().timed_by(clock), calls: Mutex::default() }
    }
}

#[async_trait]
impl Limiter for TestLimiter {
    async fn lead(&self) -> Result<Lead, Denied> {
        self.inner.lead().await
    }

    async fn acquire(&self, limits: &CallLimits, ask: &Ask) -> Decision {
        let decision = self.inner.acquire(limits, ask).await;
        if let Decision::Granted { wait, .. } = decision {
            let (end, ended) = oneshot::channel();
            self.calls.lock().unwrap().insert(ask.token, end);
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs_f64(wait.max(0.0) / 1e6)).await;
                let _awake = Awake::new();
                let _ = ended.await;
            });
        }
        decision
    }

    async fn lost_at(&self, limits: &CallLimits) -> Option<f64> {
        self.inner.lost_at(limits).await
    }

    async fn recall(&self, limits: &CallLimits, lost_at: f64, unused: Option<Duration>) -> bool {
        self.inner.recall(limits, lost_at, unused).await
    }

    async fn deposit(&self, limits: &CallLimits, meter: usize, amount: u32) -> bool {
        self.inner.deposit(limits, meter, amount).await
    }

    async fn correct(&self, limits: &CallLimits, actual: &[u32]) {
        self.inner.correct(limits, actual).await;
    }

    async fn confirm(&self, limits: &CallLimits, ask: &Ask) -> Result<(), Denied> {
        self.inner.confirm(limits, ask).await
    }

    async fn report(&self, permit: Permit, feedback: Feedback) -> bool {
        self.calls.lock().unwrap().remove(&permit.token);
        self.inner.report(permit, feedback).await
    }

    async fn peek(&self, limits: &CallLimits) -> Option<Snapshot> {
        self.inner.peek(limits).await
    }

    fn cold_wait_us(&self) -> f64 {
        self.inner.cold_wait_us()
    }
}

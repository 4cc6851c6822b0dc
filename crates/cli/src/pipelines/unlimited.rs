//! A limiter that lets everything pass: recorded answers come from nobody whose limits there are to keep.

use std::time::Duration;

use async_trait::async_trait;
use penstock_domain::limit::{Ask, Decision, Denied, Feedback, Lead, Snapshot};
use penstock_downstream::{CallLimits, Limiter, Permit};

pub struct Unlimited;

#[async_trait]
impl Limiter for Unlimited {
    async fn lead(&self) -> Result<Lead, Denied> {
        Ok(Lead::default())
    }

    async fn acquire(&self, _: &CallLimits, _: &Ask) -> Decision {
        Decision::Granted { wait: 0.0, slack: f64::MAX, probe: false, confirm: false }
    }

    async fn lost_at(&self, _: &CallLimits) -> Option<f64> {
        Some(0.0)
    }

    async fn recall(&self, _: &CallLimits, _: f64, _: Option<Duration>) -> bool {
        true
    }

    async fn deposit(&self, _: &CallLimits, _: usize, _: u32) -> bool {
        true
    }

    async fn correct(&self, _: &CallLimits, _: &[u32]) {}

    async fn confirm(&self, _: &CallLimits, _: &Ask) -> Result<(), Denied> {
        Ok(())
    }

    async fn report(&self, _: Permit, _: Feedback) -> bool {
        false
    }

    async fn peek(&self, _: &CallLimits) -> Option<Snapshot> {
        None
    }

    fn cold_wait_us(&self) -> f64 {
        0.0
    }
}

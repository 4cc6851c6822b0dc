//! Sends `batch.delayed` for batches that wait for a dependency that fails, and for those that get nowhere.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use penstock_domain::ids::BatchSeq;
use penstock_domain::limit::BreakerState;
use penstock_domain::time::Timestamp;
use penstock_downstream::Caller;
use penstock_store::alerts::StalledBatch;
use penstock_store::operations::STALLED_AFTER;

use crate::context::error::FlowError;
use crate::context::periodic::{Schedule, Task};
use crate::context::services::Services;
use crate::operate::alerts::MOST_STALLED;
use crate::read::standing::stalled_batch;

/// How often breakers are checked.
const EVERY: Duration = Duration::from_secs(2);

/// How often batches that get nowhere are looked for: some rows are read of each batch that has completed none.
const STALLED_EVERY: Duration = Duration::from_secs(10);

/// Batches that are reported in one run, at most.
const AT_ONCE: u32 = 100;

/// Batches that are named in the log in one run, at most.
const LOGGED_AT_ONCE: usize = 3;

/// Checks every breaker, and every batch that has completed no row.
pub struct Delays {
    services: Services,
    caller: Arc<Caller>,
    /// Batches that got nowhere when it was looked last.
    stalled: HashSet<BatchSeq>,
    looked_at: Option<Timestamp>,
}

impl Task for Delays {
    const NAME: &'static str = "delays";
    type Error = FlowError;

    fn schedule(&self) -> Schedule {
        Schedule::after(EVERY)
    }

    async fn run(&mut self) -> Result<(), FlowError> {
        let behind_breakers = self.behind_breakers().await?;
        self.report(&behind_breakers).await?;
        let now = self.services.clock.now();
        if self.looked_at.is_none_or(|at| now >= at + STALLED_EVERY) {
            let stalled =
                self.services.store.stalled_batches(None, now - STALLED_AFTER, MOST_STALLED).await?;
            let new: Vec<_> = stalled.iter().filter(|batch| !self.stalled.contains(&batch.seq)).collect();
            log(&new);
            self.report(&new.iter().map(|batch| batch.seq).collect::<Vec<_>>()).await?;
            // Only now: what could not be reported is new once more.
            self.stalled = stalled.into_iter().map(|batch| batch.seq).collect();
            self.looked_at = Some(now);
        }
        Ok(())
    }
}

impl Delays {
    /// `caller` knows the breakers.
    pub fn new(services: Services, caller: Arc<Caller>) -> Self {
        Self { services, caller, stalled: HashSet::new(), looked_at: None }
    }

    async fn behind_breakers(&self) -> Result<Vec<BatchSeq>, FlowError> {
        let mut delayed = Vec::new();
        for pipeline in self.services.pipelines.iter() {
            for dependency in &pipeline.dependencies {
                let gate = self.caller.peek(dependency, "").await;
                // Half open counts: a breaker that opened and half closed between two runs has delayed rows as well.
                if gate.is_some_and(|gate| gate.breaker != BreakerState::Closed) {
                    tracing::debug!(
                        pipeline = pipeline.name,
                        dependency = dependency.name,
                        "the breaker is not closed"
                    );
                    delayed.push(pipeline.name.clone());
                    break;
                }
            }
        }
        if delayed.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.services.store.delay_not_reported(&delayed, AT_ONCE).await?)
    }

    async fn report(&self, delayed: &[BatchSeq]) -> Result<(), FlowError> {
        if !delayed.is_empty() {
            self.services.store.report_delay(delayed, self.services.clock.now()).await?;
        }
        Ok(())
    }
}

/// Names batches that get nowhere.
fn log(stalled: &[&StalledBatch]) {
    for batch in stalled.iter().take(LOGGED_AT_ONCE) {
        tracing::warn!("{}", stalled_batch(batch));
    }
    if let Some(more) = stalled.len().checked_sub(LOGGED_AT_ONCE).filter(|more| *more > 0) {
        tracing::warn!("{more} more batches get nowhere; `penstock doctor` lists them");
    }
}

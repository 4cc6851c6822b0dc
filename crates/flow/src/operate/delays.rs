//! Sends `batch.delayed` for batches that wait for a dependency that fails.

use std::sync::Arc;
use std::time::Duration;

use penstock_domain::limit::BreakerState;
use penstock_downstream::Caller;

use crate::context::error::FlowError;
use crate::context::periodic::{Schedule, Task};
use crate::context::services::Services;

/// How often breakers are checked.
const EVERY: Duration = Duration::from_secs(2);

/// Batches that are reported in one run, at most.
const AT_ONCE: u32 = 100;

/// Checks every breaker.
pub struct Delays {
    /// The services.
    pub services: Services,
    /// Knows the breakers.
    pub caller: Arc<Caller>,
}

impl Task for Delays {
    const NAME: &'static str = "delays";
    type Error = FlowError;

    fn schedule(&self) -> Schedule {
        Schedule::after(EVERY)
    }

    async fn run(&mut self) -> Result<(), FlowError> {
        report(&self.services, &self.caller).await
    }
}

async fn report(services: &Services, caller: &Caller) -> Result<(), FlowError> {
    let mut delayed = Vec::new();
    for pipeline in services.pipelines.iter() {
        for dependency in &pipeline.dependencies {
            let gate = caller.peek(dependency, "").await;
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
    if !delayed.is_empty() {
        services.store.say_delayed(&delayed, AT_ONCE, services.clock.now()).await?;
    }
    Ok(())
}

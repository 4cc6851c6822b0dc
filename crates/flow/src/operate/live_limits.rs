//! Limits that an operator has set reach every worker.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use penstock_downstream::{Caller, LiveLimits};
use penstock_store::StoreError;

use crate::context::periodic::{Schedule, Task};
use crate::context::services::Services;

/// How often they are read: they are heard of within two seconds.
const EVERY: Duration = Duration::from_secs(1);

/// Reads what operators have set.
pub struct LiveLimitsTask {
    services: Services,
    caller: Arc<Caller>,
}

impl LiveLimitsTask {
    /// No call is made before they were read once.
    pub fn new(services: Services, caller: Arc<Caller>) -> Self {
        caller.await_live_limits();
        Self { services, caller }
    }
}

impl Task for LiveLimitsTask {
    const NAME: &'static str = "live-limits";
    type Error = StoreError;

    fn schedule(&self) -> Schedule {
        Schedule::from_start(EVERY)
    }

    async fn run(&mut self) -> Result<(), StoreError> {
        let settings = self.services.store.limit_settings().await?.into_iter();
        let all: HashMap<String, LiveLimits> = settings
            .map(|set| {
                let live = LiveLimits { limit: set.limit, concurrency: set.concurrency, paused: set.paused };
                (set.dependency, live)
            })
            .collect();
        self.caller.set_live_limits(all);
        Ok(())
    }
}

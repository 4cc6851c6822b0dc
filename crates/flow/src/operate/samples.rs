//! Samples how far running batches are, for the charts of their last hour.

use penstock_store::StoreError;
use penstock_store::samples::SAMPLE_EVERY;

use crate::context::periodic::{Schedule, Task};
use crate::context::services::Services;

/// Takes a sample of every batch that runs.
pub struct Sampling {
    /// The services.
    pub services: Services,
}

impl Task for Sampling {
    const NAME: &'static str = "samples";
    type Error = StoreError;

    fn schedule(&self) -> Schedule {
        Schedule::from_start(SAMPLE_EVERY)
    }

    async fn run(&mut self) -> Result<(), StoreError> {
        self.services.store.sample_batches(self.services.clock.now()).await
    }
}

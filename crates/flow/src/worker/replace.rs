//! Releases rows in place of those that [`replacements`](super::replacements) has gathered.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use penstock_domain::ids::BatchSeq;
use penstock_store::dispatch::Take;

use crate::context::error::FlowError;
use crate::dispatch::dead_workers;
use crate::dispatch::release::find_release;
use crate::worker::polls::messages;
use crate::worker::state::Worker;

/// Rows that go back within this time are replaced together.
const GATHER: Duration = Duration::from_millis(100);

/// A batch of which more rows than this have gone back is left to the dispatcher's runs: they would only be looked at in vain.
const MOST_RETURNED: u32 = 100_000;

/// How long it waits after the database failed.
const PAUSE: Duration = Duration::from_secs(1);

impl Worker {
    /// Replaces rows that go back until the worker drains.
    pub(super) async fn replace_returned(self: Arc<Self>) {
        loop {
            self.replacements.changed().await;
            tokio::time::sleep(GATHER).await;
            if self.draining.load(Ordering::SeqCst) {
                return;
            }
            if let Err(error) = self.replace_once().await {
                // The next run of the dispatcher releases what was not released now.
                tracing::warn!(%error, "failed to release rows in place of those that went back");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn replace_once(&self) -> Result<(), FlowError> {
        let wanted = self.replacements.take();
        let (services, now) = (&self.services, self.services.clock.now());
        let batches: Vec<BatchSeq> = wanted.keys().copied().collect();
        let takes: Vec<Take> = services
            .store
            .batches_by_seq(&batches)
            .await?
            .iter()
            .filter(|batch| batch.ledger.returned() < MOST_RETURNED)
            .filter_map(|batch| Some(Take { batch: batch.seq, rows: wanted.get(&batch.seq)?.1 }))
            .collect();
        if takes.is_empty() {
            return Ok(());
        }
        let lost_after = now + self.policy.lost_after;
        let released = match services.store.release(&takes, now, lost_after).await {
            Err(error) if error.is_transient() => find_release(services, &takes, lost_after, error).await?,
            released => released?,
        };
        let pipelines = wanted.iter().map(|(batch, (pipeline, _))| (*batch, &**pipeline)).collect();
        dead_workers::enqueue(services, messages(&pipelines, &released, now)).await;
        Ok(())
    }
}

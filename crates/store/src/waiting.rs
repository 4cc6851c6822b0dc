//! Rows and batches that wait: rows whose time is over while they do, and batches that no worker can process.

use async_trait::async_trait;
use penstock_domain::ids::{BatchId, BatchSeq};
use penstock_domain::time::Timestamp;
use serde::Serialize;

use crate::error::set_aside;
use crate::{StoreError, StoreResult};

/// What [`Waiting::end_overdue`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overdue {
    /// Rows that failed.
    pub rows: u32,
    /// Batches whose counters do not bear it: left alone until they are reconciled.
    pub miscounted: Vec<BatchSeq>,
    /// Batches with a stored value that is invalid: left alone until somebody has repaired it.
    pub unreadable: Vec<BatchSeq>,
}

impl Overdue {
    /// Leaves a batch alone because of an error [of its own](StoreError::is_one_batchs).
    pub fn leave_alone(&mut self, batch: BatchSeq, error: &StoreError) {
        set_aside(batch, error, &mut self.miscounted, &mut self.unreadable);
    }
}

/// Why no worker can process a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BatchFault {
    /// The batch's key.
    #[serde(skip)]
    pub seq: BatchSeq,
    /// The batch.
    pub batch: BatchId,
    /// Its pipeline.
    pub pipeline: String,
    /// A sentence.
    pub reason: String,
    /// The worker that reported it last.
    pub worker: String,
    /// When it was reported first.
    pub since: Timestamp,
    /// When it was reported last.
    pub seen_at: Timestamp,
}

/// Rows and batches that wait.
#[async_trait]
pub trait Waiting: Send + Sync {
    /// Fails waiting rows (pending or queued) whose [`Expiry`](crate::work::Expiry) has passed, of batches that run. Works in
    /// bounded steps; each row is guarded by its state and its expiry.
    async fn end_overdue(&self, now: Timestamp) -> StoreResult<Overdue>;
    /// Records why a worker cannot process batches, and since when.
    async fn report_faults(
        &self,
        faults: &[(BatchSeq, String)],
        worker: &str,
        now: Timestamp,
    ) -> StoreResult<()>;
    /// A worker can process these batches: what was reported of them is deleted.
    async fn clear_faults(&self, batches: &[BatchSeq]) -> StoreResult<()>;
    /// What was reported of batches that are running or being extracted, oldest first, at most 1000.
    async fn faults(&self) -> StoreResult<Vec<BatchFault>>;
}

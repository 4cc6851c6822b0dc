//! Rows that wait for a result: which of them are due for a look, and their way back to the queue.
//!
//! Between two looks such a row is pending, with `not_before` the time of its next look. The dispatcher passes it over; any
//! worker queues it when its time has come.

use async_trait::async_trait;
use penstock_domain::ids::{BatchSeq, OwnerSeq};
use penstock_domain::time::Timestamp;

use crate::StoreResult;
use crate::dispatch::{Released, Take};

/// A batch with rows that are due for a look, or are looked at now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuePolls {
    /// The batch.
    pub batch: BatchSeq,
    /// Its pipeline.
    pub pipeline: String,
    /// Its owner.
    pub owner: OwnerSeq,
    /// The owner's weight.
    pub weight: u32,
    /// Higher goes first.
    pub priority: i16,
    /// Rows that are due, at most as many as were asked for.
    pub due: u32,
    /// Rows that are queued or processing for a look.
    pub looking: u32,
}

/// The rows of a batch that wait for a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollingRows {
    /// How many, those included that are looked at now.
    pub rows: u32,
    /// When the next of them is looked at; none: all are looked at now.
    pub next_look: Option<Timestamp>,
}

/// Due looks.
#[async_trait]
pub trait Polls: Send + Sync {
    /// Batches of these pipelines that run and have rows due for a look, or rows that are looked at now; of each at most `most` due
    /// rows are counted. Those whose next look has been due longest come first.
    async fn due_polls(&self, pipelines: &[String], most: u32, now: Timestamp) -> StoreResult<Vec<DuePolls>>;
    /// The rows of a batch that wait for a result; none: it has no such row.
    async fn polling(&self, batch: BatchSeq) -> StoreResult<Option<PollingRows>>;
    /// When the latest next look at a row of a batch is; none: no row waits for its next look.
    async fn last_look(&self, batch: BatchSeq) -> StoreResult<Option<Timestamp>>;
    /// Queues rows that are due for a look, those that are due longest first, of every batch at most what is wanted. They count as
    /// lost after `lost_after`.
    async fn queue_due_polls(
        &self,
        takes: &[Take],
        now: Timestamp,
        lost_after: Timestamp,
    ) -> StoreResult<Vec<Released>>;
}

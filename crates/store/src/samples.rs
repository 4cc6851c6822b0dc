//! How fast batches go: how many of their rows had ended at times of the last hour.

use std::time::Duration;

use async_trait::async_trait;
use penstock_domain::ids::BatchSeq;
use penstock_domain::time::Timestamp;
use serde::Serialize;

use crate::StoreResult;

/// The time from one sample to the next.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(30);

/// How long samples are kept.
pub const SAMPLES_KEPT: Duration = Duration::from_secs(3600);

/// Batches of which samples are taken at a time, at most: those whose rows were released last.
pub const SAMPLED: u32 = 1000;

/// How many rows of a batch had ended at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// When.
    pub at: Timestamp,
    /// Rows that had completed.
    pub completed: u32,
    /// Rows that had failed.
    pub failed: u32,
}

/// Samples of batches.
#[async_trait]
pub trait Samples: Send + Sync {
    /// Samples every batch that runs, [`SAMPLED`] at most, and deletes samples older than [`SAMPLES_KEPT`]. Of several calls within one
    /// [`SAMPLE_EVERY`] the first one counts, whoever makes them.
    async fn sample_batches(&self, now: Timestamp) -> StoreResult<()>;
    /// The samples of a batch that are kept, oldest first.
    async fn samples(&self, batch: BatchSeq) -> StoreResult<Vec<Sample>>;
}

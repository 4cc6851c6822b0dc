//! Alerts: what the rules found wrong, and who has been told. Any number of workers look and tell; a guarded statement
//! each decides whose word goes out.

use async_trait::async_trait;
use penstock_domain::ids::{BatchId, BatchSeq, LeaseToken};
use penstock_domain::time::Timestamp;

use crate::StoreResult;
use crate::batches::Batch;

/// A batch that a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailingBatch {
    /// Which.
    pub id: BatchId,
    /// Its pipeline.
    pub pipeline: String,
    /// Rows completed.
    pub completed: u32,
    /// Rows failed.
    pub failed: u32,
}

/// A running batch that gets nowhere: none of its rows is completed, and all that were tried ended or wait with one code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StalledBatch {
    /// Its key in SQL.
    pub seq: BatchSeq,
    /// Which.
    pub id: BatchId,
    /// Its pipeline.
    pub pipeline: String,
    /// The code.
    pub code: String,
    /// Rows that have it, of the [first few](STALLED_ROWS).
    pub rows: u32,
    /// When work on the batch began.
    pub since: Timestamp,
}

/// That many rows at the beginning of a batch, which are tried first, show whether it gets anywhere.
pub const STALLED_ROWS: u32 = 100;

/// Something that a rule found, on its way to one receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// The rule's name.
    pub rule: String,
    /// What it is about: a batch, a dependency, …
    pub subject: String,
    /// Who is to be told.
    pub receiver: String,
    /// A sentence, without any row's content.
    pub text: String,
    /// It has to last so long before it is told; milliseconds.
    pub lasting_ms: i64,
}

/// An alert whose beginning or end a receiver has not heard of yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The rule's name.
    pub rule: String,
    /// What it is about.
    pub subject: String,
    /// Who is to be told.
    pub receiver: String,
    /// A sentence.
    pub text: String,
    /// Whether it begins; otherwise it ends.
    pub firing: bool,
    /// When it began.
    pub since: Timestamp,
    /// Tries so far.
    pub attempts: u16,
}

/// Alerts.
#[async_trait]
pub trait Alerts: Send + Sync {
    /// Batches that run, or finished after `since`, of whose rows more than `share_bp` hundredths of a percent failed,
    /// once `min_rows` of them ended; at most `limit`.
    async fn failing_batches(
        &self,
        since: Timestamp,
        min_rows: u32,
        share_bp: u16,
        limit: u32,
    ) -> StoreResult<Vec<FailingBatch>>;
    /// Batches whose file could not be extracted, since `since`; at most `limit`.
    async fn unextractable_batches(&self, since: Timestamp, limit: u32) -> StoreResult<Vec<FailingBatch>>;
    /// Running batches that are held, oldest first; at most `limit`.
    async fn held_batches(&self, limit: u32) -> StoreResult<Vec<Batch>>;
    /// Running batches that get nowhere since before a time, oldest first, at most `limit`; of these `only` one, if it is named.
    async fn stalled_batches(
        &self,
        only: Option<BatchSeq>,
        began_before: Timestamp,
        limit: u32,
    ) -> StoreResult<Vec<StalledBatch>>;
    /// What fires now, told or not: rule and subject.
    async fn firing(&self) -> StoreResult<Vec<(String, String)>>;
    /// Writes what is found now: what is new begins, what is no longer found ends, everything else stays as it is.
    async fn note_alerts(&self, found: &[Alert], now: Timestamp) -> StoreResult<()>;
    /// Takes beginnings and ends that nobody has told yet, under a lease.
    async fn lease_notices(
        &self,
        token: LeaseToken,
        now: Timestamp,
        until: Timestamp,
        limit: u32,
    ) -> StoreResult<Vec<Notice>>;
    /// Settles a notice: told, or to be tried again at `again`. True when the lease still held.
    async fn settle_notice(
        &self,
        notice: &Notice,
        token: LeaseToken,
        again: Option<Timestamp>,
    ) -> StoreResult<bool>;
}

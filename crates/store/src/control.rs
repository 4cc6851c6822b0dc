//! Control: what people ask of a batch after it was uploaded. Each is written to the audit log in its transaction.

use async_trait::async_trait;
use penstock_domain::ids::BatchSeq;
use penstock_domain::time::Timestamp;
use uuid::Uuid;

use crate::StoreResult;
use crate::batches::{Batch, SealedKey};

/// Who asks, for the audit log: `key:<id>` or `operator:<user>`.
pub type Actor<'a> = &'a str;

/// Which rows a retry takes up.
#[derive(Clone, Debug, Default)]
pub struct RetrySelection {
    /// Failed rows (the default of the API).
    pub failed: bool,
    /// Cancelled rows.
    pub cancelled: bool,
    /// Of the failed ones, only those with one of these codes; empty: all.
    pub codes: Vec<String>,
    /// Of the failed ones, only those that failed at one of these steps (none: before their first one); empty: at any.
    pub steps: Vec<Option<u16>>,
    /// Of the failed ones, only these; empty: all.
    pub numbers: Vec<u32>,
    /// Of the failed ones, only those from this number on.
    pub from: Option<u32>,
    /// Of the failed ones, only those up to this number.
    pub to: Option<u32>,
    /// The definition that the batch goes on under; none: its own.
    pub definition: Option<DefinitionChange>,
}

/// Another definition for a batch that has ended. It is stored already.
#[derive(Clone, Debug)]
pub struct DefinitionChange {
    /// The version that the batch has.
    pub from: Uuid,
    /// The version that it gets.
    pub to: Uuid,
    /// The ledger's revision when it was seen that what its rows keep fits.
    pub revision: i64,
    /// The batch's key as it was then, bound to the version that it has.
    pub from_key: SealedKey,
    /// The same, bound to the version that it gets.
    pub to_key: SealedKey,
}

/// Control. All return the batch as it stands afterwards.
#[async_trait]
pub trait Control: Send + Sync {
    /// Rows not yet started count as cancelled from now on, and never run. One statement whatever the size.
    ///
    /// # Errors
    /// `Refusal` when the batch has ended.
    async fn cancel(&self, batch: BatchSeq, actor: Actor<'_>, now: Timestamp) -> StoreResult<Batch>;
    /// Releases no more rows.
    ///
    /// # Errors
    /// `Refusal` when the batch has ended or is being cancelled.
    async fn pause(&self, batch: BatchSeq, actor: Actor<'_>, now: Timestamp) -> StoreResult<Batch>;
    /// Releases rows again.
    ///
    /// # Errors
    /// `Refusal` when the batch has ended or is being cancelled.
    async fn resume(&self, batch: BatchSeq, actor: Actor<'_>, now: Timestamp) -> StoreResult<Batch>;
    /// Puts the selected rows back to pending, with no attempts; receipts stay, so that finished steps are not called
    /// again. Tells how many rows.
    ///
    /// # Errors
    /// `Refusal` when the batch is not extracted, is being cancelled, or was erased; with another definition also when it
    /// has not ended, or was changed meanwhile.
    async fn retry(
        &self,
        batch: BatchSeq,
        selection: &RetrySelection,
        actor: Actor<'_>,
        now: Timestamp,
    ) -> StoreResult<(Batch, u32)>;
    /// Deletes the data key first (from then on nothing can be read, even in backups of the rows), then payloads,
    /// results, errors and receipts in bounded steps. A batch that still runs is cancelled. The counts stay.
    /// The caller deletes the file. With `ended_before` nothing is done, and none returned, unless the batch ended before
    /// that time: a retry may have begun since somebody looked.
    async fn erase(
        &self,
        batch: BatchSeq,
        ended_before: Option<Timestamp>,
        actor: Actor<'_>,
        now: Timestamp,
    ) -> StoreResult<Option<Batch>>;
    /// Ends an erasure whose file is deleted as well, once the database's own files hold no copy that it can overwrite.
    /// False when somebody was in the way: it stays among the unfinished ones.
    async fn finish_erasure(&self, batch: BatchSeq) -> StoreResult<bool>;
    /// Batches behind `after` whose erasure is under way or was broken off.
    async fn unfinished_erasures(&self, after: BatchSeq, limit: u32) -> StoreResult<Vec<Batch>>;
}

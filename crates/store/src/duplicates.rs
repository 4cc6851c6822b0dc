//! What was completed by key, of pipelines whose rows have one.

use async_trait::async_trait;
use penstock_domain::ids::{BatchId, BatchSeq, RowNumber};
use penstock_domain::time::Timestamp;

use crate::StoreResult;

/// A keyed hash: of an owner, a pipeline and a row's key.
pub type KeyHash = [u8; 32];

/// The key of a row that completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompletedKey {
    /// Its hash.
    pub key: KeyHash,
    /// When it is forgotten.
    pub expires_at: Timestamp,
}

/// A key that a row asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedKey {
    /// Its hash.
    pub key: KeyHash,
    /// The row's batch: what that one completed does not count.
    pub batch: BatchSeq,
    /// What was completed before this does not count.
    pub since: Timestamp,
}

/// The row that completed a key last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompletedBy {
    /// Its batch.
    pub batch: BatchId,
    /// Its number there.
    pub number: RowNumber,
    /// When it completed.
    pub completed_at: Timestamp,
}

/// Duplicates.
#[async_trait]
pub trait Duplicates: Send + Sync {
    /// Who completed each key, in their order; none: no row of another batch did since then.
    async fn completed_by_others(&self, wanted: &[WantedKey]) -> StoreResult<Vec<Option<CompletedBy>>>;

    /// Forgets a key: whether it was known.
    async fn forget_key(&self, key: &KeyHash) -> StoreResult<bool>;

    /// Forgets up to `limit` keys whose time is over. How many.
    async fn drop_expired_keys(&self, now: Timestamp, limit: u32) -> StoreResult<u64>;
}

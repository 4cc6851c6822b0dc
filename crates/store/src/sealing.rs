//! What is sealed under what: epochs, batches' wrapped keys, definitions' MACs, and small secrets of the installation.

use async_trait::async_trait;
use penstock_domain::ids::{BatchId, BatchSeq};
use penstock_domain::time::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use crate::StoreResult;
use crate::batches::{Batch, SealedKey};

/// A key that wraps batches' data keys for a time, sealed under a key of the keyring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// Its number: later ones have higher ones.
    pub id: i64,
    /// Its key, sealed.
    pub sealed: Vec<u8>,
    /// When it began.
    pub created_at: Timestamp,
    /// Whether a batch was erased whose data key it had wrapped: copies of that key may lie in logs and freed pages until the
    /// epoch is dropped.
    pub erased: bool,
}

/// What a key of the keyring is needed for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KeyUsage {
    /// The key's name.
    pub key_id: String,
    /// Batches whose data key it wraps, by their epoch.
    pub data_keys: u64,
    /// Promises whose fingerprint it made.
    pub promises: u64,
}

/// Sealing.
#[async_trait]
pub trait Sealing: Send + Sync {
    /// The epoch that wraps the keys of new batches; none in a new database.
    async fn newest_epoch(&self) -> StoreResult<Option<Epoch>>;
    /// Begins an epoch, provided that nobody has begun one of its number; true when this call did.
    async fn add_epoch(&self, epoch: &Epoch) -> StoreResult<bool>;
    /// Drops every epoch before `newest` that wraps no key any more, and sees to it that the database's files do not keep
    /// its key longer than they must; tells how many.
    async fn drop_epochs(&self, newest: i64) -> StoreResult<u32>;
    /// Batches behind `after`, by their keys in SQL, whose data key another epoch wraps than this one, or none.
    async fn batches_to_rewrap(&self, epoch: i64, after: BatchSeq, limit: u32) -> StoreResult<Vec<Batch>>;
    /// Any batch's wrapped key, in a database of an earlier schema as well.
    async fn earlier_key(&self) -> StoreResult<Option<(BatchId, SealedKey)>>;
    /// Replaces a wrapped key, and the header of a batch that had none sealed, provided that the key is still wrapped as
    /// `old` and that the new epoch is there; true when that was so.
    async fn rewrap_key(&self, batch: BatchSeq, old: &SealedKey, new: &SealedKey) -> StoreResult<bool>;
    /// What each key of the keyring is needed for, by its name.
    async fn key_usage(&self) -> StoreResult<Vec<KeyUsage>>;
    /// Every definition's version and MAC; none for one that was stored before there were MACs.
    async fn definition_macs(&self) -> StoreResult<Vec<(Uuid, Option<Vec<u8>>)>>;
    /// Replaces a definition's MAC, provided that it is still the one given as `expected`; true when it was.
    async fn set_definition_mac(
        &self,
        version: Uuid,
        expected: Option<&[u8]>,
        mac: &[u8],
    ) -> StoreResult<bool>;
    /// A small secret of the installation, sealed.
    async fn secret(&self, name: &str) -> StoreResult<Option<Vec<u8>>>;
    /// Keeps a small secret, provided that it is still the one given as `expected` (none: there is none yet); true when it
    /// was.
    async fn set_secret(&self, name: &str, expected: Option<&[u8]>, sealed: &[u8]) -> StoreResult<bool>;
}

//! Batches: making one, and finding one.

use async_trait::async_trait;
use penstock_domain::batch::{BatchStatus, Outcome};
use penstock_domain::ids::{BatchId, BatchSeq, OwnerSeq};
use penstock_domain::ledger::{Canary, Ledger};
use penstock_domain::row::RowStatus;
use penstock_domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::StoreResult;

/// A batch as it stands in SQL, without its secrets. Callbacks keep it as it was, and a later release delivers them: a
/// field that comes new has a default.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Batch {
    /// Its key in SQL.
    pub seq: BatchSeq,
    /// Its public id.
    pub id: BatchId,
    /// Whose it is.
    pub owner: OwnerSeq,
    /// The owner's name.
    pub owner_name: String,
    /// Its owner's weight among owners, at least 1.
    #[serde(default = "usual_weight")]
    pub owner_weight: u32,
    /// Its owner's own quota, where it has one.
    #[serde(default)]
    pub owner_rows: Option<u32>,
    /// The pipeline's name.
    pub pipeline: String,
    /// The definition it was uploaded under.
    pub version: Uuid,
    /// What the client calls it.
    pub name: Option<String>,
    /// What its client marked it with, in the order given.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Of batches from before there was [`SealedKey::header`]: the same, not sealed.
    pub header: Option<String>,
    /// Where the file lies in the object store.
    pub object_key: String,
    /// Bytes of the plain file.
    pub file_bytes: u64,
    /// Whether the stored file is still the client's own plain upload, which the extractor validates and seals.
    pub unsealed: bool,
    /// Where callbacks go.
    pub callback_url: Option<String>,
    /// Batches of one owner with a higher number go first.
    pub priority: i16,
    /// When it was uploaded.
    pub created_at: Timestamp,
    /// State and counters.
    pub ledger: Ledger,
    /// How far extraction has come.
    pub checkpoint: Checkpoint,
    /// The row whose failure ended the batch.
    pub failure_row: Option<u32>,
    /// Why the file could not be extracted: JSON with `code`, its `message` and, for a bad file, `error_count`. Nothing that
    /// stands in the file: that is in [`Batches::sealed_failure`].
    pub failure: Option<String>,
    /// When its payloads were erased.
    pub erased_at: Option<Timestamp>,
}

fn usual_weight() -> u32 {
    1
}

impl Batch {
    /// Whether any of its rows may still be run: all of them are in SQL, it has neither ended nor been cancelled or erased.
    pub fn runs(&self) -> bool {
        self.ledger.extracted
            && !self.ledger.is_finished()
            && self.ledger.cancelled_at.is_none()
            && self.erased_at.is_none()
    }
}

/// A position between two records of the plain file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Byte offset of the next record.
    pub offset: u64,
    /// Physical line of the next record.
    pub line: u64,
    /// Rows stored so far; the next one has this number plus one.
    pub rows: u32,
}

/// What opens a batch's ciphertexts. Gone once the batch is erased.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SealedKey {
    /// The epoch whose key wraps the data key; none: the keyring's key does, as it was before there were epochs.
    pub epoch: Option<i64>,
    /// The keyring's key that seals the epoch's.
    pub key_id: String,
    /// The wrapped data key.
    pub wrapped: Vec<u8>,
    /// The request's context, sealed; none when there was none.
    pub context: Option<Vec<u8>>,
    /// How the file's records are read, sealed: the CSV room's `HeaderMap` in JSON. None until somebody has read the file.
    pub header: Option<Vec<u8>>,
}

/// [`SealedKey`] as it is read, with the key of its epoch.
#[derive(Clone, Debug)]
pub struct StoredKey {
    /// What the batch has.
    pub key: SealedKey,
    /// The epoch's key, sealed under the keyring; none when there is no such epoch.
    pub epoch_key: Option<Vec<u8>>,
}

/// A definition as it is kept with the batches that were uploaded under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredDefinition {
    /// The pipeline's name.
    pub name: String,
    /// Its text.
    pub source: String,
    /// A MAC under the keyring over version, name and text; none before there were any.
    pub mac: Option<Vec<u8>>,
}

/// The promise behind an `Idempotency-Key`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Idempotency {
    /// The client's key.
    pub key: String,
    /// The keyring's key under which the fingerprint was made; empty: the installation's own secret for that.
    pub key_id: String,
    /// Keyed hash of everything the client sent.
    pub fingerprint: Vec<u8>,
}

/// What an upload leaves. The manifest beside its file keeps it, and a later release reads that: a field that comes new has a
/// default.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewBatch {
    /// Its public id.
    pub id: BatchId,
    /// Whose it is.
    pub owner: OwnerSeq,
    /// Who uploads it, for the audit log; empty: it is not known which key of the owner.
    #[serde(default)]
    pub actor: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The definition's version; `save_definition` stored it before.
    pub version: Uuid,
    /// What the client calls it.
    pub name: Option<String>,
    /// What the client marks it with; none holds a line break.
    pub labels: Vec<String>,
    /// Where the file lies.
    pub object_key: String,
    /// Bytes of the plain file.
    pub file_bytes: u64,
    /// See [`Batch::unsealed`].
    pub unsealed: bool,
    /// Rows, when somebody has counted them.
    pub rows: Option<u32>,
    /// See [`Ledger::allow_failures`].
    pub allow_failures: bool,
    /// The trial, if any.
    pub canary: Option<Canary>,
    /// Where callbacks go.
    pub callback_url: Option<String>,
    /// See [`Batch::priority`].
    pub priority: i16,
    /// Where extraction begins: behind the header.
    pub checkpoint: Checkpoint,
    /// The wrapped data key and the sealed context.
    pub key: SealedKey,
    /// The `Idempotency-Key`, if one was sent.
    pub idempotency: Option<Idempotency>,
    /// The presigned upload that this batch uses up.
    pub upload: Option<Uuid>,
    /// Now.
    pub created_at: Timestamp,
}

/// What came of making a batch.
#[derive(Clone, Debug)]
pub enum Created {
    /// It is new.
    New(Batch),
    /// The `Idempotency-Key` was used before, for this batch and this content.
    Existing {
        /// The earlier batch.
        batch: Batch,
        /// What it was made with.
        idempotency: Idempotency,
    },
}

/// Which batches to list. Newest first; everything that is set has to match.
#[derive(Clone, Debug, Default)]
pub struct BatchFilter {
    /// Whose; none: everybody's (operators).
    pub owner: Option<OwnerSeq>,
    /// In which states.
    pub status: Vec<BatchStatus>,
    /// With one of these outcomes; empty: any, or none yet.
    pub outcome: Vec<Outcome>,
    /// With this text in the name or in a label, whatever the case of its letters.
    pub search: Option<String>,
    /// With all of these labels.
    pub labels: Vec<String>,
    /// Only of these pipelines; empty: of all.
    pub pipelines: Vec<String>,
    /// Created at or after.
    pub created_from: Option<Timestamp>,
    /// Created before.
    pub created_to: Option<Timestamp>,
    /// Only batches with a smaller sequence number: the last one of the page before.
    pub before: Option<BatchSeq>,
    /// At most so many.
    pub limit: u32,
    /// How many of the owner's (without one: of all) batches are looked at, at most; what matches further back is on a later
    /// page. None: all of them.
    pub looked_at: Option<u32>,
}

impl BatchFilter {
    /// Whether it leaves out batches that it has to look at.
    pub fn is_narrow(&self) -> bool {
        !self.status.is_empty()
            || !self.outcome.is_empty()
            || self.search.is_some()
            || !self.labels.is_empty()
            || !self.pipelines.is_empty()
            || self.created_from.is_some()
            || self.created_to.is_some()
    }
}

/// Some batches, newest first.
#[derive(Clone, Debug, Default)]
pub struct BatchPage {
    /// The batches; a page may have none and still be followed by others.
    pub batches: Vec<Batch>,
    /// What `before` gives the next page; none behind the last.
    pub next: Option<BatchSeq>,
}

/// A file that a client is to PUT somewhere before it asks for the batch.
#[derive(Clone, Debug)]
pub struct PendingUpload {
    /// Its public id.
    pub id: Uuid,
    /// Whose it is.
    pub owner: OwnerSeq,
    /// Where the file will lie.
    pub object_key: String,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it is dropped unless used.
    pub expires_at: Timestamp,
    /// The batch that used it.
    pub batch: Option<BatchSeq>,
}

/// What an owner keeps: batches that are not erased, and the bytes of their files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// How many.
    pub batches: u64,
    /// Bytes of the plain files.
    pub bytes: u64,
}

/// A row state together with its count, for checks.
pub type StatusCount = (RowStatus, u32);

/// Making and finding batches.
#[async_trait]
pub trait Batches: Send + Sync {
    /// Keeps a definition. One of the same version with another MAC is replaced: the caller has the definition itself.
    async fn save_definition(
        &self,
        version: Uuid,
        definition: &StoredDefinition,
        now: Timestamp,
    ) -> StoreResult<()>;
    /// The definition of that version.
    async fn definition(&self, version: Uuid) -> StoreResult<Option<StoredDefinition>>;
    /// What an earlier request with this `Idempotency-Key` made.
    async fn idempotent(&self, owner: OwnerSeq, key: &str) -> StoreResult<Option<(Batch, Idempotency)>>;
    /// Makes a batch (state `pending`) with its `batch.created` callback, all or nothing. Two requests with one
    /// `Idempotency-Key` at once: one makes it, the other is told.
    ///
    /// # Errors
    /// `EpochDropped` when the epoch of its key is no longer there: wrap the key anew.
    async fn create_batch(&self, batch: &NewBatch) -> StoreResult<Created>;
    /// The batch with that public id; `owner` given: only if it is theirs.
    async fn batch(&self, id: BatchId, owner: Option<OwnerSeq>) -> StoreResult<Option<Batch>>;
    /// Batches by their keys; those that do not exist are left out.
    async fn batches_by_seq(&self, seqs: &[BatchSeq]) -> StoreResult<Vec<Batch>>;
    /// A page of batches that match, newest first.
    async fn list_batches(&self, filter: &BatchFilter) -> StoreResult<BatchPage>;
    /// Running batches of that owner, at most `limit`; of the highest priority first. Its cost does not grow with batches that
    /// ended or were not extracted yet.
    async fn running_batches(&self, owner: OwnerSeq, limit: u32) -> StoreResult<Vec<Batch>>;
    /// What the owner keeps. Reads all batches of the owner: not for every request.
    async fn kept(&self, owner: OwnerSeq) -> StoreResult<Kept>;
    /// What opens the batch; none once it is erased.
    async fn sealed_key(&self, batch: BatchSeq) -> StoreResult<Option<StoredKey>>;
    /// What the file's errors say, sealed; none when it has none, and once the batch is erased.
    async fn sealed_failure(&self, batch: BatchSeq) -> StoreResult<Option<Vec<u8>>>;
    /// Remembers a presigned upload.
    async fn create_upload(&self, upload: &PendingUpload) -> StoreResult<()>;
    /// A presigned upload of that owner.
    async fn upload(&self, id: Uuid, owner: OwnerSeq) -> StoreResult<Option<PendingUpload>>;
    /// The presigned uploads that a batch used up, until their time is over.
    async fn uploads_of(&self, batch: BatchSeq) -> StoreResult<Vec<PendingUpload>>;
}

//! Extraction: from a stored file to rows in SQL, in resumable, exact chunks.

use async_trait::async_trait;
use penstock_domain::ids::{BatchSeq, LeaseToken};
use penstock_domain::time::Timestamp;

use crate::StoreResult;
use crate::batches::{Batch, Checkpoint};

/// The right to extract one batch.
#[derive(Clone, Debug)]
pub struct ExtractionLease {
    /// The batch.
    pub batch: BatchSeq,
    /// The lease's secret.
    pub token: LeaseToken,
    /// Who holds it, for people to read.
    pub holder: String,
    /// When it runs out unless renewed; every committed chunk renews it.
    pub until: Timestamp,
}

/// What came of asking for the lease.
#[derive(Clone, Debug)]
pub enum Leased {
    /// It is yours; the batch as it stands now.
    Yours(Box<Batch>),
    /// Somebody holds it.
    Held {
        /// Who.
        holder: String,
        /// Until when.
        until: Timestamp,
    },
    /// There is nothing to extract in its state.
    NotExtractable(Box<Batch>),
}

/// One row of a chunk.
#[derive(Clone, Debug)]
pub struct NewRow {
    /// Its number, from 1.
    pub number: u32,
    /// Its physical line in the file.
    pub line: u32,
    /// Its record, sealed; none when the row is rejected.
    pub payload: Vec<u8>,
    /// A row that cannot be processed: it is failed from the start, with this code and sealed error.
    pub rejected: Option<(String, Vec<u8>)>,
}

/// Why a file cannot be extracted.
#[derive(Clone, Debug, Default)]
pub struct ExtractionFailure {
    /// What may be seen of it: see [`Batch::failure`].
    pub clear: String,
    /// What the file's errors say, sealed.
    pub sealed: Option<Vec<u8>>,
}

/// Extraction.
#[async_trait]
pub trait Extraction: Send + Sync {
    /// Takes the extraction lease of a batch that is pending, or processing under a lease that ran out or is this holder's own (it
    /// begins again where the database broke off). With
    /// `revive`, also of one whose extraction failed (an operator's `extract --manual-run`).
    async fn lease_extraction(
        &self,
        lease: &ExtractionLease,
        revive: bool,
        now: Timestamp,
    ) -> StoreResult<Leased>;
    /// Keeps the lease.
    ///
    /// # Errors
    /// `LeaseLost`.
    async fn renew_extraction(&self, lease: &ExtractionLease) -> StoreResult<()>;
    /// Tells what a first reading of an unseen file found, once, and where its sealed copy lies. `header`: see
    /// [`SealedKey::header`](crate::batches::SealedKey::header).
    ///
    /// # Errors
    /// `LeaseLost`.
    async fn describe_file(
        &self,
        lease: &ExtractionLease,
        header: &[u8],
        rows: u32,
        object_key: &str,
        file_bytes: u64,
        start: Checkpoint,
    ) -> StoreResult<()>;
    /// Stores a chunk's rows (in ascending order, behind the last stored one) and the checkpoint behind them in one
    /// transaction that also checks and renews the lease.
    ///
    /// # Errors
    /// `LeaseLost`, also when the batch was erased meanwhile; `InvalidData` when the database refuses the data of one of the rows: split the chunk.
    async fn commit_chunk(
        &self,
        lease: &ExtractionLease,
        rows: &[NewRow],
        from: Checkpoint,
        to: Checkpoint,
        now: Timestamp,
    ) -> StoreResult<()>;
    /// Seals the total: the batch is `queued`, or finished when no row of it can run. Ends the lease.
    ///
    /// # Errors
    /// `LeaseLost`.
    async fn finish_extraction(
        &self,
        lease: &ExtractionLease,
        rows: u32,
        now: Timestamp,
    ) -> StoreResult<Batch>;
    /// The file cannot be extracted: the batch is `failed`, with `failure` as its reason. One that was erased meanwhile is `cancelled` instead, without a reason. Ends the lease.
    ///
    /// # Errors
    /// `LeaseLost`.
    async fn fail_extraction(
        &self,
        lease: &ExtractionLease,
        failure: &ExtractionFailure,
        now: Timestamp,
    ) -> StoreResult<Batch>;
    /// Gives the lease back; the batch goes on from its checkpoint as soon as somebody takes it.
    async fn release_extraction(&self, lease: &ExtractionLease) -> StoreResult<()>;
}

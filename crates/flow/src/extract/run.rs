//! Extraction: from a stored file to rows in SQL.
//!
//! One task reads, opens, parses and seals; the other commits. Between them are at most two chunks. A crash, a lost lease or a
//! service that fails leaves the batch at its checkpoint, from which any worker continues.

use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use penstock_domain::ids::BatchSeq;
use penstock_domain::outcome::code;
use penstock_domain::time::Timestamp;
use penstock_store::StoreError;
use penstock_store::batches::{Batch, Checkpoint};
use penstock_store::extraction::{ExtractionFailure, ExtractionLease, Leased, NewRow};
use tokio::sync::mpsc;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::context::error::FlowError;
use crate::context::secrets::{SecretLocation, SecretsOf};
use crate::context::services::Services;
use crate::crash;
use crate::extract::fault::{ExtractError, FileFault};
use crate::extract::policy::ExtractPolicy;
use crate::extract::reader;
use crate::extract::reader::Chunk;
use crate::extract::seal_plain;
use crate::intake::manifest;

/// Chunks between the reader and the database.
const CHUNKS_AHEAD: usize = 2;

/// What became of an extraction.
#[derive(Debug)]
pub enum Extracted {
    /// All rows are in SQL.
    Done(Box<Batch>),
    /// The file cannot be extracted; the batch has the reason.
    Failed(Box<Batch>),
    /// Somebody else holds the lease.
    Held {
        /// Who.
        holder: String,
        /// Until when.
        until: Timestamp,
    },
    /// The batch is in no state to be extracted.
    NotExtractable(Box<Batch>),
    /// It failed, and would again: the file itself is at fault, or gone. The sentence is the reason.
    Hopeless(String),
    /// It was erased meanwhile, and is cancelled.
    Erased,
    /// It was asked to stop; the batch waits at its checkpoint.
    Stopped,
}

/// Extracts a batch under the extraction lease. `progress` receives the checkpoint after each chunk. The caller opens its span
/// ([`crate::telemetry::traces::extraction`]).
///
/// # Errors
/// When a service fails in a way that may pass: the batch continues from its checkpoint at the next attempt.
pub async fn extract(
    services: &Services,
    policy: &ExtractPolicy,
    batch: BatchSeq,
    revive: bool,
    stop: &CancellationToken,
    progress: &mut (dyn FnMut(&Batch, Checkpoint) + Send),
) -> Result<Extracted, FlowError> {
    if revive && let Some(why) = hopeless(services, batch).await? {
        return Ok(Extracted::Hopeless(why));
    }
    let now = services.clock.now();
    let mut lease = ExtractionLease {
        batch,
        token: services.id_generator.lease_token(),
        holder: policy.holder.clone(),
        until: now + policy.lease,
    };
    let batch = match services.store.lease_extraction(&lease, revive, now).await? {
        Leased::Yours(batch) => batch,
        Leased::Held { holder, until } => return Ok(Extracted::Held { holder, until }),
        Leased::NotExtractable(batch) => return Ok(Extracted::NotExtractable(batch)),
    };
    tracing::info!(from_row = batch.checkpoint.rows, "extraction begins");
    let plain = batch.unsealed.then(|| Path::from(batch.object_key.as_str()));
    let secrets = match services.try_secrets_of(&batch).await {
        Ok(secrets) => secrets,
        Err(error) => return release_lease(services, &lease, error).await,
    };
    let outcome = carry_out(services, policy, &mut lease, batch, secrets.clone(), stop, progress).await;
    match outcome {
        Ok(extracted) => Ok(extracted),
        Err(ExtractError::Flow(FlowError::Store(StoreError::LeaseLost))) => {
            // Perhaps nobody took the lease, and the batch is not extracted any more.
            let now = services.clock.now();
            let batch = services.store.batches_by_seq(&[lease.batch]).await?.pop();
            if batch.is_some_and(|batch| batch.erased_at.is_some()) {
                services.store.fail_extraction(&lease, &ExtractionFailure::default(), now).await?;
                return Ok(Extracted::Erased);
            }
            Err(StoreError::LeaseLost.into())
        }
        Err(ExtractError::File(fault)) => {
            tracing::warn!(code = fault.code, "the file cannot be extracted");
            let failure = fault.kept(secrets.as_ref());
            let batch = services.store.fail_extraction(&lease, &failure, services.clock.now()).await?;
            if let Some(plain) = plain {
                // Nobody reads it again, and it is not sealed.
                manifest::delete_with_file(services, &plain).await;
            }
            if batch.erased_at.is_some() {
                return Ok(Extracted::Erased);
            }
            Ok(Extracted::Failed(Box::new(batch)))
        }
        Err(ExtractError::Flow(error)) => release_lease(services, &lease, error).await,
    }
}

/// Releases the lease, best effort: one that cannot be released expires by itself.
async fn release_lease(
    services: &Services,
    lease: &ExtractionLease,
    error: FlowError,
) -> Result<Extracted, FlowError> {
    if let Err(release) = services.store.release_extraction(lease).await {
        tracing::debug!(error = %release, "failed to release the extraction lease; it expires");
    }
    Err(error)
}

/// Why a failed extraction need not be repeated, as far as its batch shows.
async fn hopeless(services: &Services, batch: BatchSeq) -> Result<Option<String>, FlowError> {
    let Some(batch) = services.store.batches_by_seq(&[batch]).await?.pop() else { return Ok(None) };
    let Some(failure) = batch.failure.as_deref() else { return Ok(None) };
    let code = FileFault::code_of(failure);
    if code.as_deref().is_some_and(FileFault::is_the_files_own) {
        return Ok(Some(format!(
            "the file itself is at fault ({}): upload it again when it is fixed",
            code.unwrap_or_default()
        )));
    }
    match services.objects.head(&Path::from(batch.object_key.as_str())).await {
        Err(object_store::Error::NotFound { .. }) => {
            Ok(Some("the stored file is gone: put it back from a backup, or upload it again".to_owned()))
        }
        _ => Ok(None),
    }
}

async fn carry_out(
    services: &Services,
    policy: &ExtractPolicy,
    lease: &mut ExtractionLease,
    mut batch: Box<Batch>,
    secrets: Option<SecretsOf>,
    stop: &CancellationToken,
    progress: &mut (dyn FnMut(&Batch, Checkpoint) + Send),
) -> Result<Extracted, ExtractError> {
    let Some(mut secrets) = secrets else {
        return Err(ExtractError::File(FileFault::new(
            "erased",
            "the batch was erased before its file was extracted",
        )));
    };
    if batch.unsealed {
        secrets = seal_plain::seal(services, policy, lease, &mut batch, secrets).await?;
    }
    let (sender, mut chunks) = mpsc::channel::<Result<Chunk, ExtractError>>(CHUNKS_AHEAD);
    let reader = reader::read(services.clone(), policy.clone(), batch.clone(), secrets.clone(), sender);
    let reader = tokio::spawn(reader.in_current_span());
    let _stop_reading = AbortOnDrop(reader.abort_handle());
    let mut at = batch.checkpoint;
    while let Some(chunk) = chunks.recv().await {
        let chunk = chunk?;
        commit(services, policy, lease, &secrets, &chunk, at).await?;
        at = chunk.end;
        progress(&batch, at);
        crash::point(crash::INSIDE_EXTRACTION);
        if stop.is_cancelled() {
            services.store.release_extraction(lease).await?;
            return Ok(Extracted::Stopped);
        }
    }
    read_to_the_end(reader.await, at.rows, batch.ledger.counts.total)?;
    let done = services.store.finish_extraction(lease, at.rows, services.clock.now()).await?;
    tracing::info!(rows = at.rows, "extraction is done");
    Ok(Extracted::Done(Box::new(done)))
}

/// The reader has sent its last chunk: checks that it ended normally, and that the rows are those that were validated.
fn read_to_the_end(reader: Result<(), JoinError>, rows: u32, validated: u32) -> Result<(), ExtractError> {
    if let Err(error) = reader {
        // It would panic again in any other worker, and the batch would never end.
        tracing::error!(%error, "reading a file panicked: please report it");
        let message = "a defect of this service; its operator can have the file read again";
        return Err(ExtractError::File(FileFault::new(code::INTERNAL_ERROR, message)));
    }
    if rows != validated {
        let message = format!("the file has {rows} rows, and {validated} were validated");
        return Err(ExtractError::File(FileFault::new("file_changed", message)));
    }
    Ok(())
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Commits a chunk. When the database refuses its data, it is halved, down to the one row that is refused: that one becomes
/// a failed row, and nothing else does. Any other error stops the extraction at its checkpoint.
async fn commit(
    services: &Services,
    policy: &ExtractPolicy,
    lease: &mut ExtractionLease,
    secrets: &SecretsOf,
    chunk: &Chunk,
    from: Checkpoint,
) -> Result<(), FlowError> {
    let mut parts = vec![(0, chunk.rows.len())];
    let mut at = from;
    while let Some((first, last)) = parts.pop() {
        let now = services.clock.now();
        lease.until = now + policy.lease;
        let to = if last == chunk.rows.len() { chunk.end } else { chunk.positions[last - 1] };
        match services.store.commit_chunk(lease, &chunk.rows[first..last], at, to, now).await {
            Ok(()) => at = to,
            Err(StoreError::InvalidData { transaction, source }) if last - first > 1 => {
                tracing::warn!(transaction, %source, rows = last - first, "a chunk was refused and is halved");
                let middle = first + (last - first) / 2;
                parts.push((middle, last));
                parts.push((first, middle));
            }
            Err(StoreError::InvalidData { source, .. }) => {
                let row = &chunk.rows[first];
                tracing::warn!(row = row.number, %source, "a row cannot be stored and is failed");
                let mut rejected = rejected_row(secrets, row);
                let kept =
                    services.store.commit_chunk(lease, std::slice::from_ref(&rejected), at, to, now).await;
                if matches!(kept, Err(StoreError::InvalidData { .. })) {
                    // The record itself is refused: the stored file still has it.
                    rejected.payload = secrets.seal(SecretLocation::Payload(row.number), b"");
                    services.store.commit_chunk(lease, std::slice::from_ref(&rejected), at, to, now).await?;
                } else {
                    kept?;
                }
                at = to;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The row as a failed one. Its record is kept.
fn rejected_row(secrets: &SecretsOf, row: &NewRow) -> NewRow {
    let error = penstock_domain::row::RowError {
        code: code::NOT_STORED.into(),
        step: None,
        http_status: None,
        message: "the database did not take this row".into(),
        sent: None,
        detail: None,
        attempts: Vec::new(),
        throttled: None,
        series_clock: None,
        earlier_attempts: None,
        awaits_since: None,
        look: false,
    };
    NewRow {
        number: row.number,
        line: row.line,
        payload: row.payload.clone(),
        rejected: Some((error.code.clone(), secrets.seal_json(SecretLocation::Error(row.number), &error))),
    }
}

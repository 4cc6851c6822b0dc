//! A file that a client PUT into the object store itself: validated, sealed, and its plain copy deleted.

use std::ops::ControlFlow;
use std::sync::Arc;

use object_store::path::Path;
use penstock_domain::csv::{Schema, Validated, Workbook};
use penstock_domain::outcome::code;
use penstock_domain::pipeline::Pipeline;
use penstock_store::StoreError;
use penstock_store::batches::{Batch, Checkpoint};
use penstock_store::extraction::ExtractionLease;
use penstock_workbook::{WorkbookError, convert};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use crate::context::error::FlowError;
use crate::context::object_writer::PartWriter;
use crate::context::objects::delete;
use crate::context::secrets::{SecretLocation, SecretsOf};
use crate::context::services::Services;
use crate::extract::fault::{ExtractError, FileFault};
use crate::extract::object_file::ObjectFile;
use crate::extract::plain_file::{PlainFile, ReadError};
use crate::extract::policy::ExtractPolicy;
use crate::intake::checked_file::{CheckedFile, FileOf};
use crate::intake::content;
use crate::intake::error_file::KeyOf;
use crate::intake::manifest::{self, SealedCopy};
use crate::intake::sealed_file::{SealedWriter, upload_folder, upload_key};

/// Pieces of a workbook's rows between its reader and the validator.
const PIECES_AHEAD: usize = 4;

/// Workbooks that a process reads at a time: each may hold its shared strings in memory.
static WORKBOOKS: Semaphore = Semaphore::const_new(1);

/// The lease is renewed so many times in its duration.
const RENEWALS: u32 = 3;

/// Reads the plain file once: every row is validated before anything is inserted. From then on the batch's secrets have its
/// header.
pub(crate) async fn seal(
    services: &Services,
    policy: &ExtractPolicy,
    lease: &mut ExtractionLease,
    batch: &mut Batch,
    secrets: SecretsOf,
) -> Result<SecretsOf, ExtractError> {
    // The definition that it was uploaded under, which may be an older one by now.
    let pipeline = services.definition_of(batch).await?;
    let plain = Path::from(batch.object_key.as_str());
    // The database may name the file's location, but not its owner.
    if !plain.prefix_matches(&upload_folder(&batch.owner_name)) {
        return Err(FlowError::Inconsistent(format!("batch {} has another owner's file", batch.id)).into());
    }
    let reading = read(services, batch, &pipeline, &secrets, &plain);
    let (validated, writer) = leased(services, policy, lease, reading).await??;
    let file = writer.finish().await?;
    let header = secrets.seal_json(SecretLocation::Header, &validated.header);
    let rows = u32::try_from(validated.rows).unwrap_or(u32::MAX);
    let start = Checkpoint { offset: validated.body_offset, line: validated.body_line, rows: 0 };
    let key = file.path.to_string();
    let copy = SealedCopy { path: &file.path, plain_bytes: file.plain_bytes, header: &header, rows, start };
    manifest::of_copy(services, &plain, &copy).await?;
    let described = services.store.describe_file(lease, &header, rows, &key, file.plain_bytes, start).await;
    if matches!(described, Err(StoreError::LeaseLost)) {
        // Perhaps the batch was erased, and the data key is in it.
        delete(services, &manifest::path_of(&file.path)).await;
    }
    described?;
    manifest::delete_with_file(services, &plain).await;
    batch.object_key = key;
    batch.file_bytes = file.plain_bytes;
    batch.unsealed = false;
    batch.checkpoint = start;
    batch.ledger.counted(rows);
    Ok(secrets.with_header(validated.header))
}

/// Carries out what may take longer than the lease, which is renewed meanwhile: also while it waits for its turn, and while not a
/// byte comes. Broken off when the lease cannot be renewed.
async fn leased<T>(
    services: &Services,
    policy: &ExtractPolicy,
    lease: &mut ExtractionLease,
    work: impl Future<Output = T> + Send,
) -> Result<T, FlowError> {
    let mut work = std::pin::pin!(work);
    loop {
        if let Ok(done) = timeout(policy.lease / RENEWALS, &mut work).await {
            return Ok(done);
        }
        lease.until = services.clock.now() + policy.lease;
        services.store.renew_extraction(lease).await?;
    }
}

async fn read(
    services: &Services,
    batch: &Batch,
    pipeline: &Pipeline,
    secrets: &SecretsOf,
    path: &Path,
) -> Result<(Validated, SealedWriter), ExtractError> {
    let mut plain = PlainFile::open(services, path).await?;
    let dialect = &pipeline.schema.dialect;
    let is_archive = plain.is_archive().await;
    let is_workbook = dialect.workbook != Workbook::No && matches!(is_archive, Ok(true));
    let schema = if is_workbook {
        let dialect = dialect.of_a_workbook();
        Arc::new(Schema { dialect, ..Schema::clone(&pipeline.schema) })
    } else {
        pipeline.schema.clone()
    };
    // Reports of a workbook are CSV that the pipeline takes again.
    let delimiter = dialect.declared_delimiter().filter(|_| is_workbook);
    let file = CheckedFile::start(FileOf {
        services,
        owner: &batch.owner_name,
        pipeline: &batch.pipeline,
        id: batch.id,
        key: secrets.key(),
        errors_key: KeyOf::Batch(secrets.shared_key()),
        schema,
        delimiter,
        mark: dialect.is_marked_in_reports(),
    })
    .await?;
    let mut reading = Reading { file, most: pipeline.max_upload_bytes, received: 0 };
    if is_workbook {
        let unpacked = upload_key(&batch.owner_name, batch.id.0);
        let read = if plain.is_packed() {
            let read = reading.push_packed_workbook(services, batch, plain, &dialect.workbook).await;
            delete(services, &unpacked).await;
            read
        } else {
            reading.push_workbook(services, path, plain.size, &dialect.workbook).await
        };
        read?;
    } else {
        if let Err(error) = is_archive {
            return Err(reading.unreadable(error).await);
        }
        reading.push_all(plain).await?;
    }
    reading.complete().await?;
    let (mut validated, mut writer) = reading.file.finish().await?;
    writer.push(&std::mem::take(&mut validated.rest)).await?;
    if let Some(delimiter) = delimiter {
        validated.header = validated.header.separated_by(delimiter);
    }
    Ok((validated, writer))
}

/// A file that is validated and sealed as it is read.
struct Reading {
    file: CheckedFile,
    /// Bytes that it may have.
    most: u64,
    /// Bytes that were read, unpacked.
    received: u64,
}

impl Reading {
    async fn push_all(&mut self, mut plain: PlainFile) -> Result<(), ExtractError> {
        loop {
            match plain.next().await {
                Ok(Some(piece)) => self.push(&piece).await?,
                Ok(None) => return Ok(()),
                Err(error) => return Err(self.unreadable(error).await),
            }
        }
    }

    /// A compressed workbook: it is read here and there, so it is stored unpacked until it was read.
    async fn push_packed_workbook(
        &mut self,
        services: &Services,
        batch: &Batch,
        mut plain: PlainFile,
        which: &Workbook,
    ) -> Result<(), ExtractError> {
        let mut parts: PartWriter = content::workbook(services, &batch.owner_name, batch.id);
        let mut size = 0;
        loop {
            match plain.next().await {
                Ok(Some(piece)) => {
                    size += piece.len() as u64;
                    if size > self.most {
                        parts.abort().await;
                        return Err(self.too_large().await);
                    }
                    parts.push(&piece).await?;
                }
                Ok(None) => break,
                Err(error) => {
                    parts.abort().await;
                    return Err(self.unreadable(error).await);
                }
            }
        }
        let path = parts.path().clone();
        parts.finish().await?;
        self.push_workbook(services, &path, size, which).await
    }

    /// Reads a workbook on a thread of its own, row by row; no more of them wait than fill a few pieces.
    async fn push_workbook(
        &mut self,
        services: &Services,
        path: &Path,
        size: u64,
        which: &Workbook,
    ) -> Result<(), ExtractError> {
        if size > self.most {
            return Err(self.too_large().await);
        }
        let file = ObjectFile::new(services.objects.clone(), path.clone(), size);
        // The semaphore is never closed.
        let _alone = WORKBOOKS.acquire().await.ok();
        let sheet = match which {
            Workbook::Named(name) => Some(name.clone()),
            Workbook::No | Workbook::First => None,
        };
        let (sender, mut pieces) = mpsc::channel::<Vec<u8>>(PIECES_AHEAD);
        let reading = tokio::task::spawn_blocking(move || {
            // Nobody receives only when the extraction has ended.
            convert(file, sheet.as_deref(), &mut |piece| match sender.blocking_send(piece.to_vec()) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            })
        });
        while let Some(piece) = pieces.recv().await {
            self.push(&piece).await?;
        }
        match reading.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(WorkbookError::Io(error))) => Err(FlowError::from(object_store::Error::Generic {
                store: "workbook",
                source: Box::new(error),
            })
            .into()),
            Ok(Err(error)) => {
                let refused = self.file.broken(error.row(), error.code(), error.to_string()).await;
                Err(ExtractError::File(FileFault::invalid(refused)))
            }
            Err(error) => {
                // It would panic again in any other worker, and the batch would never end.
                tracing::error!(%error, "reading a workbook panicked: please report it");
                let message = "a defect of this service; its operator can have the file read again";
                Err(ExtractError::File(FileFault::new(code::INTERNAL_ERROR, message)))
            }
        }
    }

    async fn push(&mut self, plain: &[u8]) -> Result<(), ExtractError> {
        self.file.push(plain).await?;
        self.received += plain.len() as u64;
        self.is_small_enough().await
    }

    /// No more comes of it.
    async fn complete(&mut self) -> Result<(), ExtractError> {
        self.file.complete().await?;
        self.is_small_enough().await
    }

    async fn is_small_enough(&mut self) -> Result<(), ExtractError> {
        if self.file.is_too_large(self.received, self.most) { Err(self.too_large().await) } else { Ok(()) }
    }

    async fn too_large(&mut self) -> ExtractError {
        ExtractError::File(FileFault::too_large(self.file.too_large(self.most).await))
    }

    async fn unreadable(&mut self, error: ReadError) -> ExtractError {
        match error {
            ReadError::Flow(error) => error.into(),
            ReadError::Packed(error) => {
                let refused = self.file.broken(None, error.code(), error.to_string()).await;
                ExtractError::File(FileFault::invalid(refused))
            }
        }
    }
}

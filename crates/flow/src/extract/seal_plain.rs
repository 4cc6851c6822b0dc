//! A file that a client PUT into the object store itself: validated, sealed, and its plain copy deleted.

use std::ops::ControlFlow;
use std::sync::Arc;

use futures::StreamExt as _;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use penstock_domain::csv::{ErrorList, Refused, Rejected, Schema, Validator, Workbook};
use penstock_domain::outcome::code;
use penstock_store::batches::{Batch, Checkpoint};
use penstock_store::extraction::ExtractionLease;
use penstock_workbook::{WorkbookError, convert};
use tokio::sync::{Semaphore, mpsc};

use crate::context::error::FlowError;
use crate::context::objects::delete;
use crate::context::references::References;
use crate::context::secrets::{SecretLocation, SecretsOf};
use crate::context::services::Services;
use crate::extract::fault::{ExtractError, FileFault};
use crate::extract::object_file::ObjectFile;
use crate::extract::policy::ExtractPolicy;
use crate::intake::content::WORKBOOK;
use crate::intake::sealed_file::{SealedWriter, sealed_key, upload_folder};
use crate::intake::unpack::{Unpack, UnpackError};

/// Pieces of a workbook's rows between its reader and the validator.
const PIECES_AHEAD: usize = 4;

/// Workbooks that a process reads at a time: each may hold its shared strings in memory.
static WORKBOOKS: Semaphore = Semaphore::const_new(1);

/// The lease is renewed after this many bytes.
const RENEW_EVERY: u64 = 16 * 1024 * 1024;

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
    let stored = match services.objects.get(&plain).await {
        Ok(stored) => stored,
        Err(object_store::Error::NotFound { .. }) => {
            return Err(ExtractError::File(FileFault::new(
                "file_missing",
                "nothing was uploaded to the address that was given",
            )));
        }
        Err(error) => return Err(error.into()),
    };
    let path = sealed_key(&batch.owner_name, batch.id);
    let references = Arc::new(References::of(services, &batch.owner_name).await?);
    let size = stored.meta.size;
    let mut bytes = stored.into_stream();
    let first = bytes.next().await.transpose()?.unwrap_or_default();
    let dialect = &pipeline.schema.dialect;
    let is_workbook = dialect.workbook != Workbook::No && first.starts_with(&WORKBOOK);
    let schema = if is_workbook {
        let dialect = dialect.of_a_workbook();
        Arc::new(Schema { dialect, ..Schema::clone(&pipeline.schema) })
    } else {
        pipeline.schema.clone()
    };
    let mut sealing = Sealing {
        writer: SealedWriter::new(services, path, secrets.key(), batch.id)?,
        validator: Validator::new(schema, references),
        most: pipeline.max_upload_bytes,
        received: 0,
        renewed_at: 0,
    };
    if is_workbook {
        drop(bytes);
        if size > pipeline.max_upload_bytes {
            return Err(too_large(pipeline.max_upload_bytes));
        }
        let file = ObjectFile::new(services.objects.clone(), plain.clone(), size);
        sealing.push_workbook(file, &dialect.workbook, services, policy, lease).await?;
    } else {
        let mut unpack = Unpack::default();
        let mut next = Some(first);
        while let Some(part) = next {
            let mut part = part.as_ref();
            while !part.is_empty() {
                let plain = unpack.step(&mut part).map_err(unreadable)?;
                sealing.push(plain.bytes()).await?;
            }
            sealing.renew(services, policy, lease).await?;
            next = bytes.next().await.transpose()?;
        }
        sealing.push(&unpack.finish().map_err(unreadable)?).await?;
    }
    let Sealing { mut writer, validator, .. } = sealing;
    let mut validated = validator.finish().map_err(|refused| {
        ExtractError::File(match refused {
            Refused::Errors(rejected) => invalid(rejected),
            Refused::Limit(error) => FileFault::new("file_too_large", error.message),
        })
    })?;
    writer.push(&std::mem::take(&mut validated.rest)).await?;
    if let Some(declared) = dialect.declared_delimiter().filter(|_| is_workbook) {
        // Reports of a workbook are CSV that the pipeline takes again.
        validated.header = validated.header.separated_by(declared);
    }
    let file = writer.finish().await?;
    let header = secrets.seal_json(SecretLocation::Header, &validated.header);
    let rows = u32::try_from(validated.rows).unwrap_or(u32::MAX);
    let start = Checkpoint { offset: validated.body_offset, line: validated.body_line, rows: 0 };
    let key = file.path.to_string();
    services.store.describe_file(lease, &header, rows, &key, file.plain_bytes, start).await?;
    delete(services, &plain).await;
    batch.object_key = key;
    batch.file_bytes = file.plain_bytes;
    batch.unsealed = false;
    batch.checkpoint = start;
    batch.ledger.counted(rows);
    Ok(secrets.with_header(validated.header))
}

/// A file that is validated and sealed as it is read.
struct Sealing {
    writer: SealedWriter,
    validator: Validator,
    /// Bytes that it may have.
    most: u64,
    /// Bytes that were read, unpacked.
    received: u64,
    /// Of them, when the lease was renewed last.
    renewed_at: u64,
}

impl Sealing {
    async fn renew(
        &mut self,
        services: &Services,
        policy: &ExtractPolicy,
        lease: &mut ExtractionLease,
    ) -> Result<(), FlowError> {
        if self.received - self.renewed_at >= RENEW_EVERY {
            self.renewed_at = self.received;
            lease.until = services.clock.now() + policy.lease;
            services.store.renew_extraction(lease).await?;
        }
        Ok(())
    }

    /// Reads a workbook on a thread of its own, row by row; no more of them wait than fill a few pieces.
    async fn push_workbook(
        &mut self,
        file: ObjectFile,
        which: &Workbook,
        services: &Services,
        policy: &ExtractPolicy,
        lease: &mut ExtractionLease,
    ) -> Result<(), ExtractError> {
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
            self.renew(services, policy, lease).await?;
        }
        match reading.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(WorkbookError::Io(error))) => Err(FlowError::from(object_store::Error::Generic {
                store: "workbook",
                source: Box::new(error),
            })
            .into()),
            Ok(Err(error)) => {
                let mut errors = ErrorList::default();
                errors.push(1, None, error.code(), || error.to_string());
                let (errors, error_count) = errors.into_parts();
                Err(ExtractError::File(FileFault::invalid(errors, error_count)))
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
        self.validator
            .push(plain)
            .map_err(|limit| ExtractError::File(FileFault::new("file_too_large", limit.to_string())))?;
        self.received += plain.len() as u64;
        if self.received > self.most.saturating_add(self.validator.allowance()) {
            return Err(too_large(self.most));
        }
        // A file that is refused anyway need not be stored; it is only read on for its other errors.
        if !self.validator.has_errors() {
            self.writer.push(self.validator.stored(plain)).await?;
        }
        Ok(())
    }
}

fn too_large(most: u64) -> ExtractError {
    ExtractError::File(FileFault::new("file_too_large", format!("the file has more than {most} bytes")))
}

fn unreadable(error: UnpackError) -> ExtractError {
    ExtractError::File(invalid(error.rejected()))
}

fn invalid(rejected: Rejected) -> FileFault {
    FileFault::invalid(rejected.errors, rejected.error_count)
}

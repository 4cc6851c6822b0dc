//! A file that a client PUT into the object store itself: validated, sealed, and its plain copy deleted.

use std::sync::Arc;

use futures::StreamExt as _;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use penstock_domain::csv::{Refused, Rejected, Validator};
use penstock_store::batches::{Batch, Checkpoint};
use penstock_store::extraction::ExtractionLease;

use crate::context::error::FlowError;
use crate::context::objects::delete;
use crate::context::references::References;
use crate::context::secrets::{SecretLocation, SecretsOf};
use crate::context::services::Services;
use crate::extract::fault::{ExtractError, FileFault};
use crate::extract::policy::ExtractPolicy;
use crate::intake::sealed_file::{SealedWriter, sealed_key, upload_folder};
use crate::intake::unpack::{Unpack, UnpackError};

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
    let mut sealing = Sealing {
        writer: SealedWriter::new(services, path, secrets.key(), batch.id)?,
        validator: Validator::new(pipeline.schema.clone(), references),
        most: pipeline.max_upload_bytes,
        received: 0,
    };
    let mut unpack = Unpack::default();
    let mut bytes = stored.into_stream();
    let mut renewed_at = 0;
    while let Some(part) = bytes.next().await {
        let part = part?;
        let mut part = part.as_ref();
        while !part.is_empty() {
            let plain = unpack.step(&mut part).map_err(unreadable)?;
            sealing.push(plain.bytes()).await?;
            if sealing.received - renewed_at >= RENEW_EVERY {
                renewed_at = sealing.received;
                lease.until = services.clock.now() + policy.lease;
                services.store.renew_extraction(lease).await?;
            }
        }
    }
    sealing.push(&unpack.finish().map_err(unreadable)?).await?;
    let Sealing { mut writer, validator, .. } = sealing;
    let mut validated = validator.finish().map_err(|refused| {
        ExtractError::File(match refused {
            Refused::Errors(rejected) => invalid(rejected),
            Refused::Limit(error) => FileFault::new("file_too_large", error.message),
        })
    })?;
    writer.push(&std::mem::take(&mut validated.rest)).await?;
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
}

impl Sealing {
    async fn push(&mut self, plain: &[u8]) -> Result<(), ExtractError> {
        self.validator
            .push(plain)
            .map_err(|limit| ExtractError::File(FileFault::new("file_too_large", limit.to_string())))?;
        self.received += plain.len() as u64;
        if self.received > self.most.saturating_add(self.validator.allowance()) {
            let message = format!("the file has more than {} bytes", self.most);
            return Err(ExtractError::File(FileFault::new("file_too_large", message)));
        }
        // A file that is refused anyway need not be stored; it is only read on for its other errors.
        if !self.validator.has_errors() {
            self.writer.push(self.validator.stored(plain)).await?;
        }
        Ok(())
    }
}

fn unreadable(error: UnpackError) -> ExtractError {
    ExtractError::File(invalid(error.rejected()))
}

fn invalid(rejected: Rejected) -> FileFault {
    FileFault::invalid(rejected.errors, rejected.error_count)
}

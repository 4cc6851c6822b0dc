//! The end of a file that a client PUT through the API, where the object store has no addresses of its own.

use object_store::path::Path;
use penstock_store::batches::PendingUpload;

use crate::context::error::FlowError;
use crate::context::object_writer::PartWriter;
use crate::context::objects::delete;
use crate::context::services::Services;

/// Whether a file may still be PUT there.
///
/// # Errors
/// When the database fails.
pub async fn is_open(services: &Services, upload: &PendingUpload) -> Result<bool, FlowError> {
    let found = services.store.upload(upload.id, upload.owner).await?;
    Ok(found.is_some_and(|found| found.batch.is_none() && found.expires_at >= services.clock.now()))
}

/// Completes the file, provided that its upload is still open; false when it is not, and then nothing of it is left.
///
/// # Errors
/// When the database or the object store fails.
pub async fn complete(
    services: &Services,
    upload: &PendingUpload,
    parts: PartWriter,
) -> Result<bool, FlowError> {
    if !is_open(services, upload).await? {
        parts.abort().await;
        return Ok(false);
    }
    parts.finish().await?;
    // The upload may have ended while the file was being put in place. Whatever ended it has deleted the file that was there
    // then, so this one lies in the clear.
    if is_open(services, upload).await? || is_awaited(services, upload).await? {
        return Ok(true);
    }
    delete(services, &Path::from(upload.object_key.as_str())).await;
    Ok(false)
}

/// Whether a batch has yet to read the file: it deletes it then.
async fn is_awaited(services: &Services, upload: &PendingUpload) -> Result<bool, FlowError> {
    let found = services.store.upload(upload.id, upload.owner).await?;
    let batch: Vec<_> = found.and_then(|found| found.batch).into_iter().collect();
    let batches = services.store.batches_by_seq(&batch).await?;
    Ok(batches
        .iter()
        .any(|batch| batch.unsealed && batch.ledger.finished_at.is_none() && batch.erased_at.is_none()))
}

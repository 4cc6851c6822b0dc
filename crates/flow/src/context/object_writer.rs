//! An object that is written part by part: at most one part is under way while the next one fills. All writers of a process
//! share what may be under way, so that what a writer holds is the part that fills.

use std::sync::Arc;

use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt as _, PutPayloadMut};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::context::error::FlowError;
use crate::context::services::Services;

/// The smallest part that S3 takes, but for the last
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>).
pub const S3_PART_BYTES: usize = 5 * 1024 * 1024;

/// Parts for a folder, where their size is only a matter of memory.
pub const FILE_PART_BYTES: usize = 1024 * 1024;

/// A part is collected in blocks of this size, so that it never moves while it grows. A small object has one.
const BLOCK_BYTES: usize = 64 * 1024;

/// Parts under way in a process, of all objects.
pub const PARTS_UNDER_WAY: usize = 3;

/// Writes one object. Holds at most two parts; dropping it unfinished leaves nothing behind.
pub struct PartWriter {
    objects: Arc<dyn ObjectStore>,
    path: Path,
    part_bytes: usize,
    /// The permit for a part in flight.
    turns: Arc<Semaphore>,
    filling: PutPayloadMut,
    upload: Option<Box<dyn MultipartUpload>>,
    under_way: Option<JoinHandle<object_store::Result<()>>>,
}

impl PartWriter {
    /// An object at `path`. Nothing is sent before the first part is full.
    pub fn new(services: &Services, path: Path) -> Self {
        Self {
            objects: services.objects.clone(),
            path,
            part_bytes: services.part_bytes,
            turns: services.parts_under_way.clone(),
            filling: empty(),
            upload: None,
            under_way: None,
        }
    }

    /// Where the object will lie.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the next bytes; waits while a full part cannot be sent yet.
    ///
    /// # Errors
    /// When the object store fails.
    pub async fn push(&mut self, bytes: &[u8]) -> Result<(), FlowError> {
        self.filling.extend_from_slice(bytes);
        if self.filling.content_length() >= self.part_bytes {
            self.send().await?;
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<(), FlowError> {
        self.settle().await?;
        let upload = match &mut self.upload {
            Some(upload) => upload,
            none => none.insert(self.objects.put_multipart(&self.path).await.map_err(written)?),
        };
        let part = std::mem::replace(&mut self.filling, empty());
        // The semaphore is never closed.
        let turn = self.turns.clone().acquire_owned().await.ok();
        let sending = upload.put_part(part.freeze());
        self.under_way = Some(tokio::spawn(async move {
            let sent = sending.await;
            drop(turn);
            sent
        }));
        Ok(())
    }

    /// Waits for the part that is under way.
    async fn settle(&mut self) -> Result<(), FlowError> {
        let Some(part) = self.under_way.as_mut() else { return Ok(()) };
        let sent = part.await;
        self.under_way = None;
        sent.map_err(|source| object_store::Error::JoinError { source })??;
        Ok(())
    }

    /// Completes the object; only now does it exist.
    ///
    /// # Errors
    /// When the object store fails; nothing is left behind then.
    pub async fn finish(mut self) -> Result<(), FlowError> {
        if self.upload.is_none() {
            let whole = std::mem::replace(&mut self.filling, empty());
            self.objects.put(&self.path, whole.freeze()).await.map_err(written)?;
            return Ok(());
        }
        if self.filling.content_length() > 0 {
            self.send().await?;
        }
        self.settle().await?;
        if let Some(upload) = &mut self.upload {
            upload.complete().await?;
        }
        self.upload = None;
        Ok(())
    }

    /// Takes back what was sent so far.
    pub async fn abort(mut self) {
        let part = self.under_way.take();
        if let Some(upload) = self.upload.take() {
            take_back(upload, part, &self.path).await;
        }
    }
}

impl Drop for PartWriter {
    /// A client that hangs up drops the request's future: the parts are taken back behind it.
    fn drop(&mut self) {
        let Some(upload) = self.upload.take() else { return };
        let part = self.under_way.take();
        let path = self.path.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { take_back(upload, part, &path).await });
        }
    }
}

async fn take_back(
    mut upload: Box<dyn MultipartUpload>,
    part: Option<JoinHandle<object_store::Result<()>>>,
    path: &Path,
) {
    // A part that arrives after the abort would be kept, and paid for.
    if let Some(part) = part {
        let _ = part.await;
    }
    if let Err(error) = upload.abort().await {
        tracing::warn!(%error, %path, "an unfinished upload could not be aborted");
    }
}

/// The error of a write. What cannot be found then is not the object, which is new, but where it would lie: that can be made.
fn written(error: object_store::Error) -> FlowError {
    match error {
        object_store::Error::NotFound { source, .. } => FlowError::NoBucket(source),
        error => error.into(),
    }
}

fn empty() -> PutPayloadMut {
    PutPayloadMut::new().with_block_size(BLOCK_BYTES)
}

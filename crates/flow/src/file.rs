//! A batch's file in the object store, sealed as a stream while it arrives.

use std::sync::Arc;

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, WriteMultipart};
use penstock_crypto::{DataKey, StreamSealer};
use penstock_domain::ids::BatchId;
use ring::rand::SecureRandom;

use crate::error::FlowError;

/// S3 takes no smaller parts than this (but for the last), and one upload holds at most three of them.
const PART_BYTES: usize = 5 * 1024 * 1024;

/// Parts under way besides the one that fills.
const PARTS_IN_FLIGHT: usize = 1;

/// Where the sealed file of a batch lies.
pub fn sealed_key(owner: &str, batch: BatchId) -> Path {
    Path::from_iter(["owners", owner, "batches", &format!("{batch}.csv.sealed")])
}

/// Where a client's own upload lies until the extractor has sealed it.
pub fn upload_key(owner: &str, upload: uuid::Uuid) -> Path {
    Path::from_iter(["owners", owner, "uploads", &format!("{upload}.csv")])
}

/// Seals and stores a file as it arrives. Dropping it unfinished leaves nothing behind.
pub struct SealedWriter {
    objects: Arc<dyn ObjectStore>,
    path: Path,
    sealer: Option<StreamSealer>,
    buffer: Vec<u8>,
    multipart: Option<WriteMultipart>,
    plain_bytes: u64,
}

impl SealedWriter {
    /// Begins a file. Nothing is sent before the first part is full.
    pub fn new(
        objects: Arc<dyn ObjectStore>,
        path: Path,
        key: &DataKey,
        batch: BatchId,
        random: &dyn SecureRandom,
    ) -> Result<Self, FlowError> {
        let (sealer, header) = StreamSealer::new(key, batch.0, random)
            .map_err(|source| FlowError::Sealed { what: "the file", source })?;
        Ok(Self {
            objects,
            path,
            sealer: Some(sealer),
            buffer: header.to_vec(),
            multipart: None,
            plain_bytes: 0,
        })
    }

    /// Plain bytes taken so far.
    pub fn plain_bytes(&self) -> u64 {
        self.plain_bytes
    }

    /// Takes the next bytes of the plain file; waits while too many parts are under way.
    ///
    /// # Errors
    /// When the object store fails.
    pub async fn push(&mut self, plain: &[u8]) -> Result<(), FlowError> {
        self.plain_bytes += plain.len() as u64;
        if let Some(sealer) = &mut self.sealer {
            sealer.push(plain, &mut self.buffer);
        }
        if self.buffer.len() >= PART_BYTES {
            let multipart = match &mut self.multipart {
                Some(multipart) => multipart,
                none => {
                    let upload = self.objects.put_multipart(&self.path).await?;
                    none.insert(WriteMultipart::new_with_chunk_size(upload, PART_BYTES))
                }
            };
            multipart.wait_for_capacity(PARTS_IN_FLIGHT).await?;
            multipart.write(&self.buffer);
            self.buffer.clear();
        }
        Ok(())
    }

    /// Completes the file; only now does it exist.
    ///
    /// # Errors
    /// When the object store fails; nothing is left behind then.
    pub async fn finish(mut self) -> Result<StoredFile, FlowError> {
        if let Some(sealer) = self.sealer.take() {
            sealer.finish(&mut self.buffer);
        }
        match self.multipart.take() {
            Some(mut multipart) => {
                multipart.write(&self.buffer);
                // `finish` aborts the upload itself when it fails.
                multipart.finish().await?;
            }
            None => {
                self.objects.put(&self.path, std::mem::take(&mut self.buffer).into()).await?;
            }
        }
        Ok(StoredFile { path: self.path.clone(), plain_bytes: self.plain_bytes })
    }

    /// Drops what was sent so far.
    pub async fn abort(mut self) {
        if let Some(multipart) = self.multipart.take()
            && let Err(error) = multipart.abort().await
        {
            tracing::warn!(%error, path = %self.path, "an unfinished upload could not be aborted");
        }
    }
}

impl Drop for SealedWriter {
    /// A client that hangs up drops the request's future: the parts are taken back behind it.
    fn drop(&mut self) {
        let Some(multipart) = self.multipart.take() else { return };
        let path = self.path.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = multipart.abort().await {
                    tracing::warn!(%error, %path, "an unfinished upload could not be aborted");
                }
            });
        }
    }
}

/// A file that is complete in the object store.
#[derive(Debug)]
pub struct StoredFile {
    /// Where it lies.
    pub path: Path,
    /// Bytes of the plain file.
    pub plain_bytes: u64,
}

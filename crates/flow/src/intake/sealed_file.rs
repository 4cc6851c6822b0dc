//! A batch's file in the object store, sealed as a stream while it arrives.

use object_store::path::Path;
use penstock_crypto::{DataKey, StreamSealer};
use penstock_domain::ids::BatchId;

use crate::context::error::FlowError;
use crate::context::object_writer::PartWriter;
use crate::context::services::Services;

/// Where the sealed file of a batch lies.
pub fn sealed_key(owner: &str, batch: BatchId) -> Path {
    Path::from_iter(["owners", owner, "batches", &format!("{batch}.csv.sealed")])
}

/// Where an owner's own uploads lie.
pub(crate) fn upload_folder(owner: &str) -> Path {
    Path::from_iter(["owners", owner, "uploads"])
}

/// Where a client's own upload lies until the extractor has sealed it.
pub fn upload_key(owner: &str, upload: uuid::Uuid) -> Path {
    Path::from_iter(["owners", owner, "uploads", &format!("{upload}.csv")])
}

/// Seals and stores a file as it arrives. Dropping it unfinished leaves nothing behind.
pub struct SealedWriter {
    parts: PartWriter,
    sealer: StreamSealer,
    sealed: Vec<u8>,
    plain_bytes: u64,
}

impl SealedWriter {
    /// Begins a file.
    ///
    /// # Errors
    /// When there are no random numbers.
    pub fn new(services: &Services, path: Path, key: &DataKey, batch: BatchId) -> Result<Self, FlowError> {
        let (sealer, header) = StreamSealer::new(key, batch.0, services.random.as_ref())
            .map_err(|source| FlowError::Sealed { what: "the file", source })?;
        Ok(Self { parts: PartWriter::new(services, path), sealer, sealed: header.to_vec(), plain_bytes: 0 })
    }

    /// With bytes before the sealed ones, that are not sealed themselves.
    #[must_use]
    pub(crate) fn after(mut self, head: &[u8]) -> Self {
        self.sealed.splice(0..0, head.iter().copied());
        self
    }

    /// Plain bytes taken so far.
    pub fn plain_bytes(&self) -> u64 {
        self.plain_bytes
    }

    /// Takes the next bytes of the plain file; waits while the object store is behind.
    ///
    /// # Errors
    /// When the object store fails.
    pub async fn push(&mut self, plain: &[u8]) -> Result<(), FlowError> {
        self.plain_bytes += plain.len() as u64;
        self.sealer.push(plain, &mut self.sealed);
        self.parts.push(&self.sealed).await?;
        self.sealed.clear();
        Ok(())
    }

    /// Completes the file; only now does it exist.
    ///
    /// # Errors
    /// When the object store fails; nothing is left behind then.
    pub async fn finish(mut self) -> Result<StoredFile, FlowError> {
        self.sealer.finish(&mut self.sealed);
        self.parts.push(&self.sealed).await?;
        let path = self.parts.path().clone();
        self.parts.finish().await?;
        Ok(StoredFile { path, plain_bytes: self.plain_bytes })
    }

    /// Drops what was sent so far.
    pub async fn abort(self) {
        self.parts.abort().await;
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

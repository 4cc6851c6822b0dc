//! A client's own file as it lies in the object store, unpacked piece by piece.

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;

use crate::context::error::FlowError;
use crate::context::services::Services;
use crate::extract::fault::{ExtractError, FileFault};
use crate::intake::content::WORKBOOK;
use crate::intake::unpack::{Unpack, UnpackError};

/// Why a file cannot be read on.
pub(super) enum ReadError {
    /// It is compressed, and damaged.
    Packed(UnpackError),
    /// The object store failed.
    Flow(FlowError),
}

impl<E: Into<FlowError>> From<E> for ReadError {
    fn from(error: E) -> Self {
        Self::Flow(error.into())
    }
}

/// The plain bytes of a file, in their order.
pub(super) struct PlainFile {
    /// Bytes of the object.
    pub size: u64,
    stored: BoxStream<'static, object_store::Result<Bytes>>,
    unpack: Option<Unpack>,
    packed: bool,
    /// What of the part that came last is not unpacked yet.
    part: Bytes,
    /// What was read to know the file's kind.
    beginning: Vec<u8>,
}

impl PlainFile {
    pub async fn open(services: &Services, path: &Path) -> Result<Self, ExtractError> {
        let stored = match services.objects.get(path).await {
            Ok(stored) => stored,
            Err(object_store::Error::NotFound { .. }) => {
                return Err(ExtractError::File(FileFault::new(
                    "file_missing",
                    "nothing was uploaded to the address that was given: PUT the file to it first",
                )));
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Self {
            size: stored.meta.size,
            stored: stored.into_stream(),
            unpack: Some(Unpack::default()),
            packed: false,
            part: Bytes::new(),
            beginning: Vec::new(),
        })
    }

    /// Whether it is an archive, as a workbook is.
    pub async fn is_archive(&mut self) -> Result<bool, ReadError> {
        while self.beginning.len() < WORKBOOK.len() {
            let Some(more) = self.read().await? else { break };
            self.beginning.extend(more);
        }
        Ok(self.beginning.starts_with(&WORKBOOK))
    }

    /// Whether its bytes are compressed.
    pub fn is_packed(&self) -> bool {
        self.packed
    }

    /// The next bytes; none at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, ReadError> {
        if self.beginning.is_empty() {
            return self.read().await;
        }
        Ok(Some(std::mem::take(&mut self.beginning)))
    }

    async fn read(&mut self) -> Result<Option<Vec<u8>>, ReadError> {
        while let Some(unpack) = &mut self.unpack {
            if self.part.is_empty() {
                if let Some(part) = self.stored.next().await {
                    self.part = part?;
                    continue;
                }
                let rest = unpack.finish().map_err(ReadError::Packed)?;
                self.unpack = None;
                return Ok(Some(rest));
            }
            let mut part = self.part.as_ref();
            let plain = unpack.step(&mut part).map_err(ReadError::Packed)?.bytes().to_vec();
            self.packed = unpack.is_packed();
            let taken = self.part.len() - part.len();
            let _ = self.part.split_to(taken);
            if !plain.is_empty() {
                return Ok(Some(plain));
            }
        }
        Ok(None)
    }
}

//! A stored object as a file that can be read anywhere, for readers that know nothing of object stores.

use std::io::{Error, ErrorKind, Read, Seek, SeekFrom};
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use tokio::runtime::Handle;

/// Bytes that are requested at a time.
const BLOCK: u64 = 256 * 1024;

/// Reads an object block by block; one block is held. To be used on a thread that may block.
pub(crate) struct ObjectFile {
    objects: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
    at: u64,
    block: Bytes,
    /// Where the block begins.
    from: u64,
    runtime: Handle,
}

impl ObjectFile {
    /// An object of that size.
    pub fn new(objects: Arc<dyn ObjectStore>, path: Path, size: u64) -> Self {
        Self { objects, path, size, at: 0, block: Bytes::new(), from: 0, runtime: Handle::current() }
    }

    fn fetch(&mut self) -> std::io::Result<()> {
        let from = self.at / BLOCK * BLOCK;
        let range = from..self.size.min(from + BLOCK);
        // Whoever stores the object is at fault, not the file: a reader tells the two apart by the kind.
        let failed = |error: object_store::Error| Error::new(ErrorKind::ConnectionAborted, error);
        self.block = self.runtime.block_on(self.objects.get_range(&self.path, range)).map_err(failed)?;
        self.from = from;
        Ok(())
    }
}

impl Read for ObjectFile {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.at >= self.size || out.is_empty() {
            return Ok(0);
        }
        if self.at < self.from || self.at >= self.from + self.block.len() as u64 {
            self.fetch()?;
        }
        let start = usize::try_from(self.at - self.from).unwrap_or(usize::MAX);
        let bytes = self.block.get(start..).unwrap_or_default();
        let read = bytes.len().min(out.len());
        out[..read].copy_from_slice(&bytes[..read]);
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for ObjectFile {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| Error::from(ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

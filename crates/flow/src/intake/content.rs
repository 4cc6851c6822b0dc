//! What was uploaded, on its way into the object store: rows that are validated and sealed as they come, or a workbook that a worker reads.

use object_store::path::Path;
use penstock_domain::csv::Validated;
use penstock_domain::ids::BatchId;

use crate::context::error::FlowError;
use crate::context::object_writer::PartWriter;
use crate::context::services::Services;
use crate::intake::sealed_file::{SealedWriter, upload_key};

/// The first bytes of an archive, as every workbook is.
pub(crate) const WORKBOOK: [u8; 4] = *b"PK\x03\x04";

/// A complete file that has no error as far as it was read.
pub(crate) enum Content {
    /// Its rows are validated.
    Rows(Box<Validated>, Box<SealedWriter>),
    /// A worker validates it, as it does a presigned upload; until then it lies where those do.
    Workbook(PartWriter, u64),
}

/// What became of it.
pub(crate) struct Stored {
    pub path: Path,
    pub bytes: u64,
    /// None for a workbook.
    pub validated: Option<Box<Validated>>,
}

/// The start of a workbook's object.
pub(crate) fn workbook(services: &Services, owner: &str, batch: BatchId) -> PartWriter {
    PartWriter::new(services, upload_key(owner, batch.0))
}

impl Content {
    /// Takes back what was sent so far.
    pub async fn abort(self) {
        match self {
            Self::Rows(_, writer) => writer.abort().await,
            Self::Workbook(parts, _) => parts.abort().await,
        }
    }

    /// Completes the object.
    pub async fn store(self) -> Result<Stored, FlowError> {
        match self {
            Self::Rows(mut validated, mut writer) => {
                writer.push(&std::mem::take(&mut validated.rest)).await?;
                let file = writer.finish().await?;
                Ok(Stored { path: file.path, bytes: file.plain_bytes, validated: Some(validated) })
            }
            Self::Workbook(parts, bytes) => {
                let path = parts.path().clone();
                parts.finish().await?;
                Ok(Stored { path, bytes, validated: None })
            }
        }
    }
}

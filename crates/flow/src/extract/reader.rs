//! Reading a sealed file from a row boundary: open, parse, seal each row, in bounded chunks.

use std::ops::ControlFlow;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use penstock_crypto::{StreamLayout, StreamOpener};
use penstock_domain::csv::{Event, HeaderMap, Limits, NoReferences, Parser, ReferenceReader};
use penstock_store::batches::{Batch, Checkpoint};
use penstock_store::extraction::NewRow;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::context::references::References;
use crate::context::secrets::{SecretLocation, SecretsOf, unreadable_header};
use crate::context::services::Services;
use crate::extract::fault::{ExtractError, FileFault};
use crate::extract::policy::ExtractPolicy;

/// At most this many bytes are requested from the object store at a time: large enough that nobody waits for S3's answers, small
/// enough to hold two of them.
const LARGEST_BLOCK: u64 = 1 << 20;

/// Rows on their way into SQL.
pub(crate) struct Chunk {
    /// The rows, sealed.
    pub rows: Vec<NewRow>,
    /// The position after each of them.
    pub positions: Vec<Checkpoint>,
    /// The position after the last one, blank lines included.
    pub end: Checkpoint,
}

/// Sends the batch's rows from its checkpoint on, chunk by chunk.
pub(crate) async fn read(
    services: Services,
    policy: ExtractPolicy,
    batch: Box<Batch>,
    secrets: SecretsOf,
    chunks: mpsc::Sender<Result<Chunk, ExtractError>>,
) {
    if let Err(error) = read_rows(&services, &policy, &batch, &secrets, &chunks).await {
        // The receiver is gone only when the extraction has ended.
        let _ = chunks.send(Err(error)).await;
    }
}

async fn read_rows(
    services: &Services,
    policy: &ExtractPolicy,
    batch: &Batch,
    secrets: &SecretsOf,
    chunks: &mpsc::Sender<Result<Chunk, ExtractError>>,
) -> Result<(), ExtractError> {
    let header = secrets.header().ok_or_else(|| unreadable_header(batch))?;
    let mut file = SealedReader::open(services, batch, secrets).await?;
    // The pipeline's limits were checked before the file was sealed; reading it again must not be stricter.
    let mut parser = Parser::resume_at(Limits::NONE, batch.checkpoint.offset, batch.checkpoint.line)
        .of_sheet(header.is_of_sheet());
    let references: Box<dyn ReferenceReader> = if header.is_report() {
        Box::new(References::of(services, &batch.owner_name, &batch.pipeline).await?)
    } else {
        Box::new(NoReferences)
    };
    let mut builder = Builder::new(policy, secrets, header, references.as_ref(), batch.checkpoint);
    let mut plain = Vec::new();
    loop {
        plain.clear();
        crate::crash::panic_point(crate::crash::READING);
        let more = file.next(&mut plain).await?;
        if more {
            parser.push(&plain, &mut |event| builder.take(event)).map_err(|_| builder.limit())?;
        } else {
            parser.finish(&mut |event| builder.take(event)).map_err(|_| builder.limit())?;
        }
        if let Some(fault) = builder.fault.take() {
            return Err(ExtractError::File(fault));
        }
        for chunk in builder.full.drain(..) {
            if chunks.send(Ok(chunk)).await.is_err() {
                return Ok(());
            }
        }
        if !more {
            break;
        }
    }
    if let Some(chunk) = builder.rest() {
        let _ = chunks.send(Ok(chunk)).await;
    }
    Ok(())
}

/// Collects parsed records into chunks.
struct Builder<'a> {
    policy: &'a ExtractPolicy,
    secrets: &'a SecretsOf,
    header: &'a HeaderMap,
    references: &'a dyn ReferenceReader,
    at: Checkpoint,
    rows: Vec<NewRow>,
    positions: Vec<Checkpoint>,
    bytes: usize,
    scratch: Vec<u8>,
    full: Vec<Chunk>,
    fault: Option<FileFault>,
}

impl<'a> Builder<'a> {
    fn new(
        policy: &'a ExtractPolicy,
        secrets: &'a SecretsOf,
        header: &'a HeaderMap,
        references: &'a dyn ReferenceReader,
        at: Checkpoint,
    ) -> Self {
        Self {
            policy,
            secrets,
            header,
            references,
            at,
            rows: Vec::new(),
            positions: Vec::new(),
            bytes: 0,
            scratch: Vec::new(),
            full: Vec::new(),
            fault: None,
        }
    }

    fn take(&mut self, event: Event<'_>) -> ControlFlow<()> {
        match event {
            Event::Record(record) => {
                let number = self.at.rows + 1;
                self.scratch.clear();
                self.header.payload(&record, self.references, &mut self.scratch);
                let payload = self.secrets.seal(SecretLocation::Payload(number), &self.scratch);
                self.bytes += payload.len();
                self.at = Checkpoint { offset: record.end, line: record.next_line, rows: number };
                let line = u32::try_from(record.line).unwrap_or(u32::MAX);
                self.rows.push(NewRow { number, line, payload, rejected: None });
                self.positions.push(self.at);
                if self.rows.len() >= self.policy.chunk_rows || self.bytes >= self.policy.chunk_bytes {
                    let chunk = self.cut();
                    self.full.push(chunk);
                }
                ControlFlow::Continue(())
            }
            Event::Malformed(error) => {
                self.fault = Some(FileFault::new(
                    "file_changed",
                    format!(
                        "line {} is no longer the record that was validated; upload the file again",
                        error.line
                    ),
                ));
                ControlFlow::Break(())
            }
        }
    }

    fn cut(&mut self) -> Chunk {
        self.bytes = 0;
        Chunk {
            rows: std::mem::take(&mut self.rows),
            positions: std::mem::take(&mut self.positions),
            end: self.at,
        }
    }

    fn rest(&mut self) -> Option<Chunk> {
        (!self.rows.is_empty()).then(|| self.cut())
    }

    fn limit(&self) -> ExtractError {
        ExtractError::File(FileFault::new(
            "file_changed",
            "a record is larger than the one that was validated; upload the file again",
        ))
    }
}

/// A sealed object, block by block, opened from the chunk that holds an offset of the plain file. While a block is
/// opened and parsed, the next one is requested.
struct SealedReader {
    objects: std::sync::Arc<dyn ObjectStore>,
    path: Path,
    opener: Option<StreamOpener>,
    at: u64,
    end: u64,
    block: u64,
    next_block: Option<JoinHandle<object_store::Result<Bytes>>>,
    skip: usize,
}

impl SealedReader {
    async fn open(services: &Services, batch: &Batch, secrets: &SecretsOf) -> Result<Self, ExtractError> {
        let path = Path::from(batch.object_key.as_str());
        let meta = match services.objects.head(&path).await {
            Ok(meta) => meta,
            Err(object_store::Error::NotFound { .. }) => {
                return Err(ExtractError::File(FileFault::new(
                    "file_missing",
                    "the stored file is gone; upload it again",
                )));
            }
            Err(error) => return Err(error.into()),
        };
        let header = services.objects.get_range(&path, 0..StreamLayout::HEADER_LEN as u64).await?;
        let mut opener = StreamOpener::new(secrets.key(), batch.id.0, &header)
            .map_err(|_| ExtractError::File(tampered()))?;
        let place = StreamLayout::locate(batch.checkpoint.offset);
        opener.at_chunk(place.chunk);
        let mut reader = Self {
            objects: services.objects.clone(),
            path,
            opener: Some(opener),
            at: place.sealed_offset,
            end: meta.size,
            block: LARGEST_BLOCK.min(services.part_bytes as u64 / 2),
            next_block: None,
            skip: place.skip,
        };
        reader.request_next();
        Ok(reader)
    }

    /// Requests the next block, if there is one.
    fn request_next(&mut self) {
        if self.at >= self.end {
            return;
        }
        let range = self.at..self.end.min(self.at + self.block);
        self.at = range.end;
        let (objects, path) = (self.objects.clone(), self.path.clone());
        self.next_block = Some(tokio::spawn(async move { objects.get_range(&path, range).await }));
    }

    /// Appends the next plain bytes; false when the file is at its end.
    async fn next(&mut self, plain: &mut Vec<u8>) -> Result<bool, ExtractError> {
        let Some(mut opener) = self.opener.take() else { return Ok(false) };
        match self.next_block.take() {
            None => opener.finish(plain).map_err(|_| ExtractError::File(tampered()))?,
            Some(block) => {
                let block = block.await.map_err(|source| object_store::Error::JoinError { source })??;
                self.request_next();
                opener.push(&block, plain).map_err(|_| ExtractError::File(tampered()))?;
                self.opener = Some(opener);
            }
        }
        let skip = self.skip.min(plain.len());
        plain.drain(..skip);
        self.skip -= skip;
        Ok(true)
    }
}

fn tampered() -> FileFault {
    FileFault::new(
        "file_tampered",
        "the stored file is not what was sealed: it was cut or changed; upload it again",
    )
}

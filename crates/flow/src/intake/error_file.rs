//! `errors.csv` of a file that became no rows: every wrong line, sealed, for an hour.
//!
//! Of an upload that was refused there is no record in the database: the object names its end itself, and its key is sealed by the
//! keyring, for its owner and upload alone. Of a batch whose file failed, the batch's own data key seals it, so that it goes with
//! that key. Objects past their hour are not read, and the janitor of a worker deletes them.

use std::sync::Arc;
use std::time::Duration;

use async_stream::try_stream;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _};
use penstock_crypto::{DataKey, OpenError, StreamLayout, StreamOpener};
use penstock_domain::csv::{
    ColumnTag, ErrorListing, ErrorSheet, ReferenceReader as _, ReferenceWriter, RowReference,
};
use penstock_domain::ids::BatchId;
use penstock_domain::time::Timestamp;
use uuid::Uuid;

use crate::context::error::FlowError;
use crate::context::objects::delete;
use crate::context::references::References;
use crate::context::services::Services;
use crate::intake::sealed_file::SealedWriter;

/// How long a list can be read.
pub const KEPT: Duration = Duration::from_secs(3600);

/// Lists that an owner has, about: two that begin at once may both find room.
const OF_AN_OWNER: usize = 20;

/// Where lists lie.
const FOLDER: &str = "errors";

/// Bytes before the sealed key: the list's end in milliseconds, and how long the sealed key and the pipeline's name after it are.
const HEAD: usize = 8 + 2 + 2;

/// A list that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorFile {
    /// The upload, or the batch.
    pub id: BatchId,
    /// Until when it can be read.
    pub expires_at: Timestamp,
}

/// The key that seals a list.
pub(crate) enum KeyOf {
    /// One of its own.
    Upload,
    /// The batch's.
    Batch(Arc<DataKey>),
}

fn path(owner: &str, id: BatchId) -> Path {
    Path::from_iter([FOLDER, owner, &format!("{id}.csv.sealed")])
}

/// The stream's name: under the data key of a batch its file has another one.
fn stream_id(id: BatchId) -> BatchId {
    BatchId(Uuid::new_v5(&id.0, b"errors.csv"))
}

/// What the sealed key is bound to. No name of an owner has a slash.
fn place(owner: &str, id: BatchId, expires_at: Timestamp, pipeline: &str) -> String {
    format!("{owner}/{id}/{}/{pipeline}", expires_at.millis())
}

/// Begins a list; an owner's oldest ones make room for it.
///
/// # Errors
/// When it cannot be sealed, or the object store fails.
pub(crate) async fn create(
    services: &Services,
    owner: &str,
    id: BatchId,
    pipeline: &str,
    key: &KeyOf,
) -> Result<(SealedWriter, ErrorFile), FlowError> {
    let sealed = |source| FlowError::Sealed { what: "a list of errors", source };
    make_room(services, owner).await?;
    let file = ErrorFile { id, expires_at: services.clock.now() + KEPT };
    let random = services.random.as_ref();
    let (key, wrapped) = match key {
        KeyOf::Batch(key) => (key.clone(), Vec::new()),
        KeyOf::Upload => {
            let key = DataKey::generate(random).map_err(sealed)?;
            let place = place(owner, id, file.expires_at, pipeline);
            let wrapped = services.keyring.get().seal_key(FOLDER, &place, &key, random).map_err(sealed)?;
            (Arc::new(key), wrapped)
        }
    };
    let length = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len());
        let long = |_| FlowError::Inconsistent("a sealed key or a name has more than 65,535 bytes".into());
        length.map(u16::to_be_bytes).map_err(long)
    };
    let lengths = [length(&wrapped)?, length(pipeline.as_bytes())?].concat();
    let head =
        [&file.expires_at.millis().to_be_bytes()[..], &lengths, &wrapped, pipeline.as_bytes()].concat();
    let writer = SealedWriter::new(services, path(owner, id), &key, stream_id(id))?.after(&head);
    Ok((writer, file))
}

/// Whoever sends wrong files without end fills nothing.
async fn make_room(services: &Services, owner: &str) -> Result<(), FlowError> {
    let folder = Path::from_iter([FOLDER, owner]);
    let mut lists: Vec<_> = services.objects.list(Some(&folder)).try_collect().await?;
    lists.sort_by_key(|list| list.last_modified);
    let spare = (lists.len() + 1).saturating_sub(OF_AN_OWNER);
    for list in &lists[..spare] {
        delete(services, &list.location).await;
    }
    Ok(())
}

/// How the list of a file is written.
pub(crate) fn listing(
    references: Arc<References>,
    id: BatchId,
    delimiter: Option<u8>,
    mark: bool,
) -> ErrorListing {
    ErrorListing { references: Arc::new(LineReferences { references, id }), delimiter, mark }
}

/// References of lines that are no rows.
#[derive(Debug)]
struct LineReferences {
    references: Arc<References>,
    id: BatchId,
}

impl ReferenceWriter for LineReferences {
    fn write(&self, line: u64, protected: Vec<ColumnTag>) -> String {
        let row = u32::try_from(line).unwrap_or(u32::MAX);
        self.references.write(&RowReference { batch: self.id, row, protected, unfinished: None })
    }

    fn reads(&self, cell: &str) -> bool {
        self.references.read(cell).is_some()
    }
}

/// Reads a list of an owner's; none when there is none, its hour is over, or `may_read` says so of its pipeline. `batch` is the
/// data key of the batch whose file has these errors; `for_spreadsheet`: as a spreadsheet shows and saves it.
///
/// # Errors
/// When the object store fails, or the list is not what was stored.
pub async fn open(
    services: &Services,
    owner: &str,
    id: BatchId,
    batch: Option<&DataKey>,
    for_spreadsheet: bool,
    may_read: impl Fn(&str) -> bool,
) -> Result<Option<impl Stream<Item = Result<Bytes, FlowError>> + Send + 'static>, FlowError> {
    let stored = match services.objects.get(&path(owner, id)).await {
        Ok(stored) => stored,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = stored.into_stream();
    let mut read = Vec::new();
    let cut = || FlowError::Inconsistent("a list of errors is cut".into());
    let mut fill = async |read: &mut Vec<u8>, length: usize| {
        while read.len() < length {
            read.extend_from_slice(&bytes.next().await.ok_or_else(cut)??);
        }
        Ok::<_, FlowError>(())
    };
    fill(&mut read, HEAD).await?;
    let expires_at = Timestamp::from_millis(i64::from_be_bytes(*read.first_chunk().ok_or_else(cut)?));
    if expires_at <= services.clock.now() {
        return Ok(None);
    }
    let length = |at: usize| usize::from(u16::from_be_bytes([read[at], read[at + 1]]));
    let wrapped = HEAD + length(HEAD - 4);
    let named = wrapped + length(HEAD - 2);
    let start = named + StreamLayout::HEADER_LEN;
    fill(&mut read, start).await?;
    let pipeline = str::from_utf8(&read[wrapped..named]).map_err(|_| cut())?;
    if !may_read(pipeline) {
        return Ok(None);
    }
    let own;
    let key = if wrapped > HEAD {
        let place = place(owner, id, expires_at, pipeline);
        own = services.keyring.get().open_key(FOLDER, &place, &read[HEAD..wrapped]).map_err(sealed)?;
        &own
    } else if let Some(key) = batch {
        key
    } else {
        return Ok(None);
    };
    let sheet = if for_spreadsheet { Some(sheet(services, owner, id, pipeline).await?) } else { None };
    let opener = StreamOpener::new(key, stream_id(id).0, &read[named..start]).map_err(sealed)?;
    Ok(Some(opened(opener, Bytes::from(read.split_off(start)), bytes, sheet)))
}

fn sealed(source: OpenError) -> FlowError {
    FlowError::Sealed { what: "a list of errors", source }
}

/// The list in the clear: what of it is read already, and what comes.
fn opened(
    mut opener: StreamOpener,
    read: Bytes,
    mut bytes: impl Stream<Item = object_store::Result<Bytes>> + Send + Unpin + 'static,
    mut sheet: Option<ErrorSheet>,
) -> impl Stream<Item = Result<Bytes, FlowError>> + Send + 'static {
    try_stream! {
        let mut plain = Vec::new();
        opener.push(&read, &mut plain).map_err(sealed)?;
        while let Some(more) = bytes.try_next().await? {
            opener.push(&more, &mut plain).map_err(sealed)?;
            if !plain.is_empty() {
                let piece = shown(&mut sheet, std::mem::take(&mut plain));
                // An empty piece would be the end of the answer.
                if !piece.is_empty() {
                    yield Bytes::from(piece);
                }
            }
        }
        opener.finish(&mut plain).map_err(sealed)?;
        let mut last = shown(&mut sheet, plain);
        last.extend(sheet.map(ErrorSheet::finish).unwrap_or_default());
        yield Bytes::from(last);
    }
}

fn shown(sheet: &mut Option<ErrorSheet>, plain: Vec<u8>) -> Vec<u8> {
    match sheet {
        Some(sheet) => sheet.push(&plain),
        None => plain,
    }
}

/// Names of columns are compared as the pipeline compares those of the file that is uploaded next.
async fn sheet(
    services: &Services,
    owner: &str,
    id: BatchId,
    pipeline: &str,
) -> Result<ErrorSheet, FlowError> {
    let references = References::of(services, owner, pipeline).await?;
    let schema = services.pipelines.get(pipeline).map(|pipeline| pipeline.schema.clone()).unwrap_or_default();
    Ok(ErrorSheet::new(id, schema, Arc::new(references)))
}

/// Deletes the lists that are past their hour; returns how many.
///
/// # Errors
/// When the object store cannot list them.
pub(crate) async fn drop_expired(services: &Services, now: Timestamp) -> Result<u32, FlowError> {
    let ended = (now - KEPT).millis();
    let folder = Path::from(FOLDER);
    let mut listed = services.objects.list(Some(&folder));
    let mut dropped = 0;
    while let Some(object) = listed.try_next().await? {
        if object.last_modified.timestamp_millis() <= ended {
            dropped += u32::from(delete(services, &object.location).await);
        }
    }
    Ok(dropped)
}

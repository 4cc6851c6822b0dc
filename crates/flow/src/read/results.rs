//! Results: every line of the file with what became of it, streamed in the file's order.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use penstock_domain::csv::{
    HeaderMap, OURS_BYTES, RowReference, Unfinished, Unreadable, column_tag, encode_separated,
    encode_separated_value, neutralise, shown_in,
};
use penstock_domain::effect::Effect;
use penstock_domain::ids::{BatchId, OwnerSeq, RowNumber};
use penstock_domain::pipeline::Pipeline;
use penstock_domain::row::RowStatus;
use penstock_store::batches::Batch;
use penstock_store::reading::{RowFilter, RowRecord};
use serde_json::{Value, json};

use crate::context::budget::{Budget, PATIENCE, Reserved};
use crate::context::error::FlowError;
use crate::context::references::References;
use crate::context::secrets::{SecretLocation, SecretsOf};
use crate::context::services::Services;
use crate::read::row_effect;
use crate::read::row_view::{ErrorView, RowView, row_view};

/// Rows read from SQL at a time, and their sealed bytes: a row that is longer is read alone.
const PAGE: u32 = 500;
const PAGE_BYTES: u64 = 128 * 1024;

/// Memory of a report that is being sent: a page as it was read, as it is written, and what of it is on its way.
const READER_BYTES: usize = 3 * PAGE_BYTES as usize;

/// Characters of an error's message in a CSV report; the row's own page and NDJSON have all of it.
const MESSAGE_CHARS: usize = 1000;

/// Which lines, and what stands beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// Every line, with the result's columns.
    Results,
    /// Failed lines that can be uploaded again: a new upload repeats nothing that was done for them.
    Failed,
    /// Lines that never ended (pending, queued, processing or cancelled), and failed ones that may have had an effect without a key.
    Unprocessed,
}

impl Report {
    fn statuses(self) -> Vec<RowStatus> {
        match self {
            Self::Results => Vec::new(),
            Self::Failed => vec![RowStatus::Failed],
            Self::Unprocessed => vec![
                RowStatus::Pending,
                RowStatus::Queued,
                RowStatus::Processing,
                RowStatus::Failed,
                RowStatus::Cancelled,
            ],
        }
    }
}

/// The report of that name: `results.csv`, `failed.ndjson`, …
pub fn named(name: &str) -> Option<(Report, Format)> {
    let (report, format) = name.rsplit_once('.')?;
    let report = match report {
        "results" => Report::Results,
        "failed" => Report::Failed,
        "unprocessed" => Report::Unprocessed,
        _ => return None,
    };
    let format = match format {
        "csv" => Format::Csv,
        "ndjson" => Format::Ndjson,
        _ => return None,
    };
    Some((report, format))
}

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The file's columns first, then `_row`, `_status`, the result's columns, `_code`, `_message`, `_ref`.
    Csv,
    /// The same for a spreadsheet: with a byte order mark, and with cells that it shows and saves as they are.
    Spreadsheet,
    /// A JSON object a line: number, line, status, row, result, error.
    Ndjson,
}

/// Who reads a report, and what he may take: the database for one page at a time, and memory for one page.
#[derive(Clone, Debug)]
pub struct Reader {
    /// Whose share it is.
    pub owner: OwnerSeq,
    /// Reads of the database at once.
    pub reads: Budget,
    /// Bytes.
    pub memory: Budget,
}

/// A piece of a report.
#[derive(Clone, Debug)]
pub struct Page {
    /// Whole lines.
    pub bytes: Bytes,
    /// The last row in them; 0: none yet. What follows can be written from here on.
    pub last: RowNumber,
}

/// Streams a report, a page of rows at a time; with `after`, only what follows that row, without a header.
///
/// # Errors
/// [`FlowError::Erased`] when the batch was erased; [`FlowError::Busy`] when others take all memory; when an engine fails. A
/// failure behind the first page, or an erasure meanwhile, ends the stream with an error, so that a client does not take a part
/// for the whole.
pub async fn stream(
    services: Services,
    batch: Batch,
    report: Report,
    format: Format,
    reader: Reader,
    after: Option<RowNumber>,
) -> Result<impl Stream<Item = Result<Page, FlowError>> + Send + 'static, FlowError> {
    let held = reader.memory.reserve(reader.owner, READER_BYTES, PATIENCE).await?;
    let secrets = services.secrets_of(&batch).await?;
    let pipeline = services.definition_of(&batch).await?;
    let header = secrets.header().cloned();
    let references = References::of(&services, &batch.owner_name, &batch.pipeline).await?;
    let delimiter = header.as_ref().map_or(b',', |header| header.delimiter());
    let writer = Writer { batch: batch.id, secrets, pipeline, references, header, report, format, delimiter };
    let head = after.is_none().then(|| writer.head()).filter(|head| !head.is_empty());
    let next = Some(after.unwrap_or(0));
    let state = State { services, batch, writer, reader, next, head, _held: held, more: None };
    Ok(futures::stream::try_unfold(state, |mut state| async move {
        if let Some(head) = state.head.take() {
            return Ok(Some((Page { bytes: head.into(), last: 0 }, state)));
        }
        let page = state.page().await?;
        Ok::<_, FlowError>(page.map(|page| (page, state)))
    }))
}

impl State {
    /// The next page that has rows; none behind the last.
    async fn page(&mut self) -> Result<Option<Page>, FlowError> {
        // What the page before took beyond the usual is free again: it was sent.
        self.more = None;
        while let Some(after) = self.next {
            let filter = RowFilter {
                status: self.writer.report.statuses(),
                code: None,
                step: None,
                after,
                limit: PAGE,
                max_bytes: Some(PAGE_BYTES),
                payload: true,
            };
            let read = self.reader.reads.reserve(self.reader.owner, 1, PATIENCE).await?;
            let page = self.services.store.rows(self.batch.seq, &filter).await?;
            // Looked at behind the rows: an erasure is recorded before the first row is emptied.
            refuse_erased(&self.services, &self.batch).await?;
            drop(read);
            self.next = page.next;
            let Some(last) = page.rows.last().map(|row| row.number) else { continue };
            let sealed: usize = page.rows.iter().map(RowRecord::sealed_bytes).sum();
            if sealed > READER_BYTES / 3 * 2 {
                let memory = &self.reader.memory;
                self.more = Some(memory.reserve(self.reader.owner, sealed * 2, PATIENCE).await?);
            }
            let mut bytes = Vec::with_capacity(sealed + page.rows.len() * 64);
            for row in &page.rows {
                self.writer.line(row, &mut bytes);
            }
            // A page may hold no line of this report.
            if !bytes.is_empty() {
                return Ok(Some(Page { bytes: bytes.into(), last }));
            }
        }
        Ok(None)
    }
}

/// Whether rows that were read a moment ago were all still there.
///
/// # Errors
/// [`FlowError::Erased`] when the batch was erased meanwhile; when the database fails.
pub async fn refuse_erased(services: &Services, batch: &Batch) -> Result<(), FlowError> {
    let now = services.store.batches_by_seq(&[batch.seq]).await?.pop();
    if now.is_some_and(|now| now.erased_at.is_none()) { Ok(()) } else { Err(FlowError::Erased) }
}

struct State {
    services: Services,
    batch: Batch,
    writer: Writer,
    reader: Reader,
    /// Behind which row the next page begins; none when there is no other.
    next: Option<RowNumber>,
    head: Option<Vec<u8>>,
    _held: Reserved,
    /// What a long row takes beyond that.
    more: Option<Reserved>,
}

struct Writer {
    batch: BatchId,
    secrets: SecretsOf,
    pipeline: Arc<Pipeline>,
    references: References,
    header: Option<Arc<HeaderMap>>,
    report: Report,
    format: Format,
    /// What separates columns, as in the client's file.
    delimiter: u8,
}

/// What a client wrote into a row, as a format shows it.
enum Own {
    Cells(Vec<u8>, RowReference),
    Values(BTreeMap<String, String>),
}

impl Writer {
    fn head(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.format == Format::Ndjson {
            return out;
        }
        // An upload of the report is read as the pipeline's files are, unless it begins with a mark.
        if self.format == Format::Spreadsheet || self.pipeline.schema.dialect.is_marked_in_reports() {
            out.extend_from_slice("\u{FEFF}".as_bytes());
        }
        let own = self.header.as_ref().map(|header| header.written()).unwrap_or_default();
        let mut cells: Vec<Cow<'_, str>> =
            own.iter().map(|name| shown_in(self.format == Format::Spreadsheet)(name)).collect();
        cells.extend(["_row", "_status"].map(Cow::Borrowed));
        let results = self.pipeline.result_columns();
        if self.report == Report::Results {
            cells.extend(results.iter().copied().map(Cow::Borrowed));
        }
        cells.extend(["_code", "_message", "_ref"].map(Cow::Borrowed));
        encode_separated(cells.iter().map(|cell| cell.as_ref()), self.delimiter, &mut out);
        out.extend_from_slice(b"\r\n");
        out
    }

    fn line(&self, record: &RowRecord, out: &mut Vec<u8>) {
        let mut view = row_view(&self.secrets, Some(&self.pipeline), record);
        if !self.has(record, view.error.as_ref()) {
            return;
        }
        // A row that cannot be read stands in the report as what it is: whoever downloads it gets all the others.
        let own = self.own(record, view.error.as_ref()).unwrap_or_else(|error| {
            tracing::error!(%error, row = record.number, "what is stored of the row cannot be read");
            view.error.get_or_insert_with(|| ErrorView::unreadable(record));
            None
        });
        match (self.format, own) {
            (Format::Ndjson, Some(Own::Values(values))) => ndjson(&view, Some(&values), out),
            (Format::Ndjson, _) => ndjson(&view, None, out),
            (_, Some(Own::Cells(cells, reference))) => self.csv(&view, Some(&cells), reference, out),
            (_, _) => self.csv(&view, None, self.reference(view.number), out),
        }
    }

    /// Whether the report has the row.
    fn has(&self, record: &RowRecord, error: Option<&ErrorView>) -> bool {
        match (self.report, record.status) {
            (Report::Failed, RowStatus::Failed) => self.effect(record, error) != Effect::Unkeyed,
            (Report::Unprocessed, RowStatus::Failed) => self.effect(record, error) == Effect::Unkeyed,
            _ => true,
        }
    }

    fn effect(&self, record: &RowRecord, error: Option<&ErrorView>) -> Effect {
        row_effect::of(&self.pipeline.steps, record, error)
    }

    /// What the client wrote; none when it was erased meanwhile.
    fn own(&self, record: &RowRecord, error: Option<&ErrorView>) -> Result<Option<Own>, FlowError> {
        let (Some(sealed), Some(header)) = (&record.payload, &self.header) else { return Ok(None) };
        let payload = self.secrets.open(SecretLocation::Payload(record.number), sealed)?;
        let own = match self.format {
            Format::Csv | Format::Spreadsheet => self.cells(record, error, header, &payload),
            Format::Ndjson => header.own_values(&payload, &self.pipeline.schema).map(Own::Values),
        };
        own.map(Some).map_err(|error| {
            FlowError::Inconsistent(format!("row {} cannot be read again: {error}", record.number))
        })
    }

    /// The cells of a row, and its reference. One that did not complete names the row whose idempotency keys it has, and what
    /// an upload of the line would repeat.
    fn cells(
        &self,
        record: &RowRecord,
        error: Option<&ErrorView>,
        header: &HeaderMap,
        payload: &[u8],
    ) -> Result<Own, Unreadable> {
        let shown = if self.format == Format::Spreadsheet {
            header.spreadsheet_cells(payload)?
        } else {
            header.report_cells(payload)?
        };
        let mut reference = RowReference { protected: shown.protected, ..self.reference(record.number) };
        if record.status != RowStatus::Completed {
            let kept = header.origin(payload)?;
            let origin = kept.unwrap_or_else(|| reference.origin());
            let effect = self.effect(record, error).max(origin.effect);
            (reference.batch, reference.row) = (origin.batch, origin.row);
            let (values, pipeline) = (header.digest(payload, origin)?, Some(self.references.tag()));
            reference.unfinished = Some(Unfinished { effect, values, pipeline });
        }
        Ok(Own::Cells(shown.cells.into_owned(), reference))
    }

    fn reference(&self, row: RowNumber) -> RowReference {
        RowReference { batch: self.batch, row, protected: Vec::new(), unfinished: None }
    }

    /// The client's own cells come first, byte for byte, unless a spreadsheet would take one for a formula: then that
    /// line is written anew with an apostrophe before such cells. Which they are is in `_ref`, so that an upload takes exactly
    /// these apostrophes off again.
    fn csv(&self, view: &RowView, cells: Option<&[u8]>, mut reference: RowReference, out: &mut Vec<u8>) {
        match (cells, &self.header) {
            (Some(cells), _) => out.extend_from_slice(cells),
            (None, Some(header)) => out.extend_from_slice(&header.empty()),
            (None, None) => {}
        }
        let between = self.delimiter;
        for text in [&view.number.to_string(), view.status.name()] {
            out.push(between);
            out.extend_from_slice(text.as_bytes());
        }
        if self.report == Report::Results {
            for column in self.pipeline.result_columns() {
                out.push(between);
                let value = view.result.as_ref().and_then(|result| result.get(column));
                if cell(value, shown_in(self.format == Format::Spreadsheet), between, out) {
                    reference.protected.push(column_tag(column));
                }
            }
        }
        out.push(between);
        if let Some(error) = &view.error {
            encode_separated_value(&error.code, between, out);
            out.push(between);
            encode_separated_value(&neutralise(&shortened(&error.message)), between, out);
        } else {
            out.push(between);
        }
        out.push(between);
        out.extend_from_slice(self.references.write(&reference).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

fn ndjson(view: &RowView, values: Option<&BTreeMap<String, String>>, out: &mut Vec<u8>) {
    let line = json!({
        "number": view.number,
        "line": view.line,
        "status": view.status,
        "row": values,
        "result": view.result,
        "error": view.error,
    });
    out.extend_from_slice(line.to_string().as_bytes());
    out.push(b'\n');
}

/// A message as a cell: far below what an upload of the report allows for our columns ([`OURS_BYTES`]).
fn shortened(message: &str) -> Cow<'_, str> {
    const { assert!(MESSAGE_CHARS * 4 < OURS_BYTES / 2) };
    match message.char_indices().nth(MESSAGE_CHARS) {
        Some((end, _)) => Cow::Owned(format!("{}…", &message[..end])),
        None => Cow::Borrowed(message),
    }
}

/// A value of the result as a cell: text as it stands, anything else as JSON, which no spreadsheet takes for a formula. Whether
/// it got an apostrophe.
fn cell(value: Option<&Value>, show: fn(&str) -> Cow<'_, str>, delimiter: u8, out: &mut Vec<u8>) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::String(text)) => {
            let safe = show(text);
            encode_separated_value(&safe, delimiter, out);
            matches!(safe, Cow::Owned(_))
        }
        Some(other) => {
            encode_separated_value(&other.to_string(), delimiter, out);
            false
        }
    }
}

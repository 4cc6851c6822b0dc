//! Results: every line of the file with what became of it, streamed in the file's order.

use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use penstock_domain::csv::{HeaderMap, encode_value, neutralise};
use penstock_domain::pipeline::Pipeline;
use penstock_domain::row::RowStatus;
use penstock_store::batches::Batch;
use penstock_store::reading::{RowFilter, RowRecord};
use serde_json::{Value, json};

use crate::engines::Engines;
use crate::error::FlowError;
use crate::secrets::{Place, SecretsOf};
use crate::view::row_view;

/// Rows read from SQL at a time.
const PAGE: u32 = 500;

/// Which lines, and what stands beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// Every line, with the result's columns.
    Results,
    /// Failed lines: mended, they can be uploaded again.
    Failed,
    /// Lines that never ended: pending, queued, processing or cancelled.
    Unprocessed,
}

impl Report {
    fn statuses(self) -> Vec<RowStatus> {
        match self {
            Self::Results => Vec::new(),
            Self::Failed => vec![RowStatus::Failed],
            Self::Unprocessed => {
                vec![RowStatus::Pending, RowStatus::Queued, RowStatus::Processing, RowStatus::Cancelled]
            }
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
    /// The file's columns first, then `_row`, `_status`, the result's columns, `_code`, `_message`.
    Csv,
    /// A JSON object a line: number, line, status, row, result, error.
    Ndjson,
}

/// Streams a report, a page of rows at a time.
///
/// # Errors
/// [`FlowError::Erased`] when the batch was erased; when an engine fails. A failure behind the first page ends the
/// stream with an error, so that a client does not take a part for the whole.
pub async fn stream(
    engines: Engines,
    batch: Batch,
    report: Report,
    format: Format,
) -> Result<impl Stream<Item = Result<Bytes, FlowError>> + Send + 'static, FlowError> {
    let secrets = engines.secrets.of(&engines, &batch).await?;
    let pipeline = engines.pipelines.of(&engines, &batch).await?;
    let header: Option<HeaderMap> =
        batch.header.as_deref().and_then(|header| serde_json::from_str(header).ok());
    let writer = Writer { secrets, pipeline, header: header.map(Arc::new), report, format };
    let first = writer.head();
    let state = State { engines, batch, writer, after: 0, head: Some(first), done: false };
    Ok(futures::stream::try_unfold(state, |mut state| async move {
        if let Some(head) = state.head.take()
            && !head.is_empty()
        {
            return Ok(Some((Bytes::from(head), state)));
        }
        if state.done {
            return Ok(None);
        }
        let filter = RowFilter {
            status: state.writer.report.statuses(),
            code: None,
            after: state.after,
            limit: PAGE,
            payload: true,
        };
        let rows = state.engines.store.rows(state.batch.seq, &filter).await?;
        state.done = rows.len() < PAGE as usize;
        let Some(last) = rows.last() else { return Ok(None) };
        state.after = last.number;
        let mut page = Vec::with_capacity(rows.len() * 128);
        for row in &rows {
            state.writer.line(row, &mut page)?;
        }
        Ok::<_, FlowError>(Some((Bytes::from(page), state)))
    }))
}

struct State {
    engines: Engines,
    batch: Batch,
    writer: Writer,
    after: u32,
    head: Option<Vec<u8>>,
    done: bool,
}

struct Writer {
    secrets: SecretsOf,
    pipeline: Arc<Pipeline>,
    header: Option<Arc<HeaderMap>>,
    report: Report,
    format: Format,
}

impl Writer {
    fn head(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.format == Format::Ndjson {
            return out;
        }
        let mut cells: Vec<&str> = self
            .header
            .as_ref()
            .map(|header| header.columns().iter().map(String::as_str).collect())
            .unwrap_or_default();
        cells.extend(["_row", "_status"]);
        let results = self.pipeline.result_columns();
        if self.report == Report::Results {
            cells.extend(results.iter().copied());
        }
        cells.extend(["_code", "_message"]);
        for (index, cell) in cells.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            encode_value(cell, &mut out);
        }
        out.extend_from_slice(b"\r\n");
        out
    }

    fn line(&self, record: &RowRecord, out: &mut Vec<u8>) -> Result<(), FlowError> {
        let view = row_view(&self.secrets, record)?;
        let payload = match &record.payload {
            Some(sealed) => self.secrets.open(Place::Payload(record.number), sealed)?,
            None => Vec::new(),
        };
        if self.format == Format::Ndjson {
            let values =
                self.header.as_ref().and_then(|header| header.values(&payload, &self.pipeline.schema).ok());
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
            return Ok(());
        }
        self.own_columns(&payload, out);
        out.extend_from_slice(format!(",{},{}", record.number, record.status.name()).as_bytes());
        if self.report == Report::Results {
            for column in self.pipeline.result_columns() {
                out.push(b',');
                cell(view.result.as_ref().and_then(|result| result.get(column)), out);
            }
        }
        out.push(b',');
        if let Some(error) = &view.error {
            encode_value(&error.code, out);
            out.push(b',');
            encode_value(&neutralise(&error.message), out);
        } else {
            out.push(b',');
        }
        out.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// The client's own cells, byte for byte, unless a spreadsheet would take one for a formula: then that line is
    /// written anew with an apostrophe before such cells, which an upload takes back.
    fn own_columns(&self, payload: &[u8], out: &mut Vec<u8>) {
        let Some(header) = &self.header else { return };
        match header.formula_safe(payload) {
            None => out.extend_from_slice(payload),
            Some(safe) => out.extend_from_slice(&safe),
        }
    }
}

/// A value of the result as a cell: text as it stands, anything else as JSON.
fn cell(value: Option<&Value>, out: &mut Vec<u8>) {
    match value {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) => encode_value(&neutralise(text), out),
        Some(other) => encode_value(&neutralise(&other.to_string()), out),
    }
}

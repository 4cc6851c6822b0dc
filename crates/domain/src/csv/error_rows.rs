//! The wrong lines of a file, one for each error, as `errors.csv` lists them: the client's own cells, beside the first error of a line, then
//! `_line`, `_column`, `_code`, `_message` and `_ref`. Whoever puts them right can upload the lines that have cells.

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;

use super::error::RowError;
use super::formula::neutralise;
use super::header::{HeaderMap, tag_of};
use super::record::Record;
use super::reference::{ColumnTag, looks_written};
use super::writer::{encode_separated, encode_separated_value};

/// Errors that are listed; the rest is counted.
pub const ERRORS_LISTED: u64 = 100_000;

/// The columns that the list adds, before `_ref`.
pub const ERROR_COLUMNS: [&str; 4] = ["_line", "_column", "_code", "_message"];

/// Bytes of a list after which lines come without the client's own cells: however long lines are, a list has an end.
const OWN_BYTES: u64 = 64 * 1024 * 1024;

/// Bytes of a list after which no more errors are listed: a line of many columns takes a delimiter for each of them.
const LIST_BYTES: u64 = 80 * 1024 * 1024;

/// Errors of one record, or of the empty rows before one, that are listed: they wait in memory until the record is whole.
const LISTED_AT_ONCE: usize = 4096;

/// Writes the `_ref` of a line, by which an upload of the list takes apostrophes off again.
pub trait ReferenceWriter: Debug + Send + Sync {
    /// The cell for a line whose cells in these columns got an apostrophe.
    fn write(&self, line: u64, protected: Vec<ColumnTag>) -> String;

    /// Whether a cell holds a reference that was written for this owner.
    fn reads(&self, cell: &str) -> bool;
}

/// How a list is written.
#[derive(Clone, Debug)]
pub struct ErrorListing {
    /// Writes references.
    pub references: Arc<dyn ReferenceWriter>,
    /// What separates columns; none: what does in the file.
    pub delimiter: Option<u8>,
    /// Whether it begins with a byte order mark.
    pub mark: bool,
}

/// A list that is being written; its bytes wait to be taken.
#[derive(Debug)]
pub(super) struct ErrorRows {
    listing: ErrorListing,
    /// Errors of the record under way, and of bytes that are in no record yet.
    fresh: Vec<RowError>,
    waiting: Vec<u8>,
    /// What separates columns, and how many there are of the client's own; none before the first error is written.
    shape: Option<(u8, usize)>,
    /// Errors that are written or fresh.
    listed: u64,
    /// Bytes that are written.
    bytes: u64,
}

impl ErrorRows {
    pub fn new(listing: ErrorListing) -> Self {
        Self { listing, fresh: Vec::new(), waiting: Vec::new(), shape: None, listed: 0, bytes: 0 }
    }

    /// Whether another error is listed.
    pub fn has_room(&self) -> bool {
        self.listed < ERRORS_LISTED && self.fresh.len() < LISTED_AT_ONCE && self.bytes < LIST_BYTES
    }

    pub fn push(&mut self, error: RowError) {
        self.listed += 1;
        self.fresh.push(error);
    }

    /// What was written since it was taken last.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.waiting)
    }

    /// Writes what is fresh; errors in the line of `record` with its cells.
    pub fn write(&mut self, header: Option<&HeaderMap>, record: Option<&Record<'_>>, delimiter: u8) {
        if self.fresh.is_empty() {
            return;
        }
        let before = self.waiting.len();
        let (delimiter, columns) = self.shape.unwrap_or_else(|| {
            let delimiter = self.listing.delimiter.unwrap_or(delimiter);
            self.write_head(header, delimiter);
            (delimiter, header.map_or(0, |header| header.columns().len()))
        });
        self.shape = Some((delimiter, columns));
        // Once in the list, or the line would become two rows when it is uploaded.
        let mut own = header.zip(record).filter(|_| columns > 0);
        for error in std::mem::take(&mut self.fresh) {
            let is_full = self.bytes + (self.waiting.len() - before) as u64 > OWN_BYTES;
            let is_whole = error.code != "field_count";
            let cells = own.take_if(|(_, record)| record.line == error.line && is_whole && !is_full);
            let reference = match cells {
                Some((header, record)) => self.write_own(header, record, delimiter),
                None => {
                    self.waiting.resize(self.waiting.len() + columns, delimiter);
                    String::new()
                }
            };
            self.write_error(&error, &reference, delimiter);
        }
        self.bytes += (self.waiting.len() - before) as u64;
    }

    fn write_head(&mut self, header: Option<&HeaderMap>, delimiter: u8) {
        if self.listing.mark {
            self.waiting.extend_from_slice("\u{FEFF}".as_bytes());
        }
        let own = header.map(HeaderMap::written).unwrap_or_default();
        let names: Vec<Cow<'_, str>> = own.iter().map(|name| neutralise(name)).collect();
        let added = ERROR_COLUMNS.into_iter().chain(["_ref"]);
        encode_separated(names.iter().map(|name| name.as_ref()).chain(added), delimiter, &mut self.waiting);
        self.waiting.extend_from_slice(b"\r\n");
    }

    fn write_error(&mut self, error: &RowError, reference: &str, delimiter: u8) {
        let line = error.line.to_string();
        let column = error.column.as_deref().unwrap_or_default();
        let cells = [&line, neutralise(column).as_ref(), error.code, neutralise(&error.message).as_ref()]
            .map(str::to_owned);
        for cell in &cells {
            encode_separated_value(cell, delimiter, &mut self.waiting);
            self.waiting.push(delimiter);
        }
        self.waiting.extend_from_slice(reference.as_bytes());
        self.waiting.extend_from_slice(b"\r\n");
    }

    /// Writes the client's own cells, each with the delimiter after it; what stands in `_ref`.
    fn write_own(&mut self, header: &HeaderMap, record: &Record<'_>, delimiter: u8) -> String {
        // The cells of a report's line stay as they are, because its own reference does, too. One that was changed stays, so that it is
        // found again; what else a column of that name holds is no reference.
        let written = header.reference_of(record);
        let is_ours = written.as_ref().is_some_and(|cell| self.listing.references.reads(cell));
        let kept = written.filter(|cell| is_ours || looks_written(cell));
        let mut protected = Vec::new();
        for (place, name) in header.columns().iter().enumerate() {
            let value = header.raw_value(place, record);
            let safe = if is_ours { Cow::Borrowed(value.as_ref()) } else { neutralise(&value) };
            if matches!(safe, Cow::Owned(_)) {
                protected.push(tag_of(name));
            }
            encode_separated_value(&safe, delimiter, &mut self.waiting);
            self.waiting.push(delimiter);
        }
        match kept {
            Some(reference) => {
                let mut cell = Vec::with_capacity(reference.len());
                encode_separated_value(&neutralise(&reference), delimiter, &mut cell);
                String::from_utf8(cell).unwrap_or_default()
            }
            None if protected.is_empty() => String::new(),
            None => self.listing.references.write(record.line, protected),
        }
    }
}

//! The wrong lines of a file, one for each error, as `errors.csv` lists them: the client's own cells, beside the first error of a line, then
//! `_line`, `_column`, `_code`, `_message` and `_ref`. Whoever puts them right can upload the lines that have cells.

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;

use super::error::RowError;
use super::error_lines::{ErrorLines, Line, held};
use super::formula::neutralise;
use super::header::{HeaderMap, tag_of};
use super::record::Record;
use super::reference::{ColumnTag, looks_written};
use super::writer::{encode_separated, encode_separated_value};

/// Errors that are listed; the rest is counted.
pub const ERRORS_LISTED: u64 = 100_000;

/// The columns that the list adds, before `_ref`.
pub const ERROR_COLUMNS: [&str; 4] = ["_line", "_column", "_code", "_message"];

/// Bytes of memory for errors that wait. Those of one record, and of the empty rows before it, wait until it is whole: beyond these bytes they
/// are counted, and not listed.
const WAITING_BYTES: usize = 512 * 1024;

/// Bytes that wait after which they are to be taken before the file is read on. What a few more bytes of a file bring fits beside them.
const FULL_BYTES: usize = 64 * 1024;

/// Bytes of a record after which it is listed without its cells: they would stand in memory a second time.
const OWN_RECORD_BYTES: usize = 128 * 1024;

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

/// A list that is being written.
#[derive(Debug)]
pub(super) struct ErrorRows {
    listing: ErrorListing,
    /// Errors of the record under way, and of bytes that are in no record yet.
    fresh: Vec<RowError>,
    /// Bytes of memory that these take as lines.
    fresh_bytes: usize,
    lines: ErrorLines,
    /// What separates columns, and how many there are of the client's own; none before the first error is written.
    shape: Option<(u8, usize)>,
    /// Errors that were taken.
    listed: u64,
}

impl ErrorRows {
    pub fn new(listing: ErrorListing) -> Self {
        let lines = ErrorLines::default();
        Self { listing, fresh: Vec::new(), fresh_bytes: 0, lines, shape: None, listed: 0 }
    }

    /// Whether another error is listed.
    pub fn has_room(&self) -> bool {
        self.listed < ERRORS_LISTED
            && self.fresh_bytes + self.lines.held() < WAITING_BYTES
            && self.lines.has_room()
    }

    /// Whether more may come only when what waits was taken.
    pub fn is_full(&self) -> bool {
        self.lines.held() > FULL_BYTES
    }

    pub fn push(&mut self, error: RowError) {
        self.listed += 1;
        self.fresh_bytes += held(&error);
        self.fresh.push(error);
    }

    /// The next piece of what was written; empty when nothing waits.
    pub fn next_piece(&mut self) -> Vec<u8> {
        self.lines.next_piece()
    }

    /// All that waits.
    pub fn into_lines(self) -> ErrorLines {
        self.lines
    }

    /// Writes what is fresh; errors in the line of `record` with its cells.
    pub fn write(&mut self, header: Option<&HeaderMap>, record: Option<&Record<'_>>, delimiter: u8) {
        if self.fresh.is_empty() {
            return;
        }
        let (delimiter, columns) = self.shape.unwrap_or_else(|| {
            let delimiter = self.listing.delimiter.unwrap_or(delimiter);
            let shape = (delimiter, header.map_or(0, |header| header.columns().len()));
            self.lines.begin(self.head(header, delimiter), shape);
            shape
        });
        self.shape = Some((delimiter, columns));
        self.fresh_bytes = 0;
        // Once in the list, or the line would become two rows when it is uploaded.
        let mut own = header.zip(record).filter(|(_, record)| {
            columns > 0 && record.raw.len() <= OWN_RECORD_BYTES && self.lines.has_room_for_cells()
        });
        for error in std::mem::take(&mut self.fresh) {
            let is_whole = error.code != "field_count";
            let cells = own.take_if(|(_, record)| record.line == error.line && is_whole);
            let (own, reference) = match cells {
                Some((header, record)) => {
                    let (own, reference) = self.own(header, record, delimiter);
                    (Some(own), reference)
                }
                None => (None, String::new()),
            };
            self.lines.push(Line { error, own, reference });
        }
    }

    fn head(&self, header: Option<&HeaderMap>, delimiter: u8) -> Vec<u8> {
        let mut head = Vec::new();
        if self.listing.mark {
            head.extend_from_slice("\u{FEFF}".as_bytes());
        }
        let own = header.map(HeaderMap::written).unwrap_or_default();
        let names: Vec<Cow<'_, str>> = own.iter().map(|name| neutralise(name)).collect();
        let added = ERROR_COLUMNS.into_iter().chain(["_ref"]);
        encode_separated(names.iter().map(|name| name.as_ref()).chain(added), delimiter, &mut head);
        head.extend_from_slice(b"\r\n");
        head
    }

    /// The client's own cells, each with the delimiter after it, and what stands in `_ref`.
    fn own(&self, header: &HeaderMap, record: &Record<'_>, delimiter: u8) -> (Vec<u8>, String) {
        // The cells of a report's line stay as they are, because its own reference does, too. One that was changed stays, so that it is
        // found again; what else a column of that name holds is no reference.
        let written = header.reference_of(record);
        let is_ours = written.as_ref().is_some_and(|cell| self.listing.references.reads(cell));
        let kept = written.filter(|cell| is_ours || looks_written(cell));
        let (mut own, mut protected) = (Vec::with_capacity(record.raw.len()), Vec::new());
        for (place, name) in header.columns().iter().enumerate() {
            let value = header.raw_value(place, record);
            let safe = if is_ours { Cow::Borrowed(value.as_ref()) } else { neutralise(&value) };
            if matches!(safe, Cow::Owned(_)) {
                protected.push(tag_of(name));
            }
            encode_separated_value(&safe, delimiter, &mut own);
            own.push(delimiter);
        }
        let reference = match kept {
            Some(reference) => {
                let mut cell = Vec::with_capacity(reference.len());
                encode_separated_value(&neutralise(&reference), delimiter, &mut cell);
                String::from_utf8(cell).unwrap_or_default()
            }
            None if protected.is_empty() => String::new(),
            None => self.listing.references.write(record.line, protected),
        };
        (own, reference)
    }
}

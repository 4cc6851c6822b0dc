//! Errors of a file, as a client reads them.
//!
//! | code | what is wrong |
//! |---|---|
//! | `header_missing` | the file has no header line |
//! | `unknown_column` | the pipeline has no such column |
//! | `missing_column` | a required column is not in the header |
//! | `duplicate_column` | a column occurs twice in the header |
//! | `too_many_columns` | the header has more columns than any file needs |
//! | `column_order` | the pipeline asks for its own order |
//! | `no_rows` | nothing follows the header |
//! | `text_after_quote` | text between a closing quote and the end of its field |
//! | `quote_in_unquoted_field` | a quote inside a field that does not begin with one |
//! | `unclosed_quote` | a quote is never closed |
//! | `bare_cr` | a carriage return without a line feed, outside quotes |
//! | `nul_byte` | a NUL byte |
//! | `invalid_utf8` | bytes that are not UTF-8 |
//! | `changed_after_effect`, `effect_without_key` | the line would repeat an effect that its row may have had |
//! | `changed_reference` | the `_ref` of a report's line was cut or changed, and a cell begins with an apostrophe |
//! | `other_pipeline` | the line is from a report of another pipeline, whose row did not complete |
//! | `field_count` | more or fewer fields than the header |
//! | `field_too_large`, `record_too_large`, `header_too_large`, `too_many_rows` | a limit was passed; reading stopped there |
//! | `not_unique` | another line has the values that may stand once in a file |
//! | `invalid_encoding`, `mixed_encoding` | characters are not in the encoding that was declared, or found out |
//! | `workbook`, `encrypted_workbook`, `archive`, `not_csv` | the file is something else |
//! | `empty_rows` | rows stand after very many empty ones |
//! | `header_again` | a row is the header again, where the dialect is found out |
//! | `required`, `format`, `pattern`, `min_length`, `max_length`, `enum` | a value breaks its column's rule |

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;

use super::error_lines::ErrorLines;
use super::error_rows::{ErrorListing, ErrorRows};
use super::header::HeaderMap;
use super::record::Record;

/// How many errors are kept; the rest is counted.
pub const ERRORS_KEPT: usize = 100;

/// Pairs of column and code that are counted by themselves; a file may have very many columns.
pub const COUNTS_KEPT: usize = 500;

/// Bytes of an error's sentence: with [`ERRORS_KEPT`] an answer stays far below a mebibyte.
pub const MESSAGE_BYTES: usize = 500;

/// Bytes that an error shows of a column's name.
pub const COLUMN_BYTES: usize = 100;

/// Text that is cut after a character so that it has at most that many bytes, with a sign that it was.
pub fn shortened(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{}…", &text[..text.floor_char_boundary(most)]))
}

/// The first of several values, for a sentence, and how many more there are.
pub fn some_of<'a>(values: impl ExactSizeIterator<Item = &'a str>) -> String {
    let all = values.len();
    let mut text = String::new();
    for (index, value) in values.enumerate() {
        if index > 0 && text.len() + value.len() > LISTED_BYTES {
            return format!("{text} and {} more", all - index);
        }
        if index > 0 {
            text.push_str(", ");
        }
        text.push_str(&shortened(value, COLUMN_BYTES));
    }
    text
}

/// Bytes after which a sentence lists no more values.
const LISTED_BYTES: usize = 300;

/// One error of a file. Never shows the value itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RowError {
    /// The physical line where the record starts, from 1.
    pub line: u64,
    /// The column, when it is known.
    pub column: Option<String>,
    /// From the list above.
    pub code: &'static str,
    /// A sentence that says how to fix it.
    pub message: String,
}

/// How many errors of a code a column has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorCount {
    /// The column; none: the errors are in no column, or in one beyond the [`COUNTS_KEPT`].
    pub column: Option<String>,
    /// The code.
    pub code: &'static str,
    /// How many.
    pub count: u64,
}

/// The errors of a file that is not taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rejected {
    /// The first ones.
    pub errors: Vec<RowError>,
    /// How many there are.
    pub error_count: u64,
    /// How many there are by column and code, most frequent first.
    pub counts: Vec<ErrorCount>,
    /// The end of the list of all errors, where one is written.
    pub listing: ErrorLines,
}

/// The first errors of a file, how many there are, and all of them as a list, where one is asked for.
#[derive(Debug, Default)]
pub struct ErrorList {
    errors: Vec<RowError>,
    count: u64,
    /// How many by code, and there by column; an empty name: in no column.
    counts: BTreeMap<&'static str, BTreeMap<String, u64>>,
    rows: Option<ErrorRows>,
}

impl ErrorList {
    /// Takes an error; `message` is only made for those that are kept.
    pub fn push(
        &mut self,
        line: u64,
        column: Option<&str>,
        code: &'static str,
        message: impl FnOnce() -> String,
    ) {
        self.count += 1;
        self.count_in(column.unwrap_or_default(), code);
        let is_kept = self.errors.len() < ERRORS_KEPT;
        let rows = self.rows.as_mut().filter(|rows| rows.has_room());
        if !is_kept && rows.is_none() {
            return;
        }
        let column = column.map(|name| shortened(name, COLUMN_BYTES).into_owned());
        let message = shortened(&message(), MESSAGE_BYTES).into_owned();
        let error = RowError { line, column, code, message };
        match rows {
            Some(rows) if is_kept => {
                rows.push(error.clone());
                self.errors.push(error);
            }
            Some(rows) => rows.push(error),
            None => self.errors.push(error),
        }
    }

    fn count_in(&mut self, column: &str, code: &'static str) {
        let column = shortened(column, COLUMN_BYTES);
        if let Some(count) = self.counts.get_mut(code).and_then(|columns| columns.get_mut(column.as_ref())) {
            *count += 1;
            return;
        }
        let known: usize = self.counts.values().map(BTreeMap::len).sum();
        let column = if known < COUNTS_KEPT { column.into_owned() } else { String::new() };
        *self.counts.entry(code).or_default().entry(column).or_default() += 1;
    }

    /// Takes an error after which nothing is read, and which therefore stands before the others.
    pub fn push_first(
        &mut self,
        line: u64,
        column: Option<&str>,
        code: &'static str,
        message: impl FnOnce() -> String,
    ) {
        self.errors.truncate(ERRORS_KEPT - 1);
        self.push(line, column, code, message);
        self.errors.rotate_right(1);
    }

    /// Takes one error in the place of all that were found: it says what the file is, and depends on nothing that was read.
    pub fn only(&mut self, line: u64, code: &'static str, message: impl FnOnce() -> String) {
        *self = Self { rows: self.rows.take(), ..Self::default() };
        self.push(line, None, code, message);
    }

    /// Lists all errors from now on; what is written waits for [`ErrorList::next_piece`].
    pub fn list(&mut self, listing: ErrorListing) {
        self.rows = Some(ErrorRows::new(listing));
    }

    /// Writes the errors that came since the last time into the list, those in the line of `record` with its cells.
    pub(super) fn write(&mut self, header: Option<&HeaderMap>, record: Option<&Record<'_>>, delimiter: u8) {
        if let Some(rows) = &mut self.rows {
            rows.write(header, record, delimiter);
        }
    }

    /// The next piece of the list; empty when nothing waits.
    pub fn next_piece(&mut self) -> Vec<u8> {
        self.rows.as_mut().map(ErrorRows::next_piece).unwrap_or_default()
    }

    /// Whether a list is written.
    pub fn is_listing(&self) -> bool {
        self.rows.is_some()
    }

    /// Whether what waits of the list is to be taken before there are more errors.
    pub fn is_full(&self) -> bool {
        self.rows.as_ref().is_some_and(ErrorRows::is_full)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The first errors, and how many there are so far.
    pub fn as_parts(&self) -> (&[RowError], u64) {
        (&self.errors, self.count)
    }

    /// All that is known of the errors, once there are no more.
    pub fn into_rejected(mut self) -> Rejected {
        self.write(None, None, b',');
        let listing = self.rows.take().map(ErrorRows::into_lines).unwrap_or_default();
        let mut counts = Vec::new();
        for (code, columns) in self.counts {
            counts.extend(columns.into_iter().map(|(column, count)| ErrorCount {
                column: (!column.is_empty()).then_some(column),
                code,
                count,
            }));
        }
        counts.sort_by_key(|count| std::cmp::Reverse(count.count));
        Rejected { errors: self.errors, error_count: self.count, counts, listing }
    }
}

/// This many of something: `1 error`, `2 errors`.
pub fn of(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Which limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// Bytes of the header.
    HeaderBytes(usize),
    /// Characters of a field.
    FieldChars(usize),
    /// Bytes of a record.
    RecordBytes(usize),
    /// Rows of a file.
    Rows(u64),
}

/// A limit was passed, and reading stopped there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.sentence(None))]
pub struct LimitExceeded {
    /// Which one.
    pub kind: LimitKind,
    /// The physical line where the record starts.
    pub line: u64,
    /// The field's place in its record, from 0.
    pub field: usize,
    /// The line where a quote opens that is open still: perhaps nobody closes it.
    pub open_quote: Option<u64>,
}

impl LimitExceeded {
    /// What is wrong, where, and what to do; `column` is the field's, where that is known.
    pub fn sentence(&self, column: Option<&str>) -> String {
        let line = self.line;
        let what = match self.kind {
            LimitKind::HeaderBytes(most) => format!(
                "line {line}: the header has more than {}; keep only the names of columns in it, and begin a new line after the last one",
                of(most as u64, "byte")
            ),
            LimitKind::FieldChars(most) => {
                let field = match column {
                    Some(name) => format!("the value under `{}`", shortened(name, COLUMN_BYTES)),
                    None => "a value".to_owned(),
                };
                format!("line {line}: {field} has more than {}; shorten it", of(most as u64, "character"))
            }
            LimitKind::RecordBytes(most) => format!(
                "line {line}: the row that begins here has more than {}; shorten its longest values",
                of(most as u64, "byte")
            ),
            LimitKind::Rows(most) => format!(
                "line {line}: here begins a row after the first {}, which is as many as a file may have; split the file, with the header \
                 as the first line of each part",
                most
            ),
        };
        let quote = self.open_quote.map_or_else(String::new, |quote| {
            format!("; the quote that opens in line {quote} is still open there: if it has no end, close it")
        });
        what + &quote
    }
}

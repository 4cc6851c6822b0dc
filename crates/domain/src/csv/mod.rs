//! CSV, strictly: RFC 4180 as it is written, where everything else is an error with its line and column, unless a pipeline
//! declares another dialect.
//!
//! Our own parser, because the kept ones guess where an error is promised: csv-core takes text after a closing
//! quote, an unclosed quote and a bare CR for data. It reads well-formed files exactly as csv-core does (a property
//! test holds it to that). Bytes are pushed in pieces of any size; memory is bounded by one record.
//!
//! A file of another [`dialect`] is made text (`decode`), its first line shows how it is written (`opening`), and its records are
//! written anew as plain CSV (`canonical`), each in its own line: what is stored, and everything after it, knows one dialect only.
//!
//! [`parser`] splits records, [`header`] judges the first one, [`rules`] and [`formats`] judge values, [`validator`]
//! puts them together (`kind` tells files that are no CSV), [`formula`] and [`writer`] are for the way out, [`reference`] for the way back.

mod canonical;
mod decode;
pub mod dialect;
mod empties;
pub mod error;
mod error_lines;
mod error_rows;
mod error_sheet;
pub mod formats;
pub mod formula;
mod front;
pub mod header;
mod invisible;
mod judge;
mod kind;
mod line;
mod measure;
mod names;
mod opening;
pub mod parser;
pub mod record;
pub mod reference;
pub mod rules;
mod scan;
mod sentences;
mod spreadsheet;
mod unique;
pub mod validator;
pub mod writer;

pub use dialect::{Charset, DELIMITERS, Delimiter, Dialect, ExtraColumns, HeaderRules, Workbook};
pub use error::{ErrorCount, ErrorList, LimitExceeded, LimitKind, Rejected, RowError};
pub use error_lines::ErrorLines;
pub use error_rows::{ERRORS_LISTED, ErrorListing, ReferenceWriter};
pub use error_sheet::{ErrorSheet, References};
pub use formats::Format;
pub use formula::neutralise;
pub use header::{HeaderMap, REPORT_COLUMNS, ReportCells, Unreadable};
pub use invisible::shows_nothing;
pub use line::{LineReference, Repeats};
pub use parser::Parser;
pub use record::{Event, Malformed, Record};
pub use reference::{
    ColumnTag, NoReferences, ReferenceReader, RowOrigin, RowReference, Unfinished, ValuesDigest, column_tag,
    values_digest,
};
pub use rules::{Choices, Cleaning, Column, HeaderLimits, LetterCase, Limits, OURS_BYTES, Schema};
pub use spreadsheet::shown_in;
pub use unique::ROW_BYTES as UNIQUE_ROW_BYTES;
pub use validator::{Refused, Validated, Validator};
pub use writer::{encode_separated, encode_separated_value, encode_value};

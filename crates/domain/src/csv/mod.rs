//! CSV, strictly: RFC 4180 as it is written, where everything else is an error with its line and column.
//!
//! Our own parser, because the kept ones guess where an error is promised: csv-core takes text after a closing
//! quote, an unclosed quote and a bare CR for data. It reads well-formed files exactly as csv-core does (a property
//! test holds it to that). Bytes are pushed in pieces of any size; memory is bounded by one record.
//!
//! [`parser`] splits records, [`header`] judges the first one, [`rules`] and [`formats`] judge values, [`validator`]
//! puts them together (`kind` tells files that are no CSV), [`formula`] and [`writer`] are for the way out, [`reference`] for the way back.

pub mod error;
pub mod formats;
pub mod formula;
pub mod header;
mod kind;
mod line;
mod measure;
pub mod parser;
pub mod record;
pub mod reference;
pub mod rules;
mod scan;
pub mod validator;
pub mod writer;

pub use error::{ErrorList, LimitExceeded, LimitKind, RowError};
pub use formats::Format;
pub use formula::neutralise;
pub use header::{HeaderMap, REPORT_COLUMNS, ReportCells, Unreadable};
pub use line::{LineReference, Repeats};
pub use parser::{HeaderLimits, Parser};
pub use record::{Event, Malformed, Record};
pub use reference::{
    ColumnTag, NoReferences, ReferenceReader, RowOrigin, RowReference, Unfinished, ValuesDigest, column_tag,
    values_digest,
};
pub use rules::{Choices, Column, Limits, OURS_BYTES, Schema};
pub use validator::{Refused, Rejected, Validated, Validator};
pub use writer::encode_value;

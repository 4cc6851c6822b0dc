//! A whole file against a pipeline's rules, as it arrives.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::error::{ErrorList, LimitExceeded, LimitKind, RowError, of};
use super::header::{HeaderMap, MOST_REPORTED, REFERENCE, listed};
use super::kind::FileKind;
use super::line::{LineReference, ProtectedFields, Repeats};
use super::parser::Parser;
use super::record::{Event, Malformed, Record};
use super::reference::ReferenceReader;
use super::rules::{OURS_BYTES, Schema};

/// A file without an error.
#[derive(Debug)]
pub struct Validated {
    /// How to read its records.
    pub header: HeaderMap,
    /// The client's own columns that were ignored, the first of them.
    pub ignored_columns: Vec<String>,
    /// Its rows.
    pub rows: u64,
    /// Lines without a byte.
    pub blank_lines: u64,
    /// The offset of the first byte after the header.
    pub body_offset: u64,
    /// The physical line there.
    pub body_line: u64,
}

/// A file with errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The first ones.
    pub errors: Vec<RowError>,
    /// How many there are.
    pub error_count: u64,
}

/// Why a file is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It has errors.
    Errors(Rejected),
    /// Its last record passed a limit.
    Limit(RowError),
}

/// Judges a file that is pushed in pieces of any size.
#[derive(Debug)]
pub struct Validator {
    parser: Parser,
    /// The first bytes of the file, until its kind is known.
    beginning: Vec<u8>,
    judge: Judge,
}

#[derive(Debug)]
struct Judge {
    schema: Arc<Schema>,
    /// For each column of the file, its place in the schema.
    places: Vec<usize>,
    /// Reads what reports wrote into `_ref`.
    references: Arc<dyn ReferenceReader>,
    header: Option<HeaderMap>,
    ignored_columns: Vec<String>,
    header_seen: bool,
    body: (u64, u64),
    rows: u64,
    /// What the file is, when it is no CSV.
    other_kind: Option<FileKind>,
    /// Whether a line's `_ref` is none of ours.
    foreign_reference: bool,
    /// Bytes so far that a report added.
    added: u64,
    errors: ErrorList,
    limit: Option<LimitExceeded>,
}

impl Validator {
    /// A validator at the start of a file; `references` are those of the file's owner.
    pub fn new(schema: Arc<Schema>, references: Arc<dyn ReferenceReader>) -> Self {
        // Whether the file came from us is known after its header; until then the parser only bounds memory.
        let limits = schema.limits.with_ours(schema.columns.len());
        Self {
            parser: Parser::with_header(limits, schema.header_limits()),
            beginning: Vec::with_capacity(FileKind::BYTES),
            judge: Judge {
                schema,
                places: Vec::new(),
                references,
                header: None,
                ignored_columns: Vec::new(),
                header_seen: false,
                body: (0, 1),
                rows: 0,
                other_kind: None,
                foreign_reference: false,
                added: 0,
                errors: ErrorList::default(),
                limit: None,
            },
        }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// As soon as a limit is passed.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), LimitExceeded> {
        if self.judge.other_kind.is_some() {
            return Ok(());
        }
        if self.beginning.len() < FileKind::BYTES {
            let missing = FileKind::BYTES - self.beginning.len();
            self.beginning.extend_from_slice(&bytes[..bytes.len().min(missing)]);
            self.judge.other_kind = FileKind::of(&self.beginning);
            if self.judge.other_kind.is_some() {
                return Ok(());
            }
        }
        let parsed = self.parser.push(bytes, &mut |event| self.judge.take(event));
        parsed.map_err(|limit| self.judge.as_asked(limit))?;
        self.judge.limit.map_or(Ok(()), Err)
    }

    /// A limit that was passed, as an error of the file: with its column, when that is known.
    pub fn error_of(&self, limit: &LimitExceeded) -> RowError {
        self.judge.error_of(limit)
    }

    /// How many bytes more than its limit a file may have so far, because a report of ours added them.
    pub fn allowance(&self) -> u64 {
        match &self.judge.header {
            Some(header) if header.is_report() => self.judge.added + OURS_BYTES as u64,
            _ => 0,
        }
    }

    /// Whether the file is refused already; it is read on for its other errors.
    pub fn has_errors(&self) -> bool {
        self.judge.other_kind.is_some() || !self.judge.errors.is_empty()
    }

    /// The file is at its end.
    ///
    /// # Errors
    /// The file's errors, when it has any; a limit, when its last record passes one.
    pub fn finish(mut self) -> Result<Validated, Refused> {
        if let Some(kind) = self.judge.other_kind {
            let mut errors = ErrorList::default();
            errors.push(1, None, kind.code(), || kind.sentence().into());
            let (errors, error_count) = errors.into_parts();
            return Err(Refused::Errors(Rejected { errors, error_count }));
        }
        // What is left is at most one record, which passed the parser's limits when it was pushed.
        if self.parser.finish(&mut |event| self.judge.take(event)).is_err() {
            self.judge.errors.push(1, None, "record_too_large", || "a record is too large".into());
        }
        if let Some(limit) = &self.judge.limit {
            return Err(Refused::Limit(self.judge.error_of(limit)));
        }
        let mut judge = self.judge;
        let named = judge.ignored_columns.len() >= MOST_REPORTED
            || judge.ignored_columns.iter().any(|name| name == REFERENCE);
        if judge.foreign_reference && !named {
            judge.ignored_columns.push(REFERENCE.to_owned());
        }
        if !judge.header_seen {
            judge.errors.push(1, None, "header_missing", || {
                format!("the file is empty; its first line must name the columns: {}", listed(&judge.schema))
            });
        } else if judge.errors.is_empty() && judge.rows == 0 {
            judge.errors.push(judge.body.1, None, "no_rows", || "the file has a header and no rows".into());
        }
        match judge.header {
            Some(header) if judge.errors.is_empty() => Ok(Validated {
                header,
                ignored_columns: judge.ignored_columns,
                rows: judge.rows,
                blank_lines: self.parser.blank_lines(),
                body_offset: judge.body.0,
                body_line: judge.body.1,
            }),
            _ => {
                let (errors, error_count) = judge.errors.into_parts();
                Err(Refused::Errors(Rejected { errors, error_count }))
            }
        }
    }
}

impl Judge {
    fn take(&mut self, event: Event<'_>) -> ControlFlow<()> {
        match event {
            Event::Record(record) if !self.header_seen => self.take_header(&record),
            Event::Record(record) => return self.take_row(&record),
            Event::Malformed(fault) => {
                let first = !std::mem::replace(&mut self.header_seen, true);
                // After a header with errors rows cannot be judged, but a fault of the header itself is reported.
                if first || self.header.is_some() {
                    self.take_fault(&fault);
                }
                // Rows they are all the same: a file of nothing but faults ends at its limit as well.
                if !first {
                    return self.count_row(fault.line);
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn take_header(&mut self, record: &Record<'_>) {
        self.header_seen = true;
        self.body = (record.end, record.next_line);
        let read = HeaderMap::read(record, &self.schema, &mut self.errors);
        if let Some((header, ignored)) = read {
            self.added = header.added(record, &ProtectedFields::default()) as u64;
            self.ignored_columns = ignored;
            self.places = header
                .columns()
                .iter()
                .filter_map(|name| self.schema.columns.iter().position(|column| column.name == *name))
                .collect();
            self.header = Some(header);
        }
    }

    fn take_row(&mut self, record: &Record<'_>) -> ControlFlow<()> {
        self.count_row(record.line)?;
        let Some(header) = &self.header else { return ControlFlow::Continue(()) };
        if record.len() != header.fields() {
            self.errors.push(record.line, None, "field_count", || field_count(record.len(), header.fields()));
            return ControlFlow::Continue(());
        }
        let reference = header.reference(record, self.references.as_ref());
        match reference {
            LineReference::Changed => {
                self.errors
                    .push(record.line, Some(REFERENCE), "changed_reference", || CHANGED_REFERENCE.into());
            }
            LineReference::Foreign => self.foreign_reference = true,
            LineReference::Absent | LineReference::Ours(_) => {}
        }
        let line = reference.into_line();
        if let Some(repeats) = line.repeats {
            let (code, why) = repeated(repeats);
            self.errors.push(record.line, Some(REFERENCE), code, || why.into());
        }
        let protected = line.protected;
        let added = header.added(record, &protected);
        self.added += added as u64;
        self.limit = header.exceeded(record, &protected, added, &self.schema.limits);
        if self.limit.is_some() {
            return ControlFlow::Break(());
        }
        header.each_value(record, &protected, |place, value| {
            self.schema.columns[self.places[place]].judge(value, record.line, &mut self.errors);
        });
        ControlFlow::Continue(())
    }

    fn count_row(&mut self, line: u64) -> ControlFlow<()> {
        self.rows += 1;
        let most = self.schema.limits.max_rows;
        if self.rows > most {
            self.limit = Some(LimitExceeded { kind: LimitKind::Rows(most), line, field: 0 });
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// A limit of the parser's, which are wider, as the one that the pipeline asks for.
    fn as_asked(&self, limit: LimitExceeded) -> LimitExceeded {
        let asked = &self.schema.limits;
        let kind = match limit.kind {
            header @ LimitKind::HeaderBytes(_) => header,
            LimitKind::FieldChars(_) => LimitKind::FieldChars(asked.max_field_chars),
            LimitKind::RecordBytes(_) => LimitKind::RecordBytes(asked.max_record_bytes),
            LimitKind::Rows(_) => LimitKind::Rows(asked.max_rows),
        };
        LimitExceeded { kind, ..limit }
    }

    fn error_of(&self, limit: &LimitExceeded) -> RowError {
        let (code, in_column) = match limit.kind {
            LimitKind::HeaderBytes(_) => ("header_too_large", false),
            LimitKind::FieldChars(_) => ("field_too_large", true),
            LimitKind::RecordBytes(_) => ("record_too_large", false),
            LimitKind::Rows(_) => ("too_many_rows", false),
        };
        let header = self.header.as_ref().filter(|_| in_column);
        RowError {
            line: limit.line,
            column: header.and_then(|header| header.column_of(limit.field)).map(str::to_owned),
            code,
            message: limit.to_string(),
        }
    }

    fn take_fault(&mut self, fault: &Malformed) {
        let column = self.header.as_ref().and_then(|header| header.column_of(fault.field));
        let fields = self.header.as_ref().map_or(0, HeaderMap::fields);
        self.errors.push(fault.line, column, fault.code, || match fault.code {
            "text_after_quote" => "text stands between a closing quote and the next comma; double quotes inside a \
                                   quoted field, and leave no blanks around it"
                .into(),
            "quote_in_unquoted_field" => {
                "a quote stands inside a field that does not begin with one; quote the whole field and double the quote".into()
            }
            "unclosed_quote" => format!("the quote that opens in line {} is never closed", fault.at_line),
            "bare_cr" => "a carriage return stands without a line feed; end lines with LF or CRLF".into(),
            "field_count" => field_count(fault.field, fields),
            "too_many_columns" => {
                format!("the header has {}; the columns are: {}", of(fault.field as u64, "column"), listed(&self.schema))
            }
            "nul_byte" => "the record holds a NUL byte; remove it".into(),
            _ => "the record is not valid UTF-8; save the file as UTF-8".into(),
        });
    }
}

/// Why a line cannot be taken with a reference that was cut or changed.
const CHANGED_REFERENCE: &str = "the cell under `_ref` is not as the report had it, so it is unknown which apostrophes the report put before \
     cells; copy it from the report again, or take the column out if all apostrophes are meant";

/// Why a line that would repeat an effect is not taken: its code, and a sentence.
fn repeated(repeats: Repeats) -> (&'static str, &'static str) {
    match repeats {
        Repeats::Changed => (
            "changed_after_effect",
            "the line's values were changed, but its row may have had its effect at the API before, and would have it a second time \
             under another idempotency key; upload the line as the report had it, retry the row in its batch, or, when you know that \
             a second time is right, empty the cell under `_ref`",
        ),
        Repeats::Unkeyed => (
            "effect_without_key",
            "the line's row may have had its effect at the API before, and its call has no idempotency key by which the API would know \
             it again; ask the API what became of it, retry the row in its batch, or, when you know that a second time is right, empty \
             the cell under `_ref`",
        ),
    }
}

fn field_count(fields: usize, of_header: usize) -> String {
    format!("the line has {} and the header {of_header}", of(fields as u64, "field"))
}

//! The records of a file, judged one by one.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::canonical::Canonical;
use super::decode::DecodeFault;
use super::dialect::{DELIMITERS, Delimiter, Grammar};
use super::empties::EmptyRows;
use super::error::{ErrorList, LimitExceeded, LimitKind, Rejected, RowError};
use super::header::{HeaderMap, REFERENCE, wrong_delimiter};
use super::kind::FileKind;
use super::line::{LineReference, ProtectedFields};
use super::record::{Event, Malformed, Record};
use super::reference::ReferenceReader;
use super::rules::Schema;
use super::sentences;
use super::unique::Unique;

/// Judges a header and the rows after it.
#[derive(Debug)]
pub(super) struct Judge {
    pub schema: Arc<Schema>,
    /// For each column of the file, its place in the schema; none: the pipeline does not have it.
    places: Vec<Option<usize>>,
    /// Reads what reports wrote into `_ref`.
    references: Arc<dyn ReferenceReader>,
    pub header: Option<HeaderMap>,
    pub ignored_columns: Vec<String>,
    pub header_seen: bool,
    pub body: (u64, u64),
    pub rows: u64,
    /// What the file is, when it is no CSV.
    pub other_kind: Option<FileKind>,
    /// Whether a line's `_ref` is none of ours.
    pub foreign_reference: bool,
    /// Bytes so far that a report added.
    pub added: u64,
    pub errors: ErrorList,
    pub limit: Option<LimitExceeded>,
    /// The file in plain CSV, when it is in another dialect.
    pub written: Option<Canonical>,
    grammar: Grammar,
    /// Rows without a value, until it is known whether they end the file.
    empties: EmptyRows,
    unique: Option<Unique>,
    /// The hashes of the values that may stand once in a file, of the row that is judged.
    once: Vec<u64>,
}

impl Judge {
    pub fn new(schema: Arc<Schema>, references: Arc<dyn ReferenceReader>) -> Self {
        Self {
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
            written: (!schema.dialect.is_plain()).then(Canonical::new),
            grammar: Grammar::default(),
            empties: EmptyRows::default(),
            unique: (!schema.unique.is_empty()).then(Unique::new),
            once: Vec::new(),
            schema,
        }
    }

    /// The file's grammar is known.
    pub fn read_as(&mut self, grammar: Grammar) {
        self.grammar = grammar;
    }

    /// Whether the file is refused already.
    pub fn has_errors(&self) -> bool {
        self.other_kind.is_some() || !self.errors.is_empty()
    }

    /// Writes the empty lines up to the record under way, or up to the first of the empty rows before it: they never pile up.
    pub fn catch_up(&mut self, record_line: u64) {
        let line = self.empties.first().unwrap_or(record_line);
        if self.errors.is_empty()
            && let Some(written) = &mut self.written
        {
            written.move_to(line);
        }
    }

    pub fn take(&mut self, event: Event<'_>) -> ControlFlow<()> {
        let judged = self.judge(event);
        let record = match &event {
            Event::Record(record) => Some(record),
            Event::Malformed(_) => None,
        };
        self.errors.write(self.header.as_ref(), record, self.grammar.delimiter);
        judged
    }

    fn judge(&mut self, event: Event<'_>) -> ControlFlow<()> {
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
            let place = |name: &String| self.schema.columns.iter().position(|column| column.name == *name);
            self.places = header.columns().iter().map(place).collect();
            if let Some(written) = &mut self.written {
                written.record(record, header.fields(), self.grammar.delimiter);
                self.body = written.place();
            }
            self.header = Some(header.separated_by(self.grammar.delimiter));
        }
    }

    fn take_row(&mut self, record: &Record<'_>) -> ControlFlow<()> {
        if self.grammar.spare_fields && self.header.is_some() {
            if record.values().all(|value| value.is_empty()) {
                self.empties.note(record.line);
                return ControlFlow::Continue(());
            }
            self.take_empty_rows()?;
        }
        self.count_row(record.line)?;
        let Some(header) = self.header.take() else { return ControlFlow::Continue(()) };
        let judged = self.judge_row(&header, record);
        self.header = Some(header);
        judged
    }

    fn judge_row(&mut self, header: &HeaderMap, record: &Record<'_>) -> ControlFlow<()> {
        if !self.has_fields(record, header.fields()) {
            self.errors.push(record.line, None, "field_count", || {
                sentences::line_fields(record, header.fields(), self.grammar.delimiter, &self.schema.dialect)
            });
            return ControlFlow::Continue(());
        }
        if self.grammar.spare_fields && header.is_repeated(record, &self.schema.dialect.header) {
            self.errors.push(record.line, None, "header_again", || sentences::HEADER_AGAIN.into());
            return ControlFlow::Continue(());
        }
        let reference = header.reference(record, self.references.as_ref());
        match reference {
            LineReference::Changed => {
                self.errors.push(record.line, Some(REFERENCE), "changed_reference", || {
                    sentences::CHANGED_REFERENCE.into()
                });
            }
            LineReference::Foreign => self.foreign_reference = true,
            LineReference::Absent | LineReference::Ours(_) => {}
        }
        let line = reference.into_line();
        if let Some(repeats) = line.repeats {
            let (code, why) = sentences::repeated(repeats);
            self.errors.push(record.line, Some(REFERENCE), code, || why.into());
        }
        let protected = line.protected;
        let added = header.added(record, &protected);
        self.added += added as u64;
        self.limit = header.exceeded(record, &protected, added, &self.schema.limits);
        if self.limit.is_some() {
            return ControlFlow::Break(());
        }
        self.begin_once();
        header.each_value(record, &protected, |place, value| self.judge_value(place, value, record.line));
        self.end_once(record.line);
        if self.errors.is_empty()
            && let Some(written) = &mut self.written
        {
            written.record(record, header.fields(), self.grammar.delimiter);
        }
        ControlFlow::Continue(())
    }

    /// Whether a record has the header's fields; where a file's dialect is found out, empty ones after them do not count.
    fn has_fields(&self, record: &Record<'_>, fields: usize) -> bool {
        record.len() == fields
            || (self.grammar.spare_fields
                && record.len() > fields
                && (fields..record.len()).all(|field| record.width(field) == 0))
    }

    fn judge_value(&mut self, place: usize, value: &str, line: u64) {
        let Some(place) = self.places[place] else { return };
        let schema = self.schema.clone();
        let column = &schema.columns[place];
        let clean = column.cleaning.apply(value);
        column.judge(&clean, line, &mut self.errors);
        if let Some(unique) = &self.unique
            && let Some(once) = schema.unique.iter().position(|one| *one == place)
        {
            self.once[once] = if clean.is_empty() { 0 } else { unique.hash(&clean).max(1) };
        }
    }

    fn begin_once(&mut self) {
        if self.unique.is_some() {
            self.once.clear();
            self.once.resize(self.schema.unique.len(), 0);
        }
    }

    /// Whether another line has the row's values; a row without any of them is like no other.
    fn end_once(&mut self, line: u64) {
        let Some(unique) = &mut self.unique else { return };
        if self.once.iter().all(|hash| *hash == 0) {
            return;
        }
        if let Some(first) = unique.note(&self.once, line) {
            let columns = self.schema.unique.iter().map(|place| self.schema.columns[*place].name.as_str());
            let column = self.schema.unique.first().map(|place| self.schema.columns[*place].name.as_str());
            self.errors.push(line, column, "not_unique", || sentences::not_unique(columns, first, line));
        }
    }

    /// The empty rows before this one do not end the file: they are rows as others are.
    fn take_empty_rows(&mut self) -> ControlFlow<()> {
        if self.empties.first().is_none() {
            return ControlFlow::Continue(());
        }
        let empties = std::mem::take(&mut self.empties);
        let fields = self.header.as_ref().map_or(0, HeaderMap::fields);
        if let Some(first) = empties.too_many() {
            self.errors.push(first, None, "empty_rows", || sentences::EMPTY_ROWS.into());
        }
        for line in empties.lines() {
            self.count_row(line)?;
            self.begin_once();
            for place in 0..self.places.len() {
                self.judge_value(place, "", line);
            }
            self.end_once(line);
            if self.errors.is_empty()
                && let Some(written) = &mut self.written
            {
                written.empty(line, fields);
            }
        }
        ControlFlow::Continue(())
    }

    fn count_row(&mut self, line: u64) -> ControlFlow<()> {
        self.rows += 1;
        let most = self.schema.limits.max_rows;
        if self.rows > most {
            self.limit =
                Some(LimitExceeded { kind: LimitKind::Rows(most), line, field: 0, open_quote: None });
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// A limit of the parser's, which are wider, as the one that the pipeline asks for.
    pub fn as_asked(&self, limit: LimitExceeded) -> LimitExceeded {
        let asked = &self.schema.limits;
        let kind = match limit.kind {
            header @ LimitKind::HeaderBytes(_) => header,
            LimitKind::FieldChars(_) => LimitKind::FieldChars(asked.max_field_chars),
            LimitKind::RecordBytes(_) => LimitKind::RecordBytes(asked.max_record_bytes),
            LimitKind::Rows(_) => LimitKind::Rows(asked.max_rows),
        };
        LimitExceeded { kind, ..limit }
    }

    pub fn error_of(&self, limit: &LimitExceeded) -> RowError {
        let (code, in_column) = match limit.kind {
            LimitKind::HeaderBytes(_) => ("header_too_large", false),
            LimitKind::FieldChars(_) => ("field_too_large", true),
            LimitKind::RecordBytes(_) => ("record_too_large", false),
            LimitKind::Rows(_) => ("too_many_rows", false),
        };
        let header = self.header.as_ref().filter(|_| in_column);
        let column = header.and_then(|header| header.column_of(limit.field));
        RowError {
            line: limit.line,
            column: column.map(str::to_owned),
            code,
            message: limit.sentence(column),
        }
    }

    /// The errors that were found, after which nothing is read.
    pub fn rejected(&mut self) -> Rejected {
        self.errors.write(self.header.as_ref(), None, self.grammar.delimiter);
        std::mem::take(&mut self.errors).into_rejected()
    }

    /// Characters of a line could not be read.
    pub fn take_decode_fault(&mut self, line: u64, fault: DecodeFault) {
        let code = match fault {
            DecodeFault::Invalid(_) => "invalid_encoding",
            DecodeFault::Mixed => "mixed_encoding",
        };
        self.errors.push(line, None, code, || sentences::decode_fault(fault));
    }

    fn take_fault(&mut self, fault: &Malformed) {
        let column = self.header.as_ref().and_then(|header| header.column_of(fault.field));
        let fields = self.header.as_ref().map_or(0, HeaderMap::fields);
        let declared = match self.schema.dialect.delimiter {
            Delimiter::Is(declared) => Some(declared),
            Delimiter::Auto => None,
        };
        let other = fault.byte.filter(|byte| self.header.is_none() && DELIMITERS.contains(byte));
        self.errors.push(fault.line, column, fault.code, || match (declared.zip(other), fault.code) {
            (Some((declared, found)), "text_after_quote") => wrong_delimiter(found, declared),
            (_, "field_count") if let Some(delimiter) = fault.byte => {
                sentences::trailing(fault.field, fields, delimiter)
            }
            (_, "field_count") => {
                let (delimiter, first) = (self.grammar.delimiter, self.rows == 0);
                sentences::field_count(fault.field, fields, delimiter, &self.schema.dialect, first)
            }
            _ => sentences::fault(fault, &self.schema),
        });
    }
}

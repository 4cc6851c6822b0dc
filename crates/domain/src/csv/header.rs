//! The header, and what it makes of the records after it.

mod read;

pub(super) use read::wrong_delimiter;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::dialect::HeaderRules;
use super::error::{LimitExceeded, LimitKind};
use super::formula::{may_begin, neutralise};
use super::line::ProtectedFields;
use super::names::own;
use super::parser::Parser;
use super::record::{Event, Record};
use super::reference::{ColumnTag, ReferenceReader, RowOrigin, ValuesDigest, column_tag, values_digest};
use super::rules::{Cleaning, Limits, Schema};
use super::spreadsheet::survive;
use super::writer::{encode_record, encode_separated, encode_value};

/// Columns that begin so and that the pipeline does not declare are ignored by an upload.
const IGNORED: char = '_';

/// The columns that a report adds, which no pipeline can declare; [`REFERENCE`] is one of them.
pub const REPORT_COLUMNS: [&str; 5] = ["_row", "_status", "_code", "_message", REFERENCE];

/// The column of a line's [`super::RowReference`].
pub(super) const REFERENCE: &str = "_ref";

/// Columns that show that a file is a report, whose own columns do not count against the limits.
const MARKS: [&str; 3] = ["_row", "_status", REFERENCE];

/// The most names of ignored columns that are reported.
pub(super) const MOST_REPORTED: usize = 100;

/// What is kept of a file's header: how to read its records, and the rows stored from them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderMap {
    /// The client's columns in the file's order, without ours: those that the pipeline has by its own names, others as the file has them.
    pub(super) columns: Vec<String>,
    /// The same in the client's words, where they are other ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    written: Option<Vec<String>>,
    /// Which of them the pipeline does not have; reports give them back, and nobody else reads them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    extra: Vec<usize>,
    /// What separated columns in the client's file, when it is no comma.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delimiter: Option<char>,
    /// Which fields of a record they are, in ascending order; none: all. Never an empty list, which older programs read as all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kept: Option<Vec<usize>>,
    /// How many fields a record has.
    fields: usize,
    /// Whether the file was made of a sheet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    of_sheet: bool,
    /// Whether the file is a report that is uploaded again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    report: bool,
    /// The field with each line's reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reference: Option<usize>,
    /// Whether it has another column that only a report has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) other_marks: bool,
}

/// A stored record as a report shows it.
#[derive(Debug)]
pub struct ReportCells<'a> {
    /// The cells, as CSV.
    pub cells: Cow<'a, [u8]>,
    /// The columns of those that got an apostrophe.
    pub protected: Vec<ColumnTag>,
}

/// A stored row that cannot be read again.
#[derive(Debug, thiserror::Error)]
#[error("the stored record is not one with {0} fields")]
pub struct Unreadable(usize);

impl HeaderMap {
    /// The client's columns, in the file's order.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The same in the client's own words, for a report.
    pub fn written(&self) -> &[String] {
        self.written.as_deref().unwrap_or(&self.columns)
    }

    /// What separates columns in the client's files, for a report.
    pub fn delimiter(&self) -> u8 {
        self.delimiter.and_then(|delimiter| u8::try_from(delimiter).ok()).unwrap_or(b',')
    }

    /// The same header of a file that uses that delimiter.
    #[must_use]
    pub fn separated_by(mut self, delimiter: u8) -> Self {
        self.delimiter = (delimiter != b',').then(|| char::from(delimiter));
        self
    }

    /// The client's column that a field of a record is.
    pub fn column_of(&self, field: usize) -> Option<&str> {
        let place = match &self.kept {
            None => Some(field),
            Some(kept) => kept.binary_search(&field).ok(),
        };
        place.and_then(|place| self.columns.get(place)).map(String::as_str)
    }

    /// A column's cell in a record of the file, as it stands there; empty where the record is too short.
    pub(super) fn raw_value<'r>(&self, place: usize, record: &Record<'r>) -> Cow<'r, str> {
        self.field_of(place).and_then(|field| record.get(field)).unwrap_or_default()
    }

    /// Whether a record is the header again, as these rules compare names; one of a single column may be a value as well.
    pub(super) fn is_repeated(&self, record: &Record<'_>, rules: &HeaderRules) -> bool {
        let names = self.written();
        let is_name = |(place, name): (usize, &String)| {
            let value = self.raw_value(place, record);
            let value = value.trim_start_matches('\u{FEFF}');
            let value = if self.report { own(value) } else { Cow::Borrowed(value) };
            rules.compared(&value) == rules.compared(name)
        };
        names.len() > 1 && names.iter().enumerate().all(is_name)
    }

    /// What stands in the `_ref` of a record; none where the file has no such column.
    pub(super) fn reference_of<'r>(&self, record: &Record<'r>) -> Option<Cow<'r, str>> {
        self.reference.and_then(|field| record.get(field))
    }

    /// Where a column's value stands in a record.
    fn field_of(&self, place: usize) -> Option<usize> {
        match &self.kept {
            None => Some(place),
            Some(kept) => kept.get(place).copied(),
        }
    }

    /// How many fields a record has.
    pub fn fields(&self) -> usize {
        self.fields
    }

    /// Whether the file was made of a sheet, whose rows are its lines ([`Parser::of_sheet`]).
    pub fn is_of_sheet(&self) -> bool {
        self.of_sheet
    }

    /// Whether the file is a report that is uploaded again.
    pub fn is_report(&self) -> bool {
        self.report
    }

    /// How many bytes of a record a report added: its columns, and apostrophes before cells.
    pub(super) fn added(&self, record: &Record<'_>, protected: &ProtectedFields) -> usize {
        if !self.report {
            return 0;
        }
        let ignored = (0..record.len()).filter(|field| self.column_of(*field).is_none());
        // What a value takes in the file, in quotes or not, and what its own text would take.
        let grown = protected.0.iter().filter_map(|field| {
            let value = record.get(*field)?;
            Some(record.width(*field).saturating_sub(width_of(&protected.restored(*field, &value))))
        });
        ignored.map(|field| record.width(field) + 1).sum::<usize>() + grown.sum::<usize>()
    }

    /// The limit that a record passes, if it does; `added` is what [`HeaderMap::added`] says of it. Of a report that is uploaded
    /// again the client's own part counts, as it was before: what was accepted once is accepted again.
    pub(super) fn exceeded(
        &self,
        record: &Record<'_>,
        protected: &ProtectedFields,
        added: usize,
        limits: &Limits,
    ) -> Option<LimitExceeded> {
        let passed = |kind, field| Some(LimitExceeded { kind, line: record.line, field, open_quote: None });
        if record.raw.len().saturating_sub(added) > limits.max_record_bytes {
            return passed(LimitKind::RecordBytes(limits.max_record_bytes), 0);
        }
        let most = limits.max_field_chars;
        // Bytes bound characters, so most fields need no counting.
        let wide = (0..record.len()).filter(|field| record.width(*field) > most);
        for field in wide {
            let Some(value) = record.get(field) else { continue };
            if self.report && self.column_of(field).is_none() {
                continue;
            }
            let value = protected.restored(field, &value);
            if value.chars().count() > most {
                return passed(LimitKind::FieldChars(most), field);
            }
        }
        None
    }

    /// Calls `each` with the column's place in [`HeaderMap::columns`] and its value.
    pub fn each_value(
        &self,
        record: &Record<'_>,
        protected: &ProtectedFields,
        mut each: impl FnMut(usize, &str),
    ) {
        for place in 0..self.columns.len() {
            if let Some(field) = self.field_of(place)
                && let Some(value) = record.get(field)
            {
                each(place, &protected.restored(field, &value));
            }
        }
    }

    /// Appends what is stored of a record: its own bytes, or, when something of it is ignored or taken back, the
    /// remaining values written anew. Behind them stands the row whose idempotency keys it keeps, if there is one.
    pub fn payload(&self, record: &Record<'_>, references: &dyn ReferenceReader, out: &mut Vec<u8>) {
        if self.kept.is_none() {
            out.extend_from_slice(record.raw.as_bytes());
            return;
        }
        let line = self.reference(record, references).into_line();
        let mut values: Vec<String> = Vec::with_capacity(self.columns.len() + 1);
        self.each_value(record, &line.protected, |_, value| values.push(value.to_owned()));
        values.extend(line.origin.map(RowOrigin::to_text));
        encode_record(values.iter().map(String::as_str), out);
    }

    /// The values of a stored record by column, as templates read them; columns of the schema that the file leaves out are as if
    /// they were empty there.
    ///
    /// # Errors
    /// When it is not what [`HeaderMap::payload`] stored.
    pub fn values(&self, payload: &[u8], schema: &Schema) -> Result<BTreeMap<String, String>, Unreadable> {
        let mut values = empty_values(schema);
        for (place, value) in self.cells(payload)?.into_iter().enumerate() {
            if !self.is_extra(place) {
                values.insert(self.columns[place].clone(), value);
            }
        }
        for column in schema.columns.iter().filter(|column| column.cleaning != Cleaning::default()) {
            if let Some(value) = values.get_mut(&column.name) {
                *value = column.cleaning.apply(value).into_owned();
            }
        }
        Ok(values)
    }

    fn is_extra(&self, place: usize) -> bool {
        self.extra.binary_search(&place).is_ok()
    }

    /// The same as the client wrote them, with the columns that only the file has. Of those some may have one name: the second one
    /// has ` (2)` behind it, and so on.
    ///
    /// # Errors
    /// When it is not what [`HeaderMap::payload`] stored.
    pub fn own_values(
        &self,
        payload: &[u8],
        schema: &Schema,
    ) -> Result<BTreeMap<String, String>, Unreadable> {
        let (mut values, mut numbers) = (empty_values(schema), HashMap::new());
        for (place, value) in self.cells(payload)?.into_iter().enumerate() {
            let column = &self.columns[place];
            let mut name = column.clone();
            // The numbers that are taken are counted once for each name.
            let number = numbers.entry(column.as_str()).or_insert(1_u32);
            while self.is_extra(place) && values.contains_key(&name) {
                *number += 1;
                name = format!("{column} ({number})");
            }
            values.insert(name, value);
        }
        Ok(values)
    }

    /// The row whose idempotency keys a stored record keeps; none: it has its own.
    ///
    /// # Errors
    /// When it is not what [`HeaderMap::payload`] stored.
    pub fn origin(&self, payload: &[u8]) -> Result<Option<RowOrigin>, Unreadable> {
        if self.reference.is_none() {
            return Ok(None);
        }
        let Some(text) = self.stored(payload)?.1 else { return Ok(None) };
        RowOrigin::from_text(&text).map(Some).ok_or(Unreadable(self.columns.len()))
    }

    /// The digest of a stored record's values, of a row with this identity.
    ///
    /// # Errors
    /// When it is not what [`HeaderMap::payload`] stored.
    pub fn digest(&self, payload: &[u8], origin: RowOrigin) -> Result<ValuesDigest, Unreadable> {
        let cells = self.cells(payload)?;
        let columns = self.columns.iter().map(String::as_str);
        Ok(values_digest(origin, columns.zip(cells.iter().map(String::as_str))))
    }

    /// The stored record as a report shows it: its own bytes, unless the client's file has another delimiter, a spreadsheet would
    /// take one of its cells for a formula, or something else is stored beside them; then it is written anew.
    ///
    /// # Errors
    /// When it is not what [`HeaderMap::payload`] stored.
    pub fn report_cells<'a>(&self, payload: &'a [u8]) -> Result<ReportCells<'a>, Unreadable> {
        let (cells, origin) = self.stored(payload)?;
        let own = self.delimiter() == b',' && origin.is_none();
        if own && !payload.iter().any(|byte| may_begin(*byte)) {
            return Ok(ReportCells { cells: Cow::Borrowed(payload), protected: Vec::new() });
        }
        Ok(self.shown(own.then_some(payload), &cells, neutralise))
    }

    /// The same for a spreadsheet, which changes nothing of it when it opens and saves the file.
    ///
    /// # Errors
    /// When it is not what [`HeaderMap::payload`] stored.
    pub fn spreadsheet_cells<'a>(&self, payload: &'a [u8]) -> Result<ReportCells<'a>, Unreadable> {
        let (cells, origin) = self.stored(payload)?;
        let own = self.delimiter() == b',' && origin.is_none();
        Ok(self.shown(own.then_some(payload), &cells, survive))
    }

    /// The cells as `show` makes them; `own`: the bytes that stand for them when it changes none.
    fn shown<'a>(
        &self,
        own: Option<&'a [u8]>,
        cells: &[String],
        show: fn(&str) -> Cow<'_, str>,
    ) -> ReportCells<'a> {
        let safe: Vec<_> = cells.iter().map(|cell| show(cell)).collect();
        let changed = self.columns.iter().zip(&safe).filter(|(_, safe)| matches!(safe, Cow::Owned(_)));
        let protected: Vec<ColumnTag> = changed.map(|(name, _)| tag_of(name)).collect();
        if let Some(own) = own.filter(|_| protected.is_empty()) {
            return ReportCells { cells: Cow::Borrowed(own), protected };
        }
        let mut out = Vec::new();
        encode_separated(safe.iter().map(|cell| cell.as_ref()), self.delimiter(), &mut out);
        ReportCells { cells: Cow::Owned(out), protected }
    }

    /// A record of empty cells, for a row that cannot be read.
    pub fn empty(&self) -> Vec<u8> {
        let mut out = Vec::new();
        encode_separated(self.columns.iter().map(|_| ""), self.delimiter(), &mut out);
        out
    }

    fn cells(&self, payload: &[u8]) -> Result<Vec<String>, Unreadable> {
        self.stored(payload).map(|(cells, _)| cells)
    }

    /// The cells of a stored record, and what of a line of a report is stored behind them.
    fn stored(&self, payload: &[u8]) -> Result<(Vec<String>, Option<String>), Unreadable> {
        // A stored record has no byte order mark; an offset other than 0 keeps the parser from looking for one.
        let mut parser = Parser::resume_at(Limits::NONE, 1, 1);
        let mut cells = None;
        let mut take = |event: Event<'_>| {
            if let Event::Record(record) = event {
                cells = Some(record.values().map(|value| value.into_owned()).collect::<Vec<String>>());
            }
            ControlFlow::Break(())
        };
        let read = parser.push(payload, &mut take).and_then(|()| parser.finish(&mut take));
        let unreadable = Unreadable(self.columns.len());
        let (Ok(()), Some(mut cells)) = (read, cells) else { return Err(unreadable) };
        let is_longer = self.reference.is_some() && cells.len() == self.columns.len() + 1;
        let origin = if is_longer { cells.pop() } else { None };
        if cells.len() == self.columns.len() { Ok((cells, origin)) } else { Err(unreadable) }
    }
}

fn empty_values(schema: &Schema) -> BTreeMap<String, String> {
    schema.columns.iter().map(|column| (column.name.clone(), String::new())).collect()
}

/// The tag of a column in the file and in its report, where a name that a spreadsheet would run has an apostrophe.
pub(super) fn tag_of(name: &str) -> ColumnTag {
    column_tag(&neutralise(name))
}

/// Bytes of a value as a field.
fn width_of(value: &str) -> usize {
    let mut out = Vec::with_capacity(value.len() + 2);
    encode_value(value, &mut out);
    out.len()
}

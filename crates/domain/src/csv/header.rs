//! The header, and what it makes of the records after it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::error::{COLUMN_BYTES, ErrorList, LimitExceeded, LimitKind, shortened, some_of};
use super::formula::{may_begin, neutralise, restore};
use super::line::ProtectedFields;
use super::parser::Parser;
use super::record::{Event, Record};
use super::reference::{ColumnTag, ReferenceReader, RowOrigin, ValuesDigest, column_tag, values_digest};
use super::rules::{Limits, Schema};
use super::writer::encode_record;

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
    /// The client's columns in the file's order, without ours.
    pub(super) columns: Vec<String>,
    /// Which fields of a record they are, in ascending order; none: all. Never an empty list, which older programs read as all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kept: Option<Vec<usize>>,
    /// How many fields a record has.
    fields: usize,
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

/// The first column that the schema has before the one in front of it.
fn first_out_of_order<'a>(columns: &'a [String], schema: &Schema) -> Option<&'a str> {
    let places: Vec<usize> = columns
        .iter()
        .filter_map(|name| schema.columns.iter().position(|column| column.name == *name))
        .collect();
    let at = places.windows(2).position(|pair| pair[0] > pair[1])?;
    Some(&columns[at + 1])
}

impl HeaderMap {
    /// Judges a header; none when it has errors. Also gives the names of columns that are ignored.
    pub fn read(record: &Record<'_>, schema: &Schema, errors: &mut ErrorList) -> Option<(Self, Vec<String>)> {
        let names: Vec<String> = record.values().map(|value| value.into_owned()).collect();
        let line = record.line;
        let mut columns: Vec<String> = Vec::new();
        let mut kept = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let declared = schema.columns.iter().any(|column| column.name == *name);
            if name.starts_with(IGNORED) && !declared {
                continue;
            }
            if !declared {
                errors.push(line, Some(name), "unknown_column", || unknown(name, schema));
            } else if columns.contains(name) {
                errors.push(line, Some(name), "duplicate_column", || {
                    format!(
                        "`{}` stands more than once in the header; keep one of them",
                        shortened(name, COLUMN_BYTES)
                    )
                });
            }
            columns.push(name.clone());
            kept.push(index);
        }
        for column in
            schema.columns.iter().filter(|column| column.required && !columns.contains(&column.name))
        {
            errors.push(line, Some(&column.name), "missing_column", || {
                format!("the column `{}` is missing from the header", column.name)
            });
        }
        // A row without a single value has nothing to store, and nothing to read back.
        if columns.is_empty() && errors.is_empty() {
            errors.push(line, None, "missing_column", || {
                format!("the header names no column of the pipeline; the columns are: {}", listed(schema))
            });
        }
        if !errors.is_empty() {
            return None;
        }
        if schema.ordered
            && let Some(name) = first_out_of_order(&columns, schema)
        {
            errors.push(line, Some(name), "column_order", || {
                format!("the columns must stand in this order: {}", listed(schema))
            });
            return None;
        }
        let all = kept.len() == names.len();
        let ignored = ignored(&names, &columns);
        let header = Self {
            columns,
            kept: if all { None } else { Some(kept) },
            fields: names.len(),
            report: names.iter().any(|name| MARKS.contains(&name.as_str())),
            reference: names.iter().position(|name| name == REFERENCE),
            other_marks: names.iter().any(|name| name != REFERENCE && MARKS.contains(&name.as_str())),
        };
        Some((header, ignored))
    }

    /// The client's columns, in the file's order.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The client's column that a field of a record is.
    pub fn column_of(&self, field: usize) -> Option<&str> {
        let place = match &self.kept {
            None => Some(field),
            Some(kept) => kept.binary_search(&field).ok(),
        };
        place.and_then(|place| self.columns.get(place)).map(String::as_str)
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
        let apostrophes = protected.0.iter().filter_map(|field| record.get(*field));
        ignored.map(|field| record.width(field) + 1).sum::<usize>()
            + apostrophes.map(|value| value.len() - restore(&value).len()).sum::<usize>()
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
        let passed = |kind, field| Some(LimitExceeded { kind, line: record.line, field });
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
                each(place, protected.restored(field, &value));
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

    /// The values of a stored record by column; columns of the schema that the file leaves out are empty.
    ///
    /// # Errors
    /// When it is not what [`HeaderMap::payload`] stored.
    pub fn values(&self, payload: &[u8], schema: &Schema) -> Result<BTreeMap<String, String>, Unreadable> {
        let mut values: BTreeMap<String, String> =
            schema.columns.iter().map(|column| (column.name.clone(), String::new())).collect();
        for (column, value) in self.columns.iter().zip(self.cells(payload)?) {
            values.insert(column.clone(), value);
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

    /// The stored record as a report shows it: its own bytes, unless a spreadsheet would take one of its cells for a
    /// formula, or something else is stored beside them; then it is written anew.
    ///
    /// # Errors
    /// When it is not what [`HeaderMap::payload`] stored.
    pub fn report_cells<'a>(&self, payload: &'a [u8]) -> Result<ReportCells<'a>, Unreadable> {
        let (cells, origin) = self.stored(payload)?;
        let written = match origin {
            None => Cow::Borrowed(payload),
            Some(_) => {
                let mut out = Vec::with_capacity(payload.len());
                encode_record(cells.iter().map(String::as_str), &mut out);
                Cow::Owned(out)
            }
        };
        let own = ReportCells { cells: written, protected: Vec::new() };
        if !payload.iter().any(|byte| may_begin(*byte)) {
            return Ok(own);
        }
        let safe: Vec<_> = cells.iter().map(|cell| neutralise(cell)).collect();
        let changed = self.columns.iter().zip(&safe).filter(|(_, safe)| matches!(safe, Cow::Owned(_)));
        let protected: Vec<ColumnTag> = changed.map(|(name, _)| column_tag(name)).collect();
        if protected.is_empty() {
            return Ok(own);
        }
        let mut out = Vec::with_capacity(payload.len() + 8);
        encode_record(safe.iter().map(|cell| cell.as_ref()), &mut out);
        Ok(ReportCells { cells: Cow::Owned(out), protected })
    }

    /// A record of empty cells, for a row that cannot be read.
    pub fn empty(&self) -> Vec<u8> {
        let mut out = Vec::new();
        encode_record(self.columns.iter().map(|_| ""), &mut out);
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

/// The names of columns that an upload ignores; a report's own are none of a client's.
fn ignored(names: &[String], columns: &[String]) -> Vec<String> {
    let report = names.iter().any(|name| name == REFERENCE);
    let ours = |name: &str| report && REPORT_COLUMNS.contains(&name);
    let ignored = names.iter().filter(|name| !columns.contains(name) && !ours(name));
    ignored.take(MOST_REPORTED).map(|name| shortened(name, COLUMN_BYTES).into_owned()).collect()
}

fn unknown(name: &str, schema: &Schema) -> String {
    let shown = shortened(name, COLUMN_BYTES);
    match schema.columns.iter().find(|known| known.name.eq_ignore_ascii_case(name.trim())) {
        Some(close) => format!("`{shown}` is not a column; write it `{}`", close.name),
        None => format!("`{shown}` is not a column; the columns are: {}", listed(schema)),
    }
}

/// The pipeline's columns, for a sentence.
pub(super) fn listed(schema: &Schema) -> String {
    some_of(schema.columns.iter().map(|column| column.name.as_str()))
}

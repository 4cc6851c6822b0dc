//! The header, and what it makes of the records behind it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::error::{COLUMN_BYTES, ErrorList, LimitExceeded, LimitKind, shortened, some_of};
use super::formula::{may_begin, neutralise, restore};
use super::parser::{Event, Parser, Record};
use super::rules::{Limits, Schema};
use super::writer::encode_record;

/// Columns that begin so are ours, written by results.csv and failed.csv, and ignored by an upload.
const OURS: char = '_';

/// Columns that show that a file came from us: then cells were made harmless, and are taken back.
const MARKS: [&str; 2] = ["_row", "_status"];

/// What is kept of a file's header: how to read its records, and the rows stored from them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderMap {
    /// The client's columns in the file's order, without ours.
    columns: Vec<String>,
    /// Which fields of a record they are, in ascending order; none: all. Never an empty list, which older programs read as all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kept: Option<Vec<usize>>,
    /// How many fields a record has.
    fields: usize,
    /// Whether cells were made harmless by us.
    #[serde(default)]
    harmless: bool,
}

/// A stored row that cannot be read again.
#[derive(Debug, thiserror::Error)]
#[error("the stored record is not one with {0} fields")]
pub struct Unreadable(usize);

impl HeaderMap {
    /// Judges a header; none when it has errors.
    pub fn read(record: &Record<'_>, schema: &Schema, errors: &mut ErrorList) -> Option<Self> {
        let names: Vec<String> = record.values().map(|value| value.into_owned()).collect();
        let line = record.line;
        let mut columns: Vec<String> = Vec::new();
        let mut kept = Vec::new();
        for (index, name) in names.iter().enumerate() {
            if name.starts_with(OURS) {
                continue;
            }
            if !schema.columns.iter().any(|column| column.name == *name) {
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
        if schema.ordered {
            let places: Vec<usize> = columns
                .iter()
                .filter_map(|name| schema.columns.iter().position(|column| column.name == *name))
                .collect();
            if let Some(at) = places.windows(2).position(|pair| pair[0] > pair[1]) {
                errors.push(line, Some(&columns[at + 1]), "column_order", || {
                    format!("the columns must stand in this order: {}", listed(schema))
                });
                return None;
            }
        }
        let all = kept.len() == names.len();
        Some(Self {
            columns,
            kept: if all { None } else { Some(kept) },
            fields: names.len(),
            harmless: names.iter().any(|name| MARKS.contains(&name.as_str())),
        })
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

    /// Whether the file came from us: a report that is uploaded again.
    pub fn is_ours(&self) -> bool {
        self.harmless
    }

    /// How many bytes of a record a report added: its columns, and apostrophes before cells.
    pub(super) fn ours(&self, record: &Record<'_>) -> usize {
        if !self.harmless {
            return 0;
        }
        let mut added = 0;
        for field in 0..record.len() {
            added += match (self.column_of(field), record.get(field)) {
                (Some(_), Some(value)) => value.len() - restore(&value).len(),
                _ => record.width(field) + 1,
            };
        }
        added
    }

    /// The limit that a record passes, if it does; `ours` is what [`HeaderMap::ours`] says of it. Of a report that is uploaded again the client's own part counts, as
    /// it was before: what was accepted once is accepted again.
    pub(super) fn exceeded(
        &self,
        record: &Record<'_>,
        ours: usize,
        limits: &Limits,
    ) -> Option<LimitExceeded> {
        let passed = |kind, field| Some(LimitExceeded { kind, line: record.line, field });
        if record.raw.len().saturating_sub(ours) > limits.max_record_bytes {
            return passed(LimitKind::RecordBytes(limits.max_record_bytes), 0);
        }
        let most = limits.max_field_chars;
        // Bytes bound characters, so most fields need no counting.
        let wide = (0..record.len()).filter(|field| record.width(*field) > most);
        for field in wide {
            let Some(value) = record.get(field) else { continue };
            let value = match self.column_of(field) {
                Some(_) if self.harmless => restore(&value),
                None if self.harmless => continue,
                _ => &value,
            };
            if value.chars().count() > most {
                return passed(LimitKind::FieldChars(most), field);
            }
        }
        None
    }

    /// Calls `each` with the column's place in [`HeaderMap::columns`] and its value.
    pub fn each_value(&self, record: &Record<'_>, mut each: impl FnMut(usize, &str)) {
        for place in 0..self.columns.len() {
            if let Some(value) = self.field_of(place).and_then(|field| record.get(field)) {
                each(place, if self.harmless { restore(&value) } else { &value });
            }
        }
    }

    /// Appends what is stored of a record: its own bytes, or, when something of it is ignored or taken back, the
    /// remaining values written anew.
    pub fn payload(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        if self.kept.is_none() && !self.harmless {
            out.extend_from_slice(record.raw.as_bytes());
            return;
        }
        let mut values: Vec<String> = Vec::with_capacity(self.columns.len());
        self.each_value(record, |_, value| values.push(value.to_owned()));
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

    /// The stored record as a report shows it: its own bytes, unless a spreadsheet would take one of its cells for a
    /// formula; then it is written anew.
    ///
    /// # Errors
    /// When it is not what [`HeaderMap::payload`] stored.
    pub fn formula_safe<'a>(&self, payload: &'a [u8]) -> Result<Cow<'a, [u8]>, Unreadable> {
        let cells = self.cells(payload)?;
        if !payload.iter().any(|byte| may_begin(*byte)) {
            return Ok(Cow::Borrowed(payload));
        }
        let safe: Vec<_> = cells.iter().map(|cell| neutralise(cell)).collect();
        if safe.iter().zip(&cells).all(|(safe, cell)| safe == cell) {
            return Ok(Cow::Borrowed(payload));
        }
        let mut out = Vec::with_capacity(payload.len() + 8);
        encode_record(safe.iter().map(|cell| cell.as_ref()), &mut out);
        Ok(Cow::Owned(out))
    }

    /// A record of empty cells, for a row that cannot be read.
    pub fn empty(&self) -> Vec<u8> {
        let mut out = Vec::new();
        encode_record(self.columns.iter().map(|_| ""), &mut out);
        out
    }

    fn cells(&self, payload: &[u8]) -> Result<Vec<String>, Unreadable> {
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
        match (read, cells) {
            (Ok(()), Some(cells)) if cells.len() == self.columns.len() => Ok(cells),
            _ => Err(unreadable),
        }
    }
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

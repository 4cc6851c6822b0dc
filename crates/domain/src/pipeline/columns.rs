//! `csv`: from the definition to the rules that a file is held to.
#![allow(missing_docs, reason = "private to the loader")]

use regex::Regex;
use serde_saphyr::Spanned;

use super::check::Source;
use super::definition::{ColumnDefinition, CsvDefinition};
use crate::csv::{Column, ErrorList, Limits, REPORT_COLUMNS, Schema};

/// Rows of a batch at most, whatever a definition says: numbers have 31 bits.
const MOST_ROWS: u64 = 2_000_000_000;

/// Bytes of a record at most, whatever a definition says: one is held in memory for each upload.
const MOST_RECORD_BYTES: usize = 64 * 1024 * 1024;

/// Columns of the list of a refused file's errors, besides those of other reports.
const REFUSAL_COLUMNS: [&str; 2] = ["_line", "_column"];

const DEFAULT_MAX_BYTES: u64 = 1024 * 1024 * 1024;

pub fn schema(csv: &CsvDefinition, source: &mut Source<'_>) -> Schema {
    let limits = limits(csv, source);
    let mut columns: Vec<Column> = Vec::new();
    if csv.columns.value.is_empty() && !source.is_damaged("csv") {
        source.broken(csv.columns.referenced.line(), "csv.columns is empty; name at least one column".into());
    }
    for definition in &csv.columns.value {
        let line = definition.referenced.line();
        let column = column(&definition.value, line, &limits, source);
        if columns.iter().any(|other| other.name == column.name) {
            source.error(line, format!("duplicate column `{}`; remove one of them", column.name));
        }
        columns.push(column);
    }
    Schema { columns, ordered: csv.ordered, limits }
}

pub fn max_bytes(csv: &CsvDefinition, source: &mut Source<'_>) -> u64 {
    above_0("csv.max_bytes", csv.max_bytes.as_ref(), source);
    csv.max_bytes.as_ref().map_or(DEFAULT_MAX_BYTES, |most| most.value)
}

fn limits(csv: &CsvDefinition, source: &mut Source<'_>) -> Limits {
    let defaults = Limits::default();
    if let Some(rows) = csv.max_rows.as_ref().filter(|rows| rows.value == 0 || rows.value > MOST_ROWS) {
        source.error(rows.referenced.line(), format!("csv.max_rows is between 1 and {MOST_ROWS}"));
    }
    above_0("csv.max_field_chars", csv.max_field_chars.as_ref(), source);
    if let Some(bytes) =
        csv.max_record_bytes.as_ref().filter(|bytes| bytes.value == 0 || bytes.value > MOST_RECORD_BYTES)
    {
        source.error(
            bytes.referenced.line(),
            format!("csv.max_record_bytes is between 1 and {MOST_RECORD_BYTES}: a record is held in memory"),
        );
    }
    Limits {
        max_field_chars: csv.max_field_chars.as_ref().map_or(defaults.max_field_chars, |chars| chars.value),
        max_record_bytes: csv
            .max_record_bytes
            .as_ref()
            .map_or(defaults.max_record_bytes, |bytes| bytes.value),
        max_rows: csv.max_rows.as_ref().map_or(defaults.max_rows, |rows| rows.value),
    }
}

fn above_0<T: PartialEq + From<u8>>(key: &str, value: Option<&Spanned<T>>, source: &mut Source<'_>) {
    if let Some(value) = value.filter(|value| value.value == T::from(0)) {
        source.error(
            value.referenced.line(),
            format!("{key} is 0, so no file would pass; take it out for the default"),
        );
    }
}

fn column(definition: &ColumnDefinition, line: u64, limits: &Limits, source: &mut Source<'_>) -> Column {
    let name = &definition.name;
    if name.is_empty() {
        source.error(line, "a column has no name; give it one".into());
    }
    if REPORT_COLUMNS.contains(&name.as_str()) || REFUSAL_COLUMNS.contains(&name.as_str()) {
        source.error(line, format!("column `{name}`: reports have a column of that name; rename it"));
    }
    let mut wrong = |message: &str| source.error(line, format!("column `{name}`: {message}"));
    if definition.min_length.zip(definition.max_length).is_some_and(|(least, most)| least > most) {
        wrong("min_length is above max_length");
    }
    if definition.max_length == Some(0) {
        wrong("max_length is 0, so only empty values would pass; take the column out");
    }
    let most = limits.max_field_chars;
    if most > 0 && definition.min_length.is_some_and(|least| least > most) {
        wrong("min_length is above csv.max_field_chars, so no value would pass");
    }
    if definition.one_of.as_ref().is_some_and(Vec::is_empty) {
        wrong("enum lists no value; name some, or take it out");
    }
    let pattern = definition.pattern.as_ref().and_then(|pattern| match Regex::new(pattern) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            let reason = error.to_string();
            let reason = reason.lines().last().unwrap_or_default().trim().to_owned();
            source.broken(line, format!("column `{name}`: the pattern cannot be read: {reason}"));
            None
        }
    });
    let column = Column {
        name: name.clone(),
        required: definition.required,
        format: definition.format,
        pattern,
        min_length: definition.min_length,
        max_length: definition.max_length,
        one_of: definition.one_of.clone().unwrap_or_default().into(),
    };
    for value in column.one_of.iter() {
        let mut errors = ErrorList::default();
        column.judge(value, line, &mut errors);
        if !errors.is_empty() {
            source.error(line, format!("column `{name}`: its other rules refuse `{value}` of its enum"));
        }
    }
    column
}

//! `csv`: from the definition to the rules that a file is held to.
#![allow(missing_docs, reason = "private to the loader")]

use regex::Regex;
use serde_saphyr::Spanned;

use super::check::Source;
use super::definition::{ColumnDefinition, CsvDefinition, DelimiterDefinition, FileFormat, HeaderDefinition};
use crate::csv::{
    Charset, Cleaning, Column, Delimiter, Dialect, ErrorList, HeaderRules, Limits, REPORT_COLUMNS, Schema,
    UNIQUE_ROW_BYTES, Workbook, error::some_of,
};

/// Rows of a batch at most, whatever a definition says: numbers have 31 bits.
const MOST_ROWS: u64 = 2_000_000_000;

/// Bytes of a record at most, whatever a definition says: one is held in memory for each upload.
const MOST_RECORD_BYTES: usize = 64 * 1024 * 1024;

/// Columns of the list of a refused file's errors, besides those of other reports.
const REFUSAL_COLUMNS: [&str; 2] = ["_line", "_column"];

/// Rows of a file whose rows are compared with each other.
const MOST_UNIQUE_ROWS: u64 = 5_000_000;

const DEFAULT_MAX_BYTES: u64 = 1024 * 1024 * 1024;

pub fn schema(csv: &CsvDefinition, source: &mut Source<'_>) -> Schema {
    let limits = limits(csv, source);
    let mut columns: Vec<Column> = Vec::new();
    if csv.columns.value.is_empty() && !source.is_damaged("csv") {
        source.broken(csv.columns.referenced.line(), "csv.columns is empty; name at least one column".into());
    }
    let dialect = dialect(csv, source);
    for definition in &csv.columns.value {
        let line = definition.referenced.line();
        let column = column(&definition.value, line, &limits, source);
        if columns.iter().any(|other| other.name == column.name) {
            source.error(line, format!("duplicate column `{}`; remove one of them", column.name));
        }
        refuse_shared_names(&columns, &column, &dialect, line, source);
        columns.push(column);
    }
    let unique = unique(csv, &columns, &limits, source);
    Schema { columns, ordered: csv.ordered, unique, dialect, limits }
}

fn dialect(csv: &CsvDefinition, source: &mut Source<'_>) -> Dialect {
    let delimiter = match csv.delimiter {
        None | Some(DelimiterDefinition::Comma) => Delimiter::Is(b','),
        Some(DelimiterDefinition::Semicolon) => Delimiter::Is(b';'),
        Some(DelimiterDefinition::Tab) => Delimiter::Is(b'\t'),
        Some(DelimiterDefinition::Bar) => Delimiter::Is(b'|'),
        Some(DelimiterDefinition::Auto) => Delimiter::Auto,
    };
    let mut charset = Charset::Utf8;
    if let Some(label) = &csv.encoding {
        match Charset::named(&label.value) {
            Some(found) => charset = found,
            None => source.error(
                label.referenced.line(),
                format!(
                    "csv.encoding `{}` is no encoding; write auto, utf-8, windows-1252 or another label of the WHATWG Encoding Standard",
                    label.value
                ),
            ),
        }
    }
    let HeaderDefinition { ignore_case, trim, extra_columns } = csv.header;
    let header = HeaderRules { ignore_case, trim, extra_columns };
    Dialect { delimiter, charset, header, workbook: workbook(csv, source), of_sheet: false }
}

fn workbook(csv: &CsvDefinition, source: &mut Source<'_>) -> Workbook {
    let formats = csv.formats.as_ref();
    if let Some(formats) = formats.filter(|formats| !formats.value.contains(&FileFormat::Csv)) {
        source.error(
            formats.referenced.line(),
            "csv.formats: CSV is always taken, as reports are CSV; write [csv, xlsx]".into(),
        );
    }
    let takes = formats.is_some_and(|formats| formats.value.contains(&FileFormat::Xlsx));
    match &csv.sheet {
        None if takes => Workbook::First,
        None => Workbook::No,
        Some(sheet) if sheet.value.trim().is_empty() => {
            let message = "csv.sheet is empty; write a sheet's name, or take it out for the first one";
            source.error(sheet.referenced.line(), message.into());
            Workbook::First
        }
        Some(sheet) if takes => Workbook::Named(sheet.value.clone()),
        Some(sheet) => {
            let message = "csv.sheet is about workbooks; write `formats: [csv, xlsx]` with it";
            source.error(sheet.referenced.line(), message.into());
            Workbook::No
        }
    }
}

/// Two columns of which a header's name could be either.
fn refuse_shared_names(
    columns: &[Column],
    column: &Column,
    dialect: &Dialect,
    line: u64,
    source: &mut Source<'_>,
) {
    let compared = |name: &str| dialect.header.compared(name).into_owned();
    for name in column.names() {
        let shares = |other: &&Column| {
            other.name != column.name && other.names().any(|known| compared(known) == compared(name))
        };
        if let Some(other) = columns.iter().find(shares) {
            source.error(
                line,
                format!(
                    "column `{}`: a header's `{name}` could be the column `{}` as well; rename one of them",
                    column.name, other.name
                ),
            );
        }
    }
}

fn unique(csv: &CsvDefinition, columns: &[Column], limits: &Limits, source: &mut Source<'_>) -> Vec<usize> {
    let mut places = Vec::new();
    for name in &csv.unique {
        let line = name.referenced.line();
        match columns.iter().position(|column| column.name == name.value) {
            Some(place) if places.contains(&place) => {
                source.error(line, format!("csv.unique names `{}` twice; remove one of them", name.value));
            }
            Some(place) => places.push(place),
            None if source.is_damaged("csv") => {}
            None => {
                let known = some_of(columns.iter().map(|column| column.name.as_str()));
                source.error(
                    line,
                    format!("csv.unique: there is no column `{}`; there are: {known}", name.value),
                );
            }
        }
    }
    if let Some(first) = csv.unique.first().filter(|_| limits.max_rows > MOST_UNIQUE_ROWS) {
        source.error(
            first.referenced.line(),
            format!(
                "csv.unique keeps {UNIQUE_ROW_BYTES} bytes of each row in memory while a file is read; write csv.max_rows of at most \
                 {MOST_UNIQUE_ROWS} with it"
            ),
        );
    }
    places
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
    for known in std::iter::once(name).chain(&definition.aliases) {
        if REPORT_COLUMNS.contains(&known.as_str()) || REFUSAL_COLUMNS.contains(&known.as_str()) {
            source.error(line, format!("column `{known}`: reports have a column of that name; rename it"));
        }
    }
    let mut wrong = |message: &str| source.error(line, format!("column `{name}`: {message}"));
    if definition.aliases.iter().any(String::is_empty) {
        wrong("an alias is empty; take it out");
    }
    if definition.min_length.zip(definition.max_length).is_some_and(|(least, most)| least > most) {
        wrong("min_length is above max_length; change one of them");
    }
    if definition.max_length == Some(0) {
        wrong("max_length is 0, so only empty values would pass; take the column out");
    }
    let most = limits.max_field_chars;
    if most > 0 && definition.min_length.is_some_and(|least| least > most) {
        wrong("min_length is above csv.max_field_chars, so no value would pass; change one of them");
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
        aliases: definition.aliases.clone(),
        cleaning: Cleaning {
            trim: definition.trim,
            case: definition.case,
            nfc: definition.normalize.is_some(),
            default: definition.default.clone().filter(|default| !default.is_empty()),
        },
        message: definition.message.clone(),
        example: definition.example.clone(),
        required: definition.required,
        format: definition.format,
        pattern,
        min_length: definition.min_length,
        max_length: definition.max_length,
        one_of: definition.one_of.clone().unwrap_or_default().into(),
    };
    refuse_own_values(&column, line, source);
    column
}

/// Values of a definition that its own rules refuse.
fn refuse_own_values(column: &Column, line: u64, source: &mut Source<'_>) {
    let name = &column.name;
    let refused = |value: &str| {
        let mut errors = ErrorList::default();
        column.judge(value, line, &mut errors);
        !errors.is_empty()
    };
    for value in column.one_of.iter() {
        if refused(value) {
            source.error(
                line,
                format!("column `{name}`: its other rules refuse `{value}` of its enum; change one of them"),
            );
        }
        if column.cleaning.apply(value) != value {
            source.error(
                line,
                format!(
                    "column `{name}`: no value becomes `{value}` of its enum, as values are changed before; write it as `{}`",
                    column.cleaning.apply(value)
                ),
            );
        }
    }
    let given = [("default", &column.cleaning.default), ("example", &column.example)];
    for (key, value) in given.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?))) {
        if refused(&column.cleaning.apply(value)) {
            source.error(
                line,
                format!("column `{name}`: its other rules refuse its {key} `{value}`; change one of them"),
            );
        }
    }
}

//! A file's header, judged.

use std::borrow::Cow;

use super::{HeaderMap, IGNORED, MARKS, MOST_REPORTED, REFERENCE, REPORT_COLUMNS};
use crate::csv::dialect::{DELIMITERS, Delimiter, ExtraColumns, delimiter_name};
use crate::csv::error::{COLUMN_BYTES, ErrorList, shortened};
use crate::csv::error_rows::ERROR_COLUMNS;
use crate::csv::names::{find, known, listed, own, unknown, unnamed};
use crate::csv::opening::split;
use crate::csv::record::Record;
use crate::csv::rules::Schema;
use crate::csv::sentences::WHOLE_LINE;

/// What may be wrong with a header of which no name is known: people write titles above their tables.
const NO_HEADER: &str = "; if lines stand above the line with the names, remove them; if there is no such line, write it as the first line";

/// Columns as they are collected from a header.
#[derive(Default)]
struct Collected {
    columns: Vec<String>,
    written: Vec<String>,
    extra: Vec<usize>,
    kept: Vec<usize>,
}

impl HeaderMap {
    /// Judges a header; none when it has errors. Also gives the names of columns that are ignored.
    pub fn read(record: &Record<'_>, schema: &Schema, errors: &mut ErrorList) -> Option<(Self, Vec<String>)> {
        let mut names: Vec<String> = record.values().map(|value| value.into_owned()).collect();
        if schema.dialect.delimiter == Delimiter::Auto {
            // What spreadsheets write behind the last column that is used.
            let used = names.iter().rposition(|name| !name.is_empty()).map_or(1, |last| last + 1);
            names.truncate(used);
        }
        let line = record.line;
        if let Some(sentence) = type_line(&names)
            .or_else(|| in_quotes(record, &names, schema))
            .or_else(|| other_delimiter(&names, schema))
        {
            // What would be missing then is there, once this is put right.
            errors.push(line, names.first().map(String::as_str), "unknown_column", || sentence);
            return None;
        }
        let collected = collect(&names, schema, line, errors);
        complete(&collected, schema, line, errors)?;
        let ignored = ignored(&names, &collected.kept);
        let all = collected.kept.len() == names.len();
        let same = collected.written == collected.columns;
        let header = Self {
            written: (!same).then_some(collected.written),
            columns: collected.columns,
            extra: collected.extra,
            delimiter: None,
            kept: if all { None } else { Some(collected.kept) },
            fields: names.len(),
            of_sheet: schema.dialect.of_sheet,
            report: is_report(&names),
            reference: names.iter().position(|name| name == REFERENCE),
            other_marks: names.iter().any(|name| name != REFERENCE && MARKS.contains(&name.as_str())),
        };
        Some((header, ignored))
    }
}

fn is_report(names: &[String]) -> bool {
    names.iter().any(|name| MARKS.contains(&name.as_str()))
}

/// Each name is a column of the pipeline, one that is kept or left out, or an error.
fn collect(names: &[String], schema: &Schema, line: u64, errors: &mut ErrorList) -> Collected {
    let mut collected = Collected::default();
    let report = is_report(names);
    let hint = if known(schema, names) == 0 { NO_HEADER } else { "" };
    for (index, name) in names.iter().enumerate() {
        let own = if report { own(name) } else { Cow::Borrowed(name.as_str()) };
        let place = find(schema, name).or_else(|| find(schema, &own));
        let declared = place.map(|place| &schema.columns[place].name);
        if declared.is_none() && name.starts_with(IGNORED) {
            continue;
        }
        let column = match (declared, schema.dialect.header.extra_columns) {
            (Some(column), _) => column.clone(),
            (None, ExtraColumns::Ignore) => continue,
            (None, ExtraColumns::Keep) => {
                collected.extra.push(collected.columns.len());
                own.clone().into_owned()
            }
            (None, ExtraColumns::Reject) => {
                errors.push(line, Some(name), "unknown_column", || match name.as_str() {
                    "" => unnamed(index == 0, schema, hint),
                    name => unknown(name, schema, hint),
                });
                name.clone()
            }
        };
        if declared.is_some() && collected.columns.contains(&column) {
            errors.push(line, Some(name), "duplicate_column", || duplicate(name, &column));
        }
        collected.columns.push(column);
        collected.written.push(own.into_owned());
        collected.kept.push(index);
    }
    collected
}

fn duplicate(name: &str, column: &str) -> String {
    let shown = shortened(name, COLUMN_BYTES);
    if name == column {
        format!("`{shown}` stands more than once in the header; keep one of them")
    } else {
        format!("`{shown}` is another name of `{column}`, which the header has already; keep one of them")
    }
}

/// Whether the header has what the pipeline asks for; none when it has errors.
fn complete(collected: &Collected, schema: &Schema, line: u64, errors: &mut ErrorList) -> Option<()> {
    let columns = &collected.columns;
    for column in schema.columns.iter().filter(|column| column.required && !columns.contains(&column.name)) {
        errors.push(line, Some(&column.name), "missing_column", || {
            let hint = if columns.len() == collected.extra.len() { NO_HEADER } else { "" };
            format!(
                "the column `{}` is missing from the header; write its name there, and a value in each row{hint}",
                column.name
            )
        });
    }
    // A row without a single value has nothing to store, and nothing to read back.
    if columns.len() == collected.extra.len() && errors.is_empty() {
        errors.push(line, None, "missing_column", || {
            format!(
                "the header names no column of the pipeline; write their names in the first line: {}",
                listed(schema)
            )
        });
    }
    if errors.is_empty()
        && schema.ordered
        && let Some(name) = first_out_of_order(columns, schema)
    {
        errors.push(line, Some(name), "column_order", || {
            format!("the columns are not in order; move them so that they stand as here: {}", listed(schema))
        });
    }
    errors.is_empty().then_some(())
}

/// Why the line that PowerShell writes before the header is none.
fn type_line(names: &[String]) -> Option<String> {
    names.first().filter(|name| name.starts_with("#TYPE ")).map(|_| {
        "the first line begins with `#TYPE`, which PowerShell writes before the columns: remove that line, or export with \
         `Export-Csv -NoTypeInformation`"
            .to_owned()
    })
}

/// Why a header of one name is none, when its columns are inside the name: the line stands in quotes as a whole.
fn in_quotes(record: &Record<'_>, names: &[String], schema: &Schema) -> Option<String> {
    let [name] = names else { return None };
    if !record.raw.starts_with('"') {
        return None;
    }
    let parts = |delimiter: u8| split(name.as_bytes(), delimiter);
    let mut taken = match schema.dialect.delimiter {
        Delimiter::Is(declared) => vec![declared],
        Delimiter::Auto => DELIMITERS.to_vec(),
    }
    .into_iter()
    .map(parts);
    let found =
        find(schema, name).is_none() && taken.any(|parts| parts.len() > 1 && known(schema, &parts) > 0);
    found.then(|| WHOLE_LINE.to_owned())
}

/// Why a header of one name is none of this pipeline's, when another delimiter makes columns of it.
fn other_delimiter(names: &[String], schema: &Schema) -> Option<String> {
    let Delimiter::Is(declared) = schema.dialect.delimiter else { return denied(names, schema) };
    let name = match names {
        [name] if find(schema, name).is_none() => name.clone(),
        [name, rest] if rest.is_empty() && name.eq_ignore_ascii_case("sep=") => {
            format!("{name}{}", char::from(declared))
        }
        _ => return None,
    };
    if name.len() == 5 && name.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("sep=")) {
        return Some(format!(
            "the first line is `{name}`, which only Excel reads; remove that line, or ask for `delimiter: auto`"
        ));
    }
    let found = delimiter_that_fits(&name, schema).filter(|found| *found != declared)?;
    Some(wrong_delimiter(found, declared))
}

/// Why a header of one name is none although each delimiter is taken: a `sep=` line names another one than the header has.
fn denied(names: &[String], schema: &Schema) -> Option<String> {
    let [name] = names else { return None };
    let found = delimiter_that_fits(name, schema).filter(|_| find(schema, name).is_none())?;
    Some(format!(
        "the columns are separated by {}, and the line `sep=` before them names another character; remove that line",
        delimiter_name(found)
    ))
}

/// What makes columns of the pipeline out of one name.
fn delimiter_that_fits(name: &str, schema: &Schema) -> Option<u8> {
    DELIMITERS.into_iter().find(|delimiter| {
        let parts = split(name.as_bytes(), *delimiter);
        parts.len() > 1 && known(schema, &parts) > 0
    })
}

/// The sentence for a file that has another delimiter than the pipeline asks for.
pub(in crate::csv) fn wrong_delimiter(found: u8, declared: u8) -> String {
    let how = match declared {
        b',' => {
            ": in Excel choose Save As, `CSV UTF-8 (Comma delimited)`; if it writes semicolons, change the list separator in the system's regional settings to a comma"
        }
        b';' => {
            ": change the list separator in the system's regional settings to a semicolon, and in Excel choose Save As, `CSV UTF-8`"
        }
        b'\t' => ": in Excel choose Save As, `Text (Tab delimited)`",
        _ => ": in LibreOffice choose Save As, `Text CSV`, with `|` as the field delimiter",
    };
    format!(
        "the columns are separated by {}, and this pipeline takes {}{how}, or ask for `delimiter: auto`",
        delimiter_name(found),
        delimiter_name(declared)
    )
}

/// The first column that the schema has before the one in front of it.
fn first_out_of_order<'a>(columns: &'a [String], schema: &Schema) -> Option<&'a str> {
    let place = |name: &String| schema.columns.iter().position(|column| column.name == *name);
    let places: Vec<(usize, &String)> =
        columns.iter().filter_map(|name| place(name).map(|place| (place, name))).collect();
    let at = places.windows(2).position(|pair| pair[0].0 > pair[1].0)?;
    Some(places[at + 1].1)
}

/// The names of columns that an upload ignores; a report's own are none of a client's.
fn ignored(names: &[String], kept: &[usize]) -> Vec<String> {
    let report = names.iter().any(|name| name == REFERENCE);
    let ours = |name: &str| report && (REPORT_COLUMNS.contains(&name) || ERROR_COLUMNS.contains(&name));
    let ignored = names.iter().enumerate().filter(|(index, name)| !kept.contains(index) && !ours(name));
    ignored.take(MOST_REPORTED).map(|(_, name)| shortened(name, COLUMN_BYTES).into_owned()).collect()
}

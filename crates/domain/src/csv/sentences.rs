//! Sentences about a file's form, for somebody who knows a spreadsheet and no grammar.

use super::decode::DecodeFault;
use super::dialect::{Charset, Delimiter, Dialect, delimiter_name};
use super::error::{of, some_of};
use super::line::Repeats;
use super::names::listed;
use super::record::{Malformed, Record};
use super::rules::Schema;

/// Why a line cannot be taken with a reference that was cut or changed.
pub(super) const CHANGED_REFERENCE: &str = "the cell under `_ref` is not as the report had it, so it is unknown which apostrophes the report put before \
     cells; copy it from the report again, or take the column out if all apostrophes are meant";

/// Why a line that would repeat an effect is not taken: its code, and a sentence.
pub(super) fn repeated(repeats: Repeats) -> (&'static str, &'static str) {
    match repeats {
        Repeats::Elsewhere => (
            "other_pipeline",
            "the line is from a report of another pipeline; upload the report there, or take the column `_ref` out if the line is meant as a new one here",
        ),
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

/// Why a file of nothing but a header is not taken.
pub(super) const NO_ROWS: &str = "no row stands below the header; write the rows there, or save the file again from the sheet that has them";

/// Why the header's names are not taken for a row.
pub(super) const HEADER_AGAIN: &str =
    "the line is the header again, as in files that were put together from several; remove it";

/// Why a table with a large hole in it is not taken.
pub(super) const EMPTY_ROWS: &str =
    "more than 10,000 empty rows stand here, and rows with values after them; remove the empty ones";

/// Why a line of one value is not taken, when the value is a line of several.
pub(super) const WHOLE_LINE: &str = "the whole line stands in quotes, so it is one value: in Excel mark the first column, choose Data, Text to Columns, \
     Delimited, and save the file as CSV UTF-8";

/// Why a line is not taken that draws one.
const RULER: &str = "only a line is drawn here; remove it";

/// What a line ends with whose value goes on in the next one, as MySQL writes it.
const BACKSLASH: &str = "; if the value goes on in the next line, as MySQL writes it, export with `FIELDS TERMINATED BY ',' ENCLOSED BY '\"' \
                         ESCAPED BY '\"'`";

/// What the first line may have in front of its values.
const ROW_NAMES: &str = "; if each line begins with a number or a name of its own, as R writes them, export with `row.names = FALSE`";

/// Why a line is not taken that has more or fewer fields than the header; `first`: it is the first after it.
pub(super) fn field_count(
    fields: usize,
    of_header: usize,
    delimiter: u8,
    dialect: &Dialect,
    first: bool,
) -> String {
    let hint = if dialect.of_sheet {
        "; remove the values to the right of the header's last column, or give their columns names".to_owned()
    } else if fields > of_header {
        let unnamed = match dialect.delimiter {
            Delimiter::Auto => "give the columns at its end names in the header, remove their values, or ",
            Delimiter::Is(_) => "",
        };
        let names = if first && fields == of_header + 1 { ROW_NAMES } else { "" };
        format!("; {unnamed}put values that hold {} in quotes{names}", delimiter_name(delimiter))
    } else {
        "; add the missing ones at its end, if only as empty ones, and put values that hold a line break in quotes".to_owned()
    };
    format!("the line has {} and the header {of_header}{hint}", of(fields as u64, "field"))
}

/// Why a line is not taken that has more fields than the header, none of them with a value.
pub(super) fn trailing(fields: usize, of_header: usize, delimiter: u8) -> String {
    format!(
        "the line has {} and the header {of_header}; remove the {} at its end, or ask for `delimiter: auto`",
        of(fields as u64, "field"),
        delimiter_name(delimiter)
    )
}

/// The same of a line that may hold nothing but the mark of an end.
pub(super) fn line_fields(record: &Record<'_>, of_header: usize, delimiter: u8, dialect: &Dialect) -> String {
    if record.raw.trim_end_matches('\u{1A}').is_empty() {
        let hint = if dialect.delimiter == Delimiter::Auto { "" } else { ", or ask for `delimiter: auto`" };
        return format!(
            "the line holds only Ctrl-Z (character 26), by which old programs mark the end of a file; remove it{hint}"
        );
    }
    if record.len() == 1 && record.get(0).is_some_and(|line| line.contains(char::from(delimiter))) {
        return WHOLE_LINE.into();
    }
    if record.len() < of_header && is_ruler(record.raw) {
        return RULER.into();
    }
    let hint = if record.len() < of_header && record.raw.ends_with('\\') { BACKSLASH } else { "" };
    field_count(record.len(), of_header, delimiter, dialect, false) + hint
}

/// Whether a line is drawn of dashes, bars and crosses.
fn is_ruler(line: &str) -> bool {
    line.contains("---") && line.bytes().all(|byte| b"-+|=".contains(&byte))
}

pub(super) fn not_unique<'a>(
    columns: impl ExactSizeIterator<Item = &'a str>,
    first: u64,
    line: u64,
) -> String {
    let columns: Vec<String> = columns.map(|name| format!("`{name}`")).collect();
    let have = if columns.len() == 1 { "has" } else { "have together" };
    format!(
        "{} {have} the same value in line {first} and in line {line}; keep one of the two lines",
        some_of(columns.iter().map(String::as_str))
    )
}

pub(super) fn decode_fault(fault: DecodeFault) -> String {
    match fault {
        DecodeFault::Invalid(name) => {
            format!("the line holds bytes that are no characters of {name}; save the file in that encoding, or in Excel as `CSV UTF-8`")
        }
        DecodeFault::Mixed => "letters up to here are UTF-8, and here they are not: the file was put together from files of different \
                               encodings, or was cut; save it as CSV UTF-8 from one program"
            .into(),
    }
}

pub(super) fn fault(fault: &Malformed, schema: &Schema) -> String {
    match fault.code {
        "text_after_quote" if fault.byte == Some(b' ') => "a blank stands after a closing quote; remove it, or, if the columns are separated by blanks, \
                                                          export the file again with commas"
            .into(),
        "text_after_quote" => "text stands between a closing quote and the end of its field; write a quote inside a quoted field \
                               twice, and remove blanks around the quotes"
            .into(),
        "quote_in_unquoted_field" => {
            "a quote stands inside a field that does not begin with one; put the whole field in quotes and write the quote twice, as in \
             \"5\"\" pipe\", or, if only a blank stands before it, remove the blank"
                .into()
        }
        "unclosed_quote" => format!(
            "the quote that opens in line {} is never closed, so everything after it is one field; close it, or take it out",
            fault.at_line
        ),
        "bare_cr" if schema.dialect.delimiter == Delimiter::Auto => {
            "a carriage return stands alone here, and the first line does not end so: the file was put together from files of \
             different programs; save it as CSV UTF-8 from one program"
                .into()
        }
        "bare_cr" => "a carriage return stands without a line feed; end lines with LF or CRLF: in Excel for Mac choose Save As, \
                      `CSV UTF-8 (Comma delimited)`, or ask for `delimiter: auto`"
            .into(),
        "too_many_columns" => {
            format!(
                "the header has {}; in Excel mark those to the right of the table, choose Delete, and save the file again; the columns \
                 are: {}",
                of(fault.field as u64, "column"),
                listed(schema)
            )
        }
        "nul_byte" => format!(
            "line {} holds a NUL byte (character 0), which is no text and which no program shows; type the value again, or export the \
             file again from the program that it comes from",
            fault.at_line
        ),
        _ if schema.dialect.charset != Charset::Utf8 => {
            "the record is not valid UTF-8, and the file begins with the mark of UTF-8: it was put together from files of different \
             encodings, or was cut; save it as CSV UTF-8 from one program"
                .into()
        }
        _ => "the record is not valid UTF-8; save the file as UTF-8: in Excel choose Save As, `CSV UTF-8 (Comma delimited)`, or ask \
              for `encoding: auto`"
            .into(),
    }
}

//! Cells that a spreadsheet would change when it opens a CSV file: numbers, dates and truth values that are texts.
//!
//! Such a cell is written as a formula whose value is the text: `="01067"`. Excel, LibreOffice and Google Sheets show the text, and save the text. Whoever uploads the
//! file without a spreadsheet in between gets the same: a line's `_ref` says which cells were written so.

use std::borrow::Cow;

use super::formula::neutralise;

/// Whole numbers with more digits are shown, and saved, as `4.91E+11`.
const MOST_DIGITS: usize = 11;

/// Excel takes no longer text within a formula.
const MOST_CHARS: usize = 255;

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// The cell as it survives a spreadsheet; the value itself where nothing happens to it.
pub fn survive(value: &str) -> Cow<'_, str> {
    if is_changed(value) && value.chars().count() <= MOST_CHARS {
        return Cow::Owned(format!("=\"{}\"", value.replace('"', "\"\"")));
    }
    neutralise(value)
}

/// Whether a spreadsheet in some language takes the text for something else.
fn is_changed(value: &str) -> bool {
    let trimmed = value.trim_start_matches(' ');
    let digits = trimmed.trim_start_matches(['+', '-', '.', ',', '(', '$', '€', '£']);
    if digits.starts_with(|c: char| c.is_ascii_digit()) {
        return !is_short_number(value) && !value.chars().any(char::is_control);
    }
    let lower = value.get(..3).map(str::to_ascii_lowercase);
    let month = lower.is_some_and(|start| MONTHS.contains(&start.as_str()));
    (month && value.bytes().any(|byte| byte.is_ascii_digit()))
        || ["true", "false"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

/// `0`, `42`: shown and saved as it is.
fn is_short_number(value: &str) -> bool {
    value.len() <= MOST_DIGITS
        && value.bytes().all(|byte| byte.is_ascii_digit())
        && (value.len() == 1 || !value.starts_with('0'))
}

/// The text of a cell that [`survive`] is known to have written.
pub(super) fn text_of(cell: &str) -> Option<String> {
    let inside = cell.strip_prefix("=\"")?.strip_suffix('"')?;
    Some(inside.replace("\"\"", "\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_spreadsheet_would_change_survives_it() {
        for (value, cell) in [
            ("01067", "=\"01067\""),
            ("4915112345678", "=\"4915112345678\""),
            ("+49 151 123", "=\"+49 151 123\""),
            ("+4915112345678", "=\"+4915112345678\""),
            ("1.50", "=\"1.50\""),
            ("1,5", "=\"1,5\""),
            ("1e5", "=\"1e5\""),
            ("2026-11-24", "=\"2026-11-24\""),
            ("1/2", "=\"1/2\""),
            ("3-4", "=\"3-4\""),
            ("MAR1", "=\"MAR1\""),
            ("Sept 2", "=\"Sept 2\""),
            ("true", "=\"true\""),
            ("12\" pipe", "=\"12\"\" pipe\""),
            ("-5", "=\"-5\""),
            ("0", "0"),
            ("42", "42"),
            ("12345678901", "12345678901"),
            ("Marc", "Marc"),
            ("a1", "a1"),
            ("", ""),
            ("=1+1", "'=1+1"),
            ("@x", "'@x"),
        ] {
            assert_eq!(survive(value), cell, "{value}");
            assert_eq!(text_of(cell), cell.starts_with('=').then(|| value.to_owned()), "{value}");
        }
        let long = "1".repeat(MOST_CHARS + 1);
        assert_eq!(survive(&long), long);
    }
}

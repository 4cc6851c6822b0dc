//! Cells that a spreadsheet would change when it opens a CSV file: numbers, dates and truth values that are texts.
//!
//! Such a cell is written as a formula whose value is the text: `="01067"`. Excel, LibreOffice and Google Sheets show the text, and save the text. Whoever uploads the
//! file without a spreadsheet in between gets the same: a line's `_ref` says which cells were written so.

use std::borrow::Cow;

use super::formula::neutralise;

/// Whole numbers with more digits are shown, and saved, as `4.91E+11`.
const MOST_DIGITS: usize = 11;

/// Bytes of a month with a day and a year, or of a truth value.
const LONGEST_WORD: usize = 32;

/// Excel takes no longer text within a formula.
const MOST_CHARS: usize = 255;

/// How months begin in English, German, French, Spanish, Italian, Portuguese, Dutch, Polish and the languages of Scandinavia.
const MONTHS: &[&str] = &[
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec", "jän", "mär", "mrz",
    "mai", "okt", "dez", "fév", "fev", "avr", "jui", "aoû", "aou", "déc", "ene", "abr", "ago", "dic", "gen",
    "mag", "giu", "lug", "set", "ott", "out", "mrt", "mei", "maj", "des", "tam", "hel", "sty", "lut", "kwi",
    "cze", "lip", "sie", "wrz", "paź", "lis", "gru", "úno", "led", "kvě",
];

/// Truth values in the same languages and some more, as Excel reads them there.
const TRUTHS: &[&str] = &[
    "true",
    "false",
    "wahr",
    "falsch",
    "vrai",
    "faux",
    "verdadero",
    "falso",
    "vero",
    "verdadeiro",
    "waar",
    "onwaar",
    "prawda",
    "fałsz",
    "sant",
    "sann",
    "sand",
    "falskt",
    "falsk",
    "usann",
    "tosi",
    "epätosi",
    "pravda",
    "nepravda",
    "igaz",
    "hamis",
    "doğru",
    "yanlış",
];

/// The cell as it survives a spreadsheet; the value itself where nothing happens to it.
pub fn survive(value: &str) -> Cow<'_, str> {
    if is_changed(value) && value.chars().count() <= MOST_CHARS {
        return Cow::Owned(format!("=\"{}\"", value.replace('"', "\"\"")));
    }
    neutralise(value)
}

/// How a text is shown as a cell: of a report for a spreadsheet, or of one for whoever comes.
pub fn shown_in(spreadsheet: bool) -> fn(&str) -> Cow<'_, str> {
    if spreadsheet { survive } else { neutralise }
}

/// Whether a spreadsheet in some language takes the text for something else.
fn is_changed(value: &str) -> bool {
    let trimmed = value.trim_start_matches(' ');
    let digits = trimmed.trim_start_matches(['+', '-', '.', ',', '(', '$', '€', '£']);
    // Full-width digits and those of other scripts are numbers to some as well.
    if digits.starts_with(char::is_numeric) {
        return !is_short_number(value) && !value.chars().any(char::is_control);
    }
    if value.len() > LONGEST_WORD {
        return false;
    }
    let lower = trimmed.to_lowercase();
    let month = MONTHS.iter().any(|start| lower.starts_with(start))
        && lower.bytes().any(|byte| byte.is_ascii_digit());
    month || TRUTHS.contains(&lower.trim_end())
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
            ("wahr", "=\"wahr\""),
            ("févr. 3", "=\"févr. 3\""),
            ("Okt 2026", "=\"Okt 2026\""),
            ("１２３", "=\"１２３\""),
            ("Wahrheit", "Wahrheit"),
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

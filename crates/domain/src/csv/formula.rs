//! Cells that a spreadsheet would take for a formula (CWE-1236), made harmless in a way that can be taken back.

use std::borrow::Cow;

/// What a formula begins with, in some spreadsheet: the full-width forms count where people type them, and white space
/// that is not shown is skipped.
const BEGINNINGS: [char; 11] = ['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];

fn is_formula(value: &str) -> bool {
    value.trim_start_matches('\'').starts_with(BEGINNINGS)
}

/// Whether a byte may be the first of a formula's beginning: rules most records out at once. The full-width forms are
/// three bytes long, and 0xEF is the first of each.
pub(super) fn may_begin(byte: u8) -> bool {
    matches!(byte, b'=' | b'+' | b'-' | b'@' | b'\t' | b'\r' | b'\n' | 0xEF)
}

/// `+491511234567`, `-12.5`, `-1.5e-9`: a spreadsheet reads a number, and there is nothing to run.
fn is_number(value: &str) -> bool {
    fn unsigned(value: &str) -> &str {
        value.strip_prefix(['+', '-']).unwrap_or(value)
    }
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let value = unsigned(value);
    let (mantissa, exponent) = value.split_once(['e', 'E']).unwrap_or((value, "0"));
    let (whole, rest) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    digits(whole) && digits(rest) && digits(unsigned(exponent))
}

/// Puts an apostrophe before a value that a spreadsheet would run. One that begins with apostrophes before such a
/// character gets one more, so that [`restore`] is exact. Plain numbers, telephone numbers among them, stay as they are.
pub fn neutralise(value: &str) -> Cow<'_, str> {
    if is_formula(value) && !is_number(value) {
        Cow::Owned(format!("'{value}"))
    } else {
        Cow::Borrowed(value)
    }
}

/// Takes back what [`neutralise`] did.
pub fn restore(value: &str) -> &str {
    match value.strip_prefix('\'') {
        Some(rest) if is_formula(rest) => rest,
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_get_an_apostrophe_and_nothing_else_does() {
        assert_eq!(neutralise("=1+1"), "'=1+1");
        assert_eq!(neutralise("'=1"), "''=1");
        assert_eq!(neutralise("O'Neil"), "O'Neil");
        assert_eq!(neutralise("'tis"), "'tis");
        assert_eq!(restore("'tis"), "'tis");
        for number in ["+491511234567", "-1", "-12.50", "+0.5", "-1e3", "-1.5e-9", "+2E+10"] {
            assert_eq!(neutralise(number), number);
        }
        for formula in [
            "-1+1", "+1-800", "-", "+", "-1.", "-1e", "-e3", "-1e3+1", "-1e2e3", "+A1", "@x", "-1.2.3", "'+1",
        ] {
            assert_eq!(neutralise(formula), format!("'{formula}"));
        }
        for formula in ["\n=1+1", "\r\n=1", "＝1+1", "＋1", "－1", "＠x", "'＝1"] {
            assert_eq!(neutralise(formula), format!("'{formula}"));
        }
    }

    #[test]
    fn no_beginning_is_passed_over() {
        for beginning in BEGINNINGS {
            assert!(may_begin(beginning.to_string().as_bytes()[0]), "{beginning:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn it_can_always_be_taken_back(value in "['=+@a.1\t\n\r＝＋－＠-]{0,6}") {
            let harmless = neutralise(&value);
            proptest::prop_assert_eq!(restore(&harmless), value.as_str());
        }
    }
}

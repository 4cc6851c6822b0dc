//! Cells that a spreadsheet would take for a formula (CWE-1236), made harmless in a way that can be taken back.

use std::borrow::Cow;

/// What a formula begins with, in some spreadsheet: the full-width forms count where people type them, and white space
/// that is not shown is skipped.
const BEGINNINGS: [char; 11] = ['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];

fn is_formula(value: &str) -> bool {
    value.starts_with(BEGINNINGS)
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

/// Puts an apostrophe before a value that a spreadsheet would run. Plain numbers, telephone numbers among them, stay as they
/// are, and so does what begins with an apostrophe already: nothing grows, however often a file goes round.
pub fn neutralise(value: &str) -> Cow<'_, str> {
    if is_formula(value) && !is_number(value) {
        Cow::Owned(format!("'{value}"))
    } else {
        Cow::Borrowed(value)
    }
}

/// Whether a report may have put an apostrophe before a cell.
pub(super) fn may_be_protected(value: &str) -> bool {
    value.strip_prefix('\'').is_some_and(|rest| is_formula(rest) && !is_number(rest))
}

/// Takes off the apostrophe of [`neutralise`], of a cell that is known to have got one, if it is still there.
pub fn restore(value: &str) -> &str {
    value.strip_prefix('\'').unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_get_an_apostrophe_and_nothing_else_does() {
        assert_eq!(neutralise("=1+1"), "'=1+1");
        assert_eq!(neutralise("'=1"), "'=1", "nothing grows");
        assert_eq!(neutralise("'＝1"), "'＝1");
        assert_eq!(neutralise("O'Neil"), "O'Neil");
        assert_eq!(neutralise("'tis"), "'tis");
        assert_eq!(restore("'=1"), "=1");
        assert_eq!(restore("fixed"), "fixed");
        for number in ["+491511234567", "-1", "-12.50", "+0.5", "-1e3", "-1.5e-9", "+2E+10"] {
            assert_eq!(neutralise(number), number);
        }
        for formula in
            ["-1+1", "+1-800", "-", "+", "-1.", "-1e", "-e3", "-1e3+1", "-1e2e3", "+A1", "@x", "-1.2.3"]
        {
            assert_eq!(neutralise(formula), format!("'{formula}"));
        }
        for formula in ["\n=1+1", "\r\n=1", "＝1+1", "＋1", "－1", "＠x"] {
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
        fn it_is_taken_back_where_it_was_put(value in "['=+@a.1\t\n\r＝＋－＠-]{0,6}") {
            let harmless = neutralise(&value);
            if harmless != value {
                proptest::prop_assert_eq!(restore(&harmless), value.as_str());
            }
            proptest::prop_assert_eq!(neutralise(&harmless), harmless.as_ref());
        }
    }
}

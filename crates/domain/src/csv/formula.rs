//! Cells that a spreadsheet would take for a formula (CWE-1236), made harmless in a way that can be taken back.

use std::borrow::Cow;

fn is_formula(value: &str) -> bool {
    value.trim_start_matches('\'').starts_with(['=', '+', '-', '@', '\t', '\r'])
}

/// Puts an apostrophe before a value that a spreadsheet would run. One that begins with apostrophes before such a
/// character gets one more, so that [`restore`] is exact.
pub fn neutralise(value: &str) -> Cow<'_, str> {
    if is_formula(value) { Cow::Owned(format!("'{value}")) } else { Cow::Borrowed(value) }
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
    }

    proptest::proptest! {
        #[test]
        fn it_can_always_be_taken_back(value in "['=+@a\t-]{0,6}") {
            let harmless = neutralise(&value);
            proptest::prop_assert_eq!(restore(&harmless), value.as_str());
        }
    }
}

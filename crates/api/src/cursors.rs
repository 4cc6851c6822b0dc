//! Cursors, read strictly: each page's `next_cursor` has one form, and nothing else is one.

use penstock_domain::time::Timestamp;
use uuid::Uuid;

use crate::problem::Problem;

/// What is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoCursor;

impl From<NoCursor> for Problem {
    fn from(_: NoCursor) -> Self {
        Self::bad_request("bad_cursor", "`cursor` is not one that a page gave")
    }
}

/// A number of at most so many digits.
///
/// # Errors
/// When the text is anything else.
pub fn number(text: &str, digits: usize) -> Result<i64, NoCursor> {
    let number: i64 = text.parse().map_err(|_| NoCursor)?;
    if number >= 0 && text.len() <= digits && number.to_string() == text { Ok(number) } else { Err(NoCursor) }
}

/// A moment and an id: where a page of callbacks ended.
///
/// # Errors
/// When the text is anything else.
pub fn moment(text: &str) -> Result<(Timestamp, Uuid), NoCursor> {
    let (at, id) = text.split_once('_').ok_or(NoCursor)?;
    let at = Timestamp::from_millis(number(at, 15)?);
    let id: Uuid = id.parse().map_err(|_| NoCursor)?;
    if of_moment(at, id) == text { Ok((at, id)) } else { Err(NoCursor) }
}

/// The cursor of a moment and an id.
pub fn of_moment(at: Timestamp, id: Uuid) -> String {
    format!("{}_{id}", at.millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_has_one_form() {
        assert_eq!(number("0", 9), Ok(0));
        assert_eq!(number("123456789", 9), Ok(123_456_789));
        for text in ["", "1234567890", "01", "+1", "-1", " 1", "1 ", "x", "٣"] {
            assert_eq!(number(text, 9), Err(NoCursor), "{text}");
        }
        let id = Uuid::from_u128(0xABC);
        let cursor = of_moment(Timestamp::from_millis(17), id);
        assert_eq!(moment(&cursor), Ok((Timestamp::from_millis(17), id)));
        for text in [
            "17",
            "17_",
            "17_x",
            "_",
            &cursor.to_uppercase(),
            &cursor.replace('-', ""),
            &format!("0{cursor}"),
        ] {
            assert_eq!(moment(text), Err(NoCursor), "{text}");
        }
    }
}

//! A JSON value as it is written in YAML, whose numbers keep their digits.
//!
//! The YAML reader gives out numbers that it has read as 64-bit ones: the digits are taken from the text itself.
#![allow(missing_docs, reason = "private to the loader")]

use std::str::FromStr as _;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{Location, Spanned};

use crate::json::{JsonError, MAX_DEFINITION_DEPTH, is_private_key};

/// A value, with the places of its parts.
#[derive(Debug)]
pub enum Written {
    /// Anything but those below.
    Scalar(Value),
    /// A number as the YAML reader has read it.
    Number(Value),
    List(Vec<Spanned<Written>>),
    Map(Vec<(String, Spanned<Written>)>),
}

/// A value that a definition cannot have.
#[derive(Debug)]
pub struct WrittenError {
    pub line: u64,
    pub message: String,
}

impl Written {
    /// The value; `text` is the YAML that it is from, and `defined` its place there.
    ///
    /// # Errors
    /// When a number would not be the one that is written, or when the value could not be read back from JSON.
    pub fn json(&self, text: &str, defined: Location) -> Result<Value, WrittenError> {
        self.json_within(text, defined, MAX_DEFINITION_DEPTH)
    }

    /// `levels` of lists and maps may follow.
    fn json_within(&self, text: &str, defined: Location, levels: usize) -> Result<Value, WrittenError> {
        let error = |message: String| WrittenError { line: defined.line(), message };
        let deeper = || {
            levels.checked_sub(1).ok_or_else(|| error(JsonError::TooDeep(MAX_DEFINITION_DEPTH).to_string()))
        };
        Ok(match self {
            Self::Scalar(value) => value.clone(),
            Self::Number(read) => {
                number(read, written_at(text, defined).unwrap_or_default()).map_err(error)?
            }
            Self::List(items) => {
                let levels = deeper()?;
                let item = |item: &Spanned<Self>| item.value.json_within(text, item.defined, levels);
                Value::Array(items.iter().map(item).collect::<Result<_, _>>()?)
            }
            Self::Map(fields) => {
                let levels = deeper()?;
                let mut map = Map::new();
                for (name, field) in fields {
                    if is_private_key(name) {
                        return Err(error(JsonError::PrivateKey.to_string()));
                    }
                    map.insert(name.clone(), field.value.json_within(text, field.defined, levels)?);
                }
                Value::Object(map)
            }
        })
    }
}

/// The number that is written: with all its digits, as YAML 1.2 reads them.
fn number(read: &Value, written: &str) -> Result<Value, String> {
    let (sign, digits) = match written.strip_prefix(['+', '-']) {
        Some(digits) => (if written.starts_with('-') { "-" } else { "" }, digits),
        None => ("", written),
    };
    let zeros =
        digits.strip_prefix('0').is_some_and(|rest| rest.starts_with(|next: char| next.is_ascii_digit()));
    if zeros {
        return Err(format!(
            "the number `{written}` begins with a zero; quote it if it is a text, or take the zero out"
        ));
    }
    // JSON has a digit on both sides of a point.
    let digits = if digits.starts_with('.') { format!("0{digits}") } else { digits.to_owned() };
    let digits = match digits.split_once('.') {
        Some((whole, rest)) if !rest.starts_with(|next: char| next.is_ascii_digit()) => {
            format!("{whole}.0{rest}")
        }
        _ => digits,
    };
    let exact = Number::from_str(&format!("{sign}{digits}")).ok();
    match exact.filter(|number| number.as_f64() == read.as_f64()) {
        Some(number) => Ok(Value::Number(number)),
        // `0x1F` and `0o17` are whole numbers that were read exactly.
        None if (read.is_u64() || read.is_i64()) && !written.contains('_') => Ok(read.clone()),
        None => Err(format!(
            "the number `{written}` cannot be kept as it is written; quote it if it is a text, or write its digits only"
        )),
    }
}

/// What stands at a place.
fn written_at(text: &str, at: Location) -> Option<&str> {
    let span = at.span();
    let start = usize::try_from(span.byte_offset()?).ok()?;
    let length = usize::try_from(span.byte_len()?).ok()?;
    text.get(start..start.checked_add(length)?).map(str::trim)
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WrittenVisitor)
    }
}

struct WrittenVisitor;

impl<'de> Visitor<'de> for WrittenVisitor {
    type Value = Written;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any valid JSON value")
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Written, E> {
        Ok(Written::Scalar(Value::Bool(truth)))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Written, E> {
        Ok(Written::Number(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Written, E> {
        Ok(Written::Number(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Written, E> {
        Ok(Written::Number(Value::from(number)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Written, E> {
        Ok(Written::Scalar(text.into()))
    }

    fn visit_string<E>(self, text: String) -> Result<Written, E> {
        Ok(Written::Scalar(text.into()))
    }

    fn visit_unit<E>(self) -> Result<Written, E> {
        Ok(Written::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Written, E> {
        Ok(Written::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Written, D::Error> {
        Deserialize::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Written, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Written::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Written, A::Error> {
        let mut map = Vec::new();
        while let Some(field) = fields.next_entry()? {
            map.push(field);
        }
        Ok(Written::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Document {
        v: Spanned<Written>,
    }

    fn read(yaml: &str) -> String {
        let document: Document = match serde_saphyr::from_str(yaml) {
            Ok(document) => document,
            Err(error) => return format!("yaml: {}", error.without_snippet()),
        };
        match document.v.value.json(yaml, document.v.defined) {
            Ok(value) => value.to_string(),
            Err(error) => format!("line {}: {}", error.line, error.message),
        }
    }

    #[test]
    fn numbers_are_those_that_are_written() {
        for (written, json) in [
            ("1.50", "1.50"),
            ("+1.50", "1.50"),
            ("-1.50", "-1.50"),
            ("+12", "12"),
            ("-0", "-0"),
            ("0", "0"),
            ("0.10", "0.10"),
            (".5", "0.5"),
            ("-.50", "-0.50"),
            ("5.", "5.0"),
            ("5.e3", "5.0e+3"),
            ("1e3", "1e+3"),
            ("1e-400", "1e-400"),
            ("18446744073709551616", "18446744073709551616"),
            ("+123456789012345678901234567890123456789012", "123456789012345678901234567890123456789012"),
            ("-123456789012345678901234567890.10", "-123456789012345678901234567890.10"),
            ("0x1F", "31"),
            ("0o17", "15"),
            ("'007'", "\"007\""),
        ] {
            assert_eq!(read(&format!("v: {written}\n")), json, "{written}");
            assert_eq!(read(&format!("v: [{written} ]\n")), format!("[{json}]"), "{written}");
            assert_eq!(read(&format!("v: &a\n  x: {written} # as written\n")), format!("{{\"x\":{json}}}"));
        }
        for written in ["007", "-007", "+00", "00.5", "010", "0123456789012345678901234567890"] {
            let error = format!(
                "line 2: the number `{written}` begins with a zero; quote it if it is a text, or take the zero out"
            );
            assert_eq!(read(&format!("v:\n  {written}\n")), error);
            assert_eq!(
                read(&format!("v: {{ {written}: 1 }}\n")),
                format!("{{\"{written}\":1}}"),
                "a key is a text"
            );
        }
        assert_eq!(
            read("v: 1_000\n"),
            "line 1: the number `1_000` cannot be kept as it is written; quote it if it is a text, or write its digits only"
        );
        for written in ["1E400", "-1e400", ".inf", ".nan"] {
            assert!(read(&format!("v: {written}\n")).starts_with("yaml: non-finite float"), "{written}");
        }
    }

    #[test]
    fn what_could_not_be_read_back_is_refused() {
        let nested = |levels: usize| format!("v: {}1{}\n", "[".repeat(levels), "]".repeat(levels));
        assert!(read(&nested(MAX_DEFINITION_DEPTH)).starts_with("[["));
        let too_deep = "line 1: lists and objects are nested more than 32 levels deep";
        assert_eq!(read(&nested(MAX_DEFINITION_DEPTH + 1)), too_deep);
        assert_eq!(
            read("v:\n  - $serde_json::private::Number: '5'\n"),
            "line 2: a key that begins with `$serde_json::private::` is not accepted"
        );
    }
}

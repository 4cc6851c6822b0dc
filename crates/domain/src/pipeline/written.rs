//! A JSON value as it is written in YAML, whose numbers keep their digits.
//!
//! The YAML reader gives out numbers that it has read as 64-bit ones. Where such a number was rounded, the text itself tells.
#![allow(missing_docs, reason = "private to the loader")]

use std::str::FromStr as _;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{Location, Spanned};

/// A value, with the places of its parts.
#[derive(Debug)]
pub enum Written {
    /// Anything but those below.
    Scalar(Value),
    /// A number that may have been rounded.
    Fraction(f64),
    List(Vec<Spanned<Written>>),
    Map(Vec<(String, Spanned<Written>)>),
}

impl Written {
    /// The value; `text` is the YAML that it is from, and `defined` its place there.
    pub fn json(&self, text: &str, defined: Location) -> Value {
        match self {
            Self::Scalar(value) => value.clone(),
            Self::Fraction(read) => {
                let exact = written_at(text, defined).and_then(|digits| Number::from_str(digits).ok());
                let exact = exact.filter(|number| number.as_f64() == Some(*read));
                exact.map_or_else(|| Value::from(*read), Value::Number)
            }
            Self::List(items) => items.iter().map(|item| item.value.json(text, item.defined)).collect(),
            Self::Map(fields) => Value::Object(
                fields
                    .iter()
                    .map(|(name, field)| (name.clone(), field.value.json(text, field.defined)))
                    .collect::<Map<_, _>>(),
            ),
        }
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
        Ok(Written::Scalar(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Written, E> {
        Ok(Written::Scalar(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Written, E> {
        Ok(Written::Fraction(number))
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

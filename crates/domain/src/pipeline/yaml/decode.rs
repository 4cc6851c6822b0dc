//! Reads values from a tree of YAML, as the YAML reader reads them from the text: scalars are given to that reader itself.
//! An error comes with its path through the tree.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, Error as _, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess,
    Visitor,
};
use serde::{Deserialize as _, forward_to_deserialize_any};
use serde_json::json;
use serde_saphyr::{Location, with_deserializer_from_str};

use super::node::{Entry, Kind, Node};

/// An error, and where in the tree it is.
#[derive(Debug)]
pub struct TreeError {
    pub error: serde_saphyr::Error,
    /// From the innermost part outwards.
    pub path: Vec<usize>,
    /// The entry of the innermost map whose key it is.
    pub key: Option<usize>,
}

impl TreeError {
    fn within(mut self, index: usize) -> Self {
        self.path.push(index);
        self
    }

    fn of_key(mut self, index: usize) -> Self {
        self.key = Some(index);
        self
    }
}

impl From<serde_saphyr::Error> for TreeError {
    fn from(error: serde_saphyr::Error) -> Self {
        Self { error, path: Vec::new(), key: None }
    }
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for TreeError {}

impl de::Error for TreeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        serde_saphyr::Error::custom(message).into()
    }

    fn invalid_type(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        serde_saphyr::Error::invalid_type(unexpected, expected).into()
    }

    fn invalid_value(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        serde_saphyr::Error::invalid_value(unexpected, expected).into()
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        serde_saphyr::Error::unknown_variant(variant, expected).into()
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        serde_saphyr::Error::unknown_field(field, expected).into()
    }

    fn missing_field(field: &'static str) -> Self {
        serde_saphyr::Error::missing_field(field).into()
    }
}

/// A value that is read from a part of the tree.
#[derive(Clone, Copy)]
pub struct Reader<'n, 't>(pub &'n Node<'t>);

impl<'t> Reader<'_, 't> {
    /// The part as a text of its own: of lists and maps only which of them it is.
    fn written(self) -> &'t str {
        match &self.0.kind {
            Kind::Scalar(written) => written,
            Kind::Block(_) => "''",
            Kind::List(_) => "[]",
            Kind::Map(_) => "{}",
        }
    }

    fn scalar<R>(
        self,
        read: impl FnOnce(serde_saphyr::Deserializer<'t, '_>) -> Result<R, serde_saphyr::Error>,
    ) -> Result<R, TreeError> {
        Ok(with_deserializer_from_str(self.written(), read)?)
    }

    fn is_null(self) -> bool {
        matches!(self.0.kind, Kind::Scalar(_))
            && self
                .scalar(|scalar| Option::<IgnoredAny>::deserialize(scalar))
                .is_ok_and(|value| value.is_none())
    }

    fn any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, TreeError> {
        match &self.0.kind {
            Kind::Scalar(_) => self.scalar(|scalar| scalar.deserialize_any(visitor)),
            Kind::Block(text) => visitor.visit_str(text),
            Kind::List(items) => visitor.visit_seq(Items { items, next: 0 }),
            Kind::Map(map) => visitor.visit_map(Entries { entries: &map.entries, next: 0 }),
        }
    }
}

/// Of a block, which is a text, its text; of anything else what the YAML reader makes of it.
macro_rules! scalars {
    ($($name:ident)*) => {
        $(fn $name<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, TreeError> {
            match &self.0.kind {
                Kind::Block(text) => visitor.visit_str(text),
                _ => self.scalar(|scalar| scalar.$name(visitor)),
            }
        })*
    };
}

impl<'t> Deserializer<'t> for Reader<'_, 't> {
    type Error = TreeError;

    scalars! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64
        deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf deserialize_unit
        deserialize_identifier
    }

    fn deserialize_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, TreeError> {
        self.any(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, TreeError> {
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, TreeError> {
        if self.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'t>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        if name == "__yaml_spanned" {
            visitor.visit_newtype_struct(WithPlace(self))
        } else {
            visitor.visit_newtype_struct(self)
        }
    }

    fn deserialize_seq<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, TreeError> {
        match &self.0.kind {
            Kind::List(_) => self.any(visitor),
            _ => self.scalar(|scalar| scalar.deserialize_seq(visitor)),
        }
    }

    fn deserialize_tuple<V: Visitor<'t>>(self, length: usize, visitor: V) -> Result<V::Value, TreeError> {
        match &self.0.kind {
            Kind::List(_) => self.any(visitor),
            _ => self.scalar(|scalar| scalar.deserialize_tuple(length, visitor)),
        }
    }

    fn deserialize_tuple_struct<V: Visitor<'t>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'t>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_map<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, TreeError> {
        match &self.0.kind {
            Kind::Map(_) => self.any(visitor),
            _ => self.scalar(|scalar| scalar.deserialize_map(visitor)),
        }
    }

    fn deserialize_struct<V: Visitor<'t>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        match &self.0.kind {
            Kind::Map(_) => self.any(visitor),
            _ => self.scalar(|scalar| scalar.deserialize_struct(name, fields, visitor)),
        }
    }

    fn deserialize_enum<V: Visitor<'t>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        match &self.0.kind {
            Kind::Map(map) => {
                let entries = Entries { entries: &map.entries, next: 0 };
                MapAccessDeserializer::new(entries).deserialize_enum(name, variants, visitor)
            }
            _ => self.scalar(|scalar| scalar.deserialize_enum(name, variants, visitor)),
        }
    }
}

struct Items<'n, 't> {
    items: &'n [Node<'t>],
    next: usize,
}

impl<'t> SeqAccess<'t> for Items<'_, 't> {
    type Error = TreeError;

    fn next_element_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<Option<S::Value>, TreeError> {
        let Some(item) = self.items.get(self.next) else { return Ok(None) };
        let index = self.next;
        self.next += 1;
        seed.deserialize(Reader(item)).map(Some).map_err(|error| error.within(index))
    }
}

struct Entries<'n, 't> {
    entries: &'n [Entry<'t>],
    next: usize,
}

impl<'t> MapAccess<'t> for Entries<'_, 't> {
    type Error = TreeError;

    fn next_key_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<Option<S::Value>, TreeError> {
        let Some(entry) = self.entries.get(self.next) else { return Ok(None) };
        let key = seed.deserialize(entry.key.as_str().into_deserializer());
        key.map(Some).map_err(|error: TreeError| error.of_key(self.next))
    }

    fn next_value_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<S::Value, TreeError> {
        let index = self.next;
        self.next += 1;
        let entry = self.entries.get(index).ok_or_else(|| TreeError::custom("a key has no value"))?;
        seed.deserialize(Reader(&entry.value)).map_err(|error| error.within(index))
    }
}

/// A value with its place, in the form that `Spanned` reads.
struct WithPlace<'n, 't>(Reader<'n, 't>);

impl<'de> Deserializer<'de> for WithPlace<'_, 'de> {
    type Error = TreeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        visitor.visit_map(Parts { of: self.0, next: 0 })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct Parts<'n, 't> {
    of: Reader<'n, 't>,
    next: usize,
}

/// The keys of a value with its place; the first marks it as one.
const PARTS: [&str; 4] = ["__serde_saphyr_private_spanned", "value", "referenced", "defined"];

impl<'t> MapAccess<'t> for Parts<'_, 't> {
    type Error = TreeError;

    fn next_key_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<Option<S::Value>, TreeError> {
        let Some(part) = PARTS.get(self.next) else { return Ok(None) };
        seed.deserialize((*part).into_deserializer()).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<S::Value, TreeError> {
        let part = self.next;
        self.next += 1;
        let location = match part {
            0 => return seed.deserialize(true.into_deserializer()),
            1 => return seed.deserialize(self.of),
            2 => self.of.0.referenced,
            _ => self.of.0.defined,
        };
        seed.deserialize(json_of(location)).map_err(de::Error::custom)
    }
}

fn json_of(location: Location) -> serde_json::Value {
    let span = location.span();
    let mut written = json!({ "offset": span.offset(), "len": span.len() });
    if let Some((start, length)) = span.byte_offset().zip(span.byte_len()) {
        written["byte_info"] = json!([start, length]);
    }
    json!({ "line": location.line(), "column": location.column(), "span": written })
}

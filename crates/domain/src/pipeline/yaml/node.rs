//! A YAML text as a tree with places, for the collection of errors: an entry can be taken out, renamed or replaced, and
//! the rest is read again.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

/// A part of the text.
#[derive(Debug)]
pub struct Node<'t> {
    pub kind: Kind<'t>,
    pub referenced: Location,
    pub defined: Location,
}

#[derive(Debug)]
pub enum Kind<'t> {
    /// As it is written, with its quotes.
    Scalar(&'t str),
    /// A text of several lines (`|` and `>`), whose indentation is taken off.
    Block(String),
    List(Vec<Node<'t>>),
    Map(Map<'t>),
}

#[derive(Debug, Default)]
pub struct Map<'t> {
    pub entries: Vec<Entry<'t>>,
    /// Keys of entries that were taken out: that they are missing now is no error of the text's.
    pub removed: BTreeSet<String>,
}

#[derive(Debug)]
pub struct Entry<'t> {
    pub key: String,
    pub at: Location,
    pub value: Node<'t>,
}

/// A value as the YAML reader gives it out.
enum Raw {
    Text(String),
    Other,
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'t> Node<'t> {
    /// Reads a text; entries whose keys stand at `hidden` places (line and column) are left out.
    ///
    /// # Errors
    /// When it is no YAML.
    pub fn parse(text: &'t str, hidden: &[(u64, u64)]) -> Result<Self, serde_saphyr::Error> {
        let raw: Spanned<Raw> = serde_saphyr::from_str(text)?;
        Ok(Self::made(raw, text, hidden))
    }

    fn made(raw: Spanned<Raw>, text: &'t str, hidden: &[(u64, u64)]) -> Self {
        let (referenced, defined) = (raw.referenced, raw.defined);
        let kind = match raw.value {
            Raw::Text(value) => {
                let written = written_at(text, defined);
                let quoted_or_plain = !written.starts_with(['|', '>']) && !written.is_empty();
                if quoted_or_plain { Kind::Scalar(written) } else { Kind::Block(value) }
            }
            Raw::Other => {
                let written = written_at(text, defined);
                // A value that is left out is null.
                Kind::Scalar(if written.is_empty() { "~" } else { written })
            }
            Raw::List(items) => {
                Kind::List(items.into_iter().map(|item| Self::made(item, text, hidden)).collect())
            }
            Raw::Map(entries) => {
                let shown = |at: Location| !hidden.contains(&(at.line(), at.column()));
                let entry = |(key, value): (Spanned<String>, Spanned<Raw>)| Entry {
                    key: key.value,
                    at: key.referenced,
                    value: Self::made(value, text, hidden),
                };
                let entries =
                    entries.into_iter().filter(|(key, _)| shown(key.referenced)).map(entry).collect();
                Kind::Map(Map { entries, removed: BTreeSet::new() })
            }
        };
        Self { kind, referenced, defined }
    }

    /// The part at the end of a path of entries and items.
    pub fn part(&self, path: &[usize]) -> Option<&Node<'t>> {
        let Some((first, rest)) = path.split_first() else { return Some(self) };
        match &self.kind {
            Kind::List(items) => items.get(*first)?.part(rest),
            Kind::Map(map) => map.entries.get(*first)?.value.part(rest),
            Kind::Scalar(_) | Kind::Block(_) => None,
        }
    }

    /// The same, to be changed.
    pub fn at(&mut self, path: &[usize]) -> Option<&mut Node<'t>> {
        let Some((first, rest)) = path.split_first() else { return Some(self) };
        match &mut self.kind {
            Kind::List(items) => items.get_mut(*first)?.at(rest),
            Kind::Map(map) => map.entries.get_mut(*first)?.value.at(rest),
            Kind::Scalar(_) | Kind::Block(_) => None,
        }
    }

    /// The map at the end of a path.
    pub fn map_at(&mut self, path: &[usize]) -> Option<&mut Map<'t>> {
        match &mut self.at(path)?.kind {
            Kind::Map(map) => Some(map),
            _ => None,
        }
    }

    /// Puts all parts at one place: that of the part which they stand for.
    pub fn moved(mut self, to: Location) -> Self {
        self.referenced = to;
        match &mut self.kind {
            Kind::List(items) => {
                *items = std::mem::take(items).into_iter().map(|item| item.moved(to)).collect();
            }
            Kind::Map(map) => {
                for entry in std::mem::take(&mut map.entries) {
                    let value = entry.value.moved(to);
                    map.entries.push(Entry { key: entry.key, at: to, value });
                }
            }
            Kind::Scalar(_) | Kind::Block(_) => {}
        }
        self
    }
}

/// What stands at a place.
fn written_at(text: &str, at: Location) -> &str {
    let span = at.span();
    let bytes = span.byte_offset().zip(span.byte_len()).and_then(|(start, length)| {
        let start = usize::try_from(start).ok()?;
        text.get(start..start.checked_add(usize::try_from(length).ok()?)?)
    });
    bytes.unwrap_or_default().trim()
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Raw, E> {
        Ok(Raw::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Raw, E> {
        Ok(Raw::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Raw, E> {
        Ok(Raw::Other)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Raw, E> {
        Ok(Raw::Other)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Raw, E> {
        Ok(Raw::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Raw, E> {
        Ok(Raw::Other)
    }

    fn visit_str<E>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Other)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Other)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Deserialize::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}

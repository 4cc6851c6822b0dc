//! A record, as the parser found it in the file.

use std::borrow::Cow;

/// One record as it stands in the file.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The physical line where it starts, from 1.
    pub line: u64,
    /// The physical line after it.
    pub next_line: u64,
    /// The offset of its first byte.
    pub offset: u64,
    /// The offset after its line end.
    pub end: u64,
    /// Its bytes without the line end; valid UTF-8.
    pub raw: &'a str,
    pub(super) fields: &'a [Field],
}

impl<'a> Record<'a> {
    /// How many fields it has.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Never: a record has at least one field.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// How many bytes a field takes in the file, its quotes included.
    pub fn width(&self, index: usize) -> usize {
        self.fields.get(index).map_or(0, |field| field.end - field.start)
    }

    /// The value of a field.
    pub fn get(&self, index: usize) -> Option<Cow<'a, str>> {
        self.fields.get(index).map(|field| field.value(self.raw))
    }

    /// The values of all fields.
    pub fn values(&self) -> impl Iterator<Item = Cow<'a, str>> + '_ {
        self.fields.iter().map(|field| field.value(self.raw))
    }
}

/// Where a field lies in its record, quotes included.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Field {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) quoted: bool,
    pub(super) doubled: bool,
}

impl Field {
    fn value(self, raw: &str) -> Cow<'_, str> {
        if !self.quoted {
            return Cow::Borrowed(&raw[self.start..self.end]);
        }
        let inside = &raw[self.start + 1..self.end - 1];
        if self.doubled { Cow::Owned(inside.replace("\"\"", "\"")) } else { Cow::Borrowed(inside) }
    }
}

/// A record that breaks the grammar. The parser goes on after the next line end that lies outside quotes, or, where
/// it is not known what is inside, after the next line end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The physical line where the record starts.
    pub line: u64,
    /// The field's place, from 0; for `field_count` and `too_many_columns` the number of fields.
    pub field: usize,
    /// Which rule is broken; see [`super::error`].
    pub code: &'static str,
    /// The physical line where it happened.
    pub at_line: u64,
    /// The byte that no rule allows there, when it is one byte; for `field_count` and `too_many_columns` the delimiter, when no value stands behind the
    /// header's columns.
    pub byte: Option<u8>,
}

/// What the parser found.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A record.
    Record(Record<'a>),
    /// Something that should have been one.
    Malformed(Malformed),
}

//! What the `_ref` of a line says of it: which apostrophes are a report's, whose idempotency keys it keeps, and whether it would
//! repeat an effect.

use std::borrow::Cow;

use super::formula::{may_be_protected, restore};
use super::header::{HeaderMap, tag_of};
use super::record::Record;
use super::reference::{ReferenceReader, RowOrigin, RowReference, looks_written, values_digest};
use super::spreadsheet::text_of;
use crate::effect::Effect;

/// The fields of a record that a report protected by an apostrophe.
#[derive(Debug, Default)]
pub struct ProtectedFields(pub(super) Vec<usize>);

/// What the `_ref` cell of a line says of the line's cells.
#[derive(Debug)]
pub enum LineReference {
    /// The line has none.
    Absent,
    /// It was written for a report.
    Ours(OurLine),
    /// It was written for a report and is not the same any more, and a cell begins with an apostrophe: nobody knows whose.
    Changed,
    /// It is something else, or no cell depends on it.
    Foreign,
}

/// A line of a report that is uploaded again.
#[derive(Debug, Default)]
pub struct OurLine {
    /// The cells that got an apostrophe then.
    pub protected: ProtectedFields,
    /// The row whose idempotency keys it keeps: its values are as they were, and it had not completed.
    pub origin: Option<RowOrigin>,
    /// Set when the row may have had an effect that this line would repeat.
    pub repeats: Option<Repeats>,
}

/// Why a line would repeat an effect that its row may have had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeats {
    /// Its values were changed, so it has other idempotency keys.
    Changed,
    /// The call has no idempotency key.
    Unkeyed,
    /// The row is one of another pipeline.
    Elsewhere,
}

impl LineReference {
    /// What is known of the line.
    pub fn into_line(self) -> OurLine {
        match self {
            Self::Ours(line) => line,
            Self::Absent | Self::Changed | Self::Foreign => OurLine::default(),
        }
    }
}

impl HeaderMap {
    /// What a record's reference says of its cells.
    pub fn reference(&self, record: &Record<'_>, references: &dyn ReferenceReader) -> LineReference {
        let text = self.reference.and_then(|field| record.get(field)).unwrap_or_default();
        // Spreadsheets and people leave white space at the end.
        let text = text.trim();
        if text.is_empty() {
            return LineReference::Absent;
        }
        let Some(reference) = references.read(text) else {
            let apostrophes = || {
                let mut cells = (0..record.len()).filter(|field| self.column_of(*field).is_some());
                cells.any(|field| record.get(field).is_some_and(|value| may_be_protected(&value)))
            };
            let unsure = (self.other_marks || looks_written(text)) && apostrophes();
            return if unsure { LineReference::Changed } else { LineReference::Foreign };
        };
        let is_protected = |field: &usize| {
            self.column_of(*field).is_some_and(|name| reference.protected.contains(&tag_of(name)))
        };
        let fields = (0..record.len()).filter(|field| !reference.protected.is_empty() && is_protected(field));
        let mut line = self.our_line(record, &reference, ProtectedFields(fields.collect()));
        let named = reference.unfinished.and_then(|unfinished| unfinished.pipeline);
        if named.zip(references.pipeline()).is_some_and(|(named, asked)| named != asked) {
            (line.origin, line.repeats) = (None, Some(Repeats::Elsewhere));
        }
        LineReference::Ours(line)
    }

    /// What a reference of ours says of its line.
    fn our_line(&self, record: &Record<'_>, reference: &RowReference, protected: ProtectedFields) -> OurLine {
        let Some(unfinished) = reference.unfinished else {
            return OurLine { protected, ..OurLine::default() };
        };
        let mut values: Vec<(&str, String)> = Vec::with_capacity(self.columns.len());
        self.each_value(record, &protected, |place, value| {
            values.push((self.columns[place].as_str(), value.to_owned()));
        });
        let origin = reference.origin();
        let now = values_digest(origin, values.iter().map(|(name, value)| (*name, value.as_str())));
        let is_same = now == unfinished.values;
        let repeats = match unfinished.effect {
            Effect::None => None,
            Effect::Keyed => (!is_same).then_some(Repeats::Changed),
            Effect::Unkeyed => Some(Repeats::Unkeyed),
        };
        OurLine { protected, origin: is_same.then_some(origin), repeats }
    }
}

impl ProtectedFields {
    /// A field's value, without what a report did to it: an apostrophe before it, or a formula that shows it.
    pub(super) fn restored<'a>(&self, field: usize, value: &'a str) -> Cow<'a, str> {
        if !self.0.contains(&field) {
            return Cow::Borrowed(value);
        }
        text_of(value).map_or_else(|| Cow::Borrowed(restore(value)), Cow::Owned)
    }
}

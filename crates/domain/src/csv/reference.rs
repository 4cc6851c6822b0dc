//! What the `_ref` cell of a report says: which row of which batch a line was written for, and which of its cells got an
//! apostrophe; of a row that did not complete also what its values were, and whether it may have had an effect.
//!
//! A report that is uploaded again is read by it: exactly those apostrophes are taken off, and a line whose values are as they were
//! keeps its idempotency keys, so that an effect that it may have had is not repeated. It survives a spreadsheet, and whoever takes
//! it out gets the cells as they stand there, however often the file goes round, as the cells of a new line.

use std::fmt::Debug;

use uuid::Uuid;

use crate::effect::Effect;
use crate::ids::{BatchId, RowNumber};

/// The first byte of what is written of a row that completed.
const PLAIN: u8 = 1;

/// The first byte of what is written of a row that did not.
const WITH_VALUES: u8 = 3;

/// The same as releases before wrote it, without the pipeline.
const WITHOUT_PIPELINE: u8 = 2;

/// A column's name as a `_ref` has it: a few bytes, because there is a `_ref` in every line.
pub type ColumnTag = [u8; 3];

/// The row that a line of a report was written for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowReference {
    /// Its batch.
    pub batch: BatchId,
    /// Its number there.
    pub row: RowNumber,
    /// The columns whose cells got an apostrophe.
    pub protected: Vec<ColumnTag>,
    /// What is known of a row that did not complete; none for one that did.
    pub unfinished: Option<Unfinished>,
}

/// What a report knew of a row that had not completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The effect that it may have had.
    pub effect: Effect,
    /// Its values.
    pub values: ValuesDigest,
    /// The tag of its pipeline's name, as [`column_tag`] makes it; none in reports of earlier releases.
    pub pipeline: Option<ColumnTag>,
}

/// A digest of a row's values, enough to tell whether they are the same.
pub type ValuesDigest = [u8; 8];

/// The row whose idempotency keys a row has: itself, or the one of whose report it is a line that was uploaded again unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowOrigin {
    /// Its batch.
    pub batch: BatchId,
    /// Its number there.
    pub row: RowNumber,
    /// The effect that calls under these keys may have had before this row.
    pub effect: Effect,
}

impl RowOrigin {
    /// As it is stored beside the row's values.
    pub fn to_text(self) -> String {
        format!("{}/{}/{}", self.batch.0.simple(), self.row, self.effect.code())
    }

    /// Reads [`RowOrigin::to_text`].
    pub fn from_text(text: &str) -> Option<Self> {
        let (batch, rest) = text.split_once('/')?;
        let (row, effect) = rest.split_once('/')?;
        Some(Self {
            batch: BatchId(Uuid::parse_str(batch).ok()?),
            row: row.parse().ok()?,
            effect: Effect::from_code(effect.parse().ok()?)?,
        })
    }
}

/// Checks the text of a `_ref` cell and reads it.
pub trait ReferenceReader: Debug + Send + Sync {
    /// What it says; none when it was not written for a report of the same owner.
    fn read(&self, text: &str) -> Option<RowReference>;

    /// The tag of the pipeline's name that the file is for; none: any.
    fn pipeline(&self) -> Option<ColumnTag> {
        None
    }
}

/// Reads none: for files that cannot be from a report.
#[derive(Clone, Copy, Debug)]
pub struct NoReferences;

impl ReferenceReader for NoReferences {
    fn read(&self, _: &str) -> Option<RowReference> {
        None
    }
}

/// Whether a text looks like one of a report, also when it was cut or changed: a letter `r` and many small letters and digits.
pub fn looks_written(text: &str) -> bool {
    const SHORTEST: usize = 20;
    text.len() >= SHORTEST
        && text.starts_with(['r', 'R'])
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The tag of a column.
pub fn column_tag(name: &str) -> ColumnTag {
    const COLUMNS: Uuid = Uuid::from_u128(0x6bd4_9b1e_5b0f_4d3a_9a52_0c1d_7a8f_42c6);
    let [a, b, c, ..] = Uuid::new_v5(&COLUMNS, name.as_bytes()).into_bytes();
    [a, b, c]
}

/// The digest of a row's values by column, in whatever order they stand. A value that is empty counts as one that is left out.
pub fn values_digest<'a>(
    origin: RowOrigin,
    values: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> ValuesDigest {
    let mut values: Vec<(&str, &str)> = values.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    values.sort_unstable();
    let mut bytes = origin.row.to_be_bytes().to_vec();
    for part in values.into_iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    let [a, b, c, d, e, f, g, h, ..] = Uuid::new_v5(&origin.batch.0, &bytes).into_bytes();
    // UUIDs have their version in the high half of the seventh byte.
    [a, b, c, d, e, f, g & 0x0F, h]
}

impl RowReference {
    /// The row that it names, with the effect that it may have had.
    pub fn origin(&self) -> RowOrigin {
        let effect = self.unfinished.map_or(Effect::None, |unfinished| unfinished.effect);
        RowOrigin { batch: self.batch, row: self.row, effect }
    }

    /// Its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(33 + 3 * self.protected.len());
        bytes.push(match self.unfinished {
            None => PLAIN,
            Some(Unfinished { pipeline: None, .. }) => WITHOUT_PIPELINE,
            Some(_) => WITH_VALUES,
        });
        bytes.extend_from_slice(self.batch.0.as_bytes());
        bytes.extend_from_slice(&self.row.to_be_bytes());
        if let Some(unfinished) = &self.unfinished {
            bytes.push(unfinished.effect.code());
            bytes.extend_from_slice(&unfinished.values);
            bytes.extend(unfinished.pipeline.iter().flatten());
        }
        bytes.extend(self.protected.iter().flatten());
        bytes
    }

    /// Reads [`RowReference::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let (batch, rest) = rest.split_first_chunk::<16>()?;
        let (row, rest) = rest.split_first_chunk::<4>()?;
        let (unfinished, tags) = match *version {
            PLAIN => (None, rest),
            version @ (WITH_VALUES | WITHOUT_PIPELINE) => {
                let (effect, rest) = rest.split_first()?;
                let (values, mut tags) = rest.split_first_chunk::<8>()?;
                let mut pipeline = None;
                if version == WITH_VALUES {
                    let (tag, rest) = tags.split_first_chunk::<3>()?;
                    (pipeline, tags) = (Some(*tag), rest);
                }
                (Some(Unfinished { effect: Effect::from_code(*effect)?, values: *values, pipeline }), tags)
            }
            _ => return None,
        };
        let (protected, []) = tags.as_chunks() else { return None };
        Some(Self {
            batch: BatchId(Uuid::from_bytes(*batch)),
            row: RowNumber::from_be_bytes(*row),
            protected: protected.to_vec(),
            unfinished,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let batch = BatchId(Uuid::from_u128(7));
        let origin = RowOrigin { batch, row: 1_999_999_999, effect: Effect::Keyed };
        let values = values_digest(origin, [("a", "1")]);
        let effects = [Effect::None, Effect::Keyed, Effect::Unkeyed].map(Some);
        for effect in effects.into_iter().chain([None]) {
            for columns in [&[][..], &["a"], &["a", "größe"]] {
                let protected = columns.iter().map(|name| column_tag(name)).collect();
                let pipeline = Some(column_tag("invite"));
                let unfinished = effect.map(|effect| Unfinished { effect, values, pipeline });
                let reference = RowReference { batch, row: origin.row, protected, unfinished };
                let bytes = reference.to_bytes();
                assert_eq!(RowReference::from_bytes(&bytes[..bytes.len() - 1]), None);
                assert_eq!(RowReference::from_bytes(&bytes), Some(reference));
            }
        }
        assert_eq!(RowReference::from_bytes(&[4; 21]), None);
        assert_ne!(column_tag("a"), column_tag("b"));
        assert_eq!(RowOrigin::from_text(&origin.to_text()), Some(origin));
        assert_eq!(RowOrigin::from_text("7"), None);
    }

    #[test]
    fn a_digest_tells_whether_values_are_the_same() {
        let origin = RowOrigin { batch: BatchId(Uuid::from_u128(7)), row: 3, effect: Effect::None };
        let digest = values_digest(origin, [("a", "1"), ("b", "2")]);
        assert_eq!(digest, values_digest(origin, [("b", "2"), ("c", ""), ("a", "1")]), "in any order");
        for other in [
            values_digest(origin, [("a", "2"), ("b", "1")]),
            values_digest(origin, [("a", "1")]),
            values_digest(origin, [("a", "1b"), ("", "2")]),
            values_digest(RowOrigin { row: 4, ..origin }, [("a", "1"), ("b", "2")]),
        ] {
            assert_ne!(digest, other);
        }
    }
}

//! What the `_ref` cell of a report says: which row of which batch a line was written for, and which of its cells got an
//! apostrophe.
//!
//! A report that is uploaded again is read by it: exactly those apostrophes are taken off. It survives a spreadsheet, and whoever
//! takes it out gets the cells as they stand there, however often the file goes round.

use std::fmt::Debug;

use uuid::Uuid;

use crate::ids::{BatchId, RowNumber};

/// The first byte of what is written.
const VERSION: u8 = 1;

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
}

/// Checks the text of a `_ref` cell and reads it.
pub trait ReferenceReader: Debug + Send + Sync {
    /// What it says; none when it was not written for a report of the same owner.
    fn read(&self, text: &str) -> Option<RowReference>;
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

impl RowReference {
    /// Its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(21 + 3 * self.protected.len());
        bytes.push(VERSION);
        bytes.extend_from_slice(self.batch.0.as_bytes());
        bytes.extend_from_slice(&self.row.to_be_bytes());
        bytes.extend(self.protected.iter().flatten());
        bytes
    }

    /// Reads [`RowReference::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let (batch, rest) = rest.split_first_chunk::<16>()?;
        let (row, tags) = rest.split_first_chunk::<4>()?;
        let (protected, []) = tags.as_chunks() else { return None };
        (*version == VERSION).then(|| Self {
            batch: BatchId(Uuid::from_bytes(*batch)),
            row: RowNumber::from_be_bytes(*row),
            protected: protected.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        for columns in [&[][..], &["a"], &["a", "größe"]] {
            let protected = columns.iter().map(|name| column_tag(name)).collect();
            let reference =
                RowReference { batch: BatchId(Uuid::from_u128(7)), row: 1_999_999_999, protected };
            let bytes = reference.to_bytes();
            assert_eq!(RowReference::from_bytes(&bytes), Some(reference));
            assert_eq!(RowReference::from_bytes(&bytes[..bytes.len() - 1]), None);
        }
        assert_eq!(RowReference::from_bytes(&[2; 21]), None);
        assert_ne!(column_tag("a"), column_tag("b"));
    }
}

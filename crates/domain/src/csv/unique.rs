//! Values that may stand once in a file: a bounded table of keyed hashes.

use std::hash::{BuildHasher, RandomState};

/// Parts of the table. Each grows by itself, so that never more than one of them is there twice.
const PARTS: usize = 256;

/// Bytes that a row takes at most, growth included: 12 for an entry, at a load of at least 8/15 and at most 4/5.
pub const ROW_BYTES: usize = 23;

/// Which lines have a value already.
pub(super) struct Unique {
    hashes: RandomState,
    parts: Vec<Part>,
}

impl std::fmt::Debug for Unique {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unique").finish_non_exhaustive()
    }
}

/// Open addressing.
#[derive(Default)]
struct Part {
    entries: Vec<Entry>,
    used: usize,
}

/// A hash in two halves, so that nothing is lost to alignment, and an entry is one visit to memory.
#[derive(Clone, Copy, Default)]
struct Entry {
    high: u32,
    low: u32,
    /// 0: free.
    line: u32,
}

impl Unique {
    pub fn new() -> Self {
        Self { hashes: RandomState::new(), parts: (0..PARTS).map(|_| Part::default()).collect() }
    }

    /// The hash of a value, under a key that nobody outside of the process knows.
    pub fn hash(&self, value: &str) -> u64 {
        self.hashes.hash_one(value)
    }

    /// Notes the hashes of a line's values; the line that has the same already, if there is one.
    pub fn note(&mut self, values: &[u64], line: u64) -> Option<u64> {
        let hash = if let [one] = values { *one } else { self.hashes.hash_one(values) };
        let line = u32::try_from(line).unwrap_or(u32::MAX).max(1);
        #[allow(clippy::cast_possible_truncation, reason = "its halves")]
        let (high, low) = ((hash >> 32) as u32, hash as u32);
        // The highest bits choose the part, the lower half the place in it.
        self.parts[(high >> 24) as usize].note(Entry { high, low, line }).map(u64::from)
    }
}

impl Part {
    fn note(&mut self, entry: Entry) -> Option<u32> {
        if self.used * 5 >= self.entries.len() * 4 {
            self.grow();
        }
        let place = self.place(entry);
        let found = self.entries[place].line;
        if found != 0 {
            return Some(found);
        }
        self.entries[place] = entry;
        self.used += 1;
        None
    }

    /// Where a hash stands, or would stand.
    fn place(&self, entry: Entry) -> usize {
        let places = self.entries.len();
        #[allow(clippy::cast_possible_truncation, reason = "less than a usize")]
        let mut place = ((u64::from(entry.low) * places as u64) >> 32) as usize;
        loop {
            let other = self.entries[place];
            if other.line == 0 || (other.low == entry.low && other.high == entry.high) {
                return place;
            }
            place = if place + 1 == places { 0 } else { place + 1 };
        }
    }

    fn grow(&mut self) {
        let places = (self.entries.len() + self.entries.len() / 2).max(16);
        let larger = Self { entries: vec![Entry::default(); places], used: self.used };
        let smaller = std::mem::replace(self, larger);
        for entry in smaller.entries.into_iter().filter(|entry| entry.line != 0) {
            let place = self.place(entry);
            self.entries[place] = entry;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_rows_take_what_was_promised_and_the_first_line_is_found() {
        let mut unique = Unique::new();
        let hash = |unique: &Unique, row: u64| unique.hash(&row.to_string());
        for row in 0..1_000_000_u64 {
            let hash = hash(&unique, row);
            assert_eq!(unique.note(&[hash], row + 2), None);
        }
        for (row, first) in [(17, 19), (999_999, 1_000_001)] {
            let hash = hash(&unique, row);
            assert_eq!(unique.note(&[hash], 1_000_002), Some(first));
        }
        let places: usize = unique.parts.iter().map(|part| part.entries.capacity()).sum();
        assert!(places * 12 <= 1_000_000 * ROW_BYTES, "{places}");
    }

    #[test]
    fn values_are_compared_column_by_column() {
        let mut unique = Unique::new();
        let (a, b) = (unique.hash("a"), unique.hash("b"));
        assert_ne!(a, b);
        assert_eq!(unique.note(&[a, b], 2), None);
        assert_eq!(unique.note(&[b, a], 3), None);
        assert_eq!(unique.note(&[a], 4), None);
        assert_eq!(unique.note(&[a, b], 5), Some(2));
    }
}

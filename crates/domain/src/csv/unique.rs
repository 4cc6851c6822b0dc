//! Values that may stand once in a file: a bounded table of keyed hashes.

use std::hash::{BuildHasher, RandomState};

/// Parts of the table. Each grows by itself, so that never more than one of them is there twice.
const PARTS: usize = 256;

/// Bytes that a row takes at most, growth included: 13 for an entry and its tag, at a load of at least 51/80 and at most 17/20.
pub const ROW_BYTES: usize = 21;

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

/// Open addressing. Where a value is new, almost only the tags are looked at, which fit into a processor's cache: the entries of a million rows
/// do not, and each look at them would wait for memory.
#[derive(Default)]
struct Part {
    /// Of each place some bits of its hash; 0: it is free.
    tags: Vec<u8>,
    entries: Vec<Entry>,
    used: usize,
}

/// A hash in two halves, so that nothing is lost to alignment.
#[derive(Clone, Copy, Default)]
struct Entry {
    high: u32,
    low: u32,
    line: u32,
}

impl Entry {
    /// Bits that choose neither the part nor the place.
    const fn tag(self) -> u8 {
        let [.., bits] = self.high.to_be_bytes();
        if bits == 0 { 1 } else { bits }
    }
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
        if self.used * 20 >= self.tags.len() * 17 {
            self.grow();
        }
        let place = self.place(entry);
        if self.tags[place] != 0 {
            return Some(self.entries[place].line);
        }
        self.put(place, entry);
        self.used += 1;
        None
    }

    fn put(&mut self, place: usize, entry: Entry) {
        self.tags[place] = entry.tag();
        self.entries[place] = entry;
    }

    /// Where a hash stands, or would stand.
    fn place(&self, entry: Entry) -> usize {
        let (places, tag) = (self.tags.len(), entry.tag());
        #[allow(clippy::cast_possible_truncation, reason = "less than a usize")]
        let mut place = ((u64::from(entry.low) * places as u64) >> 32) as usize;
        loop {
            let other = self.tags[place];
            if other == 0 {
                return place;
            }
            if other == tag {
                let other = self.entries[place];
                if other.low == entry.low && other.high == entry.high {
                    return place;
                }
            }
            place = if place + 1 == places { 0 } else { place + 1 };
        }
    }

    fn grow(&mut self) {
        let places = (self.tags.len() * 4 / 3).max(16);
        let larger = Self { tags: vec![0; places], entries: vec![Entry::default(); places], used: self.used };
        let smaller = std::mem::replace(self, larger);
        let entries = smaller.entries.into_iter().zip(smaller.tags).filter(|(_, tag)| *tag != 0);
        for (entry, _) in entries {
            let place = self.place(entry);
            self.put(place, entry);
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
        assert!(places * 13 <= 1_000_000 * ROW_BYTES, "{places}");
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

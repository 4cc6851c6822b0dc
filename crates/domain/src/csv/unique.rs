//! Values that may stand once in a file: a bounded table of keyed hashes.

use std::hash::{BuildHasher, RandomState};

/// Parts of the table. Each grows by itself, so that never more than one of them is there twice.
const PARTS: usize = 256;

/// Bytes that a row takes at most, growth included: 12 for an entry, at a load of at least 5/8 and at most 4/5.
pub const ROW_BYTES: usize = 20;

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

/// Open addressing, with the hash and the line of each entry in lists of their own, so that nothing is lost to alignment.
#[derive(Default)]
struct Part {
    /// 0: free.
    hashes: Vec<u64>,
    lines: Vec<u32>,
    used: usize,
}

impl Unique {
    pub fn new() -> Self {
        Self { hashes: RandomState::new(), parts: (0..PARTS).map(|_| Part::default()).collect() }
    }

    /// The hash of a value, under a key that nobody outside of the process knows.
    pub fn hash(&self, value: &str) -> u64 {
        self.hashes.hash_one(value)
    }

    /// Notes the values of a line; the line that has the same already, if there is one.
    pub fn note(&mut self, values: &[u64], line: u64) -> Option<u64> {
        let hash = self.hashes.hash_one(values).max(1);
        // The highest bits choose the part, the lowest the place in it.
        let part = usize::try_from(hash >> 56).unwrap_or(0);
        self.parts[part].note(hash, u32::try_from(line).unwrap_or(u32::MAX)).map(u64::from)
    }
}

impl Part {
    fn note(&mut self, hash: u64, line: u32) -> Option<u32> {
        if self.used * 5 >= self.hashes.len() * 4 {
            self.grow();
        }
        let place = self.place(hash);
        if self.hashes[place] == hash {
            return Some(self.lines[place]);
        }
        (self.hashes[place], self.lines[place]) = (hash, line);
        self.used += 1;
        None
    }

    /// Where a hash stands, or would stand.
    fn place(&self, hash: u64) -> usize {
        let places = self.hashes.len();
        #[allow(clippy::cast_possible_truncation, reason = "a remainder of a usize")]
        let mut place = (hash % places as u64) as usize;
        while self.hashes[place] != 0 && self.hashes[place] != hash {
            place = if place + 1 == places { 0 } else { place + 1 };
        }
        place
    }

    fn grow(&mut self) {
        let places = (self.hashes.len() + self.hashes.len() / 4).max(16);
        let larger = Self { hashes: vec![0; places], lines: vec![0; places], used: self.used };
        let smaller = std::mem::replace(self, larger);
        for (hash, line) in smaller.hashes.into_iter().zip(smaller.lines).filter(|(hash, _)| *hash != 0) {
            let place = self.place(hash);
            (self.hashes[place], self.lines[place]) = (hash, line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_rows_take_what_was_promised_and_the_first_line_is_found() {
        let mut unique = Unique::new();
        for row in 0..1_000_000_u64 {
            assert_eq!(unique.note(&[row], row + 2), None);
        }
        assert_eq!(unique.note(&[17], 1_000_002), Some(19));
        assert_eq!(unique.note(&[999_999], 1_000_003), Some(1_000_001));
        let places: usize = unique.parts.iter().map(|part| part.hashes.capacity()).sum();
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

//! How long reports are, and from which rows on they can be written: so that a range costs what it has, and not what stands
//! before it.
//!
//! A report is written anew from sealed rows whenever it is asked for. Every time that happens the positions of some of its
//! rows are noted; its length is known once it was written to its end, to somebody or, when a range needs it, to nobody.
//! Reports are few that are asked for in ranges; the rest is forgotten, the longest unused first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use penstock_domain::ids::RowNumber;
use tokio::sync::Mutex as AsyncMutex;

/// Reports that are known.
const KEPT: usize = 256;

/// Bytes between two positions.
const EVERY: u64 = 1024 * 1024;

/// What is known of all reports. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Reports(Arc<Mutex<HashMap<String, Arc<Known>>>>);

/// What is known of one report, at one revision of its batch.
#[derive(Debug, Default)]
pub struct Known {
    index: Mutex<Index>,
    /// Held by who writes it to nobody: others wait for what he finds.
    pub measuring: AsyncMutex<()>,
    used: Mutex<Option<std::time::Instant>>,
}

#[derive(Debug, Default)]
struct Index {
    /// Bytes, and the last row in them: in ascending order.
    positions: Vec<Position>,
    length: Option<u64>,
}

/// A place where a report can be taken up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Bytes before it.
    pub offset: u64,
    /// The last row before it.
    pub after: RowNumber,
}

impl Reports {
    /// What is known of this one.
    pub fn known(&self, opaque: &str) -> Arc<Known> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= KEPT && !all.contains_key(opaque) {
            let oldest = all.iter().min_by_key(|(_, known)| known.used()).map(|(opaque, _)| opaque.clone());
            oldest.map(|opaque| all.remove(&opaque));
        }
        let known = all.entry(opaque.to_owned()).or_default().clone();
        *known.used.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::time::Instant::now());
        known
    }
}

impl Known {
    fn used(&self) -> Option<std::time::Instant> {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its length, when it is known.
    pub fn length(&self) -> Option<u64> {
        self.index().length
    }

    /// The last known position at or before a byte; its beginning when none is known.
    pub fn before(&self, offset: u64) -> Position {
        let index = self.index();
        let behind = index.positions.partition_point(|position| position.offset <= offset);
        behind.checked_sub(1).and_then(|at| index.positions.get(at)).copied().unwrap_or_default()
    }

    /// So far it was written.
    pub fn note(&self, position: Position) {
        let mut index = self.index();
        let last = index.positions.last().map_or(0, |last| last.offset);
        if position.after > 0 && position.offset >= last + EVERY {
            index.positions.push(position);
        }
    }

    /// It was written to its end.
    pub fn ended(&self, length: u64) {
        self.index().length = Some(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_taken_up_at_the_position_before() {
        let known = Known::default();
        for row in 1..=100 {
            known.note(Position { offset: u64::from(row) * EVERY / 4, after: row });
        }
        for (offset, position) in [
            (0, Position::default()),
            (EVERY - 1, Position::default()),
            (EVERY, Position { offset: EVERY, after: 4 }),
            (EVERY * 5 + 7, Position { offset: EVERY * 5, after: 20 }),
            (u64::MAX, Position { offset: EVERY * 25, after: 100 }),
        ] {
            assert_eq!(known.before(offset), position, "{offset}");
        }
        // Who writes it again, or from the middle on, changes nothing of what is known.
        known.note(Position { offset: EVERY * 3, after: 12 });
        assert_eq!(known.before(u64::MAX).after, 100);
        assert_eq!(known.length(), None);
        known.ended(EVERY * 26);
        assert_eq!(known.length(), Some(EVERY * 26));
    }

    #[test]
    fn the_longest_unused_are_forgotten() {
        let reports = Reports::default();
        for number in 0..KEPT {
            reports.known(&number.to_string()).ended(1);
        }
        reports.known("0");
        reports.known("new");
        assert_eq!(reports.known("0").length(), Some(1));
        assert_eq!(reports.known("1").length(), None, "it was the longest unused");
        assert_eq!(reports.0.lock().unwrap().len(), KEPT);
    }
}

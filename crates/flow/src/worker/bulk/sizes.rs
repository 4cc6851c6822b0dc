//! How many rows a call of a step may carry, as its API has shown.
//!
//! A size counts as too large when a call of it was refused as a whole and both of its halves were not: no row was at fault. A 413
//! says so by itself; a 400 or 422 may have been about two rows that do not go together, and counts when it happens a second time
//! without a call of that size in between that was taken.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

/// A step, by its definition's version and its index.
pub type StepKey = (Uuid, usize);

/// What is known of a step's calls.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Rows of a call at most; none: as the definition says.
    most: Option<usize>,
    /// A size that was refused once, and its halves were not.
    doubted: Option<usize>,
}

/// What is known of all steps' calls, in this process.
#[derive(Debug, Default)]
pub struct Sizes(Mutex<HashMap<StepKey, Known>>);

impl Sizes {
    /// Rows of a step's calls at most, where its definition says `rows`.
    pub fn most(&self, step: StepKey, rows: usize) -> usize {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&step).and_then(|known| known.most).map_or(rows, |most| most.min(rows))
    }

    /// A call of so many rows was refused, and both of its halves were not.
    pub fn too_large(&self, step: StepKey, rows: usize, status: u16) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.entry(step).or_default();
        let is_certain = status == 413 || known.doubted.is_some_and(|doubted| doubted <= rows);
        if is_certain {
            let half = rows.div_ceil(2);
            known.most = Some(known.most.map_or(half, |most| most.min(half)).max(1));
            known.doubted = None;
        } else {
            known.doubted = Some(rows);
        }
    }

    /// A call of so many rows was taken.
    pub fn taken(&self, step: StepKey, rows: usize) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get_mut(&step)
            && known.doubted.is_some_and(|doubted| rows >= doubted)
        {
            known.doubted = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: StepKey = (Uuid::nil(), 0);

    #[test]
    fn a_size_that_is_too_large_is_remembered() {
        let sizes = Sizes::default();
        assert_eq!(sizes.most(STEP, 100), 100);
        sizes.too_large(STEP, 100, 413);
        assert_eq!((sizes.most(STEP, 100), sizes.most((STEP.0, 1), 100)), (50, 100));
        sizes.too_large(STEP, 50, 413);
        assert_eq!(sizes.most(STEP, 100), 25);
    }

    #[test]
    fn two_rows_that_do_not_go_together_are_no_size() {
        let sizes = Sizes::default();
        sizes.too_large(STEP, 100, 422);
        sizes.taken(STEP, 100);
        sizes.too_large(STEP, 100, 422);
        assert_eq!(sizes.most(STEP, 100), 100);
        sizes.taken(STEP, 50);
        sizes.too_large(STEP, 100, 400);
        assert_eq!(sizes.most(STEP, 100), 50, "twice in a row");
    }
}

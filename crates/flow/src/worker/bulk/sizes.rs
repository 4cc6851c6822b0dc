//! How many rows a call of a step may carry, as its API has shown.
//!
//! A size counts as too large when a call of it was refused as a whole and all of its parts were not: no row was at fault. A 413
//! says so by itself; a 400 or 422 may have been about two rows that do not go together, and counts when it happens a second time
//! without a call of that size in between that was taken.
//!
//! Calls are also smaller while many rows are wrong and refusals do not name them. A call of which about half are refused tells most
//! about its rows, and most of a thousand full calls would be refused for nothing.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use penstock_domain::pipeline::bulk::Refusal;
use uuid::Uuid;

/// A step, by its definition's version and its index.
pub type StepKey = (Uuid, usize);

/// The share of wrong rows is that of about as many last rows as this many full calls have.
const REMEMBERED_CALLS: f64 = 3.0;

/// What is known of a step's calls.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Rows of a call at most; none: as the definition says.
    most: Option<usize>,
    /// A size that was refused once, and its parts were not.
    doubted: Option<usize>,
    /// The largest call that was taken.
    largest: usize,
    /// The share of rows that were found to be wrong by further calls: a moving mean.
    wrong: f64,
}

/// What is known of all steps' calls, in this process.
#[derive(Debug, Default)]
pub struct Sizes(Mutex<HashMap<StepKey, Known>>);

impl Sizes {
    /// Rows of a step's calls at most, where its definition says `rows`.
    pub fn most(&self, step: StepKey, rows: usize) -> usize {
        let known = self.lock().get(&step).copied().unwrap_or_default();
        // Of a call with this many rows about half are refused.
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a number of rows, or more"
        )]
        let telling = (std::f64::consts::LN_2 / known.wrong) as usize;
        known.most.unwrap_or(rows).min(rows).min(telling.max(1))
    }

    /// The most rows of a call that was taken.
    pub fn largest(&self, step: StepKey) -> usize {
        self.lock().get(&step).map_or(0, |known| known.largest)
    }

    /// A call was refused, and all of its parts were not.
    pub fn too_large(&self, step: StepKey, refusal: Refusal) {
        let mut known = self.lock();
        let known = known.entry(step).or_default();
        let rows = refusal.rows;
        let is_certain = refusal.status == 413 || known.doubted.is_some_and(|doubted| doubted <= rows);
        if is_certain {
            let half = rows.div_ceil(2);
            known.most = Some(known.most.map_or(half, |most| most.min(half)).max(1));
            known.doubted = None;
        } else {
            known.doubted = Some(rows);
        }
    }

    /// A call of so many rows was taken, of a step with `full` rows in a call.
    pub fn taken(&self, step: StepKey, rows: usize, full: usize) {
        let mut known = self.lock();
        let known = known.entry(step).or_default();
        known.largest = known.largest.max(rows);
        known.doubted = known.doubted.filter(|doubted| rows < *doubted);
        known.wrong *= (1.0 - weight(full)).powf(number(rows));
    }

    /// A row was found to be wrong by a call of its own.
    pub fn wrong(&self, step: StepKey, full: usize) {
        let mut known = self.lock();
        let known = known.entry(step).or_default();
        known.wrong += (1.0 - known.wrong) * weight(full);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StepKey, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one row moves the mean by.
fn weight(full: usize) -> f64 {
    1.0 / (REMEMBERED_CALLS * number(full.max(1)))
}

#[allow(clippy::cast_precision_loss, reason = "at most some thousands")]
fn number(rows: usize) -> f64 {
    rows as f64
}

#[cfg(test)]
mod tests {
    use penstock_domain::pipeline::bulk::Search;

    use super::*;

    const STEP: StepKey = (Uuid::nil(), 0);

    /// The refusal of a call whose halves are taken.
    fn refusal(rows: usize, status: u16) -> Refusal {
        let mut search = Search::new(vec![(); rows]);
        let first = search.next(rows, 0).unwrap_or_default();
        search.refused(first, status);
        loop {
            let part = search.next(rows, 0).expect("a part");
            if let Some(refusal) = search.taken(part.len()) {
                return refusal;
            }
        }
    }

    #[test]
    fn a_size_that_is_too_large_is_remembered() {
        let sizes = Sizes::default();
        assert_eq!(sizes.most(STEP, 100), 100);
        sizes.too_large(STEP, refusal(100, 413));
        assert_eq!((sizes.most(STEP, 100), sizes.most((STEP.0, 1), 100)), (50, 100));
        sizes.too_large(STEP, refusal(50, 413));
        assert_eq!(sizes.most(STEP, 100), 25);
    }

    #[test]
    fn two_rows_that_do_not_go_together_are_no_size() {
        let sizes = Sizes::default();
        sizes.too_large(STEP, refusal(100, 422));
        sizes.taken(STEP, 100, 100);
        sizes.too_large(STEP, refusal(100, 422));
        assert_eq!(sizes.most(STEP, 100), 100);
        sizes.taken(STEP, 50, 100);
        sizes.too_large(STEP, refusal(100, 400));
        assert_eq!(sizes.most(STEP, 100), 50, "twice in a row");
        assert_eq!(sizes.largest(STEP), 100);
    }

    #[test]
    fn calls_are_smaller_while_many_rows_are_wrong_and_full_again_after_that() {
        let sizes = Sizes::default();
        sizes.wrong(STEP, 100);
        assert_eq!(sizes.most(STEP, 100), 100, "one is none");
        for _ in 0..300 {
            sizes.taken(STEP, 7, 100);
            (0..3).for_each(|_| sizes.wrong(STEP, 100));
        }
        let size = sizes.most(STEP, 100);
        assert!((2..=3).contains(&size), "three in ten: {size}");
        let mut calls = 0;
        while sizes.most(STEP, 100) < 100 {
            sizes.taken(STEP, sizes.most(STEP, 100), 100);
            calls += 1;
        }
        assert!(calls < 200, "{calls}");
        (0..2000).for_each(|_| sizes.wrong(STEP, 100));
        assert_eq!(sizes.most(STEP, 100), 1);
    }
}

//! What a pipeline's rows use of its dependencies, where its definition does not say it: `when` may leave a step out, a `cache` may
//! have its answer, and an answer may say what its call has taken. A limit is to hold up the rows that call, for what they take.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Rows after which what was counted before counts half.
const LATELY: u32 = 128;

/// How much the newest call counts in what calls have taken.
const NEWEST: f64 = 1.0 / 8.0;

/// From this share on a dependency counts as one that every row calls.
const ALL: f64 = 0.8;

/// While a dependency that every row seems to call holds the pipeline up for long, one row is tried this often: it may not call. Each
/// one that did call doubles the time, up to the second of these.
const TRY_EVERY: Duration = Duration::from_millis(250);
const TRY_SELDOM: Duration = Duration::from_secs(30);

/// What was counted of late.
#[derive(Debug, Default)]
pub(super) struct Uses(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// By the dependency's place in the pipeline.
    of: HashMap<usize, Use>,
    /// What calls have taken of limits with names, on average.
    taken: HashMap<(usize, String), f64>,
    /// When a row was tried last, whether it has not shown yet what it does, and after what time the next one is.
    tried_at: Option<Instant>,
    is_trying: bool,
    try_pause: Duration,
}

#[derive(Debug, Default)]
struct Use {
    /// Rows that came to a step of it.
    came: u32,
    /// Those of them that call.
    called: u32,
}

impl Uses {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A row came to a step of the dependency that it may leave out. `noted` is what it came to before.
    pub(super) fn came(&self, dependency: usize, noted: &mut Vec<(usize, bool)>) {
        if noted.iter().any(|(known, _)| *known == dependency) {
            return;
        }
        noted.push((dependency, false));
        let mut counts = self.counts();
        let of = counts.of.entry(dependency).or_default();
        of.came += 1;
        if of.came > LATELY {
            (of.came, of.called) = (of.came / 2, of.called / 2);
        }
    }

    /// It calls.
    pub(super) fn called(&self, dependency: usize, noted: &mut [(usize, bool)]) {
        let Some((_, called)) = noted.iter_mut().find(|(known, _)| *known == dependency) else { return };
        if std::mem::replace(called, true) {
            return;
        }
        let mut counts = self.counts();
        counts.of.entry(dependency).or_default().called += 1;
        if std::mem::take(&mut counts.is_trying) {
            // The next one may call as well, and is then tried for nothing.
            counts.try_pause = (counts.try_pause * 2).clamp(TRY_EVERY * 2, TRY_SELDOM);
        }
    }

    /// The share of rows that call it, above 0 and up to 1. Until rows came it is 1.
    pub(super) fn share(&self, dependency: usize) -> f64 {
        let counts = self.counts();
        let Some(of) = counts.of.get(&dependency) else { return 1.0 };
        (f64::from(of.called + 1) / f64::from(of.came + 1)).min(1.0)
    }

    /// Whether every row seems to call it.
    pub(super) fn is_called_by_all(&self, dependency: usize) -> bool {
        self.share(dependency) >= ALL
    }

    /// A call is about to take that much, as far as is known; what calls before have taken is known better.
    pub(super) fn takes(&self, dependency: usize, named: &[(String, u32)]) {
        let mut counts = self.counts();
        for (name, cost) in named {
            counts.taken.entry((dependency, name.clone())).or_insert_with(|| f64::from(*cost));
        }
    }

    /// A call has taken that much.
    pub(super) fn took<'a>(&self, dependency: usize, named: impl Iterator<Item = &'a (String, u32)>) {
        let mut counts = self.counts();
        for (name, cost) in named {
            let cost = f64::from(*cost);
            let mean = counts.taken.entry((dependency, name.clone())).or_insert(cost);
            *mean += (cost - *mean) * NEWEST;
        }
    }

    /// What a call takes of a limit with that name; none: that is not known yet.
    pub(super) fn taken(&self, dependency: usize, name: &str) -> Option<f64> {
        self.counts().taken.get(&(dependency, name.to_owned())).copied()
    }

    /// Whether a row may be tried although a limit holds the pipeline up; the next one may after a while.
    pub(super) fn may_try(&self) -> bool {
        let mut counts = self.counts();
        let now = Instant::now();
        let pause = counts.try_pause.max(TRY_EVERY);
        let may = counts.tried_at.is_none_or(|at| now.saturating_duration_since(at) >= pause);
        if may {
            counts.tried_at = Some(now);
            counts.is_trying = true;
        }
        may
    }

    /// A row has ended without a call of a dependency that it may leave out: the next one may be such a row too.
    pub(super) fn ended(&self, noted: &[(usize, bool)]) {
        if noted.iter().any(|(_, called)| !called) {
            let mut counts = self.counts();
            (counts.try_pause, counts.is_trying) = (Duration::ZERO, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_follows_the_rows_of_late() {
        let uses = Uses::default();
        assert!(uses.is_called_by_all(0), "nothing is known");
        let rows = |called: bool, rows: u32| {
            for _ in 0..rows {
                let mut noted = Vec::new();
                uses.came(0, &mut noted);
                if called {
                    uses.called(0, &mut noted);
                }
                // Another step of the same, which the row leaves out, or looks for its result.
                uses.came(0, &mut noted);
                if called {
                    uses.called(0, &mut noted);
                }
            }
        };
        rows(true, 100);
        assert!((uses.share(0) - 1.0).abs() < f64::EPSILON);
        rows(false, 40);
        assert!(!uses.is_called_by_all(0));
        rows(false, 1000);
        assert!(uses.share(0) < 0.02);
        rows(true, 1000);
        assert!(uses.is_called_by_all(0));
        assert!((uses.share(1) - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn what_calls_take_is_what_they_have_taken() {
        let uses = Uses::default();
        let points = |cost| [("points".to_owned(), cost)];
        assert_eq!(uses.taken(0, "points"), None);
        uses.takes(0, &points(40));
        assert_eq!(uses.taken(0, "points"), Some(40.0));
        for _ in 0..64 {
            uses.takes(0, &points(40));
            uses.took(0, points(12).iter());
        }
        assert!(uses.taken(0, "points").is_some_and(|mean| (mean - 12.0).abs() < 0.1));
    }

    #[tokio::test(start_paused = true)]
    async fn one_row_is_tried_now_and_then() {
        let uses = Uses::default();
        assert!(uses.may_try());
        assert!(!uses.may_try());
        tokio::time::advance(TRY_EVERY).await;
        assert!(uses.may_try());
        // Rows that call make it seldom, and one that does not makes it often again.
        for _ in 0..10 {
            tokio::time::advance(TRY_SELDOM).await;
            assert!(uses.may_try());
            let mut noted = Vec::new();
            uses.came(0, &mut noted);
            uses.called(0, &mut noted);
            uses.ended(&noted);
        }
        tokio::time::advance(TRY_SELDOM / 2).await;
        assert!(!uses.may_try());
        tokio::time::advance(TRY_SELDOM / 2).await;
        assert!(uses.may_try());
        uses.ended(&[(0, false)]);
        tokio::time::advance(TRY_EVERY).await;
        assert!(uses.may_try());
    }
}

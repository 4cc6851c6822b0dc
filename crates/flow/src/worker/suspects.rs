//! Rows whose worker died: they run alone, so that a row that kills its worker takes no other row with it twice.
//!
//! A worker that dies holds hundreds of rows, and at most one of them is the cause; most deaths have another cause. So the
//! suspects of one death run one at a time only at first: while none of them kills the worker, twice as many run at once every
//! few seconds, as in TCP's slow start. Only time in which some were carried out counts for that. Where calls are fast, all of
//! them have run by then, one by one; where calls take seconds, the last ones run together, and the batch does not stall. A row
//! whose workers died twice always runs alone.
//!
//! While suspects run, nothing else does. They alternate with the other rows, if there are any: an episode is short, and a pause
//! of the same length follows.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use penstock_domain::ids::RowRef;
use tokio::time::Instant;

use crate::worker::lanes::Keep;

/// Twice as many suspects run at once after each such time.
const DOUBLE_EVERY: Duration = Duration::from_secs(3);

/// Suspects of a first death wait at most this long for other rows in flight to end.
const DRAIN: Duration = Duration::from_secs(2);

/// An episode begins no further suspects after this.
const EPISODE: Duration = Duration::from_secs(10);

/// At most this many run at once.
const MOST: usize = 128;

/// A row whose worker died.
#[derive(Debug)]
pub(super) struct Suspect {
    pub(super) row: RowRef,
    /// How many workers are known to have died while they held it.
    pub(super) deaths: u16,
    /// Its pipeline.
    pub(super) pipeline: String,
    /// Keeps its message in the queue until it is claimed.
    #[allow(dead_code, reason = "dropping it is what it is for")]
    pub(super) keep: Keep,
}

/// Suspects that wait, and those that run.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    waiting: VecDeque<Suspect>,
    known: HashSet<RowRef>,
    running: Arc<AtomicUsize>,
    /// Whether one of those that began last was carried out: a suspect that a limit requeued proves nothing.
    carried_out: Arc<AtomicBool>,
    /// When the last ones began.
    began: Option<Instant>,
    /// How long suspects were carried out, and none killed, since some wait.
    proven: Duration,
    /// When the present episode began.
    episode: Option<Instant>,
    paused_until: Option<Instant>,
}

/// What the worker does next.
#[derive(Debug)]
pub(super) enum Next {
    /// Other rows run.
    Others,
    /// Nothing begins until something ends.
    Nothing,
    /// These run now, and nothing else.
    Suspects(Vec<Suspect>),
}

/// A suspect that runs, until its end is written: the next one may kill the worker.
pub(crate) struct Running {
    running: Arc<AtomicUsize>,
    carried_out: Arc<AtomicBool>,
}

impl Running {
    /// It was carried out, whatever the result.
    pub(super) fn carried_out(&self) {
        self.carried_out.store(true, Ordering::SeqCst);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Suspects {
    /// Adds one. When the row waits already, the later death counts, and its message is kept.
    pub(super) fn push(&mut self, suspect: Suspect) {
        if self.known.insert(suspect.row) {
            self.waiting.push_back(suspect);
        } else if let Some(known) = self.waiting.iter_mut().find(|known| known.row == suspect.row)
            && known.deaths < suspect.deaths
        {
            *known = suspect;
        }
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// One begins to run.
    pub(super) fn begin(&self) -> Running {
        self.running.fetch_add(1, Ordering::SeqCst);
        Running { running: self.running.clone(), carried_out: self.carried_out.clone() }
    }

    /// Takes all that wait, because the worker drains.
    pub(super) fn drain(&mut self) -> Vec<Suspect> {
        self.known.clear();
        self.waiting.drain(..).collect()
    }

    /// What the worker does next. `in_flight` rows are in flight here; `others` is whether other rows are ready, and `may_run`
    /// whether a pipeline's dependencies let a row through now. So many rows of a pipeline go in a call.
    pub(super) fn next(
        &mut self,
        now: Instant,
        in_flight: usize,
        others: bool,
        may_run: impl Fn(&str) -> bool,
        rows_per_call: impl Fn(&str) -> usize,
    ) -> Next {
        if self.running.load(Ordering::SeqCst) > 0 {
            return Next::Nothing;
        }
        if let Some(began) = self.began.take()
            && self.carried_out.swap(false, Ordering::SeqCst)
        {
            self.proven += now - began;
        }
        let Some(first) = self.waiting.iter().position(|one| may_run(&one.pipeline)) else {
            self.end_episode(now, others);
            if self.waiting.is_empty() {
                (self.proven, self.paused_until) = (Duration::ZERO, None);
            }
            return Next::Others;
        };
        if self.paused_until.is_some_and(|until| now < until) {
            return Next::Others;
        }
        let began = *self.episode.get_or_insert(now);
        if now - began >= EPISODE && others {
            self.end_episode(now, others);
            return Next::Others;
        }
        let alone = self.waiting[first].deaths > 1;
        if in_flight > 0 && (alone || now - began < DRAIN) {
            return Next::Nothing;
        }
        // Those of one call run as one: its rows died together.
        let in_call = rows_per_call(&self.waiting[first].pipeline);
        let most = if alone { 1 } else { (self.at_once() * in_call).min(MOST.max(in_call)) };
        self.began = Some(now);
        let pipeline = self.waiting[first].pipeline.clone();
        let is_like = |other: &str| may_run(other) && (in_call == 1 || *other == *pipeline);
        Next::Suspects(self.take(first, most, is_like))
    }

    fn end_episode(&mut self, now: Instant, others: bool) {
        let Some(began) = self.episode.take() else { return };
        self.paused_until = others.then(|| now + (now - began));
    }

    fn at_once(&self) -> usize {
        let doublings = self.proven.as_secs() / DOUBLE_EVERY.as_secs();
        u32::try_from(doublings).ok().and_then(|shift| 1_usize.checked_shl(shift)).unwrap_or(MOST).min(MOST)
    }

    /// Takes the one at that index, and others like it after it.
    fn take(&mut self, first: usize, most: usize, may_run: impl Fn(&str) -> bool) -> Vec<Suspect> {
        let mut taken: Vec<Suspect> = self.waiting.remove(first).into_iter().collect();
        let mut at = first;
        while taken.len() < most && at < self.waiting.len() {
            if self.waiting[at].deaths <= 1 && may_run(&self.waiting[at].pipeline) {
                taken.extend(self.waiting.remove(at));
            } else {
                at += 1;
            }
        }
        for suspect in &taken {
            self.known.remove(&suspect.row);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use penstock_domain::ids::BatchSeq;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn suspects(deaths: impl IntoIterator<Item = u16>) -> Suspects {
        let mut all = Suspects::default();
        for (number, deaths) in (1..).zip(deaths) {
            let row = RowRef { batch: BatchSeq(1), number };
            all.push(Suspect { row, deaths, pipeline: format!("p{}", number % 2), keep: None });
        }
        all
    }

    fn numbers(next: Next) -> Vec<u32> {
        match next {
            Next::Suspects(rows) => rows.iter().map(|one| one.row.number).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn they_run_one_by_one_and_nothing_else_runs() {
        let mut all = suspects([1, 1, 1]);
        let now = Instant::now();
        let first = all.begin();
        assert!(matches!(all.next(now, 1, true, |_| true, |_| 1), Next::Nothing), "one runs");
        drop(first);
        for number in 1..=3 {
            assert!(
                matches!(all.next(now, 5, true, |_| true, |_| 1), Next::Nothing),
                "other rows are in flight"
            );
            assert_eq!(numbers(all.next(now, 0, true, |_| true, |_| 1)), [number]);
        }
        assert!(matches!(all.next(now, 0, true, |_| true, |_| 1), Next::Others));
    }

    #[test]
    fn a_first_death_waits_a_moment_for_others_and_a_second_one_for_all() {
        for (deaths, begins) in [(1, true), (2, false)] {
            let mut all = suspects([deaths]);
            let now = Instant::now();
            assert!(matches!(all.next(now, 5, true, |_| true, |_| 1), Next::Nothing));
            let later = all.next(now + DRAIN, 5, true, |_| true, |_| 1);
            assert_eq!(matches!(later, Next::Suspects(_)), begins, "{later:?}");
        }
    }

    /// However long calls take, 256 suspects are done in a time that grows with their logarithm.
    #[test]
    fn many_slow_ones_share_their_time_in_the_end() {
        for (call, most) in [(SECOND / 100, 4), (SECOND, 22), (10 * SECOND, 80)] {
            let mut all = suspects(std::iter::repeat_n(1, 256));
            let began = Instant::now();
            let (mut now, mut largest) = (began, 0);
            while !all.is_empty() {
                largest = largest.max(numbers(all.next(now, 0, false, |_| true, |_| 1)).len());
                all.begin().carried_out();
                now += call;
            }
            assert!(now - began < most * SECOND, "{call:?}: {:?}, {largest} at once", now - began);
        }
    }

    #[test]
    fn those_that_a_limit_requeues_prove_nothing() {
        let mut all = suspects(std::iter::repeat_n(1, 9));
        let mut now = Instant::now();
        for number in 1..=6 {
            assert_eq!(numbers(all.next(now, 0, false, |_| true, |_| 1)), [number], "none was carried out");
            drop(all.begin());
            now += 4 * SECOND;
        }
        assert_eq!(numbers(all.next(now, 0, false, |_| true, |_| 1)), [7]);
        all.begin().carried_out();
        assert_eq!(numbers(all.next(now + 4 * SECOND, 0, false, |_| true, |_| 1)), [8, 9]);
    }

    #[test]
    fn a_row_whose_workers_died_twice_is_alone() {
        let mut all = suspects([1, 2, 1, 1]);
        let now = Instant::now();
        all.proven = 4 * DOUBLE_EVERY;
        assert_eq!(numbers(all.next(now, 0, true, |_| true, |_| 1)), [1, 3, 4]);
        assert_eq!(numbers(all.next(now, 0, true, |_| true, |_| 1)), [2]);
    }

    #[test]
    fn a_second_death_counts_while_the_row_waits() {
        let mut all = suspects([1, 1, 1]);
        for deaths in [2, 1] {
            let row = RowRef { batch: BatchSeq(1), number: 2 };
            all.push(Suspect { row, deaths, pipeline: "p0".into(), keep: None });
        }
        all.proven = 4 * DOUBLE_EVERY;
        let now = Instant::now();
        assert_eq!(numbers(all.next(now, 0, true, |_| true, |_| 1)), [1, 3]);
        assert_eq!(numbers(all.next(now, 0, true, |_| true, |_| 1)), [2]);
        assert!(all.is_empty());
    }

    #[test]
    fn others_alternate_with_them() {
        let mut all = suspects(std::iter::repeat_n(2, 9));
        let now = Instant::now();
        for number in 1..=5 {
            assert_eq!(numbers(all.next(now + number * 2 * SECOND, 0, true, |_| true, |_| 1)), [number]);
        }
        let after = now + 12 * SECOND;
        assert!(matches!(all.next(after, 0, true, |_| true, |_| 1), Next::Others));
        assert!(matches!(all.next(after + 9 * SECOND, 3, true, |_| true, |_| 1), Next::Others), "they pause");
        assert!(
            matches!(all.next(after + 10 * SECOND, 3, true, |_| true, |_| 1), Next::Nothing),
            "the pause is over"
        );
        // Nobody else has anything to do.
        let mut all = suspects(std::iter::repeat_n(2, 9));
        for number in 1..=9 {
            assert_eq!(numbers(all.next(now + number * 2 * SECOND, 0, false, |_| true, |_| 1)), [number]);
        }
    }

    #[test]
    fn those_whose_dependency_is_exhausted_hold_up_nobody() {
        let mut all = suspects([1, 1, 1]);
        let now = Instant::now();
        assert_eq!(numbers(all.next(now, 0, true, |pipeline| pipeline == "p0", |_| 1)), [2]);
        assert!(matches!(all.next(now, 7, true, |pipeline| pipeline == "p0", |_| 1), Next::Others));
        assert_eq!(numbers(all.next(now, 0, true, |_| true, |_| 1)), [1]);
        assert_eq!(all.drain().len(), 1);
        assert!(all.is_empty());
    }
}

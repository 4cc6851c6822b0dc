//! Which rows of a call that was refused as a whole are wrong: found with further calls, in which all others succeed.
//!
//! Rows among which one is wrong are halved. When the first half is taken, the second one has the wrong row and is halved without a
//! call of its own. When the first half is refused, nothing is known of the second one any more: it goes with whatever else is left,
//! in one call, once the wrong row is found. So one wrong row among n costs about log₂ n + 2 calls, and 2·⌈log₂ n⌉ at most.
//!
//! A call may also be refused for its size, or for two rows that do not go together. Then all of its parts are taken.

use std::collections::VecDeque;

/// The rows of a call, until each of them is answered.
#[derive(Debug)]
pub struct Search<T> {
    /// Rows of which nothing is known, in the order of the file.
    open: VecDeque<T>,
    /// What is left of the rows of the call that was refused last.
    suspects: Vec<T>,
    refusal: Option<Refusal>,
}

/// A call that was refused as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// How many rows it had.
    pub rows: usize,
    /// Its status.
    pub status: u16,
    /// How many of its rows were taken since.
    taken: usize,
}

impl<T> Search<T> {
    /// Before the first call.
    pub fn new(rows: Vec<T>) -> Self {
        Self { open: rows.into(), suspects: Vec::new(), refusal: None }
    }

    /// The rows of the next call, of at most that many; none when all are answered. A call of `known_size` rows was taken before: a
    /// larger one may have been refused for its size.
    pub fn next(&mut self, most: usize, known_size: usize) -> Option<Vec<T>> {
        if self.suspects.is_empty() {
            let rows: Vec<T> = self.open.drain(..most.max(1).min(self.open.len())).collect();
            return Some(rows).filter(|rows| !rows.is_empty());
        }
        let is_part = |refusal: &Refusal| refusal.taken > 0;
        let by_size = |refusal: &Refusal| refusal.status == 413 || refusal.rows > known_size;
        if self.suspects.len() == 1
            || self.refusal.is_some_and(|refusal| is_part(&refusal) && by_size(&refusal))
        {
            return Some(std::mem::take(&mut self.suspects));
        }
        let second = self.suspects.split_off(self.suspects.len().div_ceil(2));
        Some(std::mem::replace(&mut self.suspects, second))
    }

    /// The call was refused as a whole, and no row is known to be at fault.
    pub fn refused(&mut self, rows: Vec<T>, status: u16) {
        self.reopen();
        self.refusal = Some(Refusal { rows: rows.len(), status, taken: 0 });
        self.suspects = rows;
    }

    /// A call of that many rows was not refused. The call that was refused for its size, or for rows that do not go together, when
    /// that is certain now.
    pub fn taken(&mut self, rows: usize) -> Option<Refusal> {
        let refusal = self.refusal.as_mut()?;
        refusal.taken += rows;
        if !self.suspects.is_empty() {
            return None;
        }
        self.refusal.take().filter(|refusal| refusal.taken == refusal.rows)
    }

    /// The wrong row is found, or the call ended in a way that says nothing about its rows.
    pub fn ended(&mut self) {
        self.reopen();
    }

    /// The wrong rows of the call are found, and these are the others.
    pub fn left_over(&mut self, rows: Vec<T>) {
        self.reopen();
        self.put_first(rows);
    }

    fn reopen(&mut self) {
        self.refusal = None;
        let rows = std::mem::take(&mut self.suspects);
        self.put_first(rows);
    }

    fn put_first(&mut self, rows: Vec<T>) {
        rows.into_iter().rev().for_each(|row| self.open.push_front(row));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an API did with a call's rows.
    enum Did {
        Took,
        Refused(u16),
        Failed,
    }

    /// Makes all calls; how many there were, the rows that were taken, those that were wrong, and calls that were too large.
    fn run(
        rows: usize,
        known_size: usize,
        api: impl Fn(&[usize]) -> Did,
    ) -> (usize, Vec<usize>, Vec<usize>, Vec<usize>) {
        let mut search = Search::new((0..rows).collect());
        let (mut calls, mut taken, mut wrong, mut too_large) = (0, Vec::new(), Vec::new(), Vec::new());
        let mut largest = known_size;
        while let Some(call) = search.next(1000, largest) {
            calls += 1;
            assert!(calls <= 5 * rows, "it ends");
            match api(&call) {
                Did::Took => {
                    largest = largest.max(call.len());
                    too_large.extend(search.taken(call.len()).map(|refusal| refusal.rows));
                    taken.extend(call);
                }
                Did::Refused(_) if call.len() == 1 => {
                    wrong.extend(call);
                    search.ended();
                }
                Did::Refused(status) => search.refused(call, status),
                Did::Failed => {
                    wrong.extend(call);
                    search.ended();
                }
            }
        }
        taken.sort_unstable();
        wrong.sort_unstable();
        (calls, taken, wrong, too_large)
    }

    #[test]
    fn one_wrong_row_is_found_in_twice_the_logarithm_wherever_it_is() {
        for rows in (2..=260).chain([999, 1000]) {
            for (known_size, status) in [(0, 422), (1000, 400), (0, 413), (1000, 413)] {
                for wrong in 0..rows {
                    let refuses = |call: &[usize]| call.contains(&wrong);
                    let api = |call: &[usize]| if refuses(call) { Did::Refused(status) } else { Did::Took };
                    let (calls, taken, found, too_large) = run(rows, known_size, api);
                    assert_eq!((found, too_large), (vec![wrong], vec![]), "{wrong} of {rows}");
                    assert_eq!(taken.len(), rows - 1, "{wrong} of {rows}");
                    let log = usize::try_from(rows.next_power_of_two().ilog2()).unwrap();
                    assert!(calls - 1 <= 2 * log, "{wrong} of {rows}: {calls} calls");
                    if known_size == 1000 && status == 400 {
                        assert!(calls - 1 <= log + 2, "{wrong} of {rows}: {calls} calls");
                    }
                }
            }
        }
    }

    #[test]
    fn each_row_of_each_mixture_is_answered_once() {
        for rows in 1..=10_usize {
            for mixture in 0..1_u32 << rows {
                let is_wrong = |row: &usize| mixture >> row & 1 == 1;
                for known_size in [0, 4, 10] {
                    let api = |call: &[usize]| match call.iter().any(is_wrong) {
                        true => Did::Refused(422),
                        false => Did::Took,
                    };
                    let (_, taken, wrong, _) = run(rows, known_size, api);
                    let all: (Vec<usize>, Vec<usize>) = (0..rows).partition(|row| !is_wrong(row));
                    assert_eq!((taken, wrong), all);
                }
            }
        }
    }

    #[test]
    fn a_size_that_is_too_large_is_told_from_wrong_rows() {
        for (status, most_calls) in [(413, 3), (422, 3)] {
            let api = |call: &[usize]| if call.len() > 50 { Did::Refused(status) } else { Did::Took };
            let (calls, taken, wrong, too_large) = run(100, 0, api);
            assert_eq!((taken.len(), wrong.len(), too_large), (100, 0, vec![100]));
            assert!(calls <= most_calls, "{calls}");
        }
        // Two rows that do not go together.
        let api = |call: &[usize]| match call.contains(&3) && call.contains(&60) {
            true => Did::Refused(422),
            false => Did::Took,
        };
        let (_, taken, wrong, too_large) = run(100, 100, api);
        assert_eq!((taken.len(), wrong.len(), too_large), (100, 0, vec![100]));
    }

    #[test]
    fn a_call_that_fails_for_another_reason_says_nothing_of_the_others() {
        let api = |call: &[usize]| match call {
            call if call.len() == 50 && call[0] == 0 => Did::Failed,
            call if call.contains(&70) => Did::Refused(422),
            _ => Did::Took,
        };
        let (_, taken, wrong, too_large) = run(100, 100, api);
        assert_eq!((taken.len(), wrong.len(), too_large), (49, 51, vec![]));
    }

    /// One bit a call: a hundredth of the rows, at random, has 8.08 bits for each hundred.
    #[test]
    fn many_wrong_rows_take_little_more_than_their_information() {
        let mut state = 1_u64;
        let mut is_wrong = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 33).is_multiple_of(100)
        };
        let mut all = 0;
        for _ in 0..1000 {
            let wrong: Vec<bool> = (0..100).map(|_| is_wrong()).collect();
            let api = |call: &[usize]| match call.iter().any(|row| wrong[*row]) {
                true => Did::Refused(422),
                false => Did::Took,
            };
            all += run(100, 100, api).0;
        }
        assert!(all <= 9500, "{all} calls for a thousand full ones");
    }
}

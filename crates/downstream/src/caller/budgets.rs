//! Keeps to what APIs say is left of their limits, so that they need not refuse a call.
//!
//! Each answer tells what is left and when it is whole again ([`crate::budget`]). Calls under way may not be in it yet, so that
//! many fewer are left. What was left is used up by permits until the next answer; when nothing is left, calls wait for the
//! reset. Then the whole quota is there again, or one call where it is not known.
//!
//! An API may tell of several limits under the same names: of a second and of an hour, or of its searches and of everything else. When
//! the one of which less is left ends sooner, calls wait for that end and no longer, and the later end still bounds them.
//!
//! Others call the same API. Each of several workers keeps to its own part of a window. The calls that the answers count and that are
//! not ours show what share of a window is ours beside other programs, and no more of the next one is taken.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::budget::Budget;

/// When more owners' budgets are known, those that hold nobody up are forgotten.
const MOST_REMEMBERED: usize = 10_000;

/// A reset is told in whole seconds: one that is later by more than this is another window's.
const SAME_WINDOW: Duration = Duration::from_millis(1500);

/// Calls of a window that have to be counted before they show whose they are.
const TELLING: f64 = 10.0;

/// A call that finds nothing left while others are under way, and no end of the window known, asks again after this time.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// The budgets of dependencies, or of owners at one, by the key of their limits.
#[derive(Default)]
pub(super) struct Budgets(Mutex<All>);

struct All {
    known: HashMap<String, Known>,
    peers: Peers,
}

impl Default for All {
    fn default() -> Self {
        Self { known: HashMap::new(), peers: Peers::ALONE }
    }
}

/// What the end of a call says about its budget.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum End {
    /// What is left.
    Told(Budget),
    /// It was refused as one too many. What that asks for is the limiter's to judge: it may be about its row only.
    Refused,
    /// Nothing: the answer tells of no limit.
    Silent,
    /// There was no answer.
    NoAnswer,
}

/// One budget.
struct Known {
    /// Calls that may still leave before `until`; none: nothing is known.
    left: Option<f64>,
    until: Instant,
    /// When the window before this one was over.
    began: Instant,
    /// How long the window was when it was longest to its end.
    window: Duration,
    quota: Option<f64>,
    /// Whether no answer has told yet of the window that began.
    guessed: bool,
    in_flight: u32,
    /// Our calls of this window, without those that were refused: the answers do not count them.
    own: f64,
    /// The least that was left in this window, as answers told.
    least: f64,
    /// Our share of all calls of the last window that showed it.
    share: Option<f64>,
    /// What was known before a shorter window had less left.
    longer: Option<Longer>,
}

/// What is left of a window that ends after the one that is kept to.
#[derive(Clone, Copy)]
struct Longer {
    left: f64,
    until: Instant,
}

/// Workers that make the same calls: which of them this one is, from 0, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peers {
    /// Less than `count`.
    pub index: u32,
    /// At least 1.
    pub count: u32,
}

impl Peers {
    /// A worker alone.
    pub const ALONE: Self = Self { index: 0, count: 1 };

    /// This worker's part of so many calls. The parts of all workers are the whole together.
    fn part(self, of: f64) -> f64 {
        let until = |index: u32| (of * f64::from(index) / f64::from(self.count)).floor();
        until(self.index + 1) - until(self.index)
    }
}

impl Known {
    fn new(now: Instant) -> Self {
        Self {
            left: None,
            until: now,
            began: now,
            window: Duration::ZERO,
            quota: None,
            guessed: false,
            in_flight: 0,
            own: 0.0,
            least: f64::INFINITY,
            share: None,
            longer: None,
        }
    }

    /// What share of this window's calls is ours so far; none while too few are counted, or the whole is not known.
    fn share_of_window(&self) -> Option<f64> {
        let quota = self.quota?;
        // Late in a window the answers have counted most of our calls, and those under way matter little.
        let all = quota - self.least;
        let tells = all >= TELLING.min(quota).max(quota / 2.0) && all >= 1.0;
        let own = (self.own - f64::from(self.in_flight)).max(1.0);
        tells.then(|| (own / all).clamp(0.01, 1.0))
    }

    /// So many of these calls may be ours.
    fn ours(&self, of: f64, peers: Peers) -> f64 {
        const EXACT: f64 = 1e-6;
        let share = self.share.or_else(|| self.share_of_window()).unwrap_or(1.0);
        (of * share + EXACT).floor().min(peers.part(of))
    }

    /// The window is over.
    fn close(&mut self) {
        self.share = self.share_of_window().or(self.share);
        self.began = self.until;
        self.least = f64::INFINITY;
        self.own = f64::from(self.in_flight);
    }

    /// The window is over: all of it is there again.
    fn renew(&mut self, now: Instant, peers: Peers) {
        self.close();
        let whole = self.quota.map_or(1.0, |quota| self.ours(quota, peers));
        self.left = Some(whole - f64::from(self.in_flight));
        self.until = now + self.window.max(ASK_AGAIN);
        self.guessed = true;
    }

    /// Whether this is told of another window, which ends sooner and of which less is left.
    fn is_shorter(&self, left: f64, reset_at: Instant) -> bool {
        let has_less = self.left.is_some_and(|known| left - f64::from(self.in_flight) < known);
        has_less && reset_at + SAME_WINDOW < self.until
    }

    fn keep_to_shorter(&mut self, budget: Budget, reset_at: Instant, peers: Peers) {
        // Of several longer ones the scarcest counts until it ends.
        let longer = self.left.map(|left| Longer { left, until: self.until });
        self.longer = match (self.longer, longer) {
            (Some(known), Some(other)) if known.left <= other.left => Some(known),
            (known, other) => other.or(known),
        };
        self.close();
        self.count_from(budget);
        self.least = budget.left;
        self.left = Some(self.ours(budget.left, peers) - f64::from(self.in_flight));
        self.until = reset_at;
        self.window = budget.reset;
    }

    /// Counts the calls of a window that has been going on: those that nobody counted were ours.
    fn count_from(&mut self, budget: Budget) {
        let counted = budget.quota.map_or(1.0, |quota| (quota - budget.left).max(1.0));
        self.own = counted + f64::from(self.in_flight);
        self.quota = budget.quota;
    }

    /// How long a call has to wait for a longer window.
    fn longer_wait(&mut self, now: Instant) -> Option<Duration> {
        self.longer = self.longer.filter(|longer| now < longer.until);
        self.longer.filter(|longer| longer.left < 1.0).map(|longer| longer.until - now)
    }

    fn told(&mut self, budget: Budget, now: Instant, peers: Peers) {
        if self.left.is_some() && now >= self.until {
            self.renew(now, peers);
        }
        let reset_at = now + budget.reset;
        let is_other = self.left.is_none() || reset_at > self.until + SAME_WINDOW;
        let is_first = self.guessed && budget.reset * 2 > self.window;
        let is_new = is_other || is_first;
        if self.guessed && !is_new && reset_at <= self.began + SAME_WINDOW {
            // An answer of the window before, which was on its way when that ended.
            return;
        }
        self.guessed &= !is_new;
        if !is_new && self.is_shorter(budget.left, reset_at) {
            self.keep_to_shorter(budget, reset_at, peers);
            return;
        }
        if is_other {
            let returns = self.longer.is_some_and(|longer| longer.until <= reset_at + SAME_WINDOW);
            self.close();
            // This call belongs to the new window, and perhaps those under way.
            self.own += 1.0;
            self.window = Duration::ZERO;
            if returns {
                self.longer = None;
                self.count_from(budget);
            }
        }
        // Each of several workers keeps to its part of a window from the beginning: what the others have used is theirs.
        let has_part = !is_other && peers.count > 1 && budget.quota.is_some() && budget.quota == self.quota;
        self.quota = budget.quota.or(self.quota);
        self.least = self.least.min(budget.left);
        let ours = if has_part { budget.left } else { self.ours(budget.left, peers) };
        let left = ours - f64::from(self.in_flight);
        let known = self.left.filter(|_| has_part || !is_new);
        self.left = Some(known.map_or(left, |known| known.min(left)));
        // The latest that was told: a second may have been cut off.
        self.until = if is_new { reset_at } else { self.until.max(reset_at.min(self.until + SAME_WINDOW)) };
        self.window = self.window.max(budget.reset);
    }
}

impl Budgets {
    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anything is known of any budget, so that it matters who else makes calls.
    pub(super) fn is_any_known(&self) -> bool {
        self.lock().known.values().any(|known| known.quota.is_some())
    }

    /// Who else makes the same calls from now on.
    pub(super) fn set_peers(&self, peers: Peers) {
        self.lock().peers = peers;
    }

    /// Takes one call of a budget, until it is [released](Self::give_back) or [ended](Self::ended).
    ///
    /// # Errors
    /// How long it has to wait.
    pub(super) fn take(&self, key: &str) -> Result<(), Duration> {
        let now = Instant::now();
        let mut all = self.lock();
        let All { known: budgets, peers } = &mut *all;
        if !budgets.contains_key(key) {
            if budgets.len() >= MOST_REMEMBERED {
                budgets.retain(|_, known| known.in_flight > 0 || known.until > now);
            }
            budgets.insert(key.to_owned(), Known::new(now));
        }
        let Some(known) = budgets.get_mut(key) else { return Ok(()) };
        if known.left.is_some() && now >= known.until {
            known.renew(now, *peers);
        }
        if let Some(wait) = known.longer_wait(now) {
            return Err(wait);
        }
        match &mut known.left {
            Some(left) if *left < 1.0 => {
                // With nothing known of the new window the calls under way tell.
                let unknown = known.quota.is_none() && known.in_flight > 0;
                let wait = known.until - now;
                return Err(if unknown { wait.min(ASK_AGAIN) } else { wait });
            }
            Some(left) => *left -= 1.0,
            None => {}
        }
        if let Some(longer) = &mut known.longer {
            longer.left -= 1.0;
        }
        known.in_flight += 1;
        known.own += 1.0;
        Ok(())
    }

    /// The call was not made.
    pub(super) fn give_back(&self, key: &str) {
        if let Some(known) = self.lock().known.get_mut(key) {
            known.in_flight = known.in_flight.saturating_sub(1);
            known.own = (known.own - 1.0).max(0.0);
            known.left = known.left.map(|left| left + 1.0);
            if let Some(longer) = &mut known.longer {
                longer.left += 1.0;
            }
        }
    }

    /// The call has ended, and its answer told this.
    pub(super) fn ended(&self, key: &str, end: End) {
        let mut all = self.lock();
        let All { known: budgets, peers } = &mut *all;
        if let Some(known) = budgets.get_mut(key) {
            known.in_flight = known.in_flight.saturating_sub(1);
            match end {
                End::Told(budget) => known.told(budget, Instant::now(), *peers),
                End::Refused => known.own = (known.own - 1.0).max(0.0),
                // An API that told once, and tells nothing of the window after it: nobody knows what that has.
                End::Silent if known.guessed && known.quota.is_none() => {
                    known.left = None;
                    known.guessed = false;
                }
                End::Silent | End::NoAnswer => {}
            }
        }
    }
}

/// One call of a budget: released when it is dropped before the call has ended.
pub(super) struct Taken<'a> {
    budgets: &'a Budgets,
    key: String,
    has_ended: bool,
}

impl<'a> Taken<'a> {
    /// Takes it.
    ///
    /// # Errors
    /// As [`Budgets::take`].
    pub(super) fn of(budgets: &'a Budgets, key: &str) -> Result<Self, Duration> {
        budgets.take(key)?;
        Ok(Self { budgets, key: key.to_owned(), has_ended: false })
    }

    /// See [`Budgets::ended`].
    pub(super) fn ended(mut self, end: End) {
        self.has_ended = true;
        self.budgets.ended(&self.key, end);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.budgets.give_back(&self.key);
        }
    }
}

#[cfg(test)]
mod tests;

//! Keeps to what APIs say is left of their limits, so that they need not refuse a call.
//!
//! Each answer tells what is left and when it is whole again ([`crate::budget`]). Calls under way may not be in it yet, so that
//! many fewer are left. Calls of a window are taken from what all workers share ([`crate::told_windows`]), some at a time; when
//! nothing is left, calls wait for the reset. Then the whole quota is there again, or one call where it is not known.
//!
//! An API may tell of several limits under the same names: of a second and of an hour, or of its searches and of everything else. When
//! the one of which less is left ends sooner, calls wait for that end and no longer, and the later end still bounds them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::budget::Budget;
use crate::told_windows::{WindowAsk, WindowPart};

/// When more owners' budgets are known, those that hold nobody up are forgotten.
const MOST_REMEMBERED: usize = 10_000;

/// A reset is told in whole seconds: one that is later by more than this is another window's.
const SAME_WINDOW: Duration = Duration::from_millis(1500);

/// Calls of a window that have to be counted before they show whose they are.
const TELLING: f64 = 10.0;

/// A call that finds nothing left while others are under way, and no end of the window known, asks again after this time.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// So many parts of a window are taken one after another: what a worker has taken and does not use is lost to the others.
const PARTS: f64 = 32.0;

/// The budgets of dependencies, or of owners at one, by the key of their limits.
#[derive(Default)]
pub(super) struct Budgets {
    known: Mutex<HashMap<String, Known>>,
    /// One call asks for a part of a window, for all that wait for it here.
    pub(super) alone: tokio::sync::Mutex<()>,
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

/// Why a call may not leave now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum NotNow {
    /// It has to wait so long.
    Wait(Duration),
    /// A part of a window is to be asked for.
    Ask(PartAsked),
}

/// A part of a window that a worker asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct PartAsked {
    pub(super) ask: WindowAsk,
    window: u64,
}

/// One budget.
struct Known {
    /// The window that is kept to; none: nothing is known.
    window: Option<Window>,
    /// What was known before a shorter window had less left.
    longer: Option<Window>,
    /// When the window before this one was over.
    began: Instant,
    /// How long the window was when it was longest to its end.
    length: Duration,
    quota: Option<f64>,
    /// Whether no answer has told yet of the window that began.
    guessed: bool,
    in_flight: u32,
    /// How many windows there were.
    windows: u64,
    /// The least that was left in this window, as answers told.
    least: f64,
    /// Calls of the window before, as answers told; 0: they do not show it.
    counted: f64,
}

/// A window of a budget.
#[derive(Clone, Copy)]
struct Window {
    number: u64,
    until: Instant,
    /// Calls that may leave from here.
    left: f64,
    /// Where more of them come from; none: from nowhere before an answer tells.
    shared: Option<Shared>,
}

/// What all workers share of a window.
#[derive(Clone, Copy)]
struct Shared {
    /// What is left, as answers told it; of a guessed window all.
    left: f64,
    is_told: bool,
    is_used_up: bool,
}

impl Window {
    /// Why a call may not leave in it.
    fn refusal(&self, known: &Known, now: Instant) -> Option<NotNow> {
        if self.left >= 1.0 {
            return None;
        }
        let ends_in = self.until.saturating_duration_since(now);
        let Some(shared) = self.shared.filter(|shared| !shared.is_used_up) else {
            // With nothing known of the new window the calls under way tell.
            let tells = known.quota.is_none() && self.shared.is_none() && known.in_flight > 0;
            return Some(NotNow::Wait(if tells { ends_in.min(ASK_AGAIN) } else { ends_in }));
        };
        let part = (known.quota.unwrap_or(shared.left) / PARTS).max(1.0 - self.left).ceil();
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a part of a quota, at least 1"
        )]
        let ask = WindowAsk {
            ends_in,
            same: SAME_WINDOW.min(known.length / 2),
            is_told: shared.is_told,
            left: shared.left,
            used: known.quota.filter(|_| shared.is_told).map_or(0.0, |quota| (quota - shared.left).max(0.0)),
            counted: known.counted,
            amount: part as u32,
        };
        Some(NotNow::Ask(PartAsked { ask, window: self.number }))
    }
}

impl Known {
    fn new(now: Instant) -> Self {
        Self {
            window: None,
            longer: None,
            began: now,
            length: Duration::ZERO,
            quota: None,
            guessed: false,
            in_flight: 0,
            windows: 0,
            least: f64::INFINITY,
            counted: 0.0,
        }
    }

    /// The window is over.
    fn close(&mut self) {
        // Late in a window the answers have counted most of its calls.
        let all = self.quota.map_or(0.0, |quota| quota - self.least);
        let tells = self.quota.is_some_and(|quota| all >= TELLING.min(quota).max(quota / 2.0) && all >= 1.0);
        self.counted = if tells { all } else { 0.0 };
        self.began = self.window.map_or(self.began, |window| window.until);
        self.least = f64::INFINITY;
    }

    /// The window is over: all of it is there again.
    fn renew_if_over(&mut self, now: Instant) {
        if self.window.is_none_or(|window| now < window.until) {
            return;
        }
        self.close();
        let whole = self.quota.map(|left| Shared { left, is_told: false, is_used_up: false });
        let mut window = self.next_window(now + self.length.max(ASK_AGAIN), whole);
        if whole.is_none() {
            window.left += 1.0;
        }
        self.window = Some(window);
        self.guessed = true;
    }

    fn next_window(&mut self, until: Instant, shared: Option<Shared>) -> Window {
        self.windows += 1;
        Window { number: self.windows, until, left: -f64::from(self.in_flight), shared }
    }

    fn told_window(&mut self, until: Instant, left: f64) -> Window {
        self.next_window(until, Some(Shared { left, is_told: true, is_used_up: false }))
    }

    /// Whether this is told of another window, which ends sooner and of which less is left.
    fn is_shorter(&self, left: f64, reset_at: Instant) -> bool {
        let Some(window) = &self.window else { return false };
        let known = window.shared.map_or(1.0, |shared| shared.left);
        left < known && reset_at + SAME_WINDOW < window.until
    }

    fn keep_to_shorter(&mut self, budget: Budget, reset_at: Instant) {
        // Of several longer ones the scarcest counts until it ends.
        let left = |window: &Window| window.shared.map_or(window.left, |shared| shared.left);
        self.longer = match (self.longer, self.window) {
            (Some(known), Some(other)) if left(&known) <= left(&other) => Some(known),
            (known, other) => other.or(known),
        };
        self.close();
        self.quota = budget.quota;
        self.least = budget.left;
        self.window = Some(self.told_window(reset_at, budget.left));
        self.length = budget.reset;
    }

    fn told(&mut self, budget: Budget, now: Instant) {
        self.renew_if_over(now);
        let reset_at = now + budget.reset;
        let same = self.window.filter(|window| reset_at <= window.until + SAME_WINDOW);
        let is_new = same.is_none() || (self.guessed && budget.reset * 2 > self.length);
        if self.guessed && !is_new && reset_at <= self.began + SAME_WINDOW {
            // An answer of the window before, which was on its way when that ended.
            return;
        }
        self.guessed &= !is_new;
        if !is_new && self.is_shorter(budget.left, reset_at) {
            self.keep_to_shorter(budget, reset_at);
            return;
        }
        self.window = Some(match same {
            Some(window) => Self::told_again(window, budget.left, is_new, reset_at, self.in_flight),
            None => {
                let returns = self.longer.is_some_and(|longer| longer.until <= reset_at + SAME_WINDOW);
                self.close();
                self.length = Duration::ZERO;
                if returns {
                    self.longer = None;
                    self.quota = None;
                }
                self.told_window(reset_at, budget.left)
            }
        });
        self.quota = budget.quota.or(self.quota);
        self.least = self.least.min(budget.left);
        self.length = self.length.max(budget.reset);
    }

    /// More is told of a window; `is_new`: for the first time.
    fn told_again(known: Window, left: f64, is_new: bool, reset_at: Instant, in_flight: u32) -> Window {
        let before = known.shared.filter(|_| !is_new);
        Window {
            number: known.number,
            // The latest that was told: a second may have been cut off.
            until: if is_new { reset_at } else { known.until.max(reset_at.min(known.until + SAME_WINDOW)) },
            left: known.left.min(left - f64::from(in_flight)),
            shared: Some(Shared {
                left: before.map_or(left, |before| before.left.min(left)),
                is_told: true,
                is_used_up: before.is_some_and(|before| before.is_used_up),
            }),
        }
    }

    /// Both windows that calls are taken from.
    fn both(&mut self) -> impl Iterator<Item = &mut Window> {
        self.longer.iter_mut().chain(&mut self.window)
    }
}

impl Budgets {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one call of a budget, until it is [released](Self::give_back) or [ended](Self::ended).
    ///
    /// # Errors
    /// What has to come before.
    pub(super) fn take(&self, key: &str) -> Result<(), NotNow> {
        let now = Instant::now();
        let mut budgets = self.lock();
        if !budgets.contains_key(key) {
            if budgets.len() >= MOST_REMEMBERED {
                budgets.retain(|_, known| {
                    known.in_flight > 0 || known.window.is_some_and(|window| window.until > now)
                });
            }
            budgets.insert(key.to_owned(), Known::new(now));
        }
        let Some(known) = budgets.get_mut(key) else { return Ok(()) };
        known.renew_if_over(now);
        known.longer = known.longer.filter(|longer| now < longer.until);
        let windows = [known.longer, known.window];
        if let Some(refusal) = windows.iter().flatten().find_map(|window| window.refusal(known, now)) {
            return Err(refusal);
        }
        known.both().for_each(|window| window.left -= 1.0);
        known.in_flight += 1;
        Ok(())
    }

    /// A part of a window that was asked for has come.
    pub(super) fn received(&self, key: &str, asked: &PartAsked, part: WindowPart) {
        let now = Instant::now();
        let mut budgets = self.lock();
        let Some(known) = budgets.get_mut(key) else { return };
        let Some(window) = known.both().find(|window| window.number == asked.window) else { return };
        window.left += f64::from(part.amount);
        if let Some(shared) = &mut window.shared {
            shared.is_used_up = part.amount < asked.ask.amount;
            if !shared.is_told {
                window.until = now + part.ends_in;
            }
        }
    }

    /// The call was not made.
    pub(super) fn give_back(&self, key: &str) {
        if let Some(known) = self.lock().get_mut(key) {
            known.in_flight = known.in_flight.saturating_sub(1);
            known.both().for_each(|window| window.left += 1.0);
        }
    }

    /// The call has ended, and its answer told this.
    pub(super) fn ended(&self, key: &str, end: End) {
        if let Some(known) = self.lock().get_mut(key) {
            known.in_flight = known.in_flight.saturating_sub(1);
            match end {
                End::Told(budget) => known.told(budget, Instant::now()),
                // An API that told once, and tells nothing of the window after it: nobody knows what that has.
                End::Silent if known.guessed && known.quota.is_none() => {
                    known.window = None;
                    known.guessed = false;
                }
                End::Refused | End::Silent | End::NoAnswer => {}
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
    pub(super) fn of(budgets: &'a Budgets, key: &str) -> Result<Self, NotNow> {
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

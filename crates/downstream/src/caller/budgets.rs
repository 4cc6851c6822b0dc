//! Keeps to what APIs say is left of their limits, so that they need not refuse a call.
//!
//! Each answer tells what is left and when it is whole again ([`crate::budget`]). Calls under way may not be in it yet, so that
//! many fewer are left. Calls of a window are taken from what all workers share ([`crate::reported_windows`]), some at a time; when
//! nothing is left, calls wait for the reset. Then the whole quota is there again, or one call where it is not known.
//!
//! An API may tell of several limits under the same names: of a second and of an hour, or of its searches and of everything else. When
//! the one of which less is left ends sooner, calls wait for that end and no longer, and the later end still bounds them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::budget::Budget;
use crate::reported_windows::{WindowAsk, WindowPart};

/// When more owners' budgets are known, those that hold nobody up are forgotten.
const MOST_REMEMBERED: usize = 10_000;

/// A reset is reported in whole seconds: one that is later by more than this is another window's.
const SAME_WINDOW: Duration = Duration::from_millis(1500);

/// A call that finds nothing left while others are under way, and no end of the window known, asks again after this time.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// A limiter that did not answer is asked again after this time.
const LIMITER_PAUSE: Duration = Duration::from_secs(1);

/// So many parts of a window are taken one after another: what a worker has taken and does not use is lost to the others.
const PARTS: f64 = 32.0;

/// The budgets of dependencies, or of owners at one, by the key of their limits.
#[derive(Default)]
pub(super) struct Budgets(Mutex<HashMap<String, Known>>);

/// What the end of a call says about its budget.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum End {
    /// What is left.
    Reported(Budget),
    /// It was refused as one too many. What that asks for is the limiter's to judge: it may be about its row only. What is left
    /// matters to who knows of no window.
    Refused(Option<Budget>),
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
    /// The limiter did not answer, and is asked again after this time.
    Unavailable(Duration),
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
    /// Whether no answer has reported yet of the window that began.
    guessed: bool,
    in_flight: u32,
    /// How many windows there were.
    windows: u64,
    /// When the limiter, which did not answer, is asked again.
    unavailable_until: Option<Instant>,
    /// One call asks for a part of a window, for all that wait for it here.
    alone: Arc<tokio::sync::Mutex<()>>,
}

/// A window of a budget.
#[derive(Clone, Copy)]
struct Window {
    number: u64,
    until: Instant,
    /// How long it was when it was longest to its end.
    length: Duration,
    /// Calls of a whole one, where that is known.
    quota: Option<f64>,
    /// Calls that may leave from here; below 0: of those under way so many have no part of it yet.
    left: f64,
    /// Where more of them come from; none: from nowhere before an answer tells.
    shared: Option<Shared>,
}

/// What all workers share of a window.
#[derive(Clone, Copy)]
struct Shared {
    /// What is left, as answers reported it, without this worker's calls under way that have their part; of a guessed window all.
    left: f64,
    is_reported: bool,
    is_used_up: bool,
}

impl Window {
    /// Why a call may not leave in it.
    fn refusal(&self, in_flight: u32, now: Instant) -> Option<NotNow> {
        if self.left >= 1.0 {
            return None;
        }
        let ends_in = self.until.saturating_duration_since(now);
        let Some(shared) = self.shared.filter(|shared| !shared.is_used_up) else {
            // With nothing known of the new window the calls under way tell.
            let tells = self.shared.is_none() && in_flight > 0;
            return Some(NotNow::Wait(if tells { ends_in.min(ASK_AGAIN) } else { ends_in }));
        };
        let part = (self.quota.unwrap_or(shared.left) / PARTS).max(1.0 - self.left).ceil();
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a part of a quota, at least 1"
        )]
        let ask = WindowAsk {
            ends_in,
            length: self.length,
            same: SAME_WINDOW.min(self.length / 2),
            is_reported: shared.is_reported,
            left: shared.left,
            amount: part as u32,
        };
        Some(NotNow::Ask(PartAsked { ask, window: self.number }))
    }

    /// More is reported of it; `is_new`: for the first time.
    fn tell(&mut self, budget: Budget, is_new: bool, reset_at: Instant, in_flight: u32) {
        let before = self.shared.filter(|_| !is_new);
        let under_way = f64::from(in_flight);
        // Calls under way that have their part are in no answer yet.
        let left = budget.left - (under_way + self.left.min(0.0)).max(0.0);
        self.shared = Some(Shared {
            left: before.map_or(left, |before| before.left.min(left)),
            is_reported: true,
            is_used_up: before.is_some_and(|before| before.is_used_up),
        });
        self.left = self.left.min((budget.left - under_way).max(self.left.min(0.0)));
        // The latest that was reported: a second may have been cut off.
        self.until = if is_new { reset_at } else { self.until.max(reset_at.min(self.until + SAME_WINDOW)) };
        self.quota = budget.quota.or(self.quota);
        self.length = self.length.max(budget.reset);
    }
}

impl Known {
    fn new(now: Instant) -> Self {
        Self {
            window: None,
            longer: None,
            began: now,
            guessed: false,
            in_flight: 0,
            windows: 0,
            unavailable_until: None,
            alone: Arc::default(),
        }
    }

    /// The window is over: all of it is there again.
    fn renew_if_over(&mut self, now: Instant) {
        let Some(Window { until, length, quota, .. }) = self.window.filter(|window| now >= window.until)
        else {
            return;
        };
        self.began = until;
        let whole = quota.map(|left| Shared { left, is_reported: false, is_used_up: false });
        let mut window = self.next_window(now + length.max(ASK_AGAIN), length, quota, whole);
        if whole.is_none() {
            window.left += 1.0;
        }
        self.window = Some(window);
        self.guessed = true;
    }

    fn next_window(
        &mut self,
        until: Instant,
        length: Duration,
        quota: Option<f64>,
        shared: Option<Shared>,
    ) -> Window {
        self.windows += 1;
        let (number, left) = (self.windows, -f64::from(self.in_flight));
        Window { number, until, length, quota, left, shared }
    }

    fn reported_window(&mut self, budget: Budget, quota: Option<f64>, reset_at: Instant) -> Window {
        let shared = Shared { left: budget.left, is_reported: true, is_used_up: false };
        self.next_window(reset_at, budget.reset, quota, Some(shared))
    }

    /// Whether this is reported of another window, which ends sooner and of which less is left.
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
        self.began = self.window.map_or(self.began, |window| window.until);
        self.window = Some(self.reported_window(budget, budget.quota, reset_at));
    }

    fn report(&mut self, budget: Budget, now: Instant) {
        self.renew_if_over(now);
        let reset_at = now + budget.reset;
        let same = self.window.filter(|window| reset_at <= window.until + SAME_WINDOW);
        let is_first = same.is_some_and(|window| self.guessed && budget.reset * 2 > window.length);
        let is_new = same.is_none() || is_first;
        if self.guessed && !is_new && reset_at <= self.began + SAME_WINDOW {
            // An answer of the window before, which was on its way when that ended.
            return;
        }
        self.guessed &= !is_new;
        if !is_new && self.is_shorter(budget.left, reset_at) {
            self.keep_to_shorter(budget, reset_at);
            return;
        }
        if let (Some(_), Some(window)) = (same, &mut self.window) {
            window.tell(budget, is_new, reset_at, self.in_flight);
            return;
        }
        let returns = self.longer.take_if(|longer| longer.until <= reset_at + SAME_WINDOW);
        let before = self.window.filter(|_| returns.is_none());
        self.began = self.window.map_or(self.began, |window| window.until);
        let quota = budget.quota.or(before.and_then(|window| window.quota));
        self.window = Some(self.reported_window(budget, quota, reset_at));
    }

    /// Both windows that calls are taken from.
    fn both(&mut self) -> impl Iterator<Item = &mut Window> {
        self.longer.iter_mut().chain(&mut self.window)
    }
}

impl Budgets {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one call of a budget, until it is [released](Self::give_back) or [ended](Self::ended). Whether it was taken of a window:
    /// nothing may be known of one.
    ///
    /// # Errors
    /// What has to come before.
    pub(super) fn take(&self, key: &str) -> Result<bool, NotNow> {
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
        let Some(known) = budgets.get_mut(key) else { return Ok(false) };
        known.renew_if_over(now);
        known.longer = known.longer.filter(|longer| now < longer.until);
        known.unavailable_until = known.unavailable_until.filter(|until| now < *until);
        let windows = [known.longer, known.window];
        if let Some(refusal) =
            windows.iter().flatten().find_map(|window| window.refusal(known.in_flight, now))
        {
            let unavailable = known.unavailable_until.filter(|_| matches!(refusal, NotNow::Ask(_)));
            return Err(unavailable.map_or(refusal, |until| NotNow::Unavailable(until - now)));
        }
        known.both().for_each(|window| window.left -= 1.0);
        known.in_flight += 1;
        Ok(known.window.is_some())
    }

    /// Whether a window of the budget is known.
    fn is_known(&self, key: &str) -> bool {
        self.lock().get(key).is_some_and(|known| known.window.is_some())
    }

    /// The lock of the one call that asks for a part of a window.
    pub(super) fn asking(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        self.lock().get(key).map(|known| known.alone.clone()).unwrap_or_default()
    }

    /// A part of a window that was asked for has come; none: the limiter did not answer.
    pub(super) fn received(&self, key: &str, asked: &PartAsked, part: Option<WindowPart>) {
        let now = Instant::now();
        let mut budgets = self.lock();
        let Some(known) = budgets.get_mut(key) else { return };
        let Some(part) = part else {
            known.unavailable_until = Some(now + LIMITER_PAUSE);
            return;
        };
        let Some(window) = known.both().find(|window| window.number == asked.window) else { return };
        window.left += f64::from(part.amount);
        if let Some(shared) = &mut window.shared {
            shared.is_used_up = part.amount < asked.ask.amount;
            if !shared.is_reported {
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

    /// The call has ended, and its answer reported this.
    pub(super) fn ended(&self, key: &str, end: End) {
        if let Some(known) = self.lock().get_mut(key) {
            known.in_flight = known.in_flight.saturating_sub(1);
            match end {
                End::Reported(budget) => known.report(budget, Instant::now()),
                // An API that reported once, and reports nothing of the window after it: nobody knows what that has.
                End::Silent if known.guessed && known.window.is_some_and(|window| window.quota.is_none()) => {
                    known.window = None;
                    known.guessed = false;
                }
                // It has taken nothing. The window before was not over yet.
                End::Refused(Some(budget)) if known.window.is_none() => known.report(budget, Instant::now()),
                End::Refused(_) if known.guessed => known.both().for_each(|window| window.left += 1.0),
                End::Refused(_) | End::Silent | End::NoAnswer => {}
            }
        }
    }
}

/// One call of a budget: released when it is dropped before the call has ended.
pub(super) struct Taken<'a> {
    budgets: &'a Budgets,
    key: String,
    is_of_window: bool,
    has_ended: bool,
}

impl<'a> Taken<'a> {
    /// Takes it.
    ///
    /// # Errors
    /// As [`Budgets::take`].
    pub(super) fn of(budgets: &'a Budgets, key: &str) -> Result<Self, NotNow> {
        let is_of_window = budgets.take(key)?;
        Ok(Self { budgets, key: key.to_owned(), is_of_window, has_ended: false })
    }

    /// Whether it was taken while nothing was known, and an answer has reported of a window since: before the call leaves, it is to be
    /// taken of that. Many calls may have waited for a permit meanwhile, and would all leave in what is left of the window.
    pub(super) fn is_outdated(&self) -> bool {
        !self.is_of_window && self.budgets.is_known(&self.key)
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

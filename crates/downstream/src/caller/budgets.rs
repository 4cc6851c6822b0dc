//! Keeps to what APIs say is left of their limits, so that they need not refuse a call.
//!
//! Each answer tells what is left and when it is whole again ([`crate::budget`]). Calls under way may not be in it yet, so that
//! many fewer are left. What was left is used up by permits until the next answer; when nothing is left, calls wait for the
//! reset. Then the whole quota is there again, or one call where it is not known.
//!
//! Others call the same API: further workers, other programs. The calls that the answers count and that are not ours show what
//! share of a window is ours, and no more of the next one is taken.

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
pub(super) struct Budgets(Mutex<HashMap<String, Known>>);

/// One budget.
struct Known {
    /// Calls that may still leave before `until`; none: nothing is known.
    left: Option<f64>,
    until: Instant,
    /// How long the window was when it was longest to its end.
    window: Duration,
    quota: Option<f64>,
    /// Whether no answer has told yet of the window that began.
    guessed: bool,
    in_flight: u32,
    /// Our calls of this window.
    own: f64,
    /// Our share of all calls.
    share: f64,
}

impl Known {
    fn new(now: Instant) -> Self {
        Self {
            left: None,
            until: now,
            window: Duration::ZERO,
            quota: None,
            guessed: false,
            in_flight: 0,
            own: 0.0,
            share: 1.0,
        }
    }

    /// The window is over: all of it is there again.
    fn renew(&mut self, now: Instant) {
        let whole = self.quota.map_or(1.0, |quota| (quota * self.share).floor().max(1.0));
        self.left = Some(whole - f64::from(self.in_flight));
        self.until = now + self.window.max(ASK_AGAIN);
        self.own = f64::from(self.in_flight);
        self.guessed = true;
    }

    fn told(&mut self, budget: Budget, now: Instant) {
        let reset_at = now + budget.reset;
        let is_other = self.left.is_none() || reset_at > self.until + SAME_WINDOW;
        // An answer of the window before may still be on its way; its end was near.
        let is_first = self.guessed && budget.reset * 2 > self.window;
        let is_new = is_other || is_first;
        self.guessed &= !is_new;
        if is_other {
            // This call belongs to it, and perhaps those under way.
            self.own = f64::from(self.in_flight) + 1.0;
            self.window = Duration::ZERO;
        }
        self.quota = budget.quota.or(self.quota);
        // Late in a window the answers have counted most of our calls, and those under way matter little.
        let counted = self.quota.map(|quota| (quota - budget.left, TELLING.max(quota / 2.0)));
        if let Some((all, _)) = counted.filter(|(all, telling)| all >= telling) {
            let own = (self.own - f64::from(self.in_flight)).max(1.0);
            self.share = (own / all).clamp(0.01, 1.0);
        }
        let left = (budget.left * self.share).floor() - f64::from(self.in_flight);
        self.left = Some(self.left.filter(|_| !is_new).map_or(left, |known| known.min(left)));
        // The latest that was told: a second may have been cut off.
        self.until = if is_new { reset_at } else { self.until.max(reset_at.min(self.until + SAME_WINDOW)) };
        self.window = self.window.max(budget.reset);
    }
}

impl Budgets {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one call of a budget, until it is [released](Self::give_back) or [ended](Self::ended).
    ///
    /// # Errors
    /// How long it has to wait.
    pub(super) fn take(&self, key: &str) -> Result<(), Duration> {
        let now = Instant::now();
        let mut all = self.lock();
        if !all.contains_key(key) {
            if all.len() >= MOST_REMEMBERED {
                all.retain(|_, known| known.in_flight > 0 || known.until > now);
            }
            all.insert(key.to_owned(), Known::new(now));
        }
        let Some(known) = all.get_mut(key) else { return Ok(()) };
        if known.left.is_some() && now >= known.until {
            known.renew(now);
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
        known.in_flight += 1;
        known.own += 1.0;
        Ok(())
    }

    /// The call was not made.
    pub(super) fn give_back(&self, key: &str) {
        if let Some(known) = self.lock().get_mut(key) {
            known.in_flight = known.in_flight.saturating_sub(1);
            known.own = (known.own - 1.0).max(0.0);
            known.left = known.left.map(|left| left + 1.0);
        }
    }

    /// The call has ended, and its answer told this.
    pub(super) fn ended(&self, key: &str, budget: Option<Budget>) {
        if let Some(known) = self.lock().get_mut(key) {
            known.in_flight = known.in_flight.saturating_sub(1);
            if let Some(budget) = budget {
                known.told(budget, Instant::now());
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
    pub(super) fn ended(mut self, budget: Option<Budget>) {
        self.has_ended = true;
        self.budgets.ended(&self.key, budget);
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
mod tests {
    use super::*;

    /// An API with a quota for each window, which begins at fixed times.
    struct Api {
        quota: u32,
        window: Duration,
        began: Instant,
        counted: (u128, u32),
        refused: u32,
        used: u32,
    }

    impl Api {
        fn new(quota: u32, seconds: u64) -> Self {
            let window = Duration::from_secs(seconds);
            Self { quota, window, began: Instant::now(), counted: (0, 0), refused: 0, used: 0 }
        }

        fn call(&mut self, tells_quota: bool) -> Budget {
            let elapsed = self.began.elapsed();
            let number = elapsed.as_millis() / self.window.as_millis();
            if self.counted.0 != number {
                self.counted = (number, 0);
            }
            if self.counted.1 < self.quota {
                self.counted.1 += 1;
                self.used += 1;
            } else {
                self.refused += 1;
            }
            let next = self.window * u32::try_from(number + 1).unwrap();
            Budget {
                left: f64::from(self.quota - self.counted.1),
                reset: Duration::from_secs((next - elapsed).as_secs_f64().ceil() as u64),
                quota: tells_quota.then_some(f64::from(self.quota)),
            }
        }
    }

    /// Workers with so many calls under way each, for some windows; refusals and uses after the first.
    async fn run(workers: usize, at_once: usize, tells_quota: bool, windows: u32) -> (u32, f64) {
        const TICK: Duration = Duration::from_millis(20);
        let mut api = Api::new(60, 10);
        let budgets: Vec<Budgets> = (0..workers).map(|_| Budgets::default()).collect();
        // Calls under way end after five ticks.
        let mut flying: Vec<(usize, u32, Budget)> = Vec::new();
        let mut used_first = 0;
        for tick in 0..windows * 500 {
            if tick == 500 {
                (api.refused, used_first) = (0, api.used);
            }
            let (landed, rest): (Vec<_>, Vec<_>) = flying.drain(..).partition(|(_, at, _)| *at <= tick);
            flying = rest;
            for (worker, _, budget) in landed {
                budgets[worker].ended("api", Some(budget));
            }
            for (worker, one) in budgets.iter().enumerate() {
                let under_way = flying.iter().filter(|(of, ..)| *of == worker).count();
                for _ in under_way..at_once {
                    if one.take("api").is_ok() {
                        flying.push((worker, tick + 5, api.call(tells_quota)));
                    }
                }
            }
            tokio::time::advance(TICK).await;
        }
        (api.refused, f64::from(api.used - used_first) / f64::from((windows - 1) * api.quota))
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_is_used_and_nothing_is_refused() {
        for (workers, at_once, tells_quota) in [(1, 30, true), (1, 30, false), (1, 100, true), (4, 10, true)]
        {
            let (refused, used) = run(workers, at_once, tells_quota, 12).await;
            assert_eq!(refused, 0, "{workers} workers, {at_once} at once, quota told: {tells_quota}");
            assert!(used >= 0.9, "{workers} workers, {at_once} at once, quota told: {tells_quota}: {used}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_not_made_takes_nothing() {
        let budgets = Budgets::default();
        Taken::of(&budgets, "api").unwrap().ended(Some(Budget {
            left: 1.0,
            reset: Duration::from_secs(5),
            quota: None,
        }));
        drop(Taken::of(&budgets, "api").unwrap());
        let last = Taken::of(&budgets, "api").unwrap();
        assert!(Taken::of(&budgets, "api").is_err());
        last.ended(None);
        assert_eq!(budgets.take("api"), Err(Duration::from_secs(5)));
        assert_eq!(budgets.take("another"), Ok(()));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(budgets.take("api"), Ok(()), "one call finds out what the next window has");
        assert!(budgets.take("api").is_err());
    }
}

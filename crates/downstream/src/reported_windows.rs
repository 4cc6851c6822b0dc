//! Windows of which an API has reported what is left, for all workers that call it.
//!
//! Each worker reads the answers to its own calls. What may still be called in a window is kept once: in Redis by
//! `reported_windows.lua`, which does step by step what is done here for one process. A worker takes a few calls at a time, so that
//! whoever has rows uses what is left, however the rows are distributed.
//!
//! Workers do not know the same moment as a window's end: it is reported in whole seconds, and a window of which nothing was reported yet is
//! guessed from the one before. Ends that are near each other are one window's, a guess takes the window that is there, and answers
//! correct its end.

use std::time::Duration;

/// Windows that are remembered of one budget.
const MOST_WINDOWS: usize = 64;

/// Of windows that are at most so many times as long as each other a guess may be the other one.
const ALIKE: f64 = 4.0;

/// What a worker asks of a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WindowAsk {
    /// When the window ends.
    pub ends_in: Duration,
    /// How long it is, as far as that is known.
    pub length: Duration,
    /// Other ends within this time are the same window's.
    pub same: Duration,
    /// Whether an answer has reported of it; else it is guessed from the window before.
    pub is_reported: bool,
    /// Calls that are left, as the last answer reported; of a guessed window all.
    pub left: f64,
    /// How many calls are wanted.
    pub amount: u32,
}

/// What a worker gets of a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WindowPart {
    /// Calls that it may make; fewer than it asked for: nothing is left.
    pub amount: u32,
    /// When the window ends, as all workers know it.
    pub ends_in: Duration,
}

/// The windows of one budget.
#[derive(Debug, Default)]
pub(crate) struct ReportedWindows(Vec<Window>);

#[derive(Clone, Copy, Debug)]
struct Window {
    /// Milliseconds, as `length`.
    until: f64,
    length: f64,
    left: f64,
    is_reported: bool,
}

impl ReportedWindows {
    /// Takes calls of a window at a time in milliseconds.
    pub(crate) fn take(&mut self, now: f64, ask: &WindowAsk) -> WindowPart {
        let until = now + millis(ask.ends_in);
        let place = self.find(now, until, ask).unwrap_or_else(|| self.begin(now, until, ask));
        let window = &mut self.0[place];
        window.length = window.length.max(millis(ask.length));
        if ask.is_reported {
            // The latest end that was reported: a second may have been cut off.
            window.until = if window.is_reported { window.until.max(until) } else { until };
            window.is_reported = true;
            window.left = window.left.min(ask.left);
        }
        // An end that was reported late lies in the next window, which the guess is about: it waits for that end.
        let ends = !ask.is_reported && window.is_reported && window.until - now <= millis(ask.same);
        let amount = if ends { 0.0 } else { f64::from(ask.amount).min(window.left.floor()).max(0.0) };
        window.left -= amount;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most what was asked for"
        )]
        let amount = amount as u32;
        WindowPart { amount, ends_in: Duration::from_secs_f64((window.until - now).max(0.0) / 1e3) }
    }

    /// Whether no window is left that matters.
    pub(crate) fn is_over(&self, now: f64) -> bool {
        self.0.iter().all(|window| window.until <= now)
    }

    /// The window that is asked about: a reported one ends at nearly the same moment; a guess takes one like it that ends before.
    fn find(&self, now: f64, until: f64, ask: &WindowAsk) -> Option<usize> {
        let (same, length) = (millis(ask.same), millis(ask.length));
        let apart = |window: &Window| (window.until - until).abs();
        let places = self.0.iter().enumerate().filter(|(_, window)| {
            let is_alike = window.length <= length * ALIKE && length <= window.length * ALIKE;
            let is_it = !ask.is_reported && window.until < until && is_alike;
            window.until > now && (apart(window) <= same || is_it)
        });
        let nearest =
            places.min_by(|(_, a), (_, b)| apart(a).total_cmp(&apart(b)).then(a.until.total_cmp(&b.until)));
        nearest.map(|(place, _)| place)
    }

    fn begin(&mut self, now: f64, until: f64, ask: &WindowAsk) -> usize {
        let (mut left, ends_in) = (ask.left, millis(ask.ends_in));
        // A guess that an answer corrects is the same window, or the end of the one before.
        let corrected = now + ends_in / ALIKE..=now + ends_in * ALIKE;
        self.0.retain(|window| {
            let is_corrected = ask.is_reported && !window.is_reported && corrected.contains(&window.until);
            if is_corrected {
                left = left.min(window.left);
            }
            window.until > now && !is_corrected
        });
        if self.0.len() >= MOST_WINDOWS {
            self.0.sort_by(|a, b| a.until.total_cmp(&b.until));
            self.0.remove(0);
        }
        self.0.push(Window { until, length: 0.0, left, is_reported: ask.is_reported });
        self.0.len() - 1
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

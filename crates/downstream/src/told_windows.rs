//! Windows of which an API has told what is left, for all workers that call it.
//!
//! Each worker reads the answers to its own calls. What may still be called in a window is kept once: in Redis by
//! `told_windows.lua`, which is this function by function, or here for one process. A worker takes a few calls at a time, so that
//! whoever has rows uses what is left, however the rows are distributed.
//!
//! Workers do not know the same moment as a window's end: it is told in whole seconds, and a window of which nothing was told yet is
//! guessed from the one before. Ends that are near each other are one window's, and a guess takes the window that is there.
//!
//! Other programs call the same API. What the answers of a window counted and nobody took here was theirs; no more of the next one
//! is taken than the share that was ours.

use std::time::Duration;

/// Windows that are remembered of one budget.
const MOST_WINDOWS: usize = 64;

/// What a worker asks of a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WindowAsk {
    /// When the window ends.
    pub ends_in: Duration,
    /// Other ends within this time are the same window's.
    pub same: Duration,
    /// Whether an answer has told of it; else it is guessed from the window before.
    pub is_told: bool,
    /// Calls that are left, as the last answer told, without those under way; of a guessed window all.
    pub left: f64,
    /// Calls of this window that answers have counted already, as far as that is known.
    pub used: f64,
    /// Calls of everybody in the window before, as its answers counted them; 0: it is not known.
    pub counted: f64,
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
pub(crate) struct ToldWindows {
    windows: Vec<Window>,
    /// Our share of all calls.
    share: Option<f64>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    /// Milliseconds.
    until: f64,
    left: f64,
    taken: f64,
    is_told: bool,
}

impl ToldWindows {
    /// Takes calls of a window at a time in milliseconds.
    pub(crate) fn take(&mut self, now: f64, ask: &WindowAsk) -> WindowPart {
        let until = now + millis(ask.ends_in);
        let place = self.find(now, until, ask).unwrap_or_else(|| self.begin(now, until, ask));
        let window = &mut self.windows[place];
        if ask.is_told {
            window.is_told = true;
            window.left = window.left.min(ask.left);
        }
        let amount = f64::from(ask.amount).min(window.left.floor()).max(0.0);
        window.left -= amount;
        window.taken += amount;
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
        self.windows.iter().all(|window| window.until <= now)
    }

    /// The window that is asked about: a told one ends at nearly the same moment; a guess takes what ends by then.
    fn find(&self, now: f64, until: f64, ask: &WindowAsk) -> Option<usize> {
        let same = millis(ask.same);
        let places = self.windows.iter().enumerate().filter(|(_, window)| {
            let is_near = (window.until - until).abs() <= same;
            window.until > now && (is_near || (!ask.is_told && window.until < until))
        });
        let apart = |window: &Window| (window.until - until).abs();
        let nearest =
            places.min_by(|(_, a), (_, b)| apart(a).total_cmp(&apart(b)).then(a.until.total_cmp(&b.until)));
        nearest.map(|(place, _)| place)
    }

    fn begin(&mut self, now: f64, until: f64, ask: &WindowAsk) -> usize {
        let ended = self.windows.iter().filter(|window| window.until <= now);
        if let Some(before) = ended.max_by(|a, b| a.until.total_cmp(&b.until))
            && ask.counted > 0.0
        {
            self.share = Some((before.taken / ask.counted).clamp(0.01, 1.0));
        }
        const EXACT: f64 = 1e-6;
        let share = self.share.unwrap_or(1.0);
        let (mut left, mut taken) = ((ask.left * share + EXACT).floor(), ask.used * share);
        // A guess that an answer corrects is the same window, or the end of the one before.
        let soonest = now + millis(ask.ends_in) / 4.0;
        self.windows.retain(|window| {
            let is_corrected = ask.is_told && !window.is_told && window.until >= soonest;
            if is_corrected {
                left = left.min(window.left);
                taken = taken.max(window.taken);
            }
            window.until > now && !is_corrected
        });
        if self.windows.len() >= MOST_WINDOWS {
            self.windows.sort_by(|a, b| a.until.total_cmp(&b.until));
            self.windows.remove(0);
        }
        self.windows.push(Window { until, left, taken, is_told: ask.is_told });
        self.windows.len() - 1
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

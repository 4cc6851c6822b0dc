//! What is done when a dependency says "too fast" although the configured rate is kept: the true limit is lower, and is
//! found by trying (multiplicative decrease; Chiu & Jain 1989).
//!
//! Such an answer cuts the share of the rate that is used; it then grows back along a cubic (as TCP CUBIC does, RFC 9438, 4.2):
//! quickly at first, flat around the *ceiling*, quickly again well past it. Much time is spent just below the true limit,
//! and a limit that was raised is found all the same. The ceiling is the mean of what was used between two such answers: what
//! went well for this long, with a random burst or a late peak evened out.

/// The share never goes below this.
pub const SLOWEST: f64 = 0.05;

/// From a cut to the ceiling it takes this many times the pause that came with the answer: trying costs a pause, so it is
/// tried the less often the longer one lasts.
pub const PAUSES_TO_CEILING: f64 = 20.0;

/// At least this long, and after an answer without a pause.
pub const SOONEST_US: f64 = 20e6;

/// At most this long.
pub const LATEST_US: f64 = 300e6;

/// Two cuts are at least this far apart: answers of one moment count once.
pub const EVERY_US: f64 = 1_000_000.0;

/// A share that was kept for this long before the next such answer was good, and is cut by little.
pub const SETTLED_US: f64 = 5_000_000.0;

/// The cut of a share that had settled, and of the first answer that came with a pause.
pub const CUT_LITTLE: f64 = 0.9;

/// The cut of a share that did not settle, when the answer came with a pause.
pub const CUT_PAUSED: f64 = 0.75;

/// The cut when all that is known is "too fast".
pub const CUT_BLIND: f64 = 0.5;

/// The share of the rate that is used. By default all of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaptiveRate {
    /// The share at `since`.
    pub factor: f64,
    /// The share that is thought to be right.
    pub ceiling: f64,
    /// When it began to grow: at the cut, or at the end of the pause that came with it. 0: no such answer came yet.
    pub since: f64,
    /// Until when further answers count as the same one.
    pub ignore_until: f64,
    /// How long it takes from `since` to the ceiling, microseconds.
    pub climb: f64,
}

impl Default for AdaptiveRate {
    fn default() -> Self {
        Self { factor: 1.0, ceiling: 1.0, since: 0.0, ignore_until: 0.0, climb: SOONEST_US }
    }
}

impl AdaptiveRate {
    /// The share at a moment.
    pub fn factor(&self, now: f64) -> f64 {
        let left = 1.0 - (now - self.since).max(0.0) / self.climb;
        (self.ceiling - (self.ceiling - self.factor) * left * left * left).min(1.0)
    }

    /// The mean of the share since it began to grow.
    fn mean(&self, now: f64) -> f64 {
        let passed = now - self.since;
        let left = 1.0 - passed / self.climb;
        let under = (1.0 - left * left * left * left) / 4.0 * self.climb / passed;
        (self.ceiling - (self.ceiling - self.factor) * under).min(1.0)
    }

    /// The share stays as it is until a moment, and grows from then on: after a refusal that says nothing of the rate.
    pub(super) fn resume_at(&mut self, now: f64, at: f64) {
        self.factor = self.factor(now);
        self.ceiling = self.ceiling.max(self.factor / CUT_LITTLE).min(1.0);
        self.since = at.max(now);
        self.ignore_until = self.since.max(now + EVERY_US);
    }

    /// The clock was set back.
    pub(super) fn set_back(&mut self, by: f64) {
        super::set_back(&mut self.since, by);
        super::set_back(&mut self.ignore_until, by);
    }

    /// The dependency said that calls come too fast, and perhaps until when to pause.
    pub(super) fn on_throttled(&mut self, now: f64, pause_until: Option<f64>) {
        if now < self.ignore_until {
            return;
        }
        let peak = self.factor(now);
        let first = self.since == 0.0 || peak >= 1.0;
        let settled = !first && now - self.since >= SETTLED_US;
        let (ceiling, cut) = match pause_until {
            _ if settled => (self.mean(now), CUT_LITTLE),
            Some(_) if first => (peak, CUT_LITTLE),
            Some(_) => (peak, CUT_PAUSED),
            None => (peak, CUT_BLIND),
        };
        let since = pause_until.unwrap_or(now).max(now);
        let factor = (ceiling * cut).max(SLOWEST);
        *self = Self {
            factor,
            // Above the share itself, or it would never grow again.
            ceiling: ceiling.max(factor / CUT_LITTLE),
            since,
            ignore_until: since.max(now + EVERY_US),
            climb: ((since - now) * PAUSES_TO_CEILING).clamp(SOONEST_US, LATEST_US),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: f64 = 1e15;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6
    }

    #[test]
    fn without_a_word_it_halves_once_a_second_and_comes_back() {
        let mut slow = AdaptiveRate::default();
        slow.on_throttled(NOW, None);
        slow.on_throttled(NOW + 10.0, None);
        assert!((slow.factor(NOW + 10.0) - 0.5).abs() < 1e-5, "two answers of a moment count once");
        assert!(slow.factor(NOW + 10e6) > 0.9 && slow.factor(NOW + 15e6) < 1.0);
        assert!(close(slow.factor(NOW + 600e6), 1.0), "it never passes the configured rate");
        let peak = slow.factor(NOW + 1e6);
        slow.on_throttled(NOW + 1e6, None);
        assert!(close(slow.factor(NOW + 1e6), peak / 2.0));
    }

    #[test]
    fn it_never_stops_altogether_and_never_stays_down() {
        let mut slow = AdaptiveRate::default();
        for second in 0..20 {
            slow.on_throttled(NOW + f64::from(second) * 1e6, None);
        }
        assert!(slow.factor(NOW + 20e6) >= SLOWEST);
        assert!(close(slow.factor(NOW + 150e6), 1.0));
    }

    #[test]
    fn a_pause_counts_neither_as_recovery_nor_as_settled() {
        let mut slow = AdaptiveRate::default();
        slow.on_throttled(NOW, Some(NOW + 60e6));
        assert!(close(slow.factor(NOW + 60e6), 0.9));
        slow.on_throttled(NOW + 30e6, Some(NOW + 60e6));
        assert!(close(slow.factor(NOW + 60e6), 0.9), "answers that come in during the pause say nothing new");
        slow.on_throttled(NOW + 61e6, Some(NOW + 62e6));
        assert!(slow.factor(NOW + 62e6) < 0.72, "it did not settle: a deeper cut");
    }

    #[test]
    fn it_is_flat_around_what_went_well_and_tries_again_later_after_a_long_pause() {
        let steady =
            AdaptiveRate { factor: 0.45, ceiling: 0.5, since: NOW, ignore_until: NOW, climb: SOONEST_US };
        let after = |seconds: f64| steady.factor(NOW + seconds * 1e6);
        assert!(after(5.0) > 0.475 && after(15.0) > 0.499 && after(25.0) < 0.501 && after(30.0) < 0.51);
        assert!(close(after(80.0), 1.0), "a limit that was raised is found");
        let mut slow = steady;
        slow.on_throttled(NOW + 30e6, Some(NOW + 31e6));
        assert!((0.48..0.5).contains(&slow.ceiling), "a late peak is evened out: {}", slow.ceiling);
        assert!(close(slow.climb, SOONEST_US));
        slow.on_throttled(NOW + 60e6, Some(NOW + 70e6));
        assert!(close(slow.climb, 200e6), "ten seconds are a dear trial");
    }

    #[test]
    fn the_mean_is_that_of_the_curve() {
        let slow =
            AdaptiveRate { factor: 0.3, ceiling: 0.4, since: NOW, ignore_until: NOW, climb: SOONEST_US };
        let steps = 100_000_u32;
        let sum: f64 =
            (0..steps).map(|step| slow.factor(NOW + (f64::from(step) + 0.5) / f64::from(steps) * 33e6)).sum();
        assert!((slow.mean(NOW + 33e6) - sum / f64::from(steps)).abs() < 1e-6);
    }
}

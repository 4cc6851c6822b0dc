//! What is done when a dependency says "too fast" although the configured rate is kept: the true limit is lower, and is
//! found by trying (additive increase, multiplicative decrease; Chiu & Jain 1989).
//!
//! A sign cuts the share of the rate that is used; it then grows back. Around the share at which the last sign came (the
//! *ceiling*) it grows slowly, and quickly again once it is well past it, as TCP CUBIC does (RFC 9438): much time is
//! spent just below the true limit, and a limit that was raised is found all the same.

/// The share never goes below this.
pub const SLOWEST: f64 = 0.05;

/// What comes back each second, of the whole rate.
pub const RECOVERY_PER_SECOND: f64 = 0.05;

/// What comes back each second around the ceiling, of the ceiling.
pub const RECOVERY_AT_CEILING: f64 = 0.0005;

/// From how far below the ceiling that is: what a dependency's own burst lets pass before it says a word hides that much.
pub const BELOW_CEILING: f64 = 0.08;

/// Up to how far above it.
pub const ABOVE_CEILING: f64 = 0.03;

/// Two cuts are at least so far apart: answers of one moment are one sign.
pub const EVERY_US: f64 = 1_000_000.0;

/// A share that was kept for so long before the next sign was good, and is cut by little.
pub const SETTLED_US: f64 = 5_000_000.0;

/// The cut of a share that had settled, and of the first sign that came with a pause.
pub const CUT_LITTLE: f64 = 0.9;

/// The cut of a share that did not settle, when the sign came with a pause.
pub const CUT_PAUSED: f64 = 0.75;

/// The cut when all that is known is "too fast".
pub const CUT_BLIND: f64 = 0.5;

/// The share of the rate that is used. By default all of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowDown {
    /// The share at `since`.
    pub factor: f64,
    /// The share at which the last sign came.
    pub ceiling: f64,
    /// When it began to grow: at the cut, or at the end of the pause that came with it. 0: there was no sign yet.
    pub since: f64,
    /// Until when further signs are the same one.
    pub deaf_until: f64,
}

impl Default for SlowDown {
    fn default() -> Self {
        Self { factor: 1.0, ceiling: 1.0, since: 0.0, deaf_until: 0.0 }
    }
}

impl SlowDown {
    /// The share at a moment.
    pub fn factor(&self, now: f64) -> f64 {
        let mut seconds = (now - self.since).max(0.0) / 1e6;
        let mut factor = self.factor;
        for (until, speed) in [
            (self.ceiling * (1.0 - BELOW_CEILING), RECOVERY_PER_SECOND),
            (self.ceiling * (1.0 + ABOVE_CEILING), RECOVERY_AT_CEILING * self.ceiling),
        ] {
            if factor < until {
                let needed = (until - factor) / speed;
                if seconds <= needed {
                    return (factor + seconds * speed).min(1.0);
                }
                seconds -= needed;
                factor = until;
            }
        }
        (factor + seconds * RECOVERY_PER_SECOND).min(1.0)
    }

    /// The dependency said that calls come too fast, and perhaps until when to pause.
    pub(super) fn sign(&mut self, now: f64, pause_until: Option<f64>) {
        if now < self.deaf_until {
            return;
        }
        let ceiling = self.factor(now);
        let first = self.since == 0.0 || ceiling >= 1.0;
        let settled = !first && now - self.since >= SETTLED_US;
        let cut = match pause_until {
            _ if settled => CUT_LITTLE,
            Some(_) if first => CUT_LITTLE,
            Some(_) => CUT_PAUSED,
            None => CUT_BLIND,
        };
        let since = pause_until.unwrap_or(now).max(now);
        *self = Self {
            factor: (ceiling * cut).max(SLOWEST),
            ceiling,
            since,
            deaf_until: since.max(now + EVERY_US),
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
        let mut slow = SlowDown::default();
        slow.sign(NOW, None);
        slow.sign(NOW + 10.0, None);
        assert!(
            close(slow.factor(NOW + 10.0), 0.5 + 10e-6 * RECOVERY_PER_SECOND),
            "two signs of a moment are one"
        );
        assert!(close(slow.factor(NOW + 4e6), 0.7));
        assert!(close(slow.factor(NOW + 600e6), 1.0), "it never passes the configured rate");
        slow.sign(NOW + 1e6, None);
        assert!(close(slow.factor(NOW + 1e6), 0.275));
    }

    #[test]
    fn it_never_stops_altogether() {
        let mut slow = SlowDown::default();
        for second in 0..20 {
            slow.sign(NOW + f64::from(second) * 1e6, None);
        }
        assert!(slow.factor(NOW + 20e6) >= SLOWEST);
    }

    #[test]
    fn a_pause_counts_neither_as_recovery_nor_as_settled() {
        let mut slow = SlowDown::default();
        slow.sign(NOW, Some(NOW + 60e6));
        assert!(close(slow.factor(NOW + 60e6), 0.9));
        slow.sign(NOW + 30e6, Some(NOW + 60e6));
        assert!(close(slow.factor(NOW + 60e6), 0.9), "answers that come in during the pause say nothing new");
        slow.sign(NOW + 61e6, Some(NOW + 62e6));
        assert!(slow.factor(NOW + 62e6) < 0.72, "it did not settle: a deeper cut");
    }

    #[test]
    fn around_the_ceiling_it_is_slow() {
        let mut slow = SlowDown { factor: 0.5, ceiling: 1.0, since: NOW, deaf_until: NOW };
        let now = NOW + 5e6;
        slow.sign(now, Some(now + 1e6));
        assert!(close(slow.ceiling, 0.75) && close(slow.factor, 0.675));
        let share = |seconds: f64| slow.factor(now + 1e6 + seconds * 1e6);
        assert!(share(2.0) < 0.73 && share(60.0) < 0.755, "{} {}", share(2.0), share(60.0));
        assert!(share(300.0) > 0.99);
    }
}

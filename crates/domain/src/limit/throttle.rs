//! What is done about answers that say "too many calls": a pause, an adaptive share of the rate, and the question whom
//! they are about.
//!
//! A first refusal counts for everybody: the calls pause for as long as the dependency asks, and a smaller share of the
//! rate is used ([`AdaptiveRate`]). A row that is refused *again*, although calls of other rows that left after the pause
//! went through, was refused for a reason of its own: from then on it waits alone, and what its first refusal did to the
//! others is undone. Where that has happened, other rows' first refusals are doubted, too: they count only when several come
//! in a row.
//!
//! While nothing at all goes through, pauses grow, and after each of them a single call finds out whether it is over. Rows
//! that wait meanwhile are shown how long that has lasted, so that those that never get a call end too.

use super::adaptive_rate::{AdaptiveRate, EVERY_US};
use super::past::{BEHIND_OTHERS_US, COURTESY_US, Past};
use super::{Ask, Denied, Feedback, PROBE_RETRY_US, RatePolicy, Reason};

/// The shortest pause after a refusal, when no call succeeded since the one before.
pub const SHORTEST_US: f64 = 1_000_000.0;

/// Such pauses double up to this one, unless the dependency asks for more.
pub const LONGEST_US: f64 = 300_000_000.0;

/// After this many pauses in a row without a successful call, a single call is tried.
pub const ONE_AT_A_TIME: u32 = 2;

/// A call that went through speaks for a refused row's own fault for this long, and for three calls' time at the rate.
pub const BESIDE_US: f64 = 10_000_000.0;

/// For this long it is remembered what share of the rate was used before a refusal that nothing has confirmed.
pub const UNDO_US: f64 = 600_000_000.0;

/// The most rows with a reason of their own that are remembered.
const MOST_DOUBT: u32 = 8;

/// The pause after this many refusals in a row, microseconds.
pub fn grown(refusals: u32) -> f64 {
    let doubled = SHORTEST_US * f64::from(refusals.saturating_sub(1).min(20)).exp2();
    doubled.min(LONGEST_US)
}

/// What is known about refusals. Times are of the limiter's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Throttle {
    /// The share of the rate.
    pub(super) adaptive_rate: AdaptiveRate,
    /// The share as it was before the refusals that nothing has confirmed, and when those began.
    before: Option<(AdaptiveRate, f64)>,
    /// Until when nothing may be called.
    pub(super) paused_until: f64,
    /// A call that leaves later shows whether the last refusal is over.
    clear_at: f64,
    /// When the last refusal came that was news.
    refused_at: f64,
    /// When the first of these pauses in a row began.
    refused_since: f64,
    /// When the newest call left that went through.
    passed_at: f64,
    /// Pauses in a row after which nothing went through.
    pub(super) refusals: u32,
    /// Refused answers since the last one that went through.
    in_a_row: u32,
    /// Rows that were found to be refused for a reason of their own, since a refusal was last confirmed.
    doubt: u32,
    /// The call that is tried alone, and until when others wait for it.
    trial: Option<(u64, f64)>,
    /// When a row with a clean past asked last while it mattered.
    clean_at: f64,
}

impl Throttle {
    /// Whether a call may be made now, as far as refusals are concerned.
    pub(super) fn admits(&mut self, now: f64, ask: &Ask) -> Result<(), Denied> {
        let refused_for = self.refused_for();
        self.turn(now, ask).map_err(|denied| Denied { refused_for, ..denied })
    }

    /// For how long everything had been refused when a call was last tried: a pause that lasts counts when it is over.
    fn refused_for(&self) -> f64 {
        if self.refusals > 0 { self.refused_at - self.refused_since } else { 0.0 }
    }

    fn turn(&mut self, now: f64, ask: &Ask) -> Result<(), Denied> {
        self.not_paused(now)?;
        if self.refusals < ONE_AT_A_TIME {
            return Ok(());
        }
        if ask.past.is_suspect() {
            let others_until = (self.paused_until + COURTESY_US).max(self.clean_at + BEHIND_OTHERS_US);
            if now < others_until {
                return Err(Denied::of_row(others_until - now, Reason::Paused));
            }
        } else {
            self.clean_at = now;
        }
        match self.trial {
            Some((_, until)) if now < until => {
                Err(Denied::new((until - now).min(PROBE_RETRY_US), Reason::Paused))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn not_paused(&self, now: f64) -> Result<(), Denied> {
        if self.paused_until > now {
            return Err(Denied::new(self.paused_until - now, Reason::Paused));
        }
        Ok(())
    }

    /// A call was granted for a moment. Whether it is the one that is tried alone.
    pub(super) fn granted(&mut self, at: f64, ask: &Ask) -> bool {
        let alone = self.refusals >= ONE_AT_A_TIME;
        if alone {
            self.trial = Some((ask.token, at + ask.lease_us));
        }
        alone
    }

    /// A call has ended. Whether it was refused for a reason of its row's own.
    pub(super) fn reported(
        &mut self,
        rate: Option<&RatePolicy>,
        now: f64,
        token: u64,
        feedback: &Feedback,
    ) -> bool {
        if self.trial.is_some_and(|(tried, _)| tried == token) {
            self.trial = None;
        }
        let left_at = now - feedback.elapsed;
        match (feedback.throttled, feedback.healthy) {
            (true, None) => {
                let own = self.is_own(rate, now, feedback.past);
                if feedback.past != Past::ThrottledAlone {
                    self.in_a_row = self.in_a_row.saturating_add(1);
                }
                if own {
                    self.refuted(feedback.past);
                } else {
                    self.refused(now, left_at, feedback.pause);
                }
                own
            }
            (_, Some(true)) => {
                self.passed(left_at);
                if feedback.past == Past::Throttled {
                    // It was refused because of the others after all.
                    (self.doubt, self.before) = (0, None);
                }
                false
            }
            // Its health is the breaker's business; but perhaps it is overloaded, or asked to be left alone.
            (throttled, Some(false) | None) => {
                let own =
                    feedback.pause.is_some_and(|pause| self.asked_to_wait(rate, now, feedback.past, pause));
                if throttled && !feedback.past.is_suspect() {
                    self.adaptive_rate.on_throttled(now, None);
                }
                own
            }
        }
    }

    /// A call failed, and its answer asks for a pause. Whether that is about its row only, as with a refusal: a row that failed
    /// before has taught the others already.
    fn asked_to_wait(&mut self, rate: Option<&RatePolicy>, now: f64, past: Past, pause: f64) -> bool {
        let own = self.is_own(rate, now, if past == Past::Failed { Past::Throttled } else { past });
        self.in_a_row = self.in_a_row.saturating_add(1);
        if !own {
            self.paused_until = self.paused_until.max(now + pause);
            self.clear_at = self.clear_at.max(self.paused_until);
        } else if past.is_suspect() {
            self.doubt = (self.doubt + 1).min(MOST_DOUBT);
        }
        own
    }

    /// A call that left at a moment went through.
    pub(super) fn passed(&mut self, left_at: f64) {
        self.passed_at = self.passed_at.max(left_at);
        self.in_a_row = 0;
        if left_at >= self.clear_at {
            (self.refusals, self.trial) = (0, None);
        }
    }

    fn is_own(&self, rate: Option<&RatePolicy>, now: f64, past: Past) -> bool {
        let beside = self.is_beside(rate, now);
        match past {
            Past::ThrottledAlone => true,
            Past::Throttled => beside,
            Past::Clean | Past::Failed => beside && self.doubt > 0 && self.in_a_row <= self.doubt / 2,
        }
    }

    /// Whether calls of other rows go through.
    fn is_beside(&self, rate: Option<&RatePolicy>, now: f64) -> bool {
        let lasting = BESIDE_US + rate.map_or(0.0, |rate| 3.0 * rate.interval_us);
        self.passed_at >= self.clear_at && now - self.passed_at < lasting
    }

    /// A row was refused for a reason of its own. What its first refusal did is undone.
    fn refuted(&mut self, past: Past) {
        if past != Past::Throttled {
            return;
        }
        self.doubt = (self.doubt + 1).min(MOST_DOUBT);
        if let Some((before, _)) = self.before.take() {
            self.adaptive_rate = AdaptiveRate { ignore_until: self.adaptive_rate.ignore_until, ..before };
        }
    }

    fn refused(&mut self, now: f64, left_at: f64, pause: Option<f64>) {
        let is_news = now >= self.adaptive_rate.ignore_until && left_at >= self.refused_at;
        let mut pause = pause;
        if is_news {
            if self.refusals == 0 {
                self.refused_since = now;
            }
            self.refusals = self.refusals.saturating_add(1);
            (self.refused_at, self.clear_at) = (now, self.clear_at.max(now));
            if self.refusals > 1 {
                pause = Some(pause.unwrap_or(0.0).max(grown(self.refusals)));
            }
        }
        let until = pause.map(|pause| now + pause);
        self.paused_until = self.paused_until.max(until.unwrap_or(0.0));
        self.clear_at = self.clear_at.max(self.paused_until);
        if is_news && self.before.is_none_or(|(_, since)| now - since > UNDO_US) {
            self.before = Some((self.adaptive_rate, now));
        }
        if self.refusals > 1 {
            // Nothing went through since the last one: that tells nothing of the right rate.
            if is_news {
                self.adaptive_rate.resume_at(now, until.unwrap_or(now));
            }
        } else {
            self.adaptive_rate.on_throttled(now, until);
        }
    }

    /// Whether forgetting it changes nothing for anybody.
    pub(super) fn is_idle(&self, now: f64) -> bool {
        self.paused_until < now - super::MAX_WAIT_US
            && self.refusals == 0
            && self.adaptive_rate.factor(now) >= 1.0
    }

    /// The clock was set back.
    pub(super) fn set_back(&mut self, by: f64) {
        for time in [
            &mut self.paused_until,
            &mut self.clear_at,
            &mut self.refused_at,
            &mut self.refused_since,
            &mut self.passed_at,
            &mut self.clean_at,
        ] {
            super::set_back(time, by);
        }
        self.adaptive_rate.set_back(by);
        if let Some((before, since)) = &mut self.before {
            before.set_back(by);
            super::set_back(since, by);
        }
        if let Some((_, until)) = &mut self.trial {
            super::set_back(until, by);
        }
    }
}

const _: () = assert!(SHORTEST_US >= EVERY_US, "a pause's end is news");

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: f64 = 1e15;

    fn ask(token: u64, past: Past) -> Ask {
        Ask { cost: 1, token, lease_us: 15e6, lead_us: 0.0, past, patience_us: 0.0 }
    }

    fn refusal(past: Past, pause: Option<f64>) -> Feedback {
        Feedback { throttled: true, pause, past, ..Feedback::default() }
    }

    fn waits(throttle: &mut Throttle, now: f64, past: Past) -> Option<(f64, bool)> {
        throttle.admits(now, &ask(1, past)).err().map(|denied| (denied.retry_after / 1e6, denied.row_only))
    }

    #[test]
    fn a_row_that_is_refused_beside_others_waits_alone_and_what_it_did_is_undone() {
        for (pause, after) in [(None, 0.0), (Some(3e6), 3e6)] {
            let mut throttle = Throttle::default();
            assert!(!throttle.reported(None, NOW, 1, &refusal(Past::Clean, pause)));
            assert!(throttle.adaptive_rate.factor(NOW + after) < 0.95);
            // What had left before says nothing of what comes after.
            throttle.passed(NOW + after - 1.0);
            assert_eq!(throttle.refusals, 1);
            throttle.passed(NOW + after + 1e6);
            let later = NOW + after + 2e6;
            assert!(throttle.reported(None, later, 1, &refusal(Past::Throttled, pause)), "{pause:?}");
            assert_eq!(throttle.not_paused(later), Ok(()));
            assert!((throttle.adaptive_rate.factor(later) - 1.0).abs() < 1e-9);
            assert!(throttle.reported(None, later, 1, &refusal(Past::ThrottledAlone, pause)));
            // Another row's first refusal is doubted now; several in a row are not.
            let answers =
                [2, 3, 4].map(|token| throttle.reported(None, later, token, &refusal(Past::Clean, pause)));
            assert_eq!(answers, [false, false, false], "the last answers were refusals");
            throttle.passed(later + after);
            assert!(throttle.reported(None, later + after + 1.0, 5, &refusal(Past::Clean, pause)));
        }
    }

    #[test]
    fn a_refusal_that_others_share_counts_for_all() {
        let mut throttle = Throttle::default();
        throttle.reported(None, NOW, 1, &refusal(Past::Clean, Some(2e6)));
        assert!(
            !throttle.reported(None, NOW + 3e6, 1, &refusal(Past::Throttled, Some(2e6))),
            "nothing went through"
        );
        assert_eq!(waits(&mut throttle, NOW + 4e6, Past::Clean), Some((1.0, false)));
        throttle.passed(NOW + 6e6);
        let well = Feedback { healthy: Some(true), past: Past::Throttled, ..Feedback::default() };
        throttle.reported(None, NOW + 7e6, 1, &well);
        assert_eq!((throttle.before, throttle.doubt), (None, 0), "it was about speed");
        // A success of long ago says nothing.
        assert!(!throttle.reported(None, NOW + 30e6, 2, &refusal(Past::Throttled, Some(2e6))));
    }

    #[test]
    fn while_nothing_goes_through_pauses_grow_and_a_single_call_is_tried() {
        let mut throttle = Throttle::default();
        let mut now = NOW;
        let mut pauses = Vec::new();
        for token in 0..11 {
            throttle.reported(None, now, token, &refusal(Past::Clean, None));
            pauses.push((throttle.paused_until - now).max(0.0) / 1e6);
            now = throttle.paused_until.max(now + 1e6);
        }
        assert_eq!(pauses, [0.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 300.0, 300.0]);
        let refused_for = throttle.admits(now - 1e6, &ask(1, Past::Clean)).unwrap_err().refused_for / 1e6;
        assert!(
            (refused_for - (1.0 + 2.0 + 4.0 + 8.0 + 16.0 + 32.0 + 64.0 + 128.0 + 256.0 + 300.0)).abs() < 1e-9,
            "{refused_for}"
        );
        assert_eq!(waits(&mut throttle, now, Past::Throttled), Some((2.0, true)), "others may come");
        assert_eq!(waits(&mut throttle, now, Past::Clean), None);
        assert!(throttle.granted(now, &ask(7, Past::Clean)));
        assert_eq!(waits(&mut throttle, now, Past::Clean), Some((1.0, false)), "one is tried");
        assert_eq!(waits(&mut throttle, now + 1e6, Past::Throttled), Some((4.0, true)));
        assert_eq!(waits(&mut throttle, now + 15e6, Past::Clean), None, "its worker died");
        throttle.passed(now);
        assert_eq!(waits(&mut throttle, now, Past::Throttled), None);
        let share = throttle.adaptive_rate.factor(now);
        assert!(share > 0.49, "only the first refusal said anything of the rate: {share}");
        throttle.reported(None, now, 12, &refusal(Past::Clean, Some(5e6)));
        let denied = throttle.admits(now, &ask(1, Past::Clean)).unwrap_err();
        assert_eq!(denied, Denied::new(5e6, Reason::Paused), "another series");
    }

    #[test]
    fn failures_that_ask_for_a_pause_are_learnt_as_refusals_are() {
        let mut throttle = Throttle::default();
        let failure = |past| Feedback { healthy: Some(false), pause: Some(3e6), past, ..Feedback::default() };
        assert!(!throttle.reported(None, NOW, 1, &failure(Past::Clean)));
        assert_eq!(waits(&mut throttle, NOW, Past::Clean), Some((3.0, false)));
        throttle.passed(NOW + 3e6);
        assert!(throttle.reported(None, NOW + 4e6, 1, &failure(Past::Failed)), "others go well");
        throttle.passed(NOW + 4e6);
        assert!(throttle.reported(None, NOW + 5e6, 2, &failure(Past::Clean)), "another's is doubted");
        assert_eq!(waits(&mut throttle, NOW + 5e6, Past::Clean), None);
        assert!(!throttle.reported(None, NOW + 5e6, 3, &failure(Past::Clean)), "two in a row are not");
        assert_eq!(waits(&mut throttle, NOW + 5e6, Past::Clean), Some((3.0, false)));
    }
}

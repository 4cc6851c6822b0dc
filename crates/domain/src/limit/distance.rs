//! How far away a limiter is: its clock, and how long its answers take, learned from the questions that it is asked.
//!
//! An answer that bears the server's time was written between question and answer, so the difference of the two clocks
//! lies between two bounds (Cristian, *Probabilistic clock synchronization*, 1989). All of them hold at once, and the
//! quickest ways there and back leave the narrowest bounds (Marzullo 1984). In their middle lies the difference, as far as
//! the quickest way there is as long as the quickest one back: more cannot be known from outside (RFC 5905, 8).
//!
//! Bounds widen by [`DRIFT`] as they age, so that nothing that was once known stands permanently: a way that has become longer
//! makes them wider, clocks that run apart move them, and a clock that was set makes them contradict each other.

/// By how much two clocks run apart at most: what NTP corrects a clock by, as a share of the time.
const DRIFT: f64 = 500e-6;

/// This many answers are wanted before the bounds are relied on: one of them may have been held up on one of its ways.
const ENOUGH: u32 = 3;

/// The longest time is forgotten by this share of what an answer takes less.
const FORGET: f64 = 1.0 / 32.0;

/// A way that is shorter needs no lead: it is within what a call may be late.
const NEAR_US: f64 = 2_000.0;

/// A longer lead would leave no time to wait for a moment.
const LONGEST_LEAD_US: f64 = 0.8 * super::MAX_WAIT_US;

/// How long before a moment a limiter has to be asked for an answer to be there in time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lead {
    /// From the server's decision to the answer's arrival, microseconds.
    pub answer_us: f64,
    /// From the question to the answer's arrival, microseconds.
    pub round_trip_us: f64,
}

/// What is known of a limiter's distance. Times are microseconds, each of its own clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct Distance {
    /// The server's clock less this one is at least so much.
    least: f64,
    /// And at most so much.
    most: f64,
    /// When both were known (this clock).
    at: f64,
    answers: u32,
    /// The longest ways of late.
    longest: Lead,
}

impl Distance {
    /// An answer that bears the server's time; `asked` and `answered` are times of this clock.
    pub fn observed(&mut self, asked: f64, server: f64, answered: f64) {
        let (least, most) = (server - answered, server - asked);
        let widened = (answered - self.at).max(0.0) * DRIFT;
        let (known_least, known_most) = (self.least - widened, self.most + widened);
        let contradicted = least > known_most || most < known_least;
        if self.answers == 0 || contradicted {
            *self = Self { least, most, at: answered, answers: 1, longest: self.longest };
        } else {
            self.least = known_least.max(least);
            self.most = known_most.min(most);
            self.at = self.at.max(answered);
            self.answers = self.answers.saturating_add(1);
        }
        let round_trip = answered - asked;
        let answer = (answered - self.here(server)).clamp(0.0, round_trip);
        self.longest = Lead {
            answer_us: held(self.longest.answer_us, answer),
            round_trip_us: held(self.longest.round_trip_us, round_trip),
        };
    }

    /// Another server may answer from now on, whose clock is another one.
    pub fn forget(&mut self) {
        *self = Self { longest: self.longest, ..Self::default() };
    }

    /// Whether enough was observed to rely on it.
    pub fn is_known(&self) -> bool {
        self.answers >= ENOUGH
    }

    /// The server's time as a time of this clock.
    pub fn here(&self, server: f64) -> f64 {
        server - f64::midpoint(self.least, self.most)
    }

    /// With what lead it has to be asked: as long as answers took of late.
    pub fn lead(&self) -> Lead {
        let lead = |way: f64| if way <= NEAR_US { 0.0 } else { way.min(LONGEST_LEAD_US) };
        Lead { answer_us: lead(self.longest.answer_us), round_trip_us: lead(self.longest.round_trip_us) }
    }
}

fn held(longest: f64, now: f64) -> f64 {
    if now > longest { now } else { longest - (longest - now) * FORGET }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: f64 = 1e15;

    /// Questions a tenth of a second apart, with these ways there and back; the server's clock is ahead by [`SERVER`].
    fn ask(distance: &mut Distance, from: f64, ways: &[(f64, f64)]) -> f64 {
        let mut now = from;
        for (there, back) in ways {
            distance.observed(now, SERVER + now + there, now + there + back);
            now += 100e3;
        }
        now
    }

    fn error(distance: &Distance, now: f64) -> f64 {
        distance.here(SERVER + now) - now
    }

    #[test]
    fn the_quickest_ways_tell_the_clock_and_the_longest_the_lead() {
        let mut distance = Distance::default();
        let now = ask(&mut distance, 0.0, &[(100e3, 100e3), (130e3, 100e3), (100e3, 130e3)]);
        assert!(error(&distance, now).abs() < 200.0, "{}", error(&distance, now));
        let lead = distance.lead();
        assert!((128e3..=131e3).contains(&lead.answer_us), "{lead:?}");
        assert!((228e3..=231e3).contains(&lead.round_trip_us), "{lead:?}");
    }

    #[test]
    fn one_answer_that_was_held_up_moves_nothing_once_others_are_known() {
        let mut distance = Distance::default();
        let now = ask(&mut distance, 0.0, &[(10e3, 10e3); 3]);
        assert!(distance.is_known());
        let now = ask(&mut distance, now, &[(10e3, 400e3), (300e3, 10e3)]);
        assert!(error(&distance, now).abs() < 300.0, "{}", error(&distance, now));
    }

    #[test]
    fn a_lucky_answer_and_a_bad_one_are_forgotten() {
        let mut distance = Distance::default();
        let now = ask(&mut distance, 0.0, &[(100.0, 100.0), (100e3, 700e3)]);
        assert!(distance.lead().answer_us > 650e3);
        let now = ask(&mut distance, now, &[(40e3, 40e3); 4000]);
        assert!(error(&distance, now).abs() < 100.0, "{}", error(&distance, now));
        let lead = distance.lead();
        assert!(
            (39e3..42e3).contains(&lead.answer_us) && (79e3..84e3).contains(&lead.round_trip_us),
            "{lead:?}"
        );
    }

    #[test]
    fn a_near_one_needs_no_lead_and_none_is_longer_than_a_wait() {
        let mut distance = Distance::default();
        ask(&mut distance, 0.0, &[(200.0, 300.0); 5]);
        assert_eq!(distance.lead(), Lead::default());
        ask(&mut distance, 1e6, &[(200.0, 5e6)]);
        assert!(distance.lead().answer_us <= LONGEST_LEAD_US);
    }

    #[test]
    fn a_clock_that_was_set_is_learned_anew() {
        let mut distance = Distance::default();
        let now = ask(&mut distance, 0.0, &[(200.0, 200.0); 20]);
        for round in 1..=3_u32 {
            assert_eq!(distance.is_known(), round == 1, "few answers by the new clock are not enough");
            let asked = now + f64::from(round) * 1e3;
            distance.observed(asked, SERVER + asked + 200.0 - 5e6, asked + 400.0);
        }
        assert!(distance.is_known());
        assert!((distance.here(SERVER + now) - now - 5e6).abs() < 1.0);
    }

    #[test]
    fn behind_a_lost_connection_only_the_lead_is_known() {
        let mut distance = Distance::default();
        let now = ask(&mut distance, 0.0, &[(100e3, 100e3); 20]);
        let lead = distance.lead();
        distance.forget();
        assert!(!distance.is_known());
        assert_eq!(distance.lead(), lead);
        // The other server's clock differs by less than a round trip, which would contradict nothing.
        for round in 1..=3_u32 {
            let asked = now + f64::from(round) * 1e6;
            distance.observed(asked, SERVER + asked + 150e3, asked + 200e3);
        }
        assert!((distance.here(SERVER + now) - now + 50e3).abs() < 1.0);
    }

    #[test]
    fn clocks_that_run_apart_stay_known() {
        let mut distance = Distance::default();
        let mut worst = 0.0_f64;
        for second in 0..600_u32 {
            let now = f64::from(second) * 1e6;
            let server = SERVER + now * (1.0 + 200e-6);
            distance.observed(now, server + 500.0, now + 1000.0);
            worst = worst.max((distance.here(server) - now).abs());
        }
        assert!(worst < 700.0 && distance.answers > 599, "{worst}");
    }
}

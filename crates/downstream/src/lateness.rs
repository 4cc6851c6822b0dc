//! Calls that had a permit and could not be made in time: judged, and logged when they are many.

use std::sync::{Mutex, PoisonError};

use penstock_domain::limit::rate::LATE_US;
use penstock_domain::limit::{Denied, Lead, Reason};

/// Each call moves the share by this much.
const WEIGHT: f64 = 1.0 / 32.0;

/// From this share of late calls on, this worker cannot call as it should.
const MANY: f64 = 0.5;

/// Below this share it can again.
const FEW: f64 = 0.1;

/// While most calls are late, each takes from the rate what others could use: they are made rarely.
const PAUSE_US: f64 = 1_000_000.0;

/// The share of calls that were late, of those that had a permit.
#[derive(Default)]
pub(crate) struct Lateness(Mutex<State>);

#[derive(Default)]
struct State {
    share: f64,
    reported: bool,
}

impl Lateness {
    /// A call leaves this many microseconds later than it may; negative: in time. Denied when it may not leave any more.
    pub(crate) fn judge(&self, by: f64, lead: &Lead) -> Option<Denied> {
        let late = by > LATE_US;
        let (many, turned) = self.0.lock().unwrap_or_else(PoisonError::into_inner).count(late);
        if turned && many {
            tracing::warn!(
                late_by_ms = by / 1e3,
                allowed_ms = LATE_US / 1e3,
                limiter_round_trip_ms = lead.round_trip_us / 1e3,
                "most calls are not made: their permits arrive too late, or this process is woken too late"
            );
        } else if turned {
            tracing::info!("calls are made in time again");
        }
        late.then_some(Denied::new(if many { PAUSE_US } else { 0.0 }, Reason::Late))
    }
}

impl State {
    /// Whether many are late, and whether that is news.
    fn count(&mut self, late: bool) -> (bool, bool) {
        self.share += (f64::from(u8::from(late)) - self.share) * WEIGHT;
        let before = self.reported;
        self.reported = self.share > if before { FEW } else { MANY };
        (self.reported, self.reported != before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_call_now_and_then_is_no_news_and_many_are_reported_once() {
        let mut state = State::default();
        for call in 0..100 {
            assert_eq!(state.count(call % 5 == 0), (false, false));
        }
        let news = |state: &mut State, late: bool| (0..200).filter(|_| state.count(late).1).count();
        assert_eq!(news(&mut state, true), 1);
        assert!(state.reported);
        assert_eq!(news(&mut state, false), 1);
        assert!(!state.reported);
    }

    #[test]
    fn what_is_late_is_denied_with_its_reason() {
        let lateness = Lateness::default();
        let lead = Lead::default();
        assert_eq!(lateness.judge(-500.0, &lead), None);
        assert_eq!(lateness.judge(LATE_US, &lead), None);
        let denied = lateness.judge(LATE_US + 1.0, &lead).unwrap();
        assert_eq!(denied, Denied::new(0.0, Reason::Late));
        let pauses: Vec<f64> = (0..50).map(|_| lateness.judge(20e3, &lead).unwrap().retry_after).collect();
        assert_eq!(pauses.last(), Some(&PAUSE_US));
    }
}

//! What a call has taken, where its answer says so.

use super::{MeterPolicy, MeterState};

/// A call has taken `actual` and not the `cost` that it was charged, when the arrival time was `charged_to` (none: long ago).
///
/// More is owed from now on. Less is returned as far as nobody can have spent it yet: what a bucket has filled again since the
/// call is no longer missing there, and of what was granted later no moment may come before what is left of it.
pub fn correct(
    state: &mut MeterState,
    policy: &MeterPolicy,
    cost: u32,
    actual: u32,
    charged_to: Option<f64>,
    now: f64,
) {
    match policy {
        MeterPolicy::Bucket(rate) => {
            let more = (f64::from(actual) - f64::from(cost)) * rate.interval_us;
            let missing = charged_to.map_or(0.0, |charged_to| charged_to - now.max(state.last_at));
            let owed = if more > 0.0 { state.tat.max(now) } else { state.tat };
            state.tat = owed + more.max(-missing.max(0.0));
        }
        // The call left in a period that has ended.
        MeterPolicy::Calendar(calendar) if state.period > calendar.period => {}
        MeterPolicy::Calendar(calendar) => {
            let was = f64::from(cost.min(calendar.limit));
            *state = state.at(calendar);
            state.used = (state.used - was + f64::from(actual)).max(0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::CalendarPolicy;
    use super::*;
    use crate::limit::rate::RatePolicy;

    #[test]
    fn the_answer_of_a_period_that_has_ended_changes_nothing() {
        let of = |period: f64| {
            let (from, until) = (period - 60e6, period);
            MeterPolicy::Calendar(CalendarPolicy { limit: 100, period, from, until, spread: false })
        };
        let running = MeterState { period: 120e6, used: 7.0, reserved: 10.0, ..MeterState::default() };
        let mut state = running;
        correct(&mut state, &of(60e6), 5, 1, None, 61e6);
        assert_eq!(state, running);
        let MeterPolicy::Calendar(ended) = of(60e6) else { panic!("it is a calendar's") };
        state.deposit(&ended, 9);
        assert_eq!(state, running, "what is reserved of it comes too late");
        correct(&mut state, &of(120e6), 5, 1, None, 61e6);
        assert_eq!((state.used, state.reserved), (3.0, 10.0));
    }

    #[test]
    fn what_a_call_did_not_take_is_returned_as_far_as_nobody_has_spent_it() {
        let rate = RatePolicy { interval_us: 1000.0, burst: 10_000 };
        let policy = MeterPolicy::Bucket(rate);
        let now = 1e15;
        let after = |tat: f64, last_at: f64, actual: u32, charged_to: Option<f64>| {
            let mut state = MeterState { tat: now + tat, last_at: now + last_at, ..MeterState::default() };
            correct(&mut state, &policy, 1000, actual, charged_to.map(|to| now + to), now);
            state.tat - now
        };
        // A thousand were charged, and the bucket is full again in two seconds.
        for (tat, last_at, actual, charged_to, expected) in [
            (2e6, 0.0, 100, Some(2e6), 1.1e6),
            (2e6, 0.0, 1500, Some(2e6), 2.5e6),
            (2e6, 0.0, 1000, Some(2e6), 2e6),
            // Half of it has been filled again.
            (5e5, 0.0, 0, Some(5e5), 0.0),
            // All of it, and others have spent that since.
            (2e6, 0.0, 0, Some(-1e6), 2e6),
            (2e6, 0.0, 0, None, 2e6),
            // Another call has a moment that is still to come.
            (2e6, 1.8e6, 0, Some(2e6), 1.8e6),
        ] {
            assert!(
                (after(tat, last_at, actual, charged_to) - expected).abs() < 1.0,
                "{tat} {actual} {charged_to:?}"
            );
        }
    }
}

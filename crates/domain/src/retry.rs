//! What becomes of a row whose call did not go well: whether it is tried again, when, and whether that costs an attempt.

use std::time::Duration;

use crate::limit::{self, Past, throttle};
use crate::outcome::code;
use crate::pipeline::Retry;
use crate::row::{AttemptRecord, Throttled};
use crate::time::Timestamp;

/// Failed probes of a breaker cost a row no attempt for this long after its first one: it asks for all rows whether the
/// dependency works again. Later they do, because the row may itself be what the dependency fails at.
pub const FREE_FOR: Duration = Duration::from_secs(60);

/// The same where no connection is made: nothing was sent, so that it is not the row's fault.
pub const FREE_FOR_AWAY: Duration = Duration::from_secs(600);

/// A call that failed and may be made again.
#[derive(Clone, Copy, Debug)]
pub struct Failed<'a> {
    /// When.
    pub at: Timestamp,
    /// Its code, see [`crate::outcome`].
    pub code: &'a str,
    /// The step's name.
    pub step: &'a str,
    /// Whether it was a probe of the half-open breaker.
    pub probe: bool,
    /// How long the breaker stays open.
    pub open_for: Duration,
    /// Attempts of the row that failed before.
    pub attempts: u32,
    /// The row's earlier failures, oldest first.
    pub earlier: &'a [AttemptRecord],
}

/// What comes after a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The row fails.
    Fails,
    /// It is tried again.
    Again {
        /// After this time.
        delay: Duration,
        /// Whether the failure costs an attempt.
        attempt: bool,
    },
}

/// Decides what comes after a failed call; `unit` is a random number in [0, 1).
pub fn after_failure(retry: &Retry, failed: &Failed<'_>, unit: f64) -> Next {
    if is_free(failed) {
        let probes = failed.earlier.iter().filter(|attempt| attempt.probe).count();
        let delay = retry.delay(u32::try_from(probes).unwrap_or(u32::MAX).saturating_add(1), unit);
        // After the other rows, which wait for the breaker as well.
        return Next::Again { delay: delay + failed.open_for, attempt: false };
    }
    let attempts = failed.attempts.saturating_add(1);
    if attempts >= retry.attempts {
        return Next::Fails;
    }
    Next::Again { delay: retry.delay(attempts, unit), attempt: true }
}

fn is_free(failed: &Failed<'_>) -> bool {
    let free_for = if failed.code == code::CONNECT_FAILED { FREE_FOR_AWAY } else { FREE_FOR };
    let first_probe = at_step(failed.earlier, failed.step).filter(|attempt| attempt.probe).last();
    failed.probe && first_probe.is_none_or(|first| failed.at.since(first.at) < free_for)
}

/// The failures at a step since the row came to it, the newest first.
fn at_step<'a>(attempts: &'a [AttemptRecord], step: &'a str) -> impl Iterator<Item = &'a AttemptRecord> {
    attempts.iter().rev().take_while(move |attempt| attempt.step.as_deref() == Some(step))
}

/// What a row's earlier calls of a step say about the next one: the series of throttled answers that it is in there, and
/// its failures, oldest first.
pub fn past(series: Option<Throttled>, failures: &[AttemptRecord], step: &str) -> Past {
    match series {
        Some(series) if series.alone => Past::ThrottledAlone,
        Some(_) => Past::Throttled,
        None if at_step(failures, step).next().is_some() => Past::Failed,
        None => Past::Clean,
    }
}

/// The series after one more throttled answer; `alone`: the limiter found that it is about the row only.
pub fn throttled(before: Option<Throttled>, at: Timestamp, alone: bool) -> Throttled {
    let before = before.unwrap_or(Throttled { since: at, times: 0, alone: false });
    Throttled { times: before.times.saturating_add(1), alone: before.alone || alone, ..before }
}

/// When a throttled row may call again. As the dependency says; but the more often it has been refused, the later.
pub fn throttled_until(series: &Throttled, at: Timestamp, asked: Option<Timestamp>) -> Timestamp {
    let grown = at + limit::duration(throttle::grown(series.times));
    match asked {
        Some(asked) if series.times < 2 => asked,
        Some(asked) => asked.max(grown),
        None => grown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    fn policy(attempts: u32) -> Retry {
        Retry { attempts, ..Retry::default() }
    }

    fn attempt(seconds_ago: u64, step: &str, probe: bool) -> AttemptRecord {
        AttemptRecord {
            at: NOW - Duration::from_secs(seconds_ago),
            step: Some(step.to_owned()),
            code: "http_500".to_owned(),
            api_code: None,
            http_status: Some(500),
            probe,
            took_ms: None,
            look: false,
        }
    }

    fn failed<'a>(code: &'a str, probe: bool, attempts: u32, earlier: &'a [AttemptRecord]) -> Failed<'a> {
        let open_for = Duration::from_secs(10);
        Failed { at: NOW, code, step: "s", probe, open_for, attempts, earlier }
    }

    #[test]
    fn attempts_are_used_up_and_pauses_grow() {
        let next = |attempts| after_failure(&policy(3), &failed("http_500", false, attempts, &[]), 0.5);
        let again = |millis| Next::Again { delay: Duration::from_millis(millis), attempt: true };
        assert_eq!((next(0), next(1), next(2)), (again(500), again(1000), Next::Fails));
    }

    #[test]
    fn a_probe_costs_no_attempt_for_a_while() {
        let free = |code, earlier: &[AttemptRecord]| {
            let next = after_failure(&policy(1), &failed(code, true, 0, earlier), 0.5);
            match next {
                Next::Again { delay, attempt: false } => Some(delay.as_millis()),
                Next::Fails => None,
                Next::Again { .. } => panic!("{next:?}"),
            }
        };
        assert_eq!(free("http_500", &[]), Some(10_500));
        assert_eq!(free("http_500", &[attempt(600, "s", false)]), Some(10_500), "that was before the outage");
        let probes = [attempt(59, "s", true), attempt(20, "s", true)];
        assert_eq!(free("http_500", &probes), Some(12_000));
        let long = [attempt(60, "s", true), attempt(20, "s", true)];
        assert_eq!(free("http_500", &long), None);
        assert_eq!(free("connect_failed", &long), Some(12_000), "nothing was sent: not the row's fault");
        assert_eq!(free("connect_failed", &[attempt(600, "s", true)]), None);
        assert_eq!(free("http_500", &[attempt(600, "another", true)]), Some(11_000));
    }

    #[test]
    fn a_past_is_that_of_the_step() {
        let series = Throttled { since: NOW, times: 2, alone: false };
        let failed = [attempt(9, "s", false)];
        assert_eq!(past(None, &[], "s"), Past::Clean);
        assert_eq!(past(None, &failed, "s"), Past::Failed);
        assert_eq!(past(None, &failed, "next"), Past::Clean);
        assert_eq!(past(Some(series), &failed, "s"), Past::Throttled);
        assert_eq!(past(Some(Throttled { alone: true, ..series }), &[], "s"), Past::ThrottledAlone);
    }

    #[test]
    fn a_row_that_is_refused_again_and_again_asks_more_rarely() {
        let (mut series, mut pauses) = (None, Vec::new());
        for _ in 0..12 {
            let next = throttled(series, NOW, false);
            pauses.push(throttled_until(&next, NOW, None).since(NOW).as_secs());
            series = Some(next);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        let asked = Some(NOW + Duration::from_secs(5));
        let until = |times| {
            throttled_until(&Throttled { since: NOW, times, alone: true }, NOW, asked).since(NOW).as_secs()
        };
        assert_eq!((until(1), until(2), until(6)), (5, 5, 32));
    }
}

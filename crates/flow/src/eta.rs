//! When a batch will be done: from what was measured, or else from what is allowed.

use std::time::Duration;

use penstock_domain::batch::BatchStatus;
use penstock_domain::ledger::Ledger;
use penstock_domain::pipeline::Pipeline;
use penstock_domain::time::Timestamp;

/// Estimates further away than this are worth a word at upload.
const LONG: Duration = Duration::from_secs(24 * 60 * 60);

/// So many rows have to have ended before their pace counts more than the limits.
const ENOUGH_TO_MEASURE: u32 = 20;

/// Rows a second that quota and limits allow a batch that has its owner's quota to itself.
pub fn allowed_rate(pipeline: Option<&Pipeline>, quota: u32, run_every: Duration) -> f64 {
    let quota_rate = f64::from(quota) / run_every.as_secs_f64();
    let Some(pipeline) = pipeline else { return quota_rate };
    pipeline
        .dependencies
        .iter()
        .enumerate()
        .filter_map(|(index, dependency)| {
            let rate = dependency.rate.as_ref()?;
            let calls: u32 =
                pipeline.steps.iter().filter(|step| step.dependency == index).map(|s| s.cost).sum();
            (calls > 0).then(|| f64::from(rate.limit) / rate.period.as_secs_f64() / f64::from(calls))
        })
        .fold(quota_rate, f64::min)
}

/// When the batch will be done; none when it has ended, stands still, is being cancelled or cannot be told.
pub fn eta(
    ledger: &Ledger,
    pipeline: Option<&Pipeline>,
    quota: u32,
    run_every: Duration,
    now: Timestamp,
) -> Option<Timestamp> {
    let stands = ledger.paused || ledger.held || ledger.cancelled_at.is_some();
    if ledger.is_finished() || stands || ledger.counts.total == 0 {
        return None;
    }
    let ended = ledger.counts.completed + ledger.counts.failed;
    let measured = ledger
        .started_at
        .filter(|_| ended >= ENOUGH_TO_MEASURE && ledger.run == 1)
        .map(|start| f64::from(ended) / now.since(start).as_secs_f64().max(0.001));
    let rate = measured.unwrap_or_else(|| allowed_rate(pipeline, quota, run_every));
    let left = f64::from(ledger.counts.unfinished());
    if rate <= 0.0 {
        return None;
    }
    // Ten years stand for "longer than anybody waits", and keep the sum in range.
    Some(now + Duration::from_secs_f64((left / rate).min(315_360_000.0)))
}

/// A sentence for the client when a new batch will take longer than a day.
pub fn notice(
    ledger: &Ledger,
    pipeline: Option<&Pipeline>,
    quota: u32,
    run_every: Duration,
) -> Option<String> {
    if ledger.status != BatchStatus::Pending || ledger.cancelled_at.is_some() {
        return None;
    }
    let rate = allowed_rate(pipeline, quota, run_every);
    let seconds = f64::from(ledger.counts.total) / rate;
    (seconds > LONG.as_secs_f64()).then(|| {
        format!(
            "At the present quota of {quota} rows a run and the limits of the APIs, {} rows will take about {:.0} days; \
             ask the operator for a larger quota if that is too long.",
            ledger.counts.total,
            (seconds / LONG.as_secs_f64()).ceil()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn runs_that_come_more_often_let_go_of_more() {
        assert!((allowed_rate(None, 120, MINUTE) - 2.0).abs() < 1e-9);
        assert!((allowed_rate(None, 120, Duration::from_secs(1)) - 120.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_being_cancelled_is_not_done_at_any_time() {
        let now = Timestamp::from_millis(1_000_000);
        let mut ledger = Ledger::new(Some(1_000_000), true, None);
        assert!(eta(&ledger, None, 100, MINUTE, now).is_some());
        assert!(notice(&ledger, None, 100, MINUTE).is_some());
        ledger.extraction_started(now);
        ledger.cancel(now).unwrap();
        assert!(!ledger.is_finished(), "its lines are not all in SQL");
        assert_eq!(eta(&ledger, None, 100, MINUTE, now), None);
        assert_eq!(notice(&ledger, None, 100, MINUTE), None);
    }
}

//! How fast a batch went during the last hour: rows per second, and how long it would take at that rate.

use std::time::Duration;

use penstock_domain::time::Timestamp;
use penstock_store::StoreResult;
use penstock_store::batches::Batch;
use penstock_store::samples::{SAMPLES_KEPT, Sample};
use serde::Serialize;
use utoipa::ToSchema;

use crate::context::services::Services;

/// Shorter pieces of time say little about a rate: the last one is joined to the one before.
const SHORTEST: Duration = Duration::from_secs(5);

/// How fast a batch went from the point before to this one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub struct ThroughputPoint {
    /// The end of the time that this is about.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Rows that had completed or failed by then.
    pub ended: u32,
    /// Rows that ended in a second, on average since the point before.
    pub rows_per_second: f64,
    /// Seconds that the other rows would take at the rate of the last five minutes; none while no row ends.
    pub remaining_seconds: Option<u64>,
}

/// The batch's last hour, oldest first: of a batch that has ended the part of the hour in which it ran. Its first point is where
/// counting begins, and has no rate.
///
/// # Errors
/// When the database fails.
pub async fn throughput(services: &Services, batch: &Batch) -> StoreResult<Vec<ThroughputPoint>> {
    let now = services.clock.now();
    let mut samples = services.store.samples(batch.seq).await?;
    let ledger = &batch.ledger;
    let from = now - SAMPLES_KEPT;
    // A retry starts another run, whose start is not kept: it is measured from its first sample on.
    if let Some(start) = ledger.started_at.filter(|at| *at >= from && ledger.run == 1) {
        samples.retain(|sample| sample.at > start);
        samples.insert(0, Sample { at: start, completed: 0, failed: 0 });
    }
    let end = ledger.finished_at.unwrap_or(now);
    samples.retain(|sample| sample.at >= from && sample.at < end);
    if end >= from && !samples.is_empty() {
        samples.push(Sample { at: end, completed: ledger.counts.completed, failed: ledger.counts.failed });
    }
    Ok(points(&samples, ledger.counts.total - ledger.counts.cancelled))
}

fn points(samples: &[Sample], total: u32) -> Vec<ThroughputPoint> {
    let ended = |sample: &Sample| sample.completed + sample.failed;
    let mut kept: Vec<Sample> = Vec::with_capacity(samples.len());
    for (index, sample) in samples.iter().enumerate() {
        let last = index + 1 == samples.len();
        if last && kept.len() > 1 && kept.last().is_some_and(|before| sample.at.since(before.at) < SHORTEST) {
            kept.pop();
        }
        kept.push(*sample);
    }
    let rate = |from: &Sample, to: &Sample| {
        let rows = ended(to).saturating_sub(ended(from));
        f64::from(rows) / to.at.since(from.at).as_secs_f64().max(0.001)
    };
    let mut points = Vec::with_capacity(kept.len());
    for (index, sample) in kept.iter().enumerate() {
        let before = index.checked_sub(1).map(|before| &kept[before]);
        let recent = kept[..index].iter().find(|one| sample.at.since(one.at) <= Duration::from_secs(300));
        let recent = recent.or(before).map_or(0.0, |from| rate(from, sample));
        let left = f64::from(total.saturating_sub(ended(sample)));
        points.push(ThroughputPoint {
            at: sample.at,
            ended: ended(sample),
            rows_per_second: before.map_or(0.0, |before| rate(before, sample)),
            remaining_seconds: whole_seconds(left / recent),
        });
    }
    points
}

fn whole_seconds(seconds: f64) -> Option<u64> {
    // Ten years stand for "longer than anybody waits".
    seconds.is_finite().then(|| Duration::from_secs_f64(seconds.min(315_360_000.0)).as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seconds: i64, completed: u32) -> Sample {
        Sample { at: Timestamp::from_millis(1_000_000 + seconds * 1000), completed, failed: 0 }
    }

    #[test]
    fn rates_are_of_the_time_between_two_samples() {
        let told = points(&[sample(0, 0), sample(30, 300), sample(60, 300), sample(62, 302)], 1302);
        let rates: Vec<f64> = told.iter().map(|point| point.rows_per_second).collect();
        // Two seconds are joined to the half minute before them.
        assert_eq!(rates, [0.0, 10.0, 2.0 / 32.0]);
        assert_eq!(told[0].remaining_seconds, None);
        assert_eq!(told[1].remaining_seconds, Some(100));
        assert_eq!(told[2].remaining_seconds, Some(205), "302 rows in 62 seconds, and 1,000 are left");
        assert!(points(&[], 10).is_empty());
    }

    #[test]
    fn a_retry_does_not_count_backwards() {
        let told = points(&[sample(0, 500), sample(30, 400)], 1000);
        assert_eq!(told[1].rows_per_second, 0.0);
        assert_eq!(told[1].remaining_seconds, None);
    }
}

//! What is counted of calls, for metrics.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use penstock_domain::limit::Reason;
use penstock_domain::outcome::Verdict;

/// Upper bounds, in seconds, of the buckets of what takes moments: those that OpenTelemetry advises for HTTP calls, and
/// two more, for timeouts may be long.
pub const MOMENTS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0];

/// How many values fell into which bucket.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Upper bounds of the buckets, each included in its own; what is above the last one has a bucket too.
    pub bounds: &'static [f64],
    /// Values in each bucket alone: one more than there are bounds.
    pub counts: Vec<u64>,
    /// The sum of all values.
    pub sum: f64,
}

impl Histogram {
    /// An empty one.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    /// One more value.
    pub fn observe(&mut self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket] += 1;
        self.sum += value;
    }

    /// One more value: a time, in seconds.
    pub fn took(&mut self, time: Duration) {
        self.observe(time.as_secs_f64());
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Calls by [`Verdict`], in this order.
pub const VERDICTS: [&str; 6] = ["success", "throttled", "retry", "unknown", "fail", "hold"];

/// Calls by their answer's status: its class, or that there was none.
pub const STATUS_CLASSES: [&str; 5] = ["none", "2xx", "3xx", "4xx", "5xx"];

/// Metrics of one dependency.
#[derive(Clone, Debug)]
pub struct CallMetrics {
    /// Calls by [`VERDICTS`].
    pub verdicts: [u64; 6],
    /// How long calls took, from sending to the end of the answer, by [`STATUS_CLASSES`].
    pub durations: [Histogram; 5],
    /// How long calls had waited for their permit.
    pub waited: Histogram,
    /// Rows that were requeued to wait, by [`Reason::ALL`].
    pub denied: [u64; Reason::ALL.len()],
}

impl Default for CallMetrics {
    fn default() -> Self {
        Self {
            verdicts: [0; 6],
            durations: std::array::from_fn(|_| Histogram::new(MOMENTS)),
            waited: Histogram::new(MOMENTS),
            denied: [0; Reason::ALL.len()],
        }
    }
}

impl CallMetrics {
    /// A call was made.
    pub fn called(&mut self, verdict: &Verdict, status: Option<u16>, elapsed: Duration) {
        let verdict = match verdict {
            Verdict::Success => 0,
            Verdict::Throttled { .. } => 1,
            Verdict::Retry { .. } => 2,
            Verdict::Unknown { .. } => 3,
            Verdict::Fail { .. } => 4,
            Verdict::Hold { .. } => 5,
        };
        self.verdicts[verdict] += 1;
        let class = status.map_or(0, |status| usize::from((status / 100).clamp(2, 5)) - 1);
        self.durations[class].took(elapsed);
    }

    /// A limit denied a call.
    pub fn denied(&mut self, reason: Reason) {
        if let Some(place) = Reason::ALL.iter().position(|one| *one == reason) {
            self.denied[place] += 1;
        }
    }
}

/// Metrics by dependency.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<HashMap<String, CallMetrics>>);

impl Metrics {
    /// Counts something of a dependency.
    pub fn count(&self, dependency: &str, count: impl FnOnce(&mut CallMetrics)) {
        let mut metrics = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match metrics.get_mut(dependency) {
            Some(known) => count(known),
            None => count(metrics.entry(dependency.to_owned()).or_default()),
        }
    }

    /// As they stand.
    pub fn read(&self) -> HashMap<String, CallMetrics> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_place() {
        let mut metrics = CallMetrics::default();
        for reason in Reason::ALL {
            metrics.denied(reason);
        }
        metrics.denied(Reason::Late);
        assert_eq!(metrics.denied, [1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 1]);
    }

    #[test]
    fn a_value_falls_into_the_bucket_whose_bound_it_does_not_pass() {
        let mut histogram = Histogram::new(&[1.0, 2.0]);
        for value in [0.5, 1.0, 1.5, 2.0, 7.0] {
            histogram.observe(value);
        }
        assert_eq!((histogram.counts.as_slice(), histogram.count()), (&[2, 2, 1][..], 5));
        assert!((histogram.sum - 12.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_call_counts_by_its_verdict_and_its_status() {
        let metrics = Metrics::default();
        let moment = Duration::from_millis(20);
        metrics.count("invite", |one| one.called(&Verdict::Success, Some(204), moment));
        metrics.count("invite", |one| one.called(&Verdict::Unknown { code: "timeout".into() }, None, moment));
        metrics.count("invite", |one| one.denied(Reason::BreakerOpen));
        let read = metrics.read();
        let one = &read["invite"];
        assert_eq!(one.verdicts, [1, 0, 0, 1, 0, 0]);
        let of = |class: &str| {
            STATUS_CLASSES.iter().position(|one| *one == class).map(|at| one.durations[at].count())
        };
        assert_eq!((of("2xx"), of("none"), of("5xx")), (Some(1), Some(1), Some(0)));
        let denied: Vec<_> = Reason::ALL.iter().zip(one.denied).filter(|(_, count)| *count > 0).collect();
        assert_eq!(denied, [(&Reason::BreakerOpen, 1)]);
    }
}

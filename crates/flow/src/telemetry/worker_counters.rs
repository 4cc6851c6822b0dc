//! What a worker counts. Metrics of rows are kept by pipeline, of which there are few.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use penstock_domain::pipeline::poll::PollStatus;
use penstock_downstream::Histogram;
use penstock_downstream::metrics::MOMENTS;
use penstock_store::callbacks::CallbackStatus;
use penstock_store::work::Settled;

/// Upper bounds, in seconds, of what may take a long time.
const LONG: &[f64] = &[
    0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0, 14_400.0,
    86_400.0,
];

/// Upper bounds of numbers of rows in a group.
const GROUP_SIZES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 350.0, 500.0];

/// Upper bounds of numbers of attempts.
const ATTEMPTS: &[f64] = &[1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 20.0];

/// What a settled row's attempt came to: `retried` ones come back after an attempt that failed, `returned` ones without
/// having cost one.
pub const OUTCOMES: [&str; 4] = ["completed", "failed", "retried", "returned"];

/// The place of an outcome among [`OUTCOMES`].
pub fn outcome(settled: &Settled) -> usize {
    match settled {
        Settled::Completed { .. } | Settled::Duplicate { .. } => 0,
        Settled::Failed(_) => 1,
        Settled::Requeued { attempt: true, .. } => 2,
        Settled::Requeued { attempt: false, .. } => 3,
    }
}

/// How an extraction ended: `interrupted` ones go on from their checkpoint later.
pub const EXTRACTION_ENDS: [&str; 3] = ["done", "failed", "interrupted"];

/// What became of a delivery's try: `refused` ones are tried again, `exhausted` ones no more, and an address that is
/// `disabled` (410) gets nothing more.
pub const DELIVERIES: [&str; 4] = ["delivered", "refused", "exhausted", "disabled"];

/// The place of a callback's state after a try among [`DELIVERIES`].
pub fn delivery(status: CallbackStatus) -> usize {
    match status {
        CallbackStatus::Delivered => 0,
        CallbackStatus::Pending => 1,
        CallbackStatus::Exhausted => 2,
        CallbackStatus::Disabled => 3,
    }
}

/// What became of a row at a step whose answers are kept: it was there, it came while the row waited, the row asked for all, or it
/// failed as the row that it waited for.
pub const CACHE_LOOKUPS: [&str; 4] = ["hit", "waited", "asked", "shared_failure"];

/// One of [`CACHE_LOOKUPS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheLookup {
    /// The answer was there.
    Hit,
    /// It came while the row waited.
    Waited,
    /// The row asked, for all that want it.
    Asked,
    /// The call that the row waited for failed for good.
    SharedFailure,
}

/// What a look at a result found: `waiting`, it is not there yet; `ready`; `failed`, there will be none; `error`, an answer that
/// says nothing, or none.
pub const LOOKS: [&str; 4] = ["waiting", "ready", "failed", "error"];

/// The place of looks that found nothing out among [`LOOKS`].
pub const LOOK_ERROR: usize = 3;

/// The place of what a look found among [`LOOKS`].
pub fn look(found: PollStatus) -> usize {
    match found {
        PollStatus::Waiting => 0,
        PollStatus::Ready => 1,
        PollStatus::Failed => 2,
    }
}

/// Metrics of one pipeline.
#[derive(Clone, Debug)]
pub struct PipelineMetrics {
    /// From a batch's upload to its rows' first starts.
    pub pending: Histogram,
    /// From rows' planned starts to their claims.
    pub queued: Histogram,
    /// From rows' claims to the ends of their runs.
    pub processing: Histogram,
    /// Rows settled, by [`OUTCOMES`].
    pub settled: [u64; 4],
    /// Attempts that rows had taken when they completed, and when they failed.
    pub attempts: [Histogram; 2],
    /// Rows at steps whose answers are kept, by [`CACHE_LOOKUPS`].
    pub lookups: [u64; 4],
    /// Looks at results, by [`LOOKS`].
    pub looks: [u64; 4],
    /// From requests' answers to the looks that found their results.
    pub results: Histogram,
    /// Rows extracted.
    pub extracted_rows: u64,
    /// Bytes of files extracted.
    pub extracted_bytes: u64,
    /// How long extractions took, by [`EXTRACTION_ENDS`].
    pub extractions: [Histogram; 3],
}

impl Default for PipelineMetrics {
    fn default() -> Self {
        Self {
            pending: Histogram::new(LONG),
            queued: Histogram::new(LONG),
            processing: Histogram::new(MOMENTS),
            settled: [0; 4],
            lookups: [0; 4],
            attempts: std::array::from_fn(|_| Histogram::new(ATTEMPTS)),
            looks: [0; 4],
            results: Histogram::new(LONG),
            extracted_rows: 0,
            extracted_bytes: 0,
            extractions: std::array::from_fn(|_| Histogram::new(LONG)),
        }
    }
}

/// Metrics of settlement's groups.
#[derive(Clone, Debug)]
pub struct GroupMetrics {
    /// Rows in a group.
    pub size: Histogram,
    /// How long it took to write one.
    pub took: Histogram,
}

impl Default for GroupMetrics {
    fn default() -> Self {
        Self { size: Histogram::new(GROUP_SIZES), took: Histogram::new(MOMENTS) }
    }
}

/// What a worker counts.
#[derive(Debug, Default)]
pub struct WorkerMetrics {
    /// Rows heard of and not claimed.
    pub waiting: AtomicUsize,
    /// Rows in flight.
    pub in_flight: AtomicUsize,
    /// Of these, rows that wait for a limit.
    pub limited: AtomicUsize,
    /// Of these, rows in bulk calls that other rows lead.
    pub riding: AtomicUsize,
    /// Rows whose lease was lost before they could be settled.
    pub lost: AtomicU64,
    /// Tries to deliver a callback, by [`DELIVERIES`].
    pub deliveries: [AtomicU64; 4],
    groups: Mutex<GroupMetrics>,
    pipelines: Mutex<BTreeMap<String, PipelineMetrics>>,
}

impl WorkerMetrics {
    /// Counts something of a pipeline.
    pub fn of(&self, pipeline: &str, count: impl FnOnce(&mut PipelineMetrics)) {
        let mut pipelines = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        match pipelines.get_mut(pipeline) {
            Some(known) => count(known),
            None => count(pipelines.entry(pipeline.to_owned()).or_default()),
        }
    }

    /// Counts a group that was written.
    pub fn group(&self, rows: usize, took: Duration) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.size.observe(rows as f64);
        groups.took.took(took);
    }

    /// Groups, as they stand.
    pub fn groups(&self) -> GroupMetrics {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Pipelines, as they stand: those of which something was counted.
    pub fn pipelines(&self) -> BTreeMap<String, PipelineMetrics> {
        self.pipelines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

//! How fast rows are let go: whose quota, and how often.

use std::time::Duration;

use penstock_domain::time::Timestamp;
use penstock_store::batches::Batch;
use penstock_store::dispatch::RunRecord;

use crate::context::error::FlowError;
use crate::context::services::Services;

/// The assumed interval between dispatcher runs until there were two of them.
const RUN_EVERY: Duration = Duration::from_secs(60);

/// Runs further apart than this are no rhythm.
const LONGEST: Duration = Duration::from_secs(3600);

/// Runs closer together are one and the same rhythm: two dispatchers beside each other.
const SHORTEST: Duration = Duration::from_millis(100);

/// The usual interval is the median of this many.
pub const INTERVALS: u32 = 10;

/// A run is late after this many usual intervals.
const LATE: u32 = 3;

/// How many rows an owner may have in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Over all of its batches.
    pub owner: u32,
    /// Of one pipeline's batches, at most as many.
    pub pipeline: u32,
}

impl Quota {
    /// An owner's own quota stands above a pipeline's, a pipeline's beside the service's setting. That one is about calls: where
    /// many rows share one, as many times the rows are in flight.
    pub fn of(services: &Services, own: Option<u32>, pipeline: &str, rows_per_owner: u32) -> Self {
        let pipeline = services.pipelines.get(pipeline);
        let rows_per_call = pipeline.as_ref().map_or(1, |pipeline| pipeline.rows_per_call());
        let owner = own.unwrap_or_else(|| rows_of_calls(rows_per_owner, rows_per_call));
        let its = pipeline.and_then(|pipeline| pipeline.dispatch.rows_per_owner);
        Self { owner, pipeline: own.or(its).unwrap_or(owner).min(owner) }
    }
}

/// Rows of an owner in flight at most because of bulk calls: what a run reads of a batch is bounded. A setting may be above it.
const ROWS_OF_CALLS: u32 = 20_000;

/// How many rows so many calls carry.
fn rows_of_calls(calls: u32, rows_per_call: usize) -> u32 {
    let rows = calls.saturating_mul(u32::try_from(rows_per_call).unwrap_or(u32::MAX));
    rows.min(ROWS_OF_CALLS).max(calls)
}

/// The rows that an owner without a quota of its own may have in flight in any of the pipelines.
pub fn most_rows_per_owner(services: &Services, rows_per_owner: u32) -> u32 {
    let rows_per_call = services.pipelines.iter().map(|pipeline| pipeline.rows_per_call()).max();
    rows_of_calls(rows_per_owner.max(1), rows_per_call.unwrap_or(1))
}

/// The usual time between two of these runs, the last one first: a run that came late, or one that somebody made beside
/// them, is no change of rhythm.
pub fn usual_interval(runs: &[RunRecord]) -> Option<Duration> {
    let mut gaps: Vec<Duration> =
        runs.windows(2).map(|pair| pair[0].started_at.since(pair[1].started_at)).collect();
    gaps.sort_unstable();
    gaps.get(gaps.len() / 2).copied()
}

/// Rows of an owner in the last of these runs that released as many as a whole run may.
fn run_share(runs: &[RunRecord]) -> Option<f64> {
    let run = runs.iter().find(|run| run.capped && run.rows > 0)?;
    Some(f64::from(run.rows) / f64::from(run.owners.max(1)))
}

/// The dispatcher's rhythm.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The service's setting: rows that an owner may have in flight.
    pub rows_per_owner: u32,
    /// The time between two runs.
    pub run_every: Duration,
    /// When the last one began.
    pub last_run: Option<Timestamp>,
    /// Whether it released as many rows as a whole run may.
    pub capped: bool,
    /// What fell to an owner when that last happened, on an average: what a run may release is the dispatcher's setting,
    /// and its runs tell it.
    pub run_share: Option<f64>,
}

impl Pace {
    /// As it is where nothing else is known.
    pub fn usual(rows_per_owner: u32) -> Self {
        Self { rows_per_owner, run_every: RUN_EVERY, last_run: None, capped: false, run_share: None }
    }

    /// As the last runs tell it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn of(services: &Services, rows_per_owner: u32) -> Result<Self, FlowError> {
        let runs = services.store.runs(INTERVALS + 1).await?;
        let mut pace = Self::usual(rows_per_owner);
        if let Some(usual) = usual_interval(&runs) {
            pace.run_every = usual.clamp(SHORTEST, LONGEST);
        }
        if let Some(last) = runs.first() {
            (pace.last_run, pace.capped) = (Some(last.started_at), last.capped);
        }
        pace.run_share = run_share(&runs);
        Ok(pace)
    }

    /// The quota of a batch's owner.
    pub fn quota(&self, services: &Services, batch: &Batch) -> Quota {
        Quota::of(services, batch.owner_rows, &batch.pipeline, self.rows_per_owner)
    }

    /// When the next run is expected; none when none ever came.
    pub fn next_run(&self, now: Timestamp) -> Option<Timestamp> {
        self.last_run.map(|last| (last + self.run_every).max(now))
    }

    /// Whether runs came, and have stopped coming.
    pub fn has_stopped(&self, now: Timestamp) -> bool {
        self.last_run.is_some() && self.is_late(now)
    }

    /// Whether runs do not come, or have stopped coming.
    pub fn is_late(&self, now: Timestamp) -> bool {
        self.last_run.is_none_or(|last| now.since(last) > self.run_every.max(Duration::from_secs(1)) * LATE)
    }
}

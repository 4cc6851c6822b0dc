//! Releases rows in passes: plan, mark the rows in SQL, schedule them.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use penstock_domain::fair::Share;
use penstock_domain::ids::BatchSeq;
use penstock_domain::time::Timestamp;
use penstock_store::dispatch::{BatchLoad, OwnerLoad, Released, Take};
use penstock_store::{StoreError, StoreResult};
use tracing::field::Empty;

use crate::context::error::FlowError;
use crate::context::pace::most_rows_per_owner;
use crate::context::services::Services;
use crate::dispatch::lane_room::LaneRoom;
use crate::dispatch::packets::Schedule;
use crate::dispatch::plan::plan;
use crate::dispatch::policy::DispatchPolicy;
use crate::dispatch::report::RunReport;

/// A release may find fewer rows than it asked for, where some requeued rows are not due yet: the rest of the quota is
/// offered again, but not permanently.
const PASSES: usize = 3;

/// Releases are written in transactions of at most this many batches.
const TAKES_PER_RELEASE: usize = 1000;

/// A release whose answer was lost is looked for while the database is unavailable, but for no longer.
const FIND_RELEASE_WITHIN: Duration = Duration::from_secs(10);

/// How often.
const FIND_RELEASE_EVERY: Duration = Duration::from_millis(250);

/// The log line of a batch that a run skips.
pub(super) const MISCOUNTED: &str =
    "the batch's counters do not fit its rows, so this run skips it: `penstock reconcile --apply` fixes it";

/// The releases of one run.
pub(super) struct Releases<'a> {
    pub(super) services: &'a Services,
    pub(super) policy: &'a DispatchPolicy,
    /// The interval over which the rows are spread.
    pub(super) interval: Duration,
    /// Batches of which no more rows are released in this run.
    pub(super) exhausted: HashSet<BatchSeq>,
    pub(super) report: &'a mut RunReport,
    pub(super) schedule: &'a mut Schedule,
}

/// What a pass releases from.
struct Offered<'a> {
    loads: &'a [OwnerLoad],
    batches: HashMap<BatchSeq, &'a BatchLoad>,
}

/// What came of the releases of a chunk of shares.
enum ChunkEnd {
    /// All rows were released.
    Complete,
    /// Some batches had fewer rows than they were asked for.
    Short,
    /// A batch is miscounted, and nothing was released.
    Miscounted,
}

impl Releases<'_> {
    /// Releases what the quotas allow.
    ///
    /// # Errors
    /// When the database fails. What was released before is in the schedule and in the report.
    pub(super) async fn run(mut self) -> Result<(), FlowError> {
        let mut room = match self.services.queue.backlog().await {
            Ok(backlog) => LaneRoom(backlog),
            Err(error) => {
                tracing::warn!(%error, "failed to read the queue's backlog; no rows are released in this run");
                return Ok(());
            }
        };
        let mut cap = self.policy.rows_per_run;
        let mut passes = PASSES;
        while passes > 0 {
            passes -= 1;
            let loads = self.loads(&room).await?;
            let shares = room.cut(plan(self.services, self.policy, &loads, cap), &loads);
            let batches = loads.iter().flat_map(|load| &load.batches);
            let batches: HashMap<BatchSeq, &BatchLoad> = batches.map(|one| (one.batch, one)).collect();
            let offered = Offered { loads: &loads, batches };
            let mut short = false;
            for chunk in shares.chunks(TAKES_PER_RELEASE) {
                match self.release_chunk(chunk, &offered, &mut room, &mut cap).await? {
                    ChunkEnd::Complete => continue,
                    ChunkEnd::Short => {}
                    // The others of the chunk are offered again without it.
                    ChunkEnd::Miscounted => passes += 1,
                }
                short = true;
            }
            if !short {
                break;
            }
        }
        self.report.record.capped = cap == Some(0);
        Ok(())
    }

    /// The owners with batches of which rows can be released.
    async fn loads(&self, room: &LaneRoom) -> Result<Vec<OwnerLoad>, FlowError> {
        let quota = most_rows_per_owner(self.services, self.policy.rows_per_owner);
        let now = self.services.clock.now();
        let mut loads = self.services.store.loads(quota, now).await?;
        for load in &mut loads {
            load.batches
                .retain(|batch| !self.exhausted.contains(&batch.batch) && !room.is_full(&batch.pipeline));
        }
        Ok(loads)
    }

    async fn release_chunk(
        &mut self,
        chunk: &[Share],
        offered: &Offered<'_>,
        room: &mut LaneRoom,
        cap: &mut Option<u32>,
    ) -> Result<ChunkEnd, FlowError> {
        let now = self.services.clock.now();
        let takes: Vec<Take> =
            chunk.iter().map(|share| Take { batch: share.batch, rows: share.rows }).collect();
        let lost_at = now + self.interval.max(longest_spread(self.services)) + self.policy.lost_after;
        let released = match release(self.services, &takes, now, lost_at).await {
            Ok(released) => released,
            Err(error @ StoreError::Overdrawn { batch, .. }) => {
                let batch = BatchSeq(batch);
                let id = offered.batches.get(&batch).map(|load| load.id.to_string()).unwrap_or_default();
                tracing::error!(%error, batch = id, "{MISCOUNTED}");
                self.exhausted.insert(batch);
                return Ok(ChunkEnd::Miscounted);
            }
            Err(error) => return Err(error.into()),
        };
        let released: HashMap<BatchSeq, Released> =
            released.into_iter().map(|one| (one.batch, one)).collect();
        let mut end = ChunkEnd::Complete;
        for share in chunk {
            let released = released.get(&share.batch);
            let rows = released.map_or(0, Released::rows);
            if rows < share.rows {
                end = ChunkEnd::Short;
                self.exhausted.insert(share.batch);
            }
            *cap = cap.map(|left| left.saturating_sub(rows));
            let load = &offered.loads[share.owner];
            if let (Some(batch), Some(released)) = (offered.batches.get(&share.batch), released) {
                self.log(batch, rows);
                self.schedule.add(self.services, load, batch, released, self.interval);
                room.take(&batch.pipeline, rows);
            }
            self.report.add(load, rows);
        }
        Ok(end)
    }

    fn log(&self, batch: &BatchLoad, rows: u32) {
        let span = tracing::info_span!("release", batch = %batch.id, rows, trace_id = Empty);
        self.services.traces.of_batch(&span, batch.id.0);
        tracing::debug!(parent: &span, "rows are released");
    }
}

/// Releases rows. When the connection breaks during the commit, the release is looked for as soon as the database is back: rows
/// that are marked without a message would wait until they count as lost.
async fn release(
    services: &Services,
    takes: &[Take],
    now: Timestamp,
    lost_at: Timestamp,
) -> StoreResult<Vec<Released>> {
    match services.store.release(takes, now, lost_at).await {
        Err(error) if error.is_transient() => find_release(services, takes, lost_at, error).await,
        released => released,
    }
}

/// Rows that were queued although the transaction ended with an error; the error when none were.
pub(crate) async fn find_release(
    services: &Services,
    takes: &[Take],
    lost_at: Timestamp,
    error: StoreError,
) -> StoreResult<Vec<Released>> {
    let batches: Vec<BatchSeq> = takes.iter().map(|take| take.batch).collect();
    let began = tokio::time::Instant::now();
    while began.elapsed() < FIND_RELEASE_WITHIN {
        tokio::time::sleep(FIND_RELEASE_EVERY).await;
        match services.store.released_until(&batches, lost_at).await {
            Ok(released) if released.is_empty() => break,
            Ok(released) => return Ok(released),
            Err(_) => {}
        }
    }
    Err(error)
}

fn longest_spread(services: &Services) -> Duration {
    services.pipelines.iter().filter_map(|pipeline| pipeline.dispatch.spread).max().unwrap_or_default()
}

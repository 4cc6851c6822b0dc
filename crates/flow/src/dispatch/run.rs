//! One run of the dispatcher (docs/design.md, "A dispatcher run").
//!
//! A run looks at nothing but the database: it is right however late it comes, twice, or after many that did not.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use penstock_domain::fair::{self, BatchOffer, OwnerOffer};
use penstock_domain::ids::{BatchSeq, OwnerSeq, RowRef};
use penstock_domain::time::Timestamp;
use penstock_queue::{Lane, MAX_BACKLOG, Message, PACKET_ROWS, Packet};
use penstock_store::dispatch::{
    BatchLoad, OwnerLoad, Released, RunRecord, StuckRows, SweepPlan, Swept, Take,
};
use penstock_store::{StoreError, StoreResult};
use serde::Serialize;
use tracing::field::Empty;

use crate::context::error::FlowError;
use crate::context::pace::Quota;
use crate::context::services::Services;
use crate::dispatch::dead_workers;

/// How a run measures out rows.
#[derive(Clone, Debug)]
pub struct DispatchPolicy {
    /// Rows in flight for an owner that has no quota of its own.
    pub rows_per_owner: u32,
    /// Rows of a whole run; none: no cap.
    pub rows_per_run: Option<u32>,
    /// How long after its start time a queued row counts as lost.
    pub lost_after: Duration,
    /// How long a stored file may wait for its extraction before the queue is rung again.
    pub extraction_grace: Duration,
    /// Whether runs look for dead workers. Not where the only worker is in this process, and looks for itself.
    pub looks_for_dead: bool,
}

/// What a run did, or would do.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// Whether another run held the lock, so that this one did nothing.
    pub locked_out: bool,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Rows by owner.
    pub owners: Vec<OwnerRelease>,
    /// What is recorded of it.
    pub record: RunRecord,
    #[serde(skip)]
    places: HashMap<OwnerSeq, usize>,
}

/// What an owner got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OwnerRelease {
    /// The owner's name.
    pub owner: String,
    /// Rows released.
    pub rows: u32,
    /// Batches they came from.
    pub batches: u32,
}

/// A release may find fewer rows than it asked for (some that came back still wait): the rest of the quota is
/// offered again, but not permanently.
const PASSES: usize = 3;

/// A lane of the queue in which so many messages wait gets no more rows in this run. What a run adds to a lane has its
/// place above that.
pub const FULL_LANE: u32 = MAX_BACKLOG / 2;

/// A batch that a worker cannot process is offered to workers again after this time.
pub const HELD_AFTER_FAULT: Duration = Duration::from_secs(10);

/// What is said of a batch that a run leaves alone.
const MISCOUNTED: &str = "the batch's counters do not fit its rows, so this run leaves it alone: `penstock reconcile --apply` fixes it";

/// A release whose answer was lost is looked for while the database is away, but for no longer.
const FIND_RELEASE_WITHIN: Duration = Duration::from_secs(10);

/// How often.
const FIND_RELEASE_EVERY: Duration = Duration::from_millis(250);

/// Releases are written in transactions of so many batches.
const TAKES_PER_RELEASE: usize = 1000;

/// The longest stretch over which a run spreads its rows, unless a pipeline says otherwise.
const DEFAULT_SPREAD: Duration = Duration::from_secs(60);

/// Carries out one run. Its span ([`crate::telemetry::traces::dispatcher_run`]) is the caller's, who has something to say about it.
///
/// # Errors
/// When the database fails, or the queue does while the backlog is looked at. A queue that takes no messages is no error: their
/// rows are pending again.
pub async fn run(
    services: &Services,
    policy: &DispatchPolicy,
    dry_run: bool,
) -> Result<RunReport, FlowError> {
    let started_at = services.clock.now();
    let mut report = RunReport {
        locked_out: false,
        dry_run,
        owners: Vec::new(),
        places: HashMap::new(),
        record: RunRecord { started_at, ..RunRecord::default() },
    };
    let grace = i64::try_from(policy.extraction_grace.as_millis()).unwrap_or(i64::MAX);
    if dry_run {
        report.record.swept = planned(services.store.sweep_plan(started_at, grace).await?);
        let loads = services.store.loads(policy.rows_per_owner.max(1), started_at).await?;
        let shares = plan(services, policy, &loads, policy.rows_per_run);
        tally(&mut report, &loads, shares.iter().map(|share| (share.owner, share.rows)));
        report.record.finished_at = services.clock.now();
        return Ok(report);
    }
    release_run(services, policy, grace, report).await
}

/// A plan in a run's metrics.
fn planned(plan: SweepPlan) -> Swept {
    let rows = |stuck: &[StuckRows]| stuck.iter().map(|one| one.rows).sum();
    Swept {
        extractions: plan.extractions.into_iter().map(|(batch, _)| batch).collect(),
        lost_rows: rows(&plan.lost_rows),
        expired_rows: rows(&plan.expired_rows),
        unknown_rows: plan.expired_rows.iter().map(|one| one.unknown).sum(),
        crashed_rows: 0,
        finished: u32::try_from(plan.finished.len()).unwrap_or(u32::MAX),
        ..Swept::default()
    }
}

async fn release_run(
    services: &Services,
    policy: &DispatchPolicy,
    grace: i64,
    mut report: RunReport,
) -> Result<RunReport, FlowError> {
    let started_at = report.record.started_at;
    let Some(_lock) = services.store.lock_run().await? else {
        report.locked_out = true;
        report.record.finished_at = services.clock.now();
        return Ok(report);
    };
    report.record.swept = services.store.sweep(started_at, grace, false).await?;
    let overdue = services.store.end_overdue(started_at).await?;
    report.record.swept.overdue(&overdue);
    if overdue.rows > 0 {
        tracing::warn!(rows = overdue.rows, "rows failed: their deadline passed while they waited");
    }
    if policy.looks_for_dead {
        dead_workers::remove_dead_workers(services, None).await?;
    }
    let reclaimed = dead_workers::reclaim(services, policy.lost_after).await?;
    report.record.swept.reclaimed(&reclaimed);
    for batch in services.store.batches_by_seq(&report.record.swept.miscounted).await? {
        tracing::error!(batch = %batch.id, "{MISCOUNTED}");
    }
    let held = held_after_fault(services, started_at).await?;
    report.record.swept.extractions.retain(|batch| !held.contains(batch));
    let mut messages = extraction_messages(&report.record.swept);
    let spread = run_interval(services, started_at).await?;
    let mut schedule = Schedule::default();
    let result = release_rows(services, policy, spread, held, &mut report, &mut schedule).await;
    messages.extend(schedule.into_messages(services.clock.now()));
    if report.record.rows > 0 {
        crate::crash::point(crate::crash::BEFORE_ENQUEUE);
    }
    // What is marked is enqueued, even when a later release failed.
    let (taken, held_back) = dead_workers::enqueue(services, messages).await;
    report.record.messages = u32::try_from(taken).unwrap_or(u32::MAX);
    report.record.held_back = u32::try_from(held_back).unwrap_or(u32::MAX);
    report.record.error = result.as_ref().err().map(ToString::to_string);
    report.record.finished_at = services.clock.now();
    services.store.record_run(&report.record).await?;
    tracing::Span::current().record("rows", report.record.rows);
    result.map(|()| report)
}

/// Batches that a worker could not process a moment ago.
async fn held_after_fault(services: &Services, now: Timestamp) -> Result<HashSet<BatchSeq>, FlowError> {
    let faults = services.store.faults().await?.into_iter();
    Ok(faults.filter(|fault| now.since(fault.seen_at) < HELD_AFTER_FAULT).map(|fault| fault.seq).collect())
}

fn extraction_messages(swept: &Swept) -> Vec<Message> {
    swept.extractions.iter().map(|batch| extraction_message(*batch)).collect()
}

/// The message that has a batch extracted.
pub fn extraction_message(batch: BatchSeq) -> Message {
    Message::Extract { batch }
}

/// Runs that come every second spread their rows over a second, those of a CronJob over its minute.
async fn run_interval(services: &Services, now: Timestamp) -> Result<Duration, FlowError> {
    let last = services.store.runs(1).await?.into_iter().next();
    Ok(last.map_or(Duration::ZERO, |run| now.since(run.started_at).min(DEFAULT_SPREAD)))
}

async fn release_rows(
    services: &Services,
    policy: &DispatchPolicy,
    interval: Duration,
    mut exhausted: HashSet<BatchSeq>,
    report: &mut RunReport,
    schedule: &mut Schedule,
) -> Result<(), FlowError> {
    let backlog = match services.queue.backlog().await {
        Ok(backlog) => backlog,
        Err(error) => {
            tracing::warn!(%error, "the queue does not answer; no rows are released in this run");
            return Ok(());
        }
    };
    let mut room = LaneRoom(backlog);
    let mut cap = policy.rows_per_run;
    let mut passes = PASSES;
    while passes > 0 {
        passes -= 1;
        let mut loads = services.store.loads(policy.rows_per_owner.max(1), services.clock.now()).await?;
        for load in &mut loads {
            load.batches.retain(|batch| {
                !exhausted.contains(&batch.batch) && room.waiting(&batch.pipeline) < u64::from(FULL_LANE)
            });
        }
        let shares = room.cut(plan(services, policy, &loads, cap), &loads);
        if shares.is_empty() {
            break;
        }
        let mut short = false;
        let batches = loads.iter().flat_map(|load| &load.batches);
        let offered: HashMap<BatchSeq, &BatchLoad> = batches.map(|batch| (batch.batch, batch)).collect();
        for chunk in shares.chunks(TAKES_PER_RELEASE) {
            let now = services.clock.now();
            let takes: Vec<Take> =
                chunk.iter().map(|share| Take { batch: share.batch, rows: share.rows }).collect();
            let lost_at = now + interval.max(longest_spread(services)) + policy.lost_after;
            let released = match release(services, &takes, now, lost_at).await {
                Ok(released) => released,
                // The others of the chunk are offered again without it.
                Err(error @ StoreError::Overdrawn { batch, .. }) => {
                    let batch = BatchSeq(batch);
                    let id = offered.get(&batch).map(|load| load.id.to_string()).unwrap_or_default();
                    tracing::error!(%error, batch = id, "{MISCOUNTED}");
                    exhausted.insert(batch);
                    passes += 1;
                    short = true;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let by_batch: HashMap<BatchSeq, Released> =
                released.into_iter().map(|one| (one.batch, one)).collect();
            for share in chunk {
                let released = by_batch.get(&share.batch);
                let got = released.map_or(0, Released::rows);
                if got < share.rows {
                    short = true;
                    exhausted.insert(share.batch);
                }
                cap = cap.map(|left| left.saturating_sub(got));
                if let (Some(batch), Some(released)) = (offered.get(&share.batch), released) {
                    let span =
                        tracing::info_span!("release", batch = %batch.id, rows = got, trace_id = Empty);
                    services.traces.of_batch(&span, batch.id.0);
                    tracing::debug!(parent: &span, "rows are released");
                    schedule.add(services, &loads[share.owner], batch, released, interval);
                    room.take(&batch.pipeline, got);
                }
                tally(report, &loads, std::iter::once((share.owner, got)));
            }
        }
        if !short {
            break;
        }
    }
    report.record.capped = cap == Some(0);
    Ok(())
}

/// Releases rows. When the database breaks off in the middle, what it has done is looked for as soon as it is back: rows that are
/// marked without a message would wait until they count as lost.
async fn release(
    services: &Services,
    takes: &[Take],
    now: Timestamp,
    lost_at: Timestamp,
) -> StoreResult<Vec<Released>> {
    let error = match services.store.release(takes, now, lost_at).await {
        Err(error) if error.is_transient() => error,
        released => return released,
    };
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

/// How many rows the lanes of the queue have room for.
struct LaneRoom(HashMap<Lane, u64>);

impl LaneRoom {
    /// Messages that wait in a pipeline's lane.
    fn waiting(&self, pipeline: &str) -> u64 {
        self.0.get(&Lane::Rows(pipeline.to_owned())).copied().unwrap_or(0)
    }

    /// Rows are on their way into a lane.
    fn take(&mut self, pipeline: &str, rows: u32) {
        let messages = u64::from(rows).div_ceil(PACKET_ROWS as u64);
        *self.0.entry(Lane::Rows(pipeline.to_owned())).or_default() += messages;
    }

    /// Cuts shares of pipelines whose lanes have no room for all of them, each by the same part: what the queue would not take is
    /// better not released.
    fn cut(&self, mut shares: Vec<fair::Share>, loads: &[OwnerLoad]) -> Vec<fair::Share> {
        let pipelines: HashMap<BatchSeq, &str> = loads
            .iter()
            .flat_map(|load| &load.batches)
            .map(|batch| (batch.batch, batch.pipeline.as_str()))
            .collect();
        let mut wanted: HashMap<&str, u64> = HashMap::new();
        for share in &shares {
            *wanted.entry(pipelines[&share.batch]).or_default() += u64::from(share.rows);
        }
        for share in &mut shares {
            let pipeline = pipelines[&share.batch];
            let messages = u64::from(MAX_BACKLOG).saturating_sub(self.waiting(pipeline));
            let (room, wanted) = (messages * PACKET_ROWS as u64, wanted[pipeline]);
            if room < wanted {
                share.rows = u32::try_from(u64::from(share.rows) * room / wanted).unwrap_or(share.rows);
            }
        }
        shares.retain(|share| share.rows > 0);
        shares
    }
}

fn longest_spread(services: &Services) -> Duration {
    services.pipelines.iter().filter_map(|pipeline| pipeline.dispatch.spread).max().unwrap_or_default()
}

fn plan(
    services: &Services,
    policy: &DispatchPolicy,
    loads: &[OwnerLoad],
    cap: Option<u32>,
) -> Vec<fair::Share> {
    let offers: Vec<OwnerOffer> = loads.iter().map(|load| offer(services, policy, load)).collect();
    fair::plan(&offers, cap, &mut || services.id_generator.unit())
}

fn offer(services: &Services, policy: &DispatchPolicy, load: &OwnerLoad) -> OwnerOffer {
    let mut names: Vec<&str> = Vec::new();
    let mut batches = Vec::with_capacity(load.batches.len());
    for batch in &load.batches {
        let room = names.iter().position(|name| *name == batch.pipeline).unwrap_or_else(|| {
            names.push(&batch.pipeline);
            names.len() - 1
        });
        batches.push(BatchOffer {
            batch: batch.batch,
            room,
            priority: batch.priority,
            served_at: batch.served_at,
            rows: batch.fresh.saturating_add(batch.returned),
        });
    }
    let rooms = names
        .iter()
        .map(|name| {
            let limit = Quota::of(services, load.rows, name, policy.rows_per_owner).pipeline;
            let used = load.in_flight_by_pipeline.iter().find(|(pipeline, _)| pipeline == name);
            limit.saturating_sub(used.map_or(0, |(_, rows)| *rows))
        })
        .collect();
    let quota = load.rows.unwrap_or(policy.rows_per_owner);
    OwnerOffer {
        quota: quota.saturating_sub(load.in_flight),
        weight: load.weight,
        served_at: load.served_at,
        rooms,
        batches,
    }
}

/// Owners of later passes may be others: they are told apart by their keys.
fn tally(report: &mut RunReport, loads: &[OwnerLoad], shares: impl Iterator<Item = (usize, u32)>) {
    for (owner, rows) in shares.filter(|(_, rows)| *rows > 0) {
        let load = &loads[owner];
        let place = *report.places.entry(load.owner).or_insert_with(|| {
            report.owners.push(OwnerRelease { owner: load.name.clone(), rows: 0, batches: 0 });
            report.owners.len() - 1
        });
        report.owners[place].rows += rows;
        report.owners[place].batches += 1;
        report.record.rows += rows;
    }
    report.record.owners = u32::try_from(report.owners.len()).unwrap_or(u32::MAX);
}

/// The released rows, by pipeline and owner, with the time at which each may start.
#[derive(Default)]
struct Schedule {
    lanes: BTreeMap<String, HashMap<i64, OwnerSchedule>>,
    /// Rows that run alone, each with its crashes.
    suspects: Vec<(RowRef, u16)>,
}

struct OwnerSchedule {
    weight: u32,
    /// Tells who is first of owners whose turn it is at the same time.
    lot: u32,
    batches: HashMap<BatchSeq, BatchSchedule>,
}

struct BatchSchedule {
    /// The same among its owner's batches.
    lot: u32,
    spread: Duration,
    rows: Vec<RowRef>,
}

/// A random number that decides between equals.
fn draw(services: &Services) -> u32 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is in [0, 2³²)")]
    let lot = (services.id_generator.unit() * 4_294_967_296.0) as u32;
    lot
}

impl Schedule {
    fn add(
        &mut self,
        services: &Services,
        load: &OwnerLoad,
        batch: &BatchLoad,
        released: &Released,
        interval: Duration,
    ) {
        let row = |number: u32| RowRef { batch: batch.batch, number };
        self.suspects.extend(released.suspects.iter().map(|(number, crashes)| (row(*number), *crashes)));
        if released.numbers.is_empty() {
            return;
        }
        let pipeline = batch.pipeline.as_str();
        let spread = services
            .pipelines
            .get(pipeline)
            .and_then(|pipeline| pipeline.dispatch.spread)
            .unwrap_or(interval);
        let owner =
            self.lanes.entry(pipeline.to_owned()).or_default().entry(load.owner.0).or_insert_with(|| {
                OwnerSchedule { weight: load.weight.max(1), lot: draw(services), batches: HashMap::new() }
            });
        let schedule = owner.batches.entry(batch.batch).or_insert_with(|| BatchSchedule {
            lot: draw(services),
            spread,
            rows: Vec::new(),
        });
        schedule.rows.extend(released.numbers.iter().map(|number| row(*number)));
    }

    /// Each owner's rows evenly over the spread, owners interleaved by weight, in packets.
    fn into_messages(self, now: Timestamp) -> Vec<Message> {
        let lanes = self.lanes.into_iter().flat_map(|(lane, owners)| packets(&lane, owners, now));
        lanes.chain(dead_workers::suspect_messages(&self.suspects)).collect()
    }
}

fn packets(lane: &str, owners: HashMap<i64, OwnerSchedule>, now: Timestamp) -> Vec<Message> {
    let mut rows: Vec<(u64, u64, u32, RowRef)> = Vec::new();
    for owner in owners.into_values() {
        // Batches of one owner take turns too: by the row's place in its own batch.
        let mut order: Vec<(usize, u32, RowRef, Duration)> = owner
            .batches
            .into_values()
            .flat_map(|BatchSchedule { lot, spread, rows }| {
                rows.into_iter().enumerate().map(move |(place, row)| (place, lot, row, spread))
            })
            .collect();
        order.sort_unstable_by_key(|(place, lot, row, _)| (*place, *lot, row.batch));
        let count = order.len().max(1) as u64;
        for (index, (_, _, row, spread)) in order.into_iter().enumerate() {
            let spread_ms = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX);
            let delay = spread_ms.saturating_mul(index as u64) / count;
            rows.push((delay, (index as u64 + 1) * 1000 / u64::from(owner.weight), owner.lot, row));
        }
    }
    rows.sort_unstable();
    rows.chunks(PACKET_ROWS)
        .map(|chunk| {
            let mut packet = Packet::new(lane, now.millis());
            for (delay, _, _, row) in chunk {
                packet.push(*row, u32::try_from(*delay).unwrap_or(u32::MAX));
            }
            Message::Rows(packet)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(batch: i64, lot: u32, rows: u32) -> (BatchSeq, BatchSchedule) {
        let batch = BatchSeq(batch);
        let rows = (1..=rows).map(|number| RowRef { batch, number }).collect();
        (batch, BatchSchedule { lot, spread: Duration::ZERO, rows })
    }

    fn order(owners: [(i64, OwnerSchedule); 2]) -> Vec<(i64, u32)> {
        let messages = packets("noop", owners.into(), Timestamp::from_millis(0));
        let packets = messages.iter().filter_map(|message| match message {
            Message::Rows(packet) => Some(packet),
            _ => None,
        });
        packets.flat_map(Packet::iter).map(|(row, _)| (row.batch.0, row.number)).collect()
    }

    /// Of owners, and of an owner's batches, whose turn it is at the same time, the lot says who is first.
    #[test]
    fn the_lot_tells_between_equals() {
        for ours_first in [true, false] {
            for (one, other) in [(1, 2), (2, 1)] {
                let ours = OwnerSchedule {
                    weight: 1,
                    lot: if ours_first { 1 } else { 9 },
                    batches: [schedule(1, one, 2), schedule(2, other, 2)].into(),
                };
                let theirs = OwnerSchedule { weight: 1, lot: 5, batches: [schedule(3, 5, 1)].into() };
                let first = if one < other { (1, 2) } else { (2, 1) };
                let mut expected = vec![(first.0, 1), (first.1, 1), (first.0, 2), (first.1, 2)];
                expected.insert(usize::from(ours_first), (3, 1));
                assert_eq!(order([(1, ours), (2, theirs)]), expected);
            }
        }
    }
}

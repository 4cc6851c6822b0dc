//! One run of the dispatcher (docs/design.md, "A dispatcher run").
//!
//! A run reads only the database: it is correct however late it comes, twice, or after many that did not.

use std::collections::HashSet;
use std::time::Duration;

use penstock_domain::ids::BatchSeq;
use penstock_domain::time::Timestamp;
use penstock_queue::Message;
use penstock_store::dispatch::{StuckRows, SweepPlan, Swept};

use crate::context::error::FlowError;
use crate::context::pace::most_rows_per_owner;
use crate::context::services::Services;
use crate::dispatch::dead_workers;
use crate::dispatch::packets::Schedule;
use crate::dispatch::plan::plan;
use crate::dispatch::policy::DispatchPolicy;
use crate::dispatch::release::{MISCOUNTED, Releases};
use crate::dispatch::report::RunReport;

/// A batch that a worker cannot process is offered to workers again after this time.
pub const HELD_AFTER_FAULT: Duration = Duration::from_secs(10);

/// The longest interval over which a run spreads its rows, unless a pipeline sets another one.
const DEFAULT_SPREAD: Duration = Duration::from_secs(60);

/// Carries out one run. The caller opens its span ([`crate::telemetry::traces::dispatcher_run`]).
///
/// # Errors
/// When the database fails, or the queue does while its backlog is read. A queue that takes no messages is no error: their
/// rows are pending again.
pub async fn run(
    services: &Services,
    policy: &DispatchPolicy,
    dry_run: bool,
) -> Result<RunReport, FlowError> {
    let started_at = services.clock.now();
    let mut report = RunReport::new(started_at, dry_run);
    let grace = i64::try_from(policy.extraction_grace.as_millis()).unwrap_or(i64::MAX);
    if dry_run {
        report.record.swept = planned(services.store.sweep_plan(started_at, grace).await?);
        let loads =
            services.store.loads(most_rows_per_owner(services, policy.rows_per_owner), started_at).await?;
        for share in plan(services, policy, &loads, policy.rows_per_run) {
            report.add(&loads[share.owner], share.rows);
        }
        report.record.finished_at = services.clock.now();
        return Ok(report);
    }
    let Some(_lock) = services.store.lock_run().await? else {
        report.locked_out = true;
        report.record.finished_at = services.clock.now();
        return Ok(report);
    };
    sweep(services, policy, grace, &mut report).await?;
    release_and_enqueue(services, policy, &mut report).await?;
    Ok(report)
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

/// Requeues what crashes left behind, and ends what is overdue.
async fn sweep(
    services: &Services,
    policy: &DispatchPolicy,
    grace: i64,
    report: &mut RunReport,
) -> Result<(), FlowError> {
    let started_at = report.record.started_at;
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
    Ok(())
}

async fn release_and_enqueue(
    services: &Services,
    policy: &DispatchPolicy,
    report: &mut RunReport,
) -> Result<(), FlowError> {
    let started_at = report.record.started_at;
    let held = held_after_fault(services, started_at).await?;
    report.record.swept.extractions.retain(|batch| !held.contains(batch));
    let mut messages = extraction_messages(&report.record.swept);
    let interval = run_interval(services, started_at).await?;
    let mut schedule = Schedule::default();
    let releases = Releases { services, policy, interval, exhausted: held, report, schedule: &mut schedule };
    let result = releases.run().await;
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
    result
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

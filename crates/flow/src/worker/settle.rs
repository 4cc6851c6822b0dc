//! Settlement: rows' ends are collected and written in groups.
//!
//! A group is closed when it is full or after a few milliseconds; where many rows end, after some more. Groups make throughput: a
//! batch's counters are updated once per group.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use penstock_domain::outcome::code;
use penstock_store::work::Held;
use penstock_store::work::{SettleReport, Settled, Settlement};
use penstock_store::{StoreError, StoreResult};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::context::services::Services;
use crate::crash;
use crate::telemetry::traces;
use crate::telemetry::worker_counters::WorkerMetrics;
use crate::worker::leases::Leases;
use crate::worker::replacements::Replacements;
use crate::worker::row::failure_of;
use crate::worker::settled_row::{Ended, SettledRow};

/// Rows of a group at most.
pub const GROUP_ROWS: usize = 500;

/// How long the first row of a group waits for others.
pub const GROUP_WAIT: Duration = Duration::from_millis(4);

/// The same after a group of at least [`MANY`] rows.
const BUSY_WAIT: Duration = Duration::from_millis(20);

/// A group of so many rows is followed by a similar one: a transaction for each few rows would cost more than the rows do.
const MANY: usize = 8;

/// While the database is unavailable, a settlement is tried again after at most this time. It stays valid as long as nobody
/// took the rows, and nobody does while this process lives; so it is never given up.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Whom settled rows concern.
pub(crate) struct Concerned {
    /// Their leases end.
    pub(crate) leases: Arc<Leases>,
    /// They are counted.
    pub(crate) metrics: Arc<WorkerMetrics>,
    /// Some of them are replaced.
    pub(crate) replacements: Arc<Replacements>,
}

/// Writes settlements until the last sender is gone.
pub(crate) async fn run(services: Services, concerned: Concerned, mut ends: mpsc::Receiver<Ended>) {
    let leases = &concerned.leases;
    let mut group = Vec::with_capacity(GROUP_ROWS);
    let mut wait = GROUP_WAIT;
    while let Some(first) = ends.recv().await {
        group.push(first);
        let close_at = Instant::now() + wait;
        while group.len() < GROUP_ROWS {
            match tokio::time::timeout_at(close_at, ends.recv()).await {
                Ok(Some(ended)) => group.push(ended),
                Ok(None) | Err(_) => break,
            }
        }
        wait = if group.len() < MANY { GROUP_WAIT } else { BUSY_WAIT };
        let group = std::mem::take(&mut group);
        let held: Vec<Held> = group.iter().map(|(settlement, _)| settlement.held()).collect();
        let written = write(&services, &concerned, group);
        // A defect: rows that are not released would be held as long as this process lives.
        if AssertUnwindSafe(written).catch_unwind().await.is_err() {
            tracing::error!(rows = held.len(), "settling panicked: please report it; the rows are released");
            leases.remove(held);
            leases.doubt();
        }
    }
}

async fn write(services: &Services, concerned: &Concerned, ended: Vec<Ended>) {
    crash::point(crash::BEFORE_SETTLEMENT);
    let (group, rows): (Vec<Settlement>, Vec<SettledRow>) = ended.into_iter().unzip();
    let began = Instant::now();
    match settle(services, &group).await {
        Ok(report) => {
            crash::point(crash::AFTER_SETTLEMENT);
            concerned.leases.remove(group.iter().map(Settlement::held));
            concerned.metrics.group(group.len(), began.elapsed());
            report_written(services, concerned, group.iter().zip(&rows), &report);
        }
        Err(error) if group.len() > 1 => {
            tracing::warn!(%error, rows = group.len(), "a group was refused; its rows are settled one by one");
            for (settlement, row) in group.iter().zip(&rows) {
                single(services, concerned, settlement, row).await;
            }
        }
        Err(error) => refused(services, concerned, (&group[0], &rows[0]), &error).await,
    }
}

/// Settles rows, however long the database is unavailable.
///
/// # Errors
/// When the database refuses it for another reason.
pub(crate) async fn settle(services: &Services, group: &[Settlement]) -> StoreResult<SettleReport> {
    let mut pause = Duration::from_millis(20);
    loop {
        match services.store.settle(group, services.clock.now()).await {
            Err(error) if error.is_the_databases() => {
                tracing::warn!(%error, rows = group.len(), "failed to settle rows; will retry");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            settled => return settled,
        }
    }
}

/// The database refuses a row's end permanently. Its call is not repeated for that: the row fails, without what was refused.
/// Where even that is refused the row is released, and runs again when somebody has fixed its batch.
async fn refused(
    services: &Services,
    concerned: &Concerned,
    (settlement, row): (&Settlement, &SettledRow),
    error: &StoreError,
) {
    tracing::error!(parent: &row.span, %error, "the row's end cannot be written; it fails");
    let outcome = Settled::Failed(failure_of(code::INTERNAL_ERROR));
    let failed = Settlement { outcome, ..settlement.clone() };
    match settle(services, std::slice::from_ref(&failed)).await {
        Ok(report) => report_written(services, concerned, std::iter::once((&failed, row)), &report),
        Err(error) => {
            tracing::error!(parent: &row.span, %error, "the row cannot be settled at all; it is released");
            concerned.leases.doubt();
        }
    }
    concerned.leases.remove([settlement.held()]);
}

/// Counts and logs what was written.
pub(super) fn report_written<'a>(
    services: &Services,
    concerned: &Concerned,
    group: impl Iterator<Item = (&'a Settlement, &'a SettledRow)> + Clone,
    report: &SettleReport,
) {
    for (settlement, row) in group.clone() {
        if report.lost.contains(&settlement.held()) {
            row.lost(&concerned.metrics);
        } else {
            row.settled(&settlement.outcome, &concerned.metrics);
            let pipeline = &row.work.pipeline.name;
            concerned.replacements.settled(settlement.row.batch, pipeline, &settlement.outcome);
        }
    }
    for (batch, place) in &report.held {
        let held = group.clone().nth(*place).filter(|(settlement, _)| settlement.row.batch == *batch);
        if let Some((settlement, row)) = held {
            let step = settlement.hold().and_then(|hold| hold.step.as_deref());
            tracing::warn!(parent: &row.span, step, "an answer holds a batch until somebody resumes it");
        }
    }
    for batch in &report.finished {
        if let Some((_, row)) = group.clone().find(|(settlement, _)| settlement.row.batch == *batch) {
            let span = traces::finish(services.traces.as_ref(), row.work.id);
            tracing::info!(parent: &span, "a batch is finished");
        }
    }
}

async fn single(services: &Services, concerned: &Concerned, settlement: &Settlement, row: &SettledRow) {
    match settle(services, std::slice::from_ref(settlement)).await {
        Ok(report) => {
            concerned.leases.remove([settlement.held()]);
            report_written(services, concerned, std::iter::once((settlement, row)), &report);
        }
        Err(error) => refused(services, concerned, (settlement, row), &error).await,
    }
}

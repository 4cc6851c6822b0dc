//! Settlement: rows' ends are collected and written in groups.
//!
//! A group is closed by size or by a few milliseconds, whichever is first: that is where throughput comes from, and
//! the batch's counters are touched once a group.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures::FutureExt as _;
use penstock_domain::outcome::code;
use penstock_store::settling::Held;
use penstock_store::work::{RowFailure, SettleReport, Settled, Settlement};
use penstock_store::{StoreError, StoreResult};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::Span;

use crate::context::services::Services;
use crate::crash;
use crate::telemetry::traces;
use crate::telemetry::traces::ROW_LINES;
use crate::telemetry::worker_counters;
use crate::telemetry::worker_counters::WorkerMetrics;
use crate::worker::batches::BatchWork;
use crate::worker::leases::Leases;
use crate::worker::row::quiet;
use crate::worker::suspects::Running;

/// Rows of a group at most.
pub const GROUP_ROWS: usize = 500;

/// How long the first row of a group waits for company.
pub const GROUP_WAIT: Duration = Duration::from_millis(4);

/// While the database is away, a settlement is tried again after at most so long. It counts for as long as nobody took the
/// rows, and nobody does while this process lives; so it is never given up.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// A row that has ended, or goes back: what is to be written, and what there is to say.
pub type Ended = (Settlement, About);

/// What is said of a settled row.
pub struct About {
    /// Its batch.
    pub work: Arc<BatchWork>,
    /// Attempts that failed before this one.
    pub attempts: u16,
    /// Its span, which ends when it is settled.
    pub span: Span,
    /// Of a row that runs alone: no other one begins before it is settled.
    #[allow(dead_code, reason = "dropping it is what it is for")]
    pub(crate) alone: Option<Running>,
}

impl About {
    fn settled(&self, settled: &Settled, metrics: &WorkerMetrics) {
        let outcome = worker_counters::outcome(settled);
        let attempts = u32::from(self.attempts) + 1;
        metrics.of(&self.work.pipeline.name, |of| {
            of.settled[outcome] += 1;
            if let Some(ended) = of.attempts.get_mut(outcome) {
                ended.observe(f64::from(attempts));
            }
        });
        let step = |trouble: &RowFailure| {
            let place = usize::from(trouble.step?);
            self.work.pipeline.steps.get(place).map(|step| step.name.as_str())
        };
        match settled {
            Settled::Completed { .. } => {
                tracing::debug!(target: ROW_LINES, parent: &self.span, attempts, "the row is completed");
            }
            Settled::Failed(trouble) => tracing::warn!(
                target: ROW_LINES,
                parent: &self.span,
                attempts,
                step = step(trouble),
                code = trouble.code,
                http_status = trouble.http_status,
                "the row failed"
            ),
            Settled::Requeued { not_before, attempt, trouble, .. } => tracing::debug!(
                target: ROW_LINES,
                parent: &self.span,
                attempts = u32::from(self.attempts) + u32::from(*attempt),
                step = trouble.as_ref().and_then(step),
                code = trouble.as_ref().map(|trouble| trouble.code.as_str()),
                http_status = trouble.as_ref().and_then(|trouble| trouble.http_status),
                %not_before,
                "the row goes back"
            ),
        }
    }

    fn lost(&self, metrics: &WorkerMetrics) {
        metrics.lost.fetch_add(1, Relaxed);
        tracing::warn!(parent: &self.span, "the row's lease was lost before it was settled");
    }
}

/// Writes settlements until the last sender is gone.
pub async fn run(
    services: Services,
    leases: Arc<Leases>,
    metrics: Arc<WorkerMetrics>,
    mut ends: mpsc::Receiver<Ended>,
) {
    let mut group = Vec::with_capacity(GROUP_ROWS);
    while let Some(first) = ends.recv().await {
        group.push(first);
        let close_at = Instant::now() + GROUP_WAIT;
        while group.len() < GROUP_ROWS {
            match tokio::time::timeout_at(close_at, ends.recv()).await {
                Ok(Some(ended)) => group.push(ended),
                Ok(None) | Err(_) => break,
            }
        }
        let group = std::mem::take(&mut group);
        let held: Vec<Held> = group.iter().map(|(settlement, _)| settlement.held()).collect();
        let written = write(&services, &leases, &metrics, group);
        // A defect: rows that are not let go would be held for as long as this process lives.
        if AssertUnwindSafe(written).catch_unwind().await.is_err() {
            tracing::error!(rows = held.len(), "settling panicked: please report it; the rows are let go");
            leases.remove(held);
            leases.doubt();
        }
    }
}

async fn write(services: &Services, leases: &Leases, metrics: &WorkerMetrics, ended: Vec<Ended>) {
    crash::point(crash::BEFORE_SETTLEMENT);
    let (group, about): (Vec<Settlement>, Vec<About>) = ended.into_iter().unzip();
    let began = Instant::now();
    match settle(services, &group).await {
        Ok(report) => {
            crash::point(crash::AFTER_SETTLEMENT);
            leases.remove(group.iter().map(Settlement::held));
            metrics.group(group.len(), began.elapsed());
            tell(services, metrics, group.iter().zip(&about), &report);
        }
        Err(error) if group.len() > 1 => {
            tracing::warn!(%error, rows = group.len(), "a group was refused; its rows are settled one by one");
            for (settlement, about) in group.iter().zip(&about) {
                single(services, leases, metrics, settlement, about).await;
            }
        }
        Err(error) => refused(services, leases, metrics, (&group[0], &about[0]), &error).await,
    }
}

/// Settles rows, however long the database is away.
///
/// # Errors
/// When the database refuses it for another reason.
pub(crate) async fn settle(services: &Services, group: &[Settlement]) -> StoreResult<SettleReport> {
    let mut pause = Duration::from_millis(20);
    loop {
        match services.store.settle(group, services.clock.now()).await {
            Err(error) if error.is_the_databases() => {
                tracing::warn!(%error, rows = group.len(), "a settlement waits for the database");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            settled => return settled,
        }
    }
}

/// The database refuses a row's end for good. Its call is not made again for that: the row fails, without what was refused. Where
/// even that is refused the row is let go, and runs again when somebody has repaired what is wrong with its batch.
async fn refused(
    services: &Services,
    leases: &Leases,
    metrics: &WorkerMetrics,
    (settlement, about): (&Settlement, &About),
    error: &StoreError,
) {
    tracing::error!(parent: &about.span, %error, "the row's end cannot be written; it fails");
    let outcome = Settled::Failed(RowFailure { code: code::INTERNAL_ERROR.to_owned(), ..quiet() });
    let failed = Settlement { outcome, ..settlement.clone() };
    match settle(services, std::slice::from_ref(&failed)).await {
        Ok(report) => tell(services, metrics, std::iter::once((&failed, about)), &report),
        Err(error) => {
            tracing::error!(parent: &about.span, %error, "the row cannot be settled at all; it is let go");
            leases.doubt();
        }
    }
    leases.remove([settlement.held()]);
}

/// Counts and logs what was written.
fn tell<'a>(
    services: &Services,
    metrics: &WorkerMetrics,
    group: impl Iterator<Item = (&'a Settlement, &'a About)> + Clone,
    report: &SettleReport,
) {
    for (settlement, about) in group.clone() {
        if report.lost.contains(&settlement.held()) {
            about.lost(metrics);
        } else {
            about.settled(&settlement.outcome, metrics);
        }
    }
    for batch in &report.finished {
        if let Some((_, about)) = group.clone().find(|(settlement, _)| settlement.row.batch == *batch) {
            let span = traces::finish(services.traces.as_ref(), about.work.id);
            tracing::info!(parent: &span, "a batch is finished");
        }
    }
}

async fn single(
    services: &Services,
    leases: &Leases,
    metrics: &WorkerMetrics,
    settlement: &Settlement,
    about: &About,
) {
    match settle(services, std::slice::from_ref(settlement)).await {
        Ok(report) => {
            leases.remove([settlement.held()]);
            tell(services, metrics, std::iter::once((settlement, about)), &report);
        }
        Err(error) => refused(services, leases, metrics, (settlement, about), &error).await,
    }
}

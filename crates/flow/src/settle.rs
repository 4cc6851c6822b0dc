//! Settlement: rows' ends are collected and written in groups.
//!
//! A group is closed by size or by a few milliseconds, whichever is first: that is where throughput comes from, and
//! the batch's counters are touched once a group.

use std::sync::Arc;
use std::time::Duration;

use penstock_store::work::{Settled, Settlement};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::crash;
use crate::engines::Engines;
use crate::process::leases::Leases;

/// Rows of a group at the most.
pub const GROUP_ROWS: usize = 500;

/// How long the first row of a group waits for company.
pub const GROUP_WAIT: Duration = Duration::from_millis(4);

/// How long a settlement is tried again while the database is away. Longer than any lease: by then the rows are
/// somebody else's, and the last try says so.
const GIVE_UP_AFTER: Duration = Duration::from_secs(120);

/// What a settled row's attempt came to: `retried` ones come back after an attempt that failed, `returned` ones without
/// having cost one.
pub const OUTCOMES: [&str; 4] = ["completed", "failed", "retried", "returned"];

fn outcome(settled: &Settled) -> usize {
    match settled {
        Settled::Completed { .. } => 0,
        Settled::Failed(_) => 1,
        Settled::GivenBack { attempt: true, .. } => 2,
        Settled::GivenBack { attempt: false, .. } => 3,
    }
}

/// Figures of the settler.
#[derive(Debug, Default)]
pub struct SettleFigures {
    /// Groups written.
    pub groups: std::sync::atomic::AtomicU64,
    /// Rows settled, by [`OUTCOMES`].
    pub rows: [std::sync::atomic::AtomicU64; 4],
    /// Rows whose lease was lost before they could be settled.
    pub lost: std::sync::atomic::AtomicU64,
}

/// Writes settlements until the last sender is gone.
pub async fn run(
    engines: Engines,
    leases: Arc<Leases>,
    figures: Arc<SettleFigures>,
    mut settlements: mpsc::Receiver<Settlement>,
) {
    let mut group = Vec::with_capacity(GROUP_ROWS);
    while let Some(first) = settlements.recv().await {
        group.push(first);
        let close_at = Instant::now() + GROUP_WAIT;
        while group.len() < GROUP_ROWS {
            match tokio::time::timeout_at(close_at, settlements.recv()).await {
                Ok(Some(settlement)) => group.push(settlement),
                Ok(None) | Err(_) => break,
            }
        }
        write(&engines, &leases, &figures, std::mem::take(&mut group)).await;
    }
}

async fn write(engines: &Engines, leases: &Leases, figures: &SettleFigures, group: Vec<Settlement>) {
    use std::sync::atomic::Ordering::Relaxed;
    crash::point(crash::BEFORE_SETTLEMENT);
    let began = Instant::now();
    let mut pause = Duration::from_millis(20);
    let report = loop {
        match engines.store.settle(&group, engines.clock.now()).await {
            Ok(report) => break Some(report),
            Err(error) if error.is_transient() && began.elapsed() < GIVE_UP_AFTER => {
                tracing::warn!(%error, rows = group.len(), "a settlement waits for the database");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
            Err(error) if group.len() > 1 && !error.is_transient() => {
                tracing::warn!(%error, rows = group.len(), "a group was refused; its rows are settled one by one");
                for settlement in &group {
                    single(engines, figures, settlement).await;
                }
                break None;
            }
            Err(error) => {
                tracing::error!(%error, rows = group.len(), "rows were not settled; their leases run out and the sweep takes them");
                break None;
            }
        }
    };
    crash::point(crash::AFTER_SETTLEMENT);
    leases.remove(group.iter().map(Settlement::held));
    if let Some(report) = report {
        figures.groups.fetch_add(1, Relaxed);
        for settlement in group.iter().filter(|settlement| !report.lost.contains(&settlement.held())) {
            figures.rows[outcome(&settlement.outcome)].fetch_add(1, Relaxed);
        }
        figures.lost.fetch_add(report.lost.len() as u64, Relaxed);
        for (row, _) in &report.lost {
            tracing::warn!(
                batch = row.batch.0,
                row = row.number,
                "the row's lease was lost before it was settled"
            );
        }
        for batch in &report.finished {
            tracing::info!(batch = batch.0, "a batch is finished");
        }
    }
}

async fn single(engines: &Engines, figures: &SettleFigures, settlement: &Settlement) {
    use std::sync::atomic::Ordering::Relaxed;
    let row = settlement.row;
    match engines.store.settle(std::slice::from_ref(settlement), engines.clock.now()).await {
        Ok(report) if report.lost.is_empty() => {
            figures.rows[outcome(&settlement.outcome)].fetch_add(1, Relaxed);
        }
        Ok(_) => {
            figures.lost.fetch_add(1, Relaxed);
        }
        Err(error) => {
            tracing::error!(%error, batch = row.batch.0, row = row.number, "the row was not settled; its lease runs out");
        }
    }
}

//! What runs: workers, dispatcher runs, batches.

use std::time::Duration;

use penstock_store::StoreResult;
use penstock_store::operations::STALLED_AFTER;
use penstock_store::workers::WorkerKind;

use crate::context::findings::Findings;
use crate::context::services::Services;
use crate::read::standing::{held_batch, stalled_batch};

/// A dispatcher whose last run began longer ago than this is late: it is started each minute.
pub const RUN_LATE: Duration = Duration::from_secs(180);

/// Batches that no worker can process, and those that stand still, are listed up to this number.
const MOST_BATCHES: usize = 5;

/// Batches of either kind that stand still are looked for up to this number.
const MOST_STANDING: u32 = 100;

/// Who holds rows, and who of them is not heard of any more.
pub(super) async fn workers(services: &Services, findings: &mut Findings) {
    let all = match services.store.workers().await {
        Ok(all) => all,
        Err(error) => return findings.fail("workers", error.to_string()),
    };
    let (silent, live): (Vec<_>, Vec<_>) = all.iter().partition(|worker| worker.is_silent());
    let live = live.iter().filter(|worker| worker.kind == WorkerKind::Worker).count();
    let of_silent: Vec<String> = silent
        .iter()
        .map(|worker| {
            let (seconds, rows) = (worker.silent_for.as_secs(), worker.load.in_flight);
            format!("{} has been silent for {seconds} s and holds {rows} rows", worker.name)
        })
        .collect();
    match (live, of_silent.is_empty()) {
        (0, true) => findings.warn("workers", "none lives: no row is processed; start a worker"),
        (_, true) => findings.ok("workers", format!("{live} live")),
        (_, false) => findings.warn("workers", format!("{live} live; {}", of_silent.join("; "))),
    }
}

pub(super) async fn runs(services: &Services, findings: &mut Findings) {
    match services.store.runs(1).await {
        Err(error) => findings.fail("dispatcher", error.to_string()),
        Ok(runs) => match runs.first() {
            None => findings.warn("dispatcher", "no run was recorded yet; start the dispatcher"),
            Some(run) => {
                let ago = services.clock.now().since(run.started_at).as_secs();
                let found = format!("the last run began {ago} seconds ago and released {} rows", run.rows);
                match &run.error {
                    Some(error) => findings.warn("dispatcher", format!("{found}, and failed: {error}")),
                    None if ago > RUN_LATE.as_secs() => {
                        findings
                            .warn("dispatcher", format!("{found}; is the CronJob there (docs/runbooks.md)?"));
                    }
                    None => findings.ok("dispatcher", found),
                }
            }
        },
    }
}

/// Batches that no worker can process, and those that stand still.
pub(super) async fn batches(services: &Services, findings: &mut Findings) {
    let faults = match services.store.faults().await {
        Ok(faults) => faults,
        Err(error) => return findings.fail("batches", error.to_string()),
    };
    for fault in faults.iter().take(MOST_BATCHES) {
        let found = format!(
            "no worker can process {} of `{}` since {}: {}",
            fault.batch, fault.pipeline, fault.since, fault.reason
        );
        findings.fail("batches", found);
    }
    if faults.len() > MOST_BATCHES {
        findings.fail("batches", format!("{} more: `penstock reconcile`", faults.len() - MOST_BATCHES));
    }
    match standing(services).await {
        Ok(standing) => {
            if faults.is_empty() && standing.is_empty() {
                findings.ok("batches", "workers can process all that run, and none stands still");
            }
            let more = standing.len().saturating_sub(MOST_BATCHES);
            for found in standing.into_iter().take(MOST_BATCHES) {
                findings.warn("batches", found);
            }
            if more > 0 {
                findings
                    .warn("batches", format!("{more} or more others stand still: `penstock batches list`"));
            }
        }
        Err(error) => findings.fail("batches", error.to_string()),
    }
}

/// Batches that are held, and those that get nowhere: a sentence each.
async fn standing(services: &Services) -> StoreResult<Vec<String>> {
    let mut found: Vec<String> =
        services.store.held_batches(MOST_STANDING).await?.iter().map(held_batch).collect();
    let began_before = services.clock.now() - STALLED_AFTER;
    let stalled = services.store.stalled_batches(None, began_before, MOST_STANDING).await?;
    found.extend(stalled.iter().map(stalled_batch));
    Ok(found)
}

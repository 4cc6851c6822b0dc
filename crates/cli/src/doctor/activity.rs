//! What runs: workers, dispatcher runs, batches, and the background tasks of a service on this machine.

use std::time::Duration;

use penstock_domain::time::Timestamp;
use penstock_flow::context::periodic::TaskStatus;
use penstock_flow::operate::operations::RUN_LATE;
use penstock_flow::read::standing::{held_batch, stalled_batch};
use penstock_store::StoreResult;
use penstock_store::operations::STALLED_AFTER;
use penstock_store::workers::WorkerKind;

use super::Findings;
use crate::open::Opened;
use crate::socket::{self, Answer, Question};

/// A background task that runs for longer than this, and than its period, is worth a word.
const LONG_RUN: Duration = Duration::from_secs(60);

/// Batches that no worker can process, and those that stand still, are listed up to this number.
const MOST_BATCHES: usize = 5;

/// Batches of either kind that stand still are looked for up to this number.
const MOST_STANDING: u32 = 100;

/// Who holds rows, and who of them is not heard of any more.
pub(super) async fn workers(opened: &Opened, findings: &mut Findings) {
    let all = match opened.chosen.services.store.workers().await {
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

pub(super) async fn runs(opened: &Opened, findings: &mut Findings) {
    let services = &opened.chosen.services;
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
pub(super) async fn batches(opened: &Opened, findings: &mut Findings) {
    let faults = match opened.chosen.services.store.faults().await {
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
    match standing(opened).await {
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
async fn standing(opened: &Opened) -> StoreResult<Vec<String>> {
    let services = &opened.chosen.services;
    let mut found: Vec<String> =
        services.store.held_batches(MOST_STANDING).await?.iter().map(held_batch).collect();
    let began_before = services.clock.now() - STALLED_AFTER;
    let stalled = services.store.stalled_batches(None, began_before, MOST_STANDING).await?;
    found.extend(stalled.iter().map(stalled_batch));
    Ok(found)
}

/// Background tasks, as the service on this machine reports them. Those of a cluster report failures in their logs.
pub(super) async fn background(opened: &Opened, findings: &mut Findings) {
    if !opened.chosen.local {
        return;
    }
    let unseen = match socket::ask(&opened.settings, &Question::Background).await {
        Ok(Answer::Background(tasks)) => {
            for task in &tasks {
                report(task, opened.chosen.services.clock.now(), findings);
            }
            return;
        }
        Ok(Answer::Failed(error)) | Err(error) => error,
        Ok(_) => "it answered something else".to_owned(),
    };
    findings.warn("background", format!("the service's background tasks cannot be seen: {unseen}"));
}

fn report(task: &TaskStatus, now: Timestamp, findings: &mut Findings) {
    let name = &task.name;
    let seconds = |at: Timestamp| now.since(at).as_secs();
    let period = Duration::from_millis(task.period_ms);
    let counts = format!("{} runs, {} of them failed", task.runs, task.failures);
    let under_way = task.started_at.filter(|began| task.ended_at.is_none_or(|ended| ended < *began));
    if let Some(error) = task.last_error.as_ref().filter(|_| task.failing) {
        let found = format!("`{name}` failed {} s ago: {}; {counts}", seconds(error.at), error.error);
        findings.warn("background", found);
    } else if let Some(began) = under_way.filter(|began| now.since(*began) > LONG_RUN.max(period)) {
        let found = format!("`{name}` has been running for {} s; {counts}", seconds(began));
        findings.warn("background", found);
    } else if let Some(ended) = task.ended_at {
        findings.ok("background", format!("`{name}` ran {} s ago; {counts}", seconds(ended)));
    } else {
        findings.ok("background", format!("`{name}` has not run yet; it runs every {} s", period.as_secs()));
    }
}

#[cfg(test)]
mod tests {
    use penstock_flow::context::periodic::TaskError;

    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_background_task_that_fails_or_hangs_is_a_warning() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1000);
        let well = TaskStatus {
            name: "retention".into(),
            period_ms: 600_000,
            runs: 3,
            failures: 1,
            started_at: Some(at(90)),
            ended_at: Some(at(95)),
            last_error: Some(TaskError { at: at(50), error: "out of order".into() }),
            failing: false,
        };
        let line = |status: &TaskStatus, now: i64| {
            let mut findings = Findings::default();
            report(status, at(now), &mut findings);
            let line = findings.0.remove(0);
            (line.verdict == Verdict::Ok, line.found)
        };
        assert_eq!(line(&well, 100), (true, "`retention` ran 5 s ago; 3 runs, 1 of them failed".into()));
        let failing = TaskStatus { failing: true, ..well.clone() };
        let failed = "`retention` failed 50 s ago: out of order; 3 runs, 1 of them failed";
        assert_eq!(line(&failing, 100), (false, failed.into()));
        let hangs = TaskStatus { started_at: Some(at(96)), ..well.clone() };
        assert!(line(&hangs, 600).0, "it may take as long as its period");
        let hung = "`retention` has been running for 604 s; 3 runs, 1 of them failed";
        assert_eq!(line(&hangs, 700), (false, hung.into()));
        let new = TaskStatus { started_at: None, ended_at: None, ..well };
        assert_eq!(line(&new, 100), (true, "`retention` has not run yet; it runs every 600 s".into()));
    }
}

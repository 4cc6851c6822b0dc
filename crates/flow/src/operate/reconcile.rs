//! What is stuck and why, and the repairs (`penstock reconcile`). A plan writes nothing; every repair keeps its guard in
//! its own statement, so that a plan that is stale by now does nothing.

use std::time::Duration;

use penstock_domain::time::Timestamp;
use penstock_queue::Message;
use penstock_store::operations::{AuditEntry, CountMismatch, Metrics};
use penstock_store::waiting::BatchFault;
use penstock_store::workers::ComeBack;
use serde::Serialize;
use serde_json::json;

use crate::context::error::FlowError;
use crate::context::services::Services;
use crate::dispatch::dead_workers;
use crate::operate::finding::Finding;
use crate::operate::stored_files::{self, StoredFiles};
use crate::operate::unfinished::{self, UNFINISHED_UPLOADS, Unfinished};

/// Dispatcher runs have stopped when there was none for this long.
const RUNS_STOPPED: Duration = Duration::from_secs(300);

/// Ended batches are counted again for this long; later nothing changes in them.
const COUNTED_OVER: Duration = Duration::from_secs(7 * 24 * 3600);

/// Permission to write. Only an operator's `--apply` (or `--adopt`) creates one.
pub struct Permission(());

impl Permission {
    /// Granted by `--apply`.
    pub fn from_apply_flag(apply: bool) -> Option<Self> {
        apply.then_some(Self(()))
    }
}

/// How to look.
#[derive(Clone, Copy, Debug)]
pub struct ReconcilePolicy {
    /// How long a stored file may wait for its extraction.
    pub extraction_grace: Duration,
    /// Whether a message that is enqueued here reaches a worker: not where the queue lives in another process.
    pub messages_reach_workers: bool,
}

/// What is stuck, and what of it a run fixed.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// One for each kind of fault, also for those of which there is none.
    pub findings: Vec<Finding>,
    #[serde(skip)]
    mismatches: Vec<CountMismatch>,
    #[serde(skip)]
    pub(crate) files: StoredFiles,
    #[serde(skip)]
    unfinished: Unfinished,
}

impl Plan {
    /// What `--apply` would fix.
    pub fn planned(&self) -> usize {
        self.findings.iter().filter(|finding| finding.by_apply).map(|finding| finding.count).sum()
    }

    fn applied(&mut self, what: &'static str, applied: usize) {
        if let Some(finding) = self.findings.iter_mut().find(|finding| finding.what == what) {
            finding.applied = applied;
            finding.overtaken = finding.count.saturating_sub(applied);
        }
    }
}

const LOST: &str = "rows queued whose message was lost";
const EXPIRED: &str = "rows processing whose lease ran out";
const UNHELD: &str = "batches whose extraction nobody holds";
const UNFINISHED: &str = "batches that should be finished";
const MISCOUNTED: &str = "batches whose counters differ from their rows";
const UNPROCESSABLE: &str = "batches that no worker can process";
const ORPHANED: &str = "objects without a batch";
const ACCEPTED: &str = "accepted uploads without a batch";
const UNREADABLE: &str = "uploads whose manifest cannot be read";

/// Looks, and writes nothing.
///
/// # Errors
/// When an engine fails.
pub async fn plan(services: &Services, policy: &ReconcilePolicy) -> Result<Plan, FlowError> {
    let now = services.clock.now();
    let store = &services.store;
    let stuck = store.sweep_plan(now, millis(policy.extraction_grace)).await?;
    let mismatches = store.count_mismatches(now - COUNTED_OVER).await?;
    let files = stored_files::look(services).await?;
    let unfinished = unfinished::look(services, now).await;
    let faults = store.faults().await?;
    let metrics = store.metrics(now).await?;
    let last_run = store.runs(1).await?.first().map(|run| run.started_at);
    let rows = |stuck: &[penstock_store::dispatch::StuckRows]| {
        stuck.iter().map(|one| one.rows as usize).sum::<usize>()
    };
    let enqueue = if policy.messages_reach_workers {
        "enqueue them"
    } else {
        "start `penstock dev`, or `penstock extract BATCH --manual-run`"
    };
    let expired = if stuck.expired_rows.iter().any(|one| one.unknown > 0) {
        "back to pending; those whose last call may have had its effect and must not be made twice fail as outcome_unknown"
    } else {
        "back to pending"
    };
    let by_apply = |what, count, repair, detail| Finding::new(what, count, repair, true, detail);
    let mut findings = vec![
        by_apply(LOST, rows(&stuck.lost_rows), "back to pending", json!(stuck.lost_rows)),
        by_apply(EXPIRED, rows(&stuck.expired_rows), expired, json!(stuck.expired_rows)),
        Finding::new(
            UNHELD,
            stuck.extractions.len(),
            enqueue,
            policy.messages_reach_workers,
            json!(stuck.extractions.iter().map(|(_, batch)| batch).collect::<Vec<_>>()),
        ),
        by_apply(UNFINISHED, stuck.finished.len(), "finish them", json!(stuck.finished)),
        by_apply(MISCOUNTED, mismatches.len(), "write what the rows say", json!(mismatches)),
        by_apply(ORPHANED, files.orphans.len(), "delete them", json!(files.orphans)),
    ];
    findings.extend(unfinished.findings());
    findings.extend(of_restores(&files));
    findings.extend(for_people(&faults, &metrics, last_run, now));
    Ok(Plan { findings, mismatches, files, unfinished })
}

/// What a database that was restored to an earlier time does not know.
fn of_restores(files: &StoredFiles) -> [Finding; 2] {
    [
        Finding::new(
            ACCEPTED,
            files.accepted.len(),
            "`penstock reconcile --adopt` makes their batches again (docs/how-to/restore.md)",
            false,
            json!(files.accepted),
        ),
        Finding::new(
            UNREADABLE,
            files.unreadable.len(),
            "they are kept: run this with the keyring and the database of the installation that accepted them",
            false,
            json!(files.unreadable),
        ),
    ]
}

/// What only people can repair.
fn for_people(
    faults: &[BatchFault],
    metrics: &Metrics,
    last_run: Option<Timestamp>,
    now: Timestamp,
) -> [Finding; 4] {
    let waiting = metrics.by_pipeline.iter().any(|(_, counts)| counts.pending > 0);
    let silent = waiting && last_run.is_none_or(|last| now.since(last) > RUNS_STOPPED);
    let by_people = |what, count, repair, detail| Finding::new(what, count, repair, false, detail);
    [
        by_people(
            UNPROCESSABLE,
            faults.len(),
            "give the workers what they lack: a batch goes on within seconds (docs/runbooks.md)",
            json!(faults),
        ),
        by_people(
            "callbacks that are due and nobody delivers",
            metrics.callbacks_overdue as usize,
            "start a worker (docs/runbooks.md)",
            json!([]),
        ),
        by_people(
            "callbacks that were given up",
            metrics.callbacks_exhausted_recently as usize,
            "fix the receiver, then POST /v2/callbacks/{id}/redeliver",
            json!([]),
        ),
        by_people(
            "dispatcher runs that stopped coming",
            usize::from(silent),
            "start the dispatcher (docs/runbooks.md)",
            json!(last_run.into_iter().collect::<Vec<_>>()),
        ),
    ]
}

/// Fixes what was planned, as far as it is still so.
///
/// # Errors
/// When an engine fails; what was fixed stays fixed.
pub async fn apply(
    services: &Services,
    policy: &ReconcilePolicy,
    plan: &mut Plan,
    actor: &str,
    _permission: &Permission,
) -> Result<(), FlowError> {
    let now = services.clock.now();
    // Before the sweep: it leaves batches alone whose counters do not bear what it would do.
    let mut counted = 0;
    for mismatch in &plan.mismatches {
        counted += usize::from(services.store.repair_counts(mismatch, actor, now).await?);
    }
    plan.applied(MISCOUNTED, counted);
    if plan.findings.iter().any(|finding| finding.what == EXPIRED && finding.count > 0) {
        // Who was silent may live: it gets the time in which it would be heard of.
        dead_workers::linger(services).await?;
    }
    let reclaimed = services.store.reclaim(ComeBack::Pending, now).await?;
    dead_workers::log(&reclaimed);
    let mut swept = services.store.sweep(now, millis(policy.extraction_grace), false).await?;
    swept.reclaimed(&reclaimed);
    plan.applied(LOST, swept.lost_rows as usize);
    plan.applied(EXPIRED, swept.expired_rows as usize);
    plan.applied(UNFINISHED, swept.finished as usize);
    if policy.messages_reach_workers {
        let messages: Vec<Message> =
            swept.extractions.into_iter().map(|batch| Message::Extract { batch }).collect();
        plan.applied(UNHELD, services.queue.enqueue(messages).await?.enqueued);
    }
    let deleted = stored_files::delete_orphans(services, &plan.files.orphans).await?;
    plan.applied(ORPHANED, deleted);
    let aborted = plan.unfinished.abort(services).await?;
    plan.applied(UNFINISHED_UPLOADS, aborted);
    let repairs: Vec<String> = plan
        .findings
        .iter()
        .filter(|finding| finding.applied > 0)
        .map(|finding| format!("{} {}", finding.applied, finding.what))
        .collect();
    if !repairs.is_empty() {
        let detail = Some(repairs.join("; "));
        let action = "reconcile.apply".to_owned();
        let entry = AuditEntry { id: 0, at: now, actor: actor.to_owned(), action, batch: None, detail };
        // What was done is done.
        if let Err(error) = services.store.audit(&entry).await {
            tracing::warn!(%error, action = entry.action, "not written to the audit log");
        }
    }
    Ok(())
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

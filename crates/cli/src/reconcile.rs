//! `penstock reconcile`: what is stuck, what would be done, and doing it.

use std::time::Duration;

use futures::TryStreamExt as _;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use penstock_app::StartError;
use penstock_flow::Engines;
use penstock_flow::dispatch::extraction_bell;
use serde_json::{Value, json};

use crate::open::{Opened, said};
use crate::output::Output;

/// Objects asked about in one statement.
const OBJECTS_AT_ONCE: usize = 500;

/// An object younger than this may belong to an upload that is still under way.
const YOUNG_SECONDS: i64 = 3600;

/// Only `--apply` makes one: whatever writes asks for it.
struct Permission;

struct Finding {
    what: &'static str,
    count: usize,
    repair: &'static str,
    detail: Value,
    /// Whether `--apply` mends it; if not, `repair` is for people.
    ours: bool,
}

/// Without a dispatcher run for so long, runs have stopped coming.
const RUNS_STOPPED: Duration = Duration::from_secs(300);

pub async fn run(opened: &Opened, apply: bool, out: Output) -> Result<bool, StartError> {
    let engines = &opened.chosen.engines;
    let policy = opened.chosen.dispatch_policy(&opened.settings);
    let grace = i64::try_from(policy.extraction_grace.as_millis()).unwrap_or(i64::MAX);
    let now = engines.clock.now();
    let plan = engines.store.sweep_plan(now, grace).await.map_err(said)?;
    let mismatches = engines.store.count_mismatches().await.map_err(said)?;
    let orphans = orphans(engines).await?;
    let figures = engines.store.figures(now).await.map_err(said)?;
    let last_run = engines.store.runs(1).await.map_err(said)?.first().map(|run| run.started_at);
    let waiting = figures.by_pipeline.iter().any(|(_, counts)| counts.pending > 0);
    let silent = waiting && last_run.is_none_or(|last| now.since(last) > RUNS_STOPPED);
    let findings = [
        Finding {
            what: "rows queued whose message was lost",
            count: plan.lost_rows as usize,
            repair: "back to pending",
            detail: json!(plan.lost_rows),
            ours: true,
        },
        Finding {
            what: "rows processing whose lease ran out",
            count: plan.expired_rows as usize,
            repair: "back to pending",
            detail: json!(plan.expired_rows),
            ours: true,
        },
        Finding {
            what: "batches whose extraction nobody holds",
            count: plan.extractions.len(),
            repair: "ring for them",
            detail: json!(plan.extractions),
            ours: true,
        },
        Finding {
            what: "batches that should be finished",
            count: plan.finished as usize,
            repair: "finish them",
            detail: json!(plan.finished),
            ours: true,
        },
        Finding {
            what: "batches whose counters differ from their rows",
            count: mismatches.len(),
            repair: "write what the rows say",
            detail: json!(mismatches),
            ours: true,
        },
        Finding {
            what: "objects without a batch",
            count: orphans.len(),
            repair: "delete them",
            detail: json!(orphans),
            ours: true,
        },
        Finding {
            what: "callbacks that were given up",
            count: figures.callbacks_exhausted_recently as usize,
            repair: "mend the receiver, then POST /v2/callbacks/{id}/redeliver",
            detail: json!(figures.callbacks_exhausted_recently),
            ours: false,
        },
        Finding {
            what: "dispatcher runs that stopped coming",
            count: usize::from(silent),
            repair: "start the dispatcher (docs/runbooks.md)",
            detail: json!(last_run),
            ours: false,
        },
    ];
    let planned: usize = findings.iter().filter(|finding| finding.ours).map(|finding| finding.count).sum();
    let mut applied = 0;
    if apply {
        applied = repair(engines, &Permission, grace, &mismatches, &orphans).await?;
    }
    let report: Vec<Value> = findings
        .iter()
        .map(|finding| json!({ "what": finding.what, "count": finding.count, "repair": finding.repair, "by_apply": finding.ours, "detail": finding.detail }))
        .collect();
    let overtaken = if apply { planned.saturating_sub(applied) } else { 0 };
    let value = json!({ "findings": report, "planned": planned, "applied": applied, "overtaken": overtaken });
    out.say(&value, || {
        let mut lines: Vec<String> = findings
            .iter()
            .filter(|finding| finding.count > 0)
            .map(|finding| format!("{:>8}  {}: {}", finding.count, finding.what, finding.repair))
            .collect();
        if lines.is_empty() {
            lines.push("nothing is stuck".to_owned());
        }
        if apply {
            lines.push(format!("planned {planned}, applied {applied}, overtaken {overtaken}"));
        } else if planned > 0 {
            lines.push("nothing was written; --apply does it".to_owned());
        }
        lines.join("\n")
    });
    Ok(true)
}

/// Every repair keeps its own guard: a plan that is stale by now does nothing.
async fn repair(
    engines: &Engines,
    _permission: &Permission,
    grace: i64,
    mismatches: &[penstock_store::operations::CountMismatch],
    orphans: &[String],
) -> Result<usize, StartError> {
    let now = engines.clock.now();
    let swept = engines.store.sweep(now, grace, false).await.map_err(said)?;
    let mut applied = (swept.lost_rows + swept.expired_rows + swept.finished) as usize;
    let bells: Vec<_> = swept.extractions.iter().map(|batch| extraction_bell(*batch)).collect();
    if !bells.is_empty() {
        applied += engines.bell.ring(bells).await.map_err(said)?.rung;
    }
    for mismatch in mismatches {
        applied += usize::from(engines.store.repair_counts(mismatch, now).await.map_err(said)?);
    }
    // Asked again right before: a batch may have been made meanwhile.
    for group in orphans.chunks(OBJECTS_AT_ONCE) {
        let known = engines.store.known_objects(group).await.map_err(said)?;
        for key in group.iter().filter(|key| !known.contains(key)) {
            match engines.objects.delete(&Path::from(key.as_str())).await {
                Ok(()) => applied += 1,
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(said(error)),
            }
        }
    }
    Ok(applied)
}

async fn orphans(engines: &Engines) -> Result<Vec<String>, StartError> {
    let now = engines.clock.now().seconds();
    let mut listed = engines.objects.list(Some(&Path::from("owners")));
    let mut group = Vec::new();
    let mut orphans = Vec::new();
    loop {
        let next = listed.try_next().await.map_err(said)?;
        let ended = next.is_none();
        if let Some(meta) = next
            && now - meta.last_modified.timestamp() > YOUNG_SECONDS
        {
            group.push(meta.location.to_string());
        }
        if group.len() == OBJECTS_AT_ONCE || (ended && !group.is_empty()) {
            let known = engines.store.known_objects(&group).await.map_err(said)?;
            orphans.extend(group.drain(..).filter(|key| !known.contains(key)));
        }
        if ended {
            return Ok(orphans);
        }
    }
}

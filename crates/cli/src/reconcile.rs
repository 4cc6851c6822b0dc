//! `penstock reconcile`: what is stuck, what would be done, and doing it.

use penstock_app::StartError;
use penstock_flow::operate::adopt::{self, Adopted, Adoption};
use penstock_flow::operate::finding::Finding;
use penstock_flow::operate::reconcile;
use penstock_flow::operate::reconcile::{Permission, ReconcilePolicy};
use serde_json::json;

use crate::open::{Opened, operator_name, said};
use crate::output::Output;

/// Batches that a line names, at most; `--json` has all.
const NAMED: usize = 5;

pub async fn run(opened: &Opened, apply: bool, adopt: bool, out: Output) -> Result<bool, StartError> {
    let services = &opened.chosen.services;
    let policy = ReconcilePolicy {
        extraction_grace: opened.chosen.dispatch_policy(&opened.settings).extraction_grace,
        messages_reach_workers: !opened.chosen.local,
    };
    let mut plan = reconcile::plan(services, &policy).await.map_err(said)?;
    let planned = plan.planned();
    let mut adopted = Vec::new();
    if let Some(permission) = Permission::from_apply_flag(adopt) {
        let actor = operator_name();
        adopted = adopt::adopt(services, &policy, &plan, &actor, &permission).await.map_err(said)?;
    }
    if let Some(permission) = Permission::from_apply_flag(apply) {
        reconcile::apply(services, &policy, &mut plan, &operator_name(), &permission).await.map_err(said)?;
    }
    let sum = |of: fn(&Finding) -> usize| plan.findings.iter().map(of).sum::<usize>();
    let (applied, overtaken) = (sum(|finding| finding.applied), sum(|finding| finding.overtaken));
    let value = json!({
        "findings": plan.findings, "planned": planned, "applied": applied, "overtaken": overtaken, "adopted": adopted
    });
    out.say(&value, || {
        let mut lines: Vec<String> = Vec::new();
        for finding in plan.findings.iter().filter(|finding| finding.count > 0) {
            lines.push(format!("{:>8}  {}: {}", finding.count, finding.what, finding.repair));
            lines.extend(named(finding));
        }
        if lines.is_empty() {
            lines.push("nothing is stuck".to_owned());
        }
        lines.extend(adopted.iter().map(line));
        if apply {
            lines.push(format!("planned {planned}, applied {applied}, overtaken {overtaken}"));
        } else if planned > 0 {
            lines.push("nothing was written; --apply does it".to_owned());
        }
        lines.join("\n")
    });
    Ok(true)
}

/// What became of an upload.
fn line(adopted: &Adopted) -> String {
    let Adopted { batch, owner, pipeline, adoption } = adopted;
    let what = match adoption {
        Adoption::Runs => "made again".to_owned(),
        Adoption::Paused => {
            format!(
                "made again, and paused: calls without an idempotency key may have been made. Then: penstock batches resume {batch}"
            )
        }
        Adoption::SentAgain => "not made again: its Idempotency-Key has another batch by now".to_owned(),
        Adoption::Overtaken => "not made again: something else was faster".to_owned(),
    };
    format!("{batch} of {owner} ({pipeline}): {what}")
}

/// Which ones: a batch (with its rows), an object (with the time since which its upload has no end), a time.
fn named(finding: &Finding) -> Vec<String> {
    let all = finding.detail.as_array().map(Vec::as_slice).unwrap_or_default();
    let one = |detail: &serde_json::Value| match (detail["batch"].as_str(), detail["rows"].as_u64()) {
        (Some(batch), Some(rows)) => format!("          {batch}: {rows} rows"),
        (Some(batch), None) => format!("          {batch}"),
        _ => match (detail["object"].as_str(), detail["started_at"].as_str()) {
            (Some(object), Some(started)) => format!("          {object}, begun at {started}"),
            _ => format!("          {}", detail.as_str().unwrap_or_default()),
        },
    };
    let mut lines: Vec<String> = all.iter().take(NAMED).map(one).collect();
    if all.len() > NAMED {
        lines.push(format!("          and {} more (--json lists all)", all.len() - NAMED));
    }
    lines
}

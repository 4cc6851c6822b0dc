//! What a worker does, by hand: extraction, one row, pruning.

use std::io::IsTerminal as _;
use std::time::Duration;

use penstock_app::StartError;
use penstock_app::engines::process_name;
use penstock_flow::extract::{self, Extracted};
use penstock_flow::process::observe::{Observer, StepSeen};
use penstock_flow::process::single::{self, Single};
use penstock_flow::retention::{self, Retention};
use penstock_store::operations::AuditEntry;
use penstock_store::work::Settled;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::open::{Opened, operator_name, said};
use crate::output::Output;

/// `penstock extract BATCH --manual-run`.
pub async fn extract(opened: &Opened, batch: &str, out: Output) -> Result<bool, StartError> {
    let batch = opened.batch(batch).await?;
    let engines = &opened.chosen.engines;
    let policy = opened.chosen.extract_policy(process_name("extract"));
    let stop = CancellationToken::new();
    let show = std::io::stderr().is_terminal();
    let done = extract::extract(engines, &policy, batch.seq, true, &stop, &mut |batch, at| {
        if show {
            eprint!("\r{} of {} rows", at.rows, batch.ledger.counts.total);
        }
    })
    .await
    .map_err(said)?;
    if show {
        eprintln!();
    }
    let (good, value, sentence) = match done {
        Extracted::Done(batch) => {
            let rows = batch.ledger.counts.total;
            (true, json!({ "done": true, "rows": rows }), format!("{rows} rows are in the database"))
        }
        Extracted::Failed(batch) => {
            let reason = batch.failure.unwrap_or_default();
            (
                false,
                json!({ "done": false, "failure": reason }),
                format!("the file cannot be extracted: {reason}"),
            )
        }
        Extracted::Held { holder, until } => (
            false,
            json!({ "done": false, "held_by": holder, "until": until }),
            format!("{holder} extracts this batch; its lease lasts until {until}"),
        ),
        Extracted::NotExtractable(batch) => {
            let status = batch.ledger.status.name();
            (
                false,
                json!({ "done": false, "status": status }),
                format!("the batch is {status}; there is nothing to extract"),
            )
        }
        Extracted::Stopped => {
            (false, json!({ "done": false }), "it was stopped at its checkpoint".to_owned())
        }
    };
    out.say(&value, || sentence);
    Ok(good)
}

/// Prints each step as it ends.
struct Printer {
    reveal: bool,
}

impl Observer for Printer {
    fn step(&self, seen: &StepSeen<'_>) {
        let path = if self.reveal { seen.path } else { "…" };
        let status = seen.status.map_or("no answer".to_owned(), |status| status.to_string());
        eprintln!("{}: {} {path} → {status} in {} ms", seen.step, seen.method, seen.elapsed.as_millis());
    }
}

/// `penstock process-row BATCH ROW`.
pub async fn process_row(
    opened: &Opened,
    batch: &str,
    number: u32,
    reveal: bool,
    out: Output,
) -> Result<bool, StartError> {
    let batch = opened.batch(batch).await?;
    let chosen = &opened.chosen;
    let engines = &chosen.engines;
    if reveal {
        let entry = AuditEntry {
            at: engines.clock.now(),
            actor: operator_name(),
            action: "row.reveal".into(),
            batch: Some(batch.id),
            detail: Some(format!("row {number}")),
        };
        engines.store.audit(&entry).await.map_err(said)?;
    }
    let holder = process_name("process-row");
    let done = single::process_row(
        engines,
        &chosen.caller,
        &batch,
        number,
        &holder,
        chosen.lease,
        &Printer { reveal },
    )
    .await
    .map_err(said)?;
    let (good, outcome, sentence) = match done {
        Single::Ran { outcome: Settled::Completed { .. }, .. } => {
            (true, "completed", "the row is completed".to_owned())
        }
        Single::Ran { outcome: Settled::Failed(trouble), .. } => {
            (false, "failed", format!("the row failed: {}", trouble.code))
        }
        Single::Ran { outcome: Settled::GivenBack { not_before, trouble, .. }, .. } => {
            let why = trouble.map_or(String::new(), |trouble| format!(" ({})", trouble.code));
            (false, "pending", format!("the row waits until {not_before}{why}"))
        }
        Single::Held { holder, until } => (false, "held", format!("{holder} holds the row until {until}")),
        Single::NotRunnable(status) => {
            (false, status.name(), format!("the row is {}, and its batch lets nothing run", status.name()))
        }
        Single::NoSuchRow => (false, "not_found", format!("the batch has no row {number}")),
        Single::LeaseLost => (false, "lease_lost", "the lease was lost; nothing was written".to_owned()),
    };
    out.say(&json!({ "outcome": outcome, "sentence": sentence }), || sentence.clone());
    Ok(good)
}

/// `penstock prune`.
pub async fn prune(opened: &Opened, out: Output) -> Result<bool, StartError> {
    let days = |days: Option<u32>| days.map(|days| Duration::from_secs(u64::from(days) * 24 * 3600));
    let retention = Retention {
        erase_after: days(opened.settings.erase_after_days),
        delete_after: days(opened.settings.delete_after_days),
    };
    let pruned =
        retention::prune(&opened.chosen.engines, &retention, &operator_name()).await.map_err(said)?;
    out.say(&pruned, || {
        format!(
            "erased {}, deleted {}, dropped {} unused uploads",
            pruned.erased, pruned.deleted, pruned.uploads
        )
    });
    Ok(true)
}

//! What a worker does, by hand: extraction, one row, pruning.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};

use penstock_app::StartError;
use penstock_app::services::process_name;
use penstock_domain::exchange::Exchange;
use penstock_domain::ids::BatchId;
use penstock_flow::extract::run;
use penstock_flow::extract::run::Extracted;
use penstock_flow::operate::retention;
use penstock_flow::read::row_view::revealed_row_view;
use penstock_flow::telemetry::traces;
use penstock_flow::worker::observe::{Observer, StepSeen};
use penstock_flow::worker::single;
use penstock_flow::worker::single::Single;
use penstock_store::batches::Batch;
use penstock_store::work::Settled;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::open::{Opened, operator_name, said};
use crate::output::Output;

/// `penstock extract BATCH --manual-run`.
pub async fn extract(opened: &Opened, batch: BatchId, out: Output) -> Result<bool, StartError> {
    let batch = opened.batch(batch).await?;
    opened.audit("batch.extract", Some(batch.id), None).await?;
    let services = &opened.chosen.services;
    let policy = opened.chosen.extract_policy(process_name("extract"));
    let stop = CancellationToken::new();
    let show = std::io::stderr().is_terminal();
    let done = run::extract(services, &policy, batch.seq, true, &stop, &mut |batch, at| {
        if show {
            eprint!("\r{} of {} rows", at.rows, batch.ledger.counts.total);
        }
    })
    .instrument(traces::extraction(services.traces.as_ref(), batch.id.0))
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
        Extracted::Hopeless(why) => (false, json!({ "done": false, "reason": why }), why),
        Extracted::Erased => (
            false,
            json!({ "done": false, "status": "cancelled" }),
            "the batch was erased; there is nothing to extract any more".to_owned(),
        ),
        Extracted::Stopped => {
            (false, json!({ "done": false }), "it was stopped at its checkpoint".to_owned())
        }
    };
    out.say(&value, || sentence);
    Ok(good)
}

/// Tells each step as it ends: at once for people, all of them at the end for programs.
struct Printer {
    reveal: bool,
    out: Output,
    steps: Mutex<Vec<Value>>,
}

impl Observer for Printer {
    fn step(&self, seen: &StepSeen<'_>) {
        let path = if self.reveal { seen.path } else { seen.path_template };
        if !self.out.json {
            let status = seen.status.map_or("no answer".to_owned(), |status| status.to_string());
            let cause = seen.failure.map_or(String::new(), |failure| format!(": {}", failure.sentence));
            let milliseconds = seen.elapsed.as_millis();
            println!("{}: {} {path} → {status} in {milliseconds} ms{cause}", seen.step, seen.method);
        }
        let step = json!({
            "step": seen.step, "method": seen.method, "path": path, "status": seen.status, "code": seen.verdict.code(),
            "cause": seen.failure.map(|failure| failure.cause.name()),
            "milliseconds": u64::try_from(seen.elapsed.as_millis()).unwrap_or(u64::MAX),
        });
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).push(step);
    }
}

/// Said when the limits live in this process: those of a `penstock dev` beside it are not known here.
const OWN_LIMITS: &str = "limits are kept by each process here: what was called just now came on top of the calls of a \
                          `penstock dev` that runs beside it";

/// What came of it: whether it is good, a word for programs, and a sentence.
fn described(done: Single, batch: &Batch, number: u32) -> (bool, &'static str, String) {
    match done {
        Single::Ran { outcome: Settled::Completed { .. }, .. } => {
            (true, "completed", "the row is completed".to_owned())
        }
        Single::Ran { outcome: Settled::Duplicate { .. }, .. } => (
            true,
            "completed",
            "the row is completed without a call: another batch has completed its key".to_owned(),
        ),
        Single::Ran { outcome: Settled::Failed(trouble), .. } => {
            (false, "failed", format!("the row failed: {}", trouble.shown_code()))
        }
        Single::Ran { outcome: Settled::Requeued { not_before, trouble, .. }, .. } => {
            let why = trouble.map_or(String::new(), |trouble| format!(" ({})", trouble.shown_code()));
            (false, "pending", format!("the row waits until {not_before}{why}"))
        }
        Single::Held { holder, until } => (false, "held", format!("{holder} holds the row until {until}")),
        Single::Ended(status) => (
            false,
            status.name(),
            format!("the row is {} already; only a retry takes it up again", status.name()),
        ),
        Single::BatchDoesNotRun => (
            false,
            "batch_does_not_run",
            format!(
                "the batch is {}{}; none of its rows can be run",
                batch.ledger.status.name(),
                if batch.ledger.cancelled_at.is_some() { " and cancelled" } else { "" }
            ),
        ),
        Single::InCall => (
            false,
            "in_call",
            "the row was recorded for a call with other rows, which had no answer yet; a worker makes that call again with all of them".to_owned(),
        ),
        Single::NoSuchRow => (false, "not_found", format!("the batch has no row {number}")),
        Single::LeaseLost => (false, "lease_lost", "the lease was lost; nothing was written".to_owned()),
    }
}

/// What was sent last at the step that failed, and what was answered, as HTTP/1.1 writes them.
fn exchanged(sent: &Exchange) -> String {
    let message = |first: String, headers: &BTreeMap<String, String>, body: Option<&String>| {
        let mut text = first;
        for (name, value) in headers {
            let _ = write!(text, "\n{name}: {value}");
        }
        if let Some(body) = body {
            let _ = write!(text, "\n\n{body}");
        }
        text
    };
    let request = message(format!("{} {}", sent.method, sent.target), &sent.headers, sent.body.as_ref());
    let answer = sent.answer.as_ref().map_or("→ no answer".to_owned(), |answer| {
        message(format!("→ {}", answer.status), &answer.headers, answer.body.as_ref())
    });
    format!("{request}\n\n{answer}")
}

/// `penstock process-row BATCH ROW`.
pub async fn process_row(
    opened: &Opened,
    batch: BatchId,
    number: u32,
    reveal: bool,
    out: Output,
) -> Result<bool, StartError> {
    let batch = opened.batch(batch).await?;
    let chosen = &opened.chosen;
    let services = &chosen.services;
    // Written down before anything is done or shown.
    let action = if reveal { "row.process_and_reveal" } else { "row.process" };
    opened.audit(action, Some(batch.id), format!("row {number}")).await?;
    let holder = process_name("process-row");
    let printer = Printer { reveal, out, steps: Mutex::default() };
    let done =
        single::process_row(services, &chosen.caller, &batch, number, &holder, chosen.silence, &printer)
            .await
            .map_err(said)?;
    let note = (chosen.local && matches!(done, Single::Ran { .. })).then_some(OWN_LIMITS);
    let (good, outcome, mut sentence) = described(done, &batch, number);
    let steps = printer.steps.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut value = json!({ "outcome": outcome, "sentence": sentence, "steps": steps });
    if reveal && let Some(record) = services.store.row(batch.seq, number).await.map_err(said)? {
        let secrets = services.secrets_of(&batch).await.map_err(said)?;
        let pipeline = services.definition_of(&batch).await.ok();
        let row = revealed_row_view(&secrets, pipeline.as_deref(), &record);
        if let Some(result) = &row.result {
            sentence = format!("{sentence}: {result}");
        }
        match (&row.sent, row.error.as_ref().and_then(|error| error.detail.as_ref())) {
            (Some(sent), _) => sentence = format!("{sentence}\n\n{}", exchanged(sent)),
            (None, Some(detail)) => sentence = format!("{sentence}: {detail}"),
            (None, None) => {}
        }
        value["row"] = json!(row);
    }
    if let Some(note) = note {
        value["note"] = note.into();
        if !out.json {
            eprintln!("{note}");
        }
    }
    out.say(&value, || sentence);
    Ok(good)
}

/// `penstock prune`.
pub async fn prune(opened: &Opened, out: Output) -> Result<bool, StartError> {
    let retention = opened.settings.retention();
    let pruned =
        retention::prune(&opened.chosen.services, &retention, &operator_name()).await.map_err(said)?;
    out.say(&pruned, || {
        format!(
            "erased {}, deleted {}, dropped {} unused uploads",
            pruned.erased, pruned.deleted, pruned.uploads
        )
    });
    Ok(true)
}

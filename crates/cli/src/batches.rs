//! `penstock batches …`.

use clap::Subcommand;
use penstock_app::StartError;
use penstock_app::owner_name::owner_name;
use penstock_domain::batch::BatchStatus;
use penstock_domain::ids::BatchId;
use penstock_domain::time::Timestamp;
use penstock_flow::context::pace::Pace;
use penstock_flow::operate::control;
use penstock_flow::read::view::{BatchView, batch_view, clear_failure, describe_now, done_view};
use penstock_store::batches::{Batch, BatchFilter};
use penstock_store::control::RetrySelection;
use serde_json::{Value, json};

use crate::open::{Opened, batch_id, operator_name, said};
use crate::output::Output;

#[derive(Subcommand)]
pub enum Command {
    /// Lists batches, newest first
    List {
        /// Only in these states, separated by commas
        #[arg(long, value_delimiter = ',', value_parser = status)]
        status: Vec<BatchStatus>,
        /// Only of this owner
        #[arg(long, value_parser = owner_name)]
        owner: Option<String>,
        /// Only of this pipeline
        #[arg(long)]
        pipeline: Option<String>,
        /// Only those created at or after this time, such as 2026-11-24T08:00:00Z
        #[arg(long, value_parser = moment)]
        created_from: Option<Timestamp>,
        /// Only those created before this time
        #[arg(long, value_parser = moment)]
        created_to: Option<Timestamp>,
        /// Only those older than this batch: the last one of the page before
        #[arg(long, value_parser = batch_id)]
        before: Option<BatchId>,
        /// At most this many
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Shows a batch
    Show {
        /// The batch
        #[arg(value_parser = batch_id)]
        batch: BatchId,
    },
    /// Cancels a batch
    Cancel {
        /// The batch
        #[arg(value_parser = batch_id)]
        batch: BatchId,
    },
    /// Pauses a batch
    Pause {
        /// The batch
        #[arg(value_parser = batch_id)]
        batch: BatchId,
    },
    /// Resumes a paused or held batch
    Resume {
        /// The batch
        #[arg(value_parser = batch_id)]
        batch: BatchId,
    },
    /// Retries failed rows, and cancelled ones on request
    Retry {
        /// The batch
        #[arg(value_parser = batch_id)]
        batch: BatchId,
        /// Retries cancelled rows too
        #[arg(long)]
        cancelled: bool,
        /// Does not retry failed rows
        #[arg(long, requires = "cancelled", conflicts_with_all = ["code", "row"])]
        no_failed: bool,
        /// Only failed rows with this code; can be given several times
        #[arg(long)]
        code: Vec<String>,
        /// Only this failed row, by its number; can be given several times
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        row: Vec<u32>,
        /// Continues the batch, which has ended, with the pipeline's current definition instead of the one it was uploaded under
        #[arg(long)]
        current_definition: bool,
    },
    /// Erases a batch's data key, file and payloads
    Erase {
        /// The batch
        #[arg(value_parser = batch_id)]
        batch: BatchId,
        /// Required: this cannot be undone
        #[arg(long, required = true)]
        yes: bool,
    },
}

fn status(text: &str) -> Result<BatchStatus, String> {
    text.parse().map_err(|error: penstock_domain::row::UnknownName| error.to_string())
}

fn moment(text: &str) -> Result<Timestamp, String> {
    serde_json::from_value(json!(text)).map_err(|_| "write it as 2026-11-24T08:00:00Z".to_owned())
}

async fn say_retried(opened: &Opened, batch: &Batch, rows: u32, out: Output) {
    let view = done_view(&opened.chosen.services, batch, opened.settings.rows_per_owner).await;
    let mut value = with_owner(batch, &view);
    value["retried"] = rows.into();
    out.say(&value, || format!("{rows} rows go back\n{}", told(batch, &view)));
}

pub async fn run(opened: &Opened, command: Command, out: Output) -> Result<bool, StartError> {
    let services = &opened.chosen.services;
    let store = &services.store;
    let actor = operator_name();
    let now = services.clock.now();
    let batch = match command {
        Command::List { status, owner, pipeline, created_from, created_to, before, limit } => {
            let filter = BatchFilter {
                status,
                pipelines: pipeline.into_iter().collect(),
                created_from,
                created_to,
                limit,
                ..BatchFilter::default()
            };
            return list(opened, filter, owner, before, out).await;
        }
        Command::Show { batch } => {
            let batch = opened.batch(batch).await?;
            let view = batch_view(services, &batch, opened.settings.rows_per_owner).await.map_err(said)?;
            out.say(&with_owner(&batch, &view), || told(&batch, &view));
            return Ok(true);
        }
        Command::Cancel { batch } => {
            let batch = opened.batch(batch).await?;
            store.cancel(batch.seq, &actor, now).await.map_err(said)?
        }
        Command::Pause { batch } => {
            let batch = opened.batch(batch).await?;
            store.pause(batch.seq, &actor, now).await.map_err(said)?
        }
        Command::Resume { batch } => {
            let batch = opened.batch(batch).await?;
            store.resume(batch.seq, &actor, now).await.map_err(said)?
        }
        Command::Retry { batch, cancelled, no_failed, code, row, current_definition } => {
            let batch = opened.batch(batch).await?;
            let selection = RetrySelection {
                failed: !no_failed,
                cancelled,
                codes: code,
                numbers: row,
                ..RetrySelection::default()
            };
            let retried = control::retry(services, &batch, selection, current_definition, &actor).await;
            let (batch, rows) = retried.map_err(said)?;
            say_retried(opened, &batch, rows, out).await;
            return Ok(true);
        }
        Command::Erase { batch, .. } => {
            let batch = opened.batch(batch).await?;
            control::erase(services, &batch, &actor).await.map_err(said)?
        }
    };
    let view = done_view(services, &batch, opened.settings.rows_per_owner).await;
    out.say(&with_owner(&batch, &view), || told(&batch, &view));
    Ok(true)
}

/// What the API shows to an owner, and whose it is.
fn with_owner(batch: &Batch, view: &BatchView) -> Value {
    let mut value = json!(view);
    value["owner"] = batch.owner_name.clone().into();
    value
}

fn told(batch: &Batch, view: &BatchView) -> String {
    let counts = &view.counts;
    let mut lines = vec![
        format!(
            "{} ({}, owner {}, run {}): {}{}{}, {} %",
            view.id,
            view.pipeline,
            batch.owner_name,
            view.run,
            view.status.name(),
            view.outcome.map_or(String::new(), |outcome| format!(", {}", outcome.name())),
            if view.paused { ", paused" } else { "" },
            view.progress,
        ),
        format!(
            "  total {}, pending {}, queued {}, processing {}, completed {}, failed {}, cancelled {}",
            counts.total,
            counts.pending,
            counts.queued,
            counts.processing,
            counts.completed,
            counts.failed,
            counts.cancelled
        ),
    ];
    if let Some(reason) = &view.held_reason {
        lines.push(format!("  held: {reason}"));
    }
    if let Some(failure) = &view.failure {
        let message = failure["message"].as_str().or(failure["code"].as_str()).unwrap_or_default();
        lines.push(format!("  failure: {message}"));
        for error in failure["errors"].as_array().into_iter().flatten().take(5) {
            let column = error["column"].as_str().map_or(String::new(), |column| format!(", {column}"));
            lines.push(format!(
                "    line {}{column}: {}",
                error["line"],
                error["message"].as_str().unwrap_or_default()
            ));
        }
    }
    lines.extend(view.eta.map(|eta| format!("  done by {eta} at this pace")));
    lines.extend(view.notice.iter().map(|notice| format!("  {notice}")));
    lines.join("\n")
}

async fn list(
    opened: &Opened,
    mut filter: BatchFilter,
    owner: Option<String>,
    before: Option<BatchId>,
    out: Output,
) -> Result<bool, StartError> {
    let services = &opened.chosen.services;
    if let Some(name) = owner {
        let owners = services.store.owners().await.map_err(said)?;
        let owner = owners.into_iter().find(|owner| owner.name == name);
        filter.owner = Some(owner.ok_or_else(|| StartError::new(format!("there is no owner {name}")))?.seq);
    }
    if let Some(before) = before {
        filter.before = Some(opened.batch(before).await?.seq);
    }
    let batches = services.store.list_batches(&filter).await.map_err(said)?.batches;
    let rows: Vec<Vec<String>> = batches
        .iter()
        .map(|batch| {
            let counts = &batch.ledger.counts;
            vec![
                batch.id.to_string(),
                batch.owner_name.clone(),
                batch.pipeline.clone(),
                batch.ledger.status.name().to_owned(),
                format!("{} %", batch.ledger.progress()),
                counts.total.to_string(),
                counts.failed.to_string(),
            ]
        })
        .collect();
    let pace = Pace::of(services, opened.settings.rows_per_owner).await.map_err(said)?;
    let mut views: Vec<Value> = Vec::with_capacity(batches.len());
    for batch in &batches {
        views.push(with_owner(batch, &describe_now(services, batch, &pace, clear_failure(batch)).await));
    }
    out.table(&views, &["BATCH", "OWNER", "PIPELINE", "STATUS", "DONE", "ROWS", "FAILED"], &rows);
    Ok(true)
}

//! Why a batch or a row waits, and when it moves next.

use std::time::Duration;

use penstock_domain::batch::BatchStatus;
use penstock_domain::limit::BreakerState;
use penstock_domain::row::RowStatus;
use penstock_domain::time::Timestamp;
use penstock_downstream::Caller;
use penstock_store::batches::{Batch, BatchFilter};
use serde::Serialize;
use utoipa::ToSchema;

use crate::engines::Engines;
use crate::error::FlowError;

/// Runs of the dispatcher are expected this far apart.
const RUN_EVERY: Duration = Duration::from_secs(60);

/// One thing that is waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Wait {
    /// For programs: `paused`, `owner_quota`, `backoff`, `breaker_open`, …
    pub reason: String,
    /// For people.
    pub sentence: String,
    /// When it moves next, where that can be told.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
}

fn wait(reason: &str, sentence: impl Into<String>, until: Option<Timestamp>) -> Wait {
    Wait { reason: reason.to_owned(), sentence: sentence.into(), until }
}

/// Everything that a batch (or one row of it) waits for. Never empty.
///
/// # Errors
/// When the database fails.
pub async fn explain(
    engines: &Engines,
    caller: Option<&Caller>,
    batch: &Batch,
    row: Option<u32>,
    rows_per_owner: u32,
) -> Result<Vec<Wait>, FlowError> {
    let mut waits = Vec::new();
    let next_run = next_run(engines).await?;
    match batch.ledger.status {
        BatchStatus::Pending => {
            waits.push(wait("extraction", "its file waits for a worker to extract it", next_run))
        }
        BatchStatus::Processing => waits.push(wait("extraction", "a worker extracts its file", None)),
        BatchStatus::Completed | BatchStatus::Cancelled | BatchStatus::Failed => {
            waits.push(wait("ended", format!("the batch is {}", batch.ledger.status.name()), None));
        }
        BatchStatus::Queued => running(engines, caller, batch, rows_per_owner, next_run, &mut waits).await?,
    }
    if let Some(number) = row {
        let found = one_row(engines, batch, number, next_run).await?;
        waits.insert(0, found);
    }
    if waits.is_empty() {
        waits.push(wait("next_run", "its rows are released by the next dispatcher run", next_run));
    }
    Ok(waits)
}

async fn next_run(engines: &Engines) -> Result<Option<Timestamp>, FlowError> {
    let last = engines.store.runs(1).await?.into_iter().next();
    Ok(last.map(|run| (run.started_at + RUN_EVERY).max(engines.clock.now())))
}

async fn running(
    engines: &Engines,
    caller: Option<&Caller>,
    batch: &Batch,
    rows_per_owner: u32,
    next_run: Option<Timestamp>,
    waits: &mut Vec<Wait>,
) -> Result<(), FlowError> {
    let ledger = &batch.ledger;
    if ledger.cancelled_at.is_some() {
        waits.push(wait("cancelling", "it is being cancelled; its last rows in flight end", None));
        return Ok(());
    }
    if ledger.paused {
        waits.push(wait("paused", "somebody paused it; `resume` lets it go on", None));
    }
    if ledger.held {
        waits.push(wait("held", "too many of its rows failed; `resume` or `cancel` it", None));
    }
    let owners = engines.store.owners().await?;
    let quota = owners
        .iter()
        .find(|owner| owner.seq == batch.owner)
        .and_then(|owner| owner.rows)
        .unwrap_or(rows_per_owner);
    let filter = BatchFilter {
        owner: Some(batch.owner),
        status: vec![BatchStatus::Queued],
        limit: 1000,
        ..BatchFilter::default()
    };
    let siblings = engines.store.list_batches(&filter).await?;
    let in_flight: u32 =
        siblings.iter().map(|one| one.ledger.counts.queued + one.ledger.counts.processing).sum();
    if in_flight >= quota && ledger.counts.pending > 0 {
        let others = siblings.len() - 1;
        waits.push(wait(
            "owner_quota",
            format!("the owner's quota of {quota} rows is in flight ({in_flight}), shared with {others} other batches"),
            next_run,
        ));
    }
    if ledger.returned() > 0 && ledger.fresh() == 0 {
        let due = engines.store.next_due(batch.seq).await?;
        waits.push(wait(
            "backoff",
            format!("{} rows came back and wait for their time", ledger.returned()),
            due,
        ));
    }
    if let (Some(caller), Some(pipeline)) = (caller, engines.pipelines.get(&batch.pipeline)) {
        for dependency in &pipeline.dependencies {
            let Some(gate) = caller.peek(dependency, &batch.owner_name).await else { continue };
            let now = engines.clock.now();
            if gate.breaker != BreakerState::Closed {
                waits.push(wait(
                    "breaker_open",
                    format!("the breaker of `{}` is open: too many of its calls failed", dependency.name),
                    Some(now + gate.free_in),
                ));
            } else if !gate.paused_for.is_zero() {
                waits.push(wait(
                    "throttled",
                    format!("`{}` asked to be left alone", dependency.name),
                    Some(now + gate.paused_for),
                ));
            } else if gate.free_in > Duration::from_secs(1) {
                waits.push(wait(
                    "rate_limited",
                    format!("the rate of `{}` is used up", dependency.name),
                    Some(now + gate.free_in),
                ));
            }
        }
    }
    Ok(())
}

async fn one_row(
    engines: &Engines,
    batch: &Batch,
    number: u32,
    next_run: Option<Timestamp>,
) -> Result<Wait, FlowError> {
    let Some(record) = engines.store.row(batch.seq, number).await? else {
        return Ok(wait("no_such_row", format!("the batch has no row {number} (yet)"), None));
    };
    let why = record.code.as_deref().map_or(String::new(), |code| format!(", last because of {code}"));
    Ok(match record.status {
        RowStatus::Pending => {
            let until = record.not_before.filter(|at| *at > engines.clock.now()).or(next_run);
            wait("pending", format!("row {number} waits to be released{why}"), until)
        }
        RowStatus::Queued => {
            wait("queued", format!("row {number} is on its way to a worker"), record.queued_until)
        }
        RowStatus::Processing => {
            let holder = record.holder.unwrap_or_default();
            wait("processing", format!("row {number} runs on {holder}"), record.lease_until)
        }
        ended => wait("ended", format!("row {number} is {}{why}", ended.name()), None),
    })
}

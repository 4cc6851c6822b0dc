//! What a client sees of a batch.

use std::time::Duration;

use penstock_domain::batch::{BatchStatus, Counts, Outcome};
use penstock_domain::ledger::{Hold, Ledger};
use penstock_domain::time::Timestamp;
use penstock_store::batches::Batch;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::context::error::FlowError;
use crate::context::limits_view::Standstill;
use crate::context::pace::Pace;
use crate::context::secrets::SecretLocation;
use crate::context::services::Services;
use crate::read::allowed::{Allowance, Beside, EstimateView, estimate};
use crate::read::eta;
use crate::read::row_view::row_view;

/// What a view needs is waited for no longer when something was done: the answer to a request must not be lost.
const VIEW_WITHIN: Duration = Duration::from_secs(2);

/// Of an owner's running batches, at most so many are looked at.
const SIBLINGS: u32 = 1000;

/// How many rows stand where, for the document: the domain knows of none.
#[allow(dead_code, reason = "it describes `Counts`")]
#[derive(ToSchema)]
pub struct CountsView {
    /// All rows.
    total: u32,
    /// Waiting for the dispatcher.
    pending: u32,
    /// Handed to the queue.
    queued: u32,
    /// Claimed by a worker.
    processing: u32,
    /// Done.
    completed: u32,
    /// Ended with an error.
    failed: u32,
    /// Never run.
    cancelled: u32,
}

/// The answer that holds a batch.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct HoldView {
    /// The API's own words, or a sentence where there are none. Lists and callbacks have no words of an API.
    pub reason: String,
    /// The API's own code, or `http_<status>`.
    pub code: String,
    /// The step that was answered so.
    pub step: Option<String>,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
}

/// A batch, as `GET /v2/batches/{id}` shows it and as callbacks carry it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct BatchView {
    /// Its id.
    #[schema(value_type = String, format = Uuid)]
    pub id: penstock_domain::ids::BatchId,
    /// The pipeline it was uploaded to.
    pub pipeline: String,
    /// What the client calls it.
    pub name: Option<String>,
    /// What the client marked it with.
    pub labels: Vec<String>,
    /// `pending`, `processing`, `queued`, `completed`, `cancelled` or `failed`.
    #[schema(value_type = String)]
    pub status: BatchStatus,
    /// `success`, `partial_success` or `failure`, once it has ended.
    #[schema(value_type = Option<String>)]
    pub outcome: Option<Outcome>,
    /// Whether rows go on after one has failed.
    pub allow_failures: bool,
    /// Whether somebody paused it.
    pub paused: bool,
    /// Whether too many of its first rows failed, or an answer holds it; `resume` lets it go on.
    pub held: bool,
    /// Why it is held, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_reason: Option<String>,
    /// The answer that holds it, where one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldView>,
    /// Which run of the batch this is; a retry of a finished batch starts the next.
    pub run: u32,
    /// Percent of rows that have ended, floored; 100 only when the batch has ended.
    pub progress: u8,
    /// How many rows stand where; `total` is the sum of the others.
    #[schema(value_type = CountsView)]
    pub counts: Counts,
    /// When it will be done at the present pace.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub eta: Option<Timestamp>,
    /// How long its rows take by what is allowed, and which limit is the narrowest, until enough of them were measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimate: Option<EstimateView>,
    /// Something worth knowing, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
    /// When it was uploaded.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When work on it began.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// When this run ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
    /// When it was cancelled.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub cancelled_at: Option<Timestamp>,
    /// Why it failed: the file's errors, or the row whose failure ended it.
    #[schema(value_type = Option<Object>)]
    pub failure: Option<Value>,
}

/// Builds the view of a batch.
///
/// # Errors
/// When the database fails, or the keyring lacks the batch's key.
pub async fn batch_view(
    services: &Services,
    batch: &Batch,
    rows_per_owner: u32,
) -> Result<BatchView, FlowError> {
    let pace = Pace::of(services, rows_per_owner).await?;
    let failure = failure_of(services, batch).await?;
    let mut around = Around::of(services, batch).await?;
    if eta::is_guessed(&batch.ledger) {
        around.beside = Beside::of(batch, &running_beside(services, batch).await?);
    }
    let mut view = describe_as(services, batch, &pace, around, failure, services.clock.now());
    if let Some((hold, words)) = view.hold.as_mut().zip(hold_words(services, batch).await?) {
        hold.reason = words;
        view.held_reason = held_reason(&batch.ledger, Some(&hold.reason));
    }
    Ok(view)
}

/// The words of the answer that holds a batch; none when no answer does, or when they cannot be opened here.
pub(crate) async fn hold_words(services: &Services, batch: &Batch) -> Result<Option<String>, FlowError> {
    if batch.ledger.hold.is_none() {
        return Ok(None);
    }
    let Some(sealed) = services.store.hold_words(batch.seq).await? else { return Ok(None) };
    let opened = match services.secrets_of(batch).await {
        Ok(secrets) => secrets.open_json::<String>(SecretLocation::Hold, &sealed),
        Err(error) => Err(error),
    };
    Ok(opened
        .inspect_err(
            |error| tracing::warn!(%error, batch = %batch.id, "the words that hold a batch cannot be read"),
        )
        .ok())
}

/// The view of a batch after something was done to it. What was done is done, whatever becomes of the view: without what
/// cannot be read, or not in time, it has no estimate of its own.
pub async fn done_view(services: &Services, batch: &Batch, rows_per_owner: u32) -> BatchView {
    let view = tokio::time::timeout(VIEW_WITHIN, batch_view(services, batch, rows_per_owner)).await;
    let error = match view {
        Ok(Ok(view)) => return view,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("not read within {} ms", VIEW_WITHIN.as_millis()),
    };
    tracing::warn!(error, batch = %batch.id, "the view of a batch is not complete");
    let (pace, failure) = (Pace::usual(rows_per_owner), clear_failure(batch));
    let around = Around { standstill: Standstill::Unknown, ..Around::default() };
    describe_as(services, batch, &pace, around, failure, services.clock.now())
}

/// What an estimate knows besides the batch itself.
#[derive(Clone, Copy, Debug, Default)]
struct Around {
    beside: Beside,
    standstill: Standstill,
    last_look: Option<Timestamp>,
}

impl Around {
    /// Without the owner's other batches.
    async fn of(services: &Services, batch: &Batch) -> Result<Self, FlowError> {
        let (pipelines, store) = (&services.pipelines, &*services.store);
        let standstill = services.limits.standstill(pipelines, store, batch, &*services.clock).await;
        let polls = pipelines.get(&batch.pipeline).is_some_and(|pipeline| pipeline.polls());
        let last_look = if polls && batch.runs() && batch.ledger.returned() > 0 {
            store.last_look(batch.seq).await?
        } else {
            None
        };
        Ok(Self { beside: Beside::default(), standstill, last_look })
    }
}

/// Running batches of the batch's owner, itself among them if it runs.
pub(crate) async fn running_beside(services: &Services, batch: &Batch) -> Result<Vec<Batch>, FlowError> {
    Ok(services.store.running_batches(batch.owner, SIBLINGS).await?)
}

/// The view of a batch as it stands now, without its failing row's error, which is sealed: what a list shows. Its estimate
/// knows nothing of the owner's other batches.
pub async fn describe_now(
    services: &Services,
    batch: &Batch,
    pace: &Pace,
    failure: Option<Value>,
) -> BatchView {
    let around = Around::of(services, batch).await.unwrap_or_else(|error| {
        tracing::warn!(%error, batch = %batch.id, "the view of a batch has no estimate");
        Around { standstill: Standstill::Unknown, ..Around::default() }
    });
    describe_as(services, batch, pace, around, failure, services.clock.now())
}

/// The same as it stood `at` that moment, whatever has become of it: what a callback shows.
pub fn describe(
    services: &Services,
    batch: &Batch,
    pace: &Pace,
    failure: Option<Value>,
    at: Timestamp,
) -> BatchView {
    describe_as(services, batch, pace, Around::default(), failure, at)
}

fn describe_as(
    services: &Services,
    batch: &Batch,
    pace: &Pace,
    around: Around,
    failure: Option<Value>,
    at: Timestamp,
) -> BatchView {
    let ledger = &batch.ledger;
    let pipeline = services.pipelines.get(&batch.pipeline);
    let pipeline = pipeline.as_deref();
    let allowance = Allowance {
        quota: pace.quota(services, batch),
        run_share: pace.run_share,
        run_every: pace.run_every,
        beside: around.beside,
        last_look: around.last_look,
        // Rows that wait to be released wait for a run, and runs have stopped coming.
        standstill: if ledger.counts.pending > 0 && pace.has_stopped(at) {
            Standstill::Unknown
        } else {
            around.standstill
        },
    };
    BatchView {
        id: batch.id,
        pipeline: batch.pipeline.clone(),
        name: batch.name.clone(),
        labels: batch.labels.clone(),
        status: ledger.status,
        outcome: ledger.outcome,
        allow_failures: ledger.allow_failures,
        paused: ledger.paused,
        held: ledger.held,
        held_reason: held_reason(ledger, None),
        hold: ledger.hold.as_ref().map(|hold| HoldView {
            reason: answered(hold),
            code: hold.code.clone(),
            step: hold.step.clone(),
            since: hold.since,
        }),
        run: ledger.run,
        progress: ledger.progress(),
        counts: ledger.counts,
        eta: eta::eta(ledger, pipeline, &allowance, at),
        estimate: eta::is_guessed(ledger).then(|| estimate(ledger, pipeline, &allowance)).flatten(),
        notice: eta::notice(ledger, pipeline, &allowance),
        created_at: batch.created_at,
        started_at: ledger.started_at,
        finished_at: ledger.finished_at,
        cancelled_at: ledger.cancelled_at,
        failure,
    }
}

fn answered(hold: &Hold) -> String {
    let step = hold.step.as_ref().map_or(String::new(), |step| format!("step `{step}` "));
    format!("{step}was answered `{}`", hold.code)
}

/// Why a batch is held, with the `words` of the answer that holds it, where they may be shown.
pub(crate) fn held_reason(ledger: &Ledger, words: Option<&str>) -> Option<String> {
    if let Some(hold) = &ledger.hold {
        let words = words.map_or(String::new(), |words| format!(": {words}"));
        return Some(format!("{}{words}; resume it when that is fixed, or cancel it", answered(hold)));
    }
    let canary = ledger.canary.filter(|_| ledger.held)?;
    let ended = ledger.counts.completed + ledger.counts.failed;
    let allowed = f64::from(canary.max_failure_bp) / 100.0;
    let which = if ledger.canary_passed { "rows that have ended" } else { "first rows" };
    Some(format!(
        "{} of the {ended} {which} failed, and at most {allowed} % may: resume it, or cancel it",
        ledger.counts.failed
    ))
}

/// The failure without what is sealed: a code with its sentence and a count, or the number of the row that ended the batch.
/// What a list or a callback shows.
pub fn clear_failure(batch: &Batch) -> Option<Value> {
    if let Some(failure) = &batch.failure {
        let mut failure: Value = serde_json::from_str(failure).ok()?;
        // Releases before this one kept the file's errors here, and a callback of theirs may still be on its way.
        failure.as_object_mut()?.remove("errors");
        return Some(failure);
    }
    batch.failure_row.map(|row| serde_json::json!({ "code": "row_failed", "row": row }))
}

/// Why the file could not be extracted, with what its errors say; none of that once the batch was erased.
async fn failure_of_file(services: &Services, batch: &Batch) -> Result<Option<Value>, FlowError> {
    let mut failure = clear_failure(batch);
    let Some(sealed) = services.store.sealed_failure(batch.seq).await? else { return Ok(failure) };
    let Some(secrets) = services.try_secrets_of(batch).await? else { return Ok(failure) };
    let whole: serde_json::Map<String, Value> = secrets.open_json(SecretLocation::Failure, &sealed)?;
    if let Some(failure) = failure.as_mut().and_then(Value::as_object_mut) {
        failure.extend(whole);
    }
    Ok(failure)
}

async fn failure_of(services: &Services, batch: &Batch) -> Result<Option<Value>, FlowError> {
    if batch.failure.is_some() {
        return failure_of_file(services, batch).await;
    }
    let Some(number) = batch.failure_row else { return Ok(None) };
    let (Some(secrets), Some(record)) =
        (services.try_secrets_of(batch).await?, services.store.row(batch.seq, number).await?)
    else {
        return Ok(clear_failure(batch));
    };
    let pipeline = services.definition_of(batch).await.ok();
    let view = row_view(&secrets, pipeline.as_deref(), &record);
    Ok(view.error.map(|error| {
        let mut value = serde_json::json!(error);
        value["row"] = number.into();
        value["line"] = view.line.into();
        value
    }))
}

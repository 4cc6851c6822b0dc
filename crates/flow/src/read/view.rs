//! What a client sees of a batch and of a row.

use std::time::Duration;

use penstock_domain::batch::{BatchStatus, Counts, Outcome};
use penstock_domain::ledger::Ledger;
use penstock_domain::outcome::{self, code};
use penstock_domain::pipeline::Pipeline;
use penstock_domain::row::{AttemptRecord, RowError, RowStatus, Throttled};
use penstock_domain::time::Timestamp;
use penstock_store::batches::{Batch, BatchFilter};
use penstock_store::reading::RowRecord;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::context::error::FlowError;
use crate::context::limits_view::Standstill;
use crate::context::pace::Pace;
use crate::context::secrets::{SecretLocation, SecretsOf};
use crate::context::services::Services;
use crate::read::eta;
use crate::read::eta::{Allowance, Beside};

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
    /// Whether too many of its first rows failed; `resume` lets it go on.
    pub held: bool,
    /// Why it is held, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_reason: Option<String>,
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
    let mut beside = Beside::default();
    if eta::is_guessed(&batch.ledger) {
        beside = Beside::of(batch, &running_beside(services, batch).await?);
    }
    let standstill = services.limits.standstill(&services.pipelines, batch, services.clock.now()).await;
    Ok(describe_beside(services, batch, &pace, beside, standstill, failure, services.clock.now()))
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
    describe_beside(
        services,
        batch,
        &pace,
        Beside::default(),
        Standstill::Unknown,
        failure,
        services.clock.now(),
    )
}

/// Running batches of the batch's owner, itself among them if it runs.
pub(crate) async fn running_beside(services: &Services, batch: &Batch) -> Result<Vec<Batch>, FlowError> {
    let filter = BatchFilter {
        owner: Some(batch.owner),
        status: vec![BatchStatus::Queued],
        limit: SIBLINGS,
        ..BatchFilter::default()
    };
    Ok(services.store.list_batches(&filter).await?.batches)
}

/// The view of a batch as it stands now, without its failing row's error, which is sealed: what a list shows. Its estimate
/// knows nothing of the owner's other batches.
pub async fn describe_now(
    services: &Services,
    batch: &Batch,
    pace: &Pace,
    failure: Option<Value>,
) -> BatchView {
    let standstill = services.limits.standstill(&services.pipelines, batch, services.clock.now()).await;
    describe_beside(services, batch, pace, Beside::default(), standstill, failure, services.clock.now())
}

/// The same as it stood `at` that moment, whatever has become of it: what a callback shows.
pub fn describe(
    services: &Services,
    batch: &Batch,
    pace: &Pace,
    failure: Option<Value>,
    at: Timestamp,
) -> BatchView {
    describe_beside(services, batch, pace, Beside::default(), Standstill::None, failure, at)
}

fn describe_beside(
    services: &Services,
    batch: &Batch,
    pace: &Pace,
    beside: Beside,
    standstill: Standstill,
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
        beside,
        // Rows that wait to be released wait for a run, and runs have stopped coming.
        standstill: if ledger.counts.pending > 0 && pace.has_stopped(at) {
            Standstill::Unknown
        } else {
            standstill
        },
    };
    BatchView {
        id: batch.id,
        pipeline: batch.pipeline.clone(),
        name: batch.name.clone(),
        status: ledger.status,
        outcome: ledger.outcome,
        allow_failures: ledger.allow_failures,
        paused: ledger.paused,
        held: ledger.held,
        held_reason: held_reason(ledger),
        run: ledger.run,
        progress: ledger.progress(),
        counts: ledger.counts,
        eta: eta::eta(ledger, pipeline, &allowance, at),
        notice: eta::notice(ledger, pipeline, &allowance),
        created_at: batch.created_at,
        started_at: ledger.started_at,
        finished_at: ledger.finished_at,
        cancelled_at: ledger.cancelled_at,
        failure,
    }
}

pub(crate) fn held_reason(ledger: &Ledger) -> Option<String> {
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

/// A row, as `GET /v2/batches/{id}/rows` shows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RowView {
    /// Its number in the file, from 1.
    pub number: u32,
    /// The physical line in the file where it starts.
    pub line: u32,
    /// `pending`, `queued`, `processing`, `completed`, `failed` or `cancelled`.
    #[schema(value_type = String)]
    pub status: RowStatus,
    /// Attempts that failed or completed; waiting for a limit is none.
    pub attempts: u16,
    /// The pipeline's result, once completed.
    #[schema(value_type = Option<Object>)]
    pub result: Option<Value>,
    /// The last error.
    pub error: Option<ErrorView>,
    /// When it may run next, while it waits.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub not_before: Option<Timestamp>,
}

/// What went wrong with a row.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorView {
    /// From a closed list, for programs.
    pub code: String,
    /// The step that failed.
    pub step: Option<String>,
    /// The answer's HTTP status.
    pub http_status: Option<u16>,
    /// A sentence, for people.
    pub message: String,
    /// The answer's body, shortened.
    #[schema(value_type = Option<Object>)]
    pub detail: Option<Value>,
    /// Each attempt, oldest first.
    #[schema(value_type = Vec<Object>)]
    pub attempts: Vec<AttemptRecord>,
    /// The unbroken series of answers that the step is called too often, while the row is in one: `since` when, how many `times`, and
    /// whether calls of other rows went through meanwhile (`alone`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub throttled: Option<Throttled>,
}

impl ErrorView {
    /// The error of a row of which something cannot be read; what stands in clear beside it is kept.
    pub fn unreadable(record: &RowRecord) -> Self {
        let code = code::UNREADABLE;
        Self {
            code: record.code.clone().unwrap_or_else(|| code.to_owned()),
            step: None,
            http_status: record.http_status,
            message: outcome::sentence(code).to_owned(),
            detail: None,
            attempts: Vec::new(),
            throttled: None,
        }
    }
}

impl ErrorView {
    /// The error of a row that failed with this code. When its worker died, nobody was there to write one: what stands sealed is
    /// of an earlier attempt, if of any.
    fn of(code: &str, told: Option<Self>, pipeline: Option<&Pipeline>, record: &RowRecord) -> Self {
        if let Some(own) = told.as_ref().filter(|told| told.code == code) {
            return own.clone();
        }
        let step = record.step.and_then(|step| pipeline?.steps.get(usize::from(step)));
        let message = match code {
            code::OUTCOME_UNKNOWN => {
                "the worker stopped in the middle of the call, so it may have had its effect; retry it only when you know that it had not"
            }
            code => outcome::sentence(code),
        };
        Self {
            code: code.to_owned(),
            step: step.map(|step| step.name.clone()),
            http_status: None,
            message: message.to_owned(),
            detail: None,
            attempts: told.map(|told| told.attempts).unwrap_or_default(),
            throttled: None,
        }
    }
}

impl ErrorView {
    /// The error of a row whose time was over while it waited: no worker had it then, and what is sealed is of its last call,
    /// if there was one.
    fn overdue(last: Option<Self>, pipeline: Option<&Pipeline>, record: &RowRecord) -> Self {
        let code = code::DEADLINE_EXCEEDED;
        if let Some(own) = last.as_ref().filter(|last| last.code == code) {
            return own.clone();
        }
        let step = record.step.and_then(|step| pipeline?.steps.get(usize::from(step)));
        let message = last
            .as_ref()
            .map_or_else(|| outcome::sentence(code).to_owned(), |last| outcome::run_out(code, &last.message));
        let step = step.map(|step| step.name.clone());
        Self {
            code: code.to_owned(),
            step: step.or_else(|| last.as_ref()?.step.clone()),
            http_status: record.http_status.or_else(|| last.as_ref()?.http_status),
            message,
            detail: last.as_ref().and_then(|last| last.detail.clone()),
            throttled: last.as_ref().and_then(|last| last.throttled),
            attempts: last.map(|last| last.attempts).unwrap_or_default(),
        }
    }
}

impl From<RowError> for ErrorView {
    fn from(error: RowError) -> Self {
        Self {
            code: error.code,
            step: error.step,
            http_status: error.http_status,
            message: error.message,
            detail: error.detail,
            attempts: error.attempts,
            throttled: error.throttled,
        }
    }
}

/// Opens what is sealed of a row; `pipeline` names the steps. What cannot be read is told as the row's error: one damaged row is no reason not to
/// show the others.
pub fn row_view(secrets: &SecretsOf, pipeline: Option<&Pipeline>, record: &RowRecord) -> RowView {
    let unread = |what: FlowError| {
        tracing::error!(error = %what, row = record.number, "what is stored of the row cannot be read");
        ErrorView::unreadable(record)
    };
    let (mut result, mut error) = (None, None);
    match (record.status, &record.result, &record.error) {
        (RowStatus::Completed, Some(sealed), _) => {
            match secrets.open_json(SecretLocation::Result(record.number), sealed) {
                Ok(value) => result = Some(value),
                Err(what) => error = Some(unread(what)),
            }
        }
        (RowStatus::Completed, None, _) | (_, _, None) => {}
        (_, _, Some(sealed)) => {
            let told = secrets.open_json::<RowError>(SecretLocation::Error(record.number), sealed);
            error = Some(told.map_or_else(unread, ErrorView::from));
        }
    }
    if record.status == RowStatus::Failed {
        match record.code.as_deref() {
            Some(code::DEADLINE_EXCEEDED) => error = Some(ErrorView::overdue(error, pipeline, record)),
            Some(code @ (code::OUTCOME_UNKNOWN | code::WORKER_CRASHED | code::INTERNAL_ERROR)) => {
                error = Some(ErrorView::of(code, error, pipeline, record));
            }
            _ => {}
        }
    }
    RowView {
        number: record.number,
        line: record.line,
        status: record.status,
        attempts: record.attempts,
        result,
        error,
        not_before: record.not_before.filter(|_| !record.status.is_terminal()),
    }
}

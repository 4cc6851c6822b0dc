//! What a client sees of a row.

use std::collections::BTreeMap;

use penstock_domain::exchange::Exchange;
use penstock_domain::outcome::{self, code};
use penstock_domain::pipeline::Pipeline;
use penstock_domain::row::{AttemptRecord, RowError, RowStatus, Throttled};
use penstock_domain::time::Timestamp;
use penstock_store::reading::RowRecord;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::context::error::FlowError;
use crate::context::secrets::{SecretLocation, SecretsOf};

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
    /// The last error; of a row that completed: that it is a `duplicate`, and of which row.
    pub error: Option<ErrorView>,
    /// The last request and answer of the step that failed, headers with secrets masked; only with `reveal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub sent: Option<Exchange>,
    /// Its values by column, as the file has them; only with `reveal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<BTreeMap<String, String>>,
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
    /// The step's request was answered, and its result was waited for.
    #[serde(skip)]
    pub look: bool,
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
            look: false,
        }
    }

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
            look: false,
        }
    }

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
            look: last.as_ref().is_some_and(|last| last.look),
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
            look: error.look,
        }
    }
}

/// The same with the row's values, and with what was sent last at the step that a failed row failed at.
pub fn revealed_row_view(secrets: &SecretsOf, pipeline: Option<&Pipeline>, record: &RowRecord) -> RowView {
    let sealed = record.error.as_ref().filter(|_| record.status == RowStatus::Failed);
    let error = sealed
        .and_then(|sealed| secrets.open_json::<RowError>(SecretLocation::Error(record.number), sealed).ok());
    let sent = error.and_then(|error| error.sent).map(|sent| *sent);
    RowView { sent, values: values(secrets, pipeline, record), ..row_view(secrets, pipeline, record) }
}

/// What the client wrote into a row; none when it was erased meanwhile, or cannot be read.
fn values(
    secrets: &SecretsOf,
    pipeline: Option<&Pipeline>,
    record: &RowRecord,
) -> Option<BTreeMap<String, String>> {
    let (sealed, header, pipeline) = (record.payload.as_ref()?, secrets.header()?, pipeline?);
    let unread = |error: String| {
        tracing::error!(error, row = record.number, "the values of a row cannot be read");
    };
    let payload = secrets.open(SecretLocation::Payload(record.number), sealed);
    let payload = payload.map_err(|error| unread(error.to_string())).ok()?;
    header.values(&payload, &pipeline.schema).map_err(|error| unread(error.to_string())).ok()
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
        (RowStatus::Completed, None, _) if record.code.is_none() => {}
        (_, _, None) => {}
        (_, _, Some(sealed)) => {
            let told = secrets.open_json::<RowError>(SecretLocation::Error(record.number), sealed);
            error = Some(told.map_or_else(unread, ErrorView::from));
        }
    }
    if let (RowStatus::Failed, Some("other"), Some(error)) =
        (record.status, record.code.as_deref(), &mut error)
    {
        // Its batch has more codes of the API's than are counted.
        error.code = "other".to_owned();
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
        sent: None,
        values: None,
        not_before: record.not_before.filter(|_| !record.status.is_terminal()),
    }
}

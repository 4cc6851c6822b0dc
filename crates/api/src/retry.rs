//! Retry: failed rows, and cancelled ones when asked for, go back.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use penstock_flow::operate::control;
use penstock_flow::operate::control::RetryError;
use penstock_flow::read::view::{BatchView, done_view};
use penstock_store::batches::Batch;
use penstock_store::control::RetrySelection;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::body;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::refusals;
use crate::state::ApiState;

/// Which rows a retry takes up. Without anything: all that failed.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryBody {
    /// `failed`, `cancelled`; only failed ones without it.
    include: Option<Vec<String>>,
    /// Only failed rows with one of these codes. Not together with cancelled ones, which have none.
    codes: Option<Vec<String>>,
    /// Only rows that failed at one of these steps, by name; `null`: before their first one. Not together with cancelled ones.
    steps: Option<Vec<Option<String>>>,
    /// Only failed rows from this number on. Not together with cancelled ones.
    #[schema(minimum = 1)]
    from_row: Option<u32>,
    /// Only failed rows up to this number. Not together with cancelled ones.
    #[schema(minimum = 1)]
    to_row: Option<u32>,
    /// Only these failed rows. Not together with cancelled ones, which go back all together.
    rows: Option<Vec<u32>>,
    /// `current`: the batch, which has ended, goes on under the definition of its pipeline that is loaded today; `kept`, and
    /// without it: under the one that it was uploaded under.
    definition: Option<String>,
}

impl RetryBody {
    /// An empty list is nobody's way to say "all": a program that found no row to retry sends one.
    async fn selection(self, state: &ApiState, batch: &Batch) -> Result<RetrySelection, Problem> {
        for (name, empty) in [
            ("include", self.include.as_ref().is_some_and(Vec::is_empty)),
            ("codes", self.codes.as_ref().is_some_and(Vec::is_empty)),
            ("steps", self.steps.as_ref().is_some_and(Vec::is_empty)),
            ("rows", self.rows.as_ref().is_some_and(Vec::is_empty)),
        ] {
            if empty {
                return Err(bad(format!("`{name}` is empty, which selects nothing; leave it out")));
            }
        }
        let include = self.include.unwrap_or_else(|| vec!["failed".into()]);
        if let Some(other) = include.iter().find(|name| !matches!(name.as_str(), "failed" | "cancelled")) {
            return Err(bad(format!("`include` takes failed and cancelled, not `{other}`")));
        }
        let cancelled = include.iter().any(|name| name == "cancelled");
        let narrow = self.codes.is_some()
            || self.steps.is_some()
            || self.rows.is_some()
            || self.from_row.is_some()
            || self.to_row.is_some();
        if cancelled && narrow {
            return Err(bad(
                "`codes`, `steps`, `rows`, `from_row` and `to_row` select failed rows; cancelled ones go back all together, in a \
                 request of their own"
                    .into(),
            ));
        }
        let codes = self.codes.unwrap_or_default();
        if codes.iter().any(|code| code.chars().any(char::is_control)) {
            return Err(bad("a code holds a control character".into()));
        }
        Ok(RetrySelection {
            failed: include.iter().any(|name| name == "failed"),
            cancelled,
            codes,
            steps: steps_of(state, batch, &self.steps.unwrap_or_default()).await?,
            numbers: self.rows.unwrap_or_default(),
            from: self.from_row,
            to: self.to_row,
            definition: None,
        })
    }

    /// Whether the batch goes on under today's definition.
    fn current_definition(&self) -> Result<bool, Problem> {
        match self.definition.as_deref() {
            None | Some("kept") => Ok(false),
            Some("current") => Ok(true),
            Some(_) => Err(Problem::bad_request("bad_selection", "`definition` takes current and kept")),
        }
    }
}

fn bad(detail: String) -> Problem {
    Problem::bad_request("bad_selection", detail)
}

/// The places of steps, by their names in the definition that the batch has.
///
/// # Errors
/// 400 when it has no such step; as reading the definition.
pub(crate) async fn steps_of(
    state: &ApiState,
    batch: &Batch,
    names: &[Option<String>],
) -> Result<Vec<Option<u16>>, Problem> {
    if names.iter().all(Option::is_none) {
        return Ok(vec![None; names.len().min(1)]);
    }
    let pipeline = state.services.definition_of(batch).await?;
    let place = |name: &String| {
        let place = pipeline.steps.iter().position(|step| step.name == *name);
        let unknown = || bad("`steps` names a step that the batch's pipeline does not have".into());
        place.and_then(|place| u16::try_from(place).ok()).ok_or_else(unknown)
    };
    names.iter().map(|name| name.as_ref().map(place).transpose()).collect()
}

/// The batch, and what the retry did.
#[derive(Serialize, ToSchema)]
pub struct RetriedBatch {
    /// As it is now.
    #[serde(flatten)]
    pub batch: BatchView,
    /// How many rows went back; 0 when none was as the request says, and then nothing changed.
    pub retried: u32,
}

/// Puts failed (and, when asked for, cancelled) rows back. Finished rows are never run again.
#[utoipa::path(post, operation_id = "retry_batch", path = "/v2/batches/{id}/retry", tag = "batches", params(("id" = String, Path)),
    request_body = RetryBody,
    responses((status = 200, description = "As it is now, and how many rows went back", body = RetriedBatch),
        refusals::Asked, refusals::Commanded, refusals::Stateful, refusals::Small, refusals::Sealed), security(("key" = [])))]
pub async fn retry(
    caller: Caller,
    state: web::Data<ApiState>,
    id: web::Path<String>,
    _: NoQuery,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let batch = caller.own_batch(&state, &id).await?;
    let body = body::small(&state, caller.owner, request.headers(), payload).await?;
    let (body, _room) = if body.is_empty() {
        (RetryBody::default(), None)
    } else {
        let (body, room) = body.json::<RetryBody>(&state, caller.owner).await?;
        (body, Some(room))
    };
    let current = body.current_definition()?;
    let selection = body.selection(&state, &batch).await?;
    let (batch, retried) = put_back(&caller, &state, &batch, selection, current).await?;
    let batch = done_view(&state.services, &batch, state.rows_per_owner).await;
    Ok(HttpResponse::Ok().json(RetriedBatch { batch, retried }))
}

/// Puts rows of a batch of the caller's own back; the batch, and how many.
///
/// # Errors
/// 409 when it does not fit the batch's state, or today's definition does not fit the batch; 410 when it was erased.
pub(crate) async fn put_back(
    caller: &Caller,
    state: &ApiState,
    batch: &Batch,
    selection: RetrySelection,
    current: bool,
) -> Result<(Batch, u32), Problem> {
    // What rows keep of their steps may take a while to read.
    let read = if current { Some(state.budgets.read(caller.owner).await?) } else { None };
    let retried = control::retry(&state.services, batch, selection, current, &caller.actor()).await;
    drop(read);
    retried.map_err(|error| match error {
        RetryError::Flow(error) => error.into(),
        error => Problem::new(StatusCode::CONFLICT, "definition_does_not_fit", error.to_string()),
    })
}

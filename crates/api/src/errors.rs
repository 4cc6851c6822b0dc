//! What failed in a batch, by code and step, and what keeps the rest of it from going on.

use actix_web::{HttpResponse, web};
use penstock_flow::read::errors::{self, Blocked, CodeGroup};
use penstock_flow::read::row_view::row_view;
use penstock_store::batches::Batch;
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::refusals;
use crate::state::ApiState;

/// Groups of failed rows that are shown with the words of their first one.
const WORDED_GROUPS: usize = 20;

/// Failed rows of one code and step.
#[derive(Serialize, ToSchema)]
pub struct ErrorSummary {
    /// The code.
    pub code: String,
    /// The step; none when the row failed before its first one.
    pub step: Option<String>,
    /// How many rows.
    pub count: u32,
    /// The numbers of three of them, the first ones.
    pub sample: Vec<u32>,
    /// What the first of them failed with, as its row says it: an API's own words, where it sent some. Of the 20 most frequent groups;
    /// none once the batch is erased.
    pub message: Option<String>,
}

/// Failed rows by code and step.
#[derive(Serialize, ToSchema)]
pub struct ErrorSummaries {
    /// The groups, most frequent first.
    pub data: Vec<ErrorSummary>,
    /// What keeps the whole batch from going on; none while nothing does.
    pub blocked: Option<Blocked>,
}

/// Sums failed rows up by code and step, with three sample rows of each, and says what keeps the batch from going on.
#[utoipa::path(get, operation_id = "summarize_errors", path = "/v2/batches/{id}/errors", tag = "batches", params(("id" = String, Path)),
    responses((status = 200, description = "As it is now", body = ErrorSummaries), refusals::Asked, refusals::Named), security(("key" = [])))]
pub async fn summarize(
    caller: Caller,
    state: web::Data<ApiState>,
    id: web::Path<String>,
    _: NoQuery,
) -> Result<HttpResponse, Problem> {
    let batch = caller.batch(&state, &id).await?;
    let groups = by_code(&caller, &state, &batch).await?;
    let data = with_messages(&caller, &state, &batch, groups).await?;
    let blocked = errors::blocked(&state.services, &batch).await?;
    Ok(HttpResponse::Ok().json(ErrorSummaries { data, blocked }))
}

/// Failed rows of a batch by code and step, most frequent first.
///
/// # Errors
/// 503 when others take all reads of the database; when it fails.
pub(crate) async fn by_code(
    caller: &Caller,
    state: &ApiState,
    batch: &Batch,
) -> Result<Vec<CodeGroup>, Problem> {
    let _read = state.budgets.read(caller.owner).await?;
    Ok(errors::by_code(&state.services, batch).await?)
}

async fn with_messages(
    caller: &Caller,
    state: &ApiState,
    batch: &Batch,
    groups: Vec<CodeGroup>,
) -> Result<Vec<ErrorSummary>, Problem> {
    let secrets = state.services.try_secrets_of(batch).await?;
    let pipeline = state.services.definition_of(batch).await.ok();
    let _read = state.budgets.read(caller.owner).await?;
    let mut summaries = Vec::with_capacity(groups.len());
    for (index, CodeGroup { code, step, count, sample }) in groups.into_iter().enumerate() {
        let mut message = None;
        if let Some((secrets, first)) = secrets.as_ref().zip(sample.first()).filter(|_| index < WORDED_GROUPS)
            && let Some(record) = state.services.store.row(batch.seq, *first).await?
        {
            message = row_view(secrets, pipeline.as_deref(), &record).error.map(|error| error.message);
        }
        summaries.push(ErrorSummary { code, step, count, sample, message });
    }
    Ok(summaries)
}

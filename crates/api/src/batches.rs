//! Batches: one, many, and what can be asked of them.

use actix_web::{HttpResponse, web};
use penstock_domain::batch::{BatchStatus, Outcome};
use penstock_domain::ids::BatchSeq;
use penstock_domain::time::Timestamp;
use penstock_flow::context::budget::Reserved;
use penstock_flow::context::pace::Pace;
use penstock_flow::operate::control;
use penstock_flow::read::view::{BatchView, batch_view, clear_failure, describe_now, done_view};
use penstock_store::batches::{Batch, BatchFilter};
use penstock_store::owners::KeyRole;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::Caller;
use crate::body;
use crate::cursors;
use crate::fields::{self, NAME_CHARS};
use crate::problem::Problem;
use crate::query::{NoQuery, Query};
use crate::refusals;
use crate::state::ApiState;

/// Things of a page at most.
pub const MOST_OF_A_PAGE: u32 = 1000;

/// Bytes of a batch in a list, at most.
const BATCH_BYTES: u64 = 6144;

/// Batches that a page looks at for those that match.
const LOOKED_AT: u32 = 10_000;

/// A page of batches.
#[derive(Serialize, ToSchema)]
pub struct BatchPage {
    /// The batches, newest first.
    pub data: Vec<BatchView>,
    /// Gives the next page; none behind the last. A page may have fewer batches than were asked for, even none, and be followed
    /// by others.
    pub next_cursor: Option<String>,
}

/// Which batches to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// States, separated by commas.
    #[param(
        pattern = "^ *(pending|processing|queued|completed|cancelled|failed)? *(, *(pending|processing|queued|completed|cancelled|failed)? *)*$"
    )]
    pub status: Option<String>,
    /// Outcomes, separated by commas.
    #[param(pattern = "^ *(success|partial_success|failure)? *(, *(success|partial_success|failure)? *)*$")]
    pub outcome: Option<String>,
    /// With this text in the name or in a label, whatever the case of its letters; at most 200 characters.
    #[param(pattern = "^[^\\x00-\\x1f\\x7f]*$", max_length = 200)]
    pub search: Option<String>,
    /// With this label; several, separated by commas: with all of them.
    #[param(pattern = "^[^\\x00-\\x1f\\x7f]*$", max_length = 1100)]
    pub label: Option<String>,
    /// Of this pipeline.
    #[param(pattern = "^[^\\x00-\\x1f\\x7f]*$")]
    pub pipeline: Option<String>,
    /// Of this owner; for admin keys.
    #[param(pattern = "^[^\\x00-\\x1f\\x7f]*$")]
    pub owner: Option<String>,
    /// Created at or after (RFC 3339).
    #[param(value_type = Option<String>, format = DateTime)]
    pub created_from: Option<Timestamp>,
    /// Created before (RFC 3339).
    #[param(value_type = Option<String>, format = DateTime)]
    pub created_to: Option<Timestamp>,
    /// At most so many, 1 to 1000; 50 without it.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
    /// The last page's `next_cursor`.
    #[param(pattern = "^(0|[1-9][0-9]{0,17})$")]
    pub cursor: Option<String>,
}

/// Reads states separated by commas.
pub(crate) fn states<T: std::str::FromStr<Err = penstock_domain::row::UnknownName>>(
    text: Option<&str>,
) -> Result<Vec<T>, Problem> {
    text.unwrap_or_default()
        .split(',')
        .map(|name| name.trim_matches(' '))
        .filter(|name| !name.is_empty())
        .map(|name| {
            name.parse().map_err(|error: penstock_domain::row::UnknownName| {
                Problem::bad_request("bad_status", error.to_string())
            })
        })
        .collect()
}

/// The size of a page.
pub(crate) fn page_size(limit: Option<u32>, default: u32) -> Result<u32, Problem> {
    match limit.unwrap_or(default) {
        limit @ 1..=MOST_OF_A_PAGE => Ok(limit),
        _ => Err(Problem::bad_request("bad_limit", "`limit` is between 1 and 1000")),
    }
}

/// Lists batches, newest first.
#[utoipa::path(get, operation_id = "list_batches", path = "/v2/batches", tag = "batches", params(ListQuery),
    responses((status = 200, description = "As it is now", body = BatchPage), refusals::Asked,
        (status = 403, description = "`owner` is for admin keys", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such owner", body = Problem, content_type = "application/problem+json")), security(("key" = [])))]
pub async fn list(
    caller: Caller,
    state: web::Data<ApiState>,
    Query(query): Query<ListQuery>,
) -> Result<HttpResponse, Problem> {
    let (found, next_cursor, room) = page(&caller, &state, query).await?;
    let data = found.into_iter().map(|(_, view)| view).collect();
    body::answer(&BatchPage { data, next_cursor }, room)
}

/// A page of batches that the caller may see, what gives the next one, and the memory that they take.
///
/// # Errors
/// As [`list`].
pub(crate) async fn page(
    caller: &Caller,
    state: &ApiState,
    query: ListQuery,
) -> Result<(Vec<(Batch, BatchView)>, Option<String>, Reserved), Problem> {
    let limit = page_size(query.limit, 50)?;
    let before =
        query.cursor.as_deref().map(|cursor| cursors::number(cursor, 18).map(BatchSeq)).transpose()?;
    let owner = match (&query.owner, caller.role) {
        (Some(name), KeyRole::Admin) => {
            let owners = state.services.store.owners().await?;
            let owner = owners.into_iter().find(|owner| owner.name == *name);
            Some(owner.ok_or_else(|| Problem::not_found("owner of this name"))?.seq)
        }
        (Some(_), KeyRole::Client) => return Err(Problem::forbidden("`owner` is for admin keys")),
        (None, _) => caller.scope(),
    };
    let pipelines = match query.pipeline {
        Some(pipeline) if !caller.may_use(&pipeline) => {
            return Err(Problem::forbidden("the key is for other pipelines"));
        }
        Some(pipeline) => vec![pipeline],
        None => caller.pipelines.clone().unwrap_or_default(),
    };
    let filter = BatchFilter {
        owner,
        status: states::<BatchStatus>(query.status.as_deref())?,
        outcome: states::<Outcome>(query.outcome.as_deref())?,
        labels: labels(query.label.as_deref().unwrap_or_default())?,
        search: query.search.filter(|text| !text.is_empty()).map(searched).transpose()?,
        pipelines,
        created_from: query.created_from,
        created_to: query.created_to,
        before,
        limit,
        looked_at: Some(LOOKED_AT),
    };
    let room = state.budgets.answer(caller.owner, u64::from(limit) * BATCH_BYTES).await?;
    let read = state.budgets.read(caller.owner).await?;
    let page = state.services.store.list_batches(&filter).await?;
    drop(read);
    let next_cursor = page.next.map(|next| next.0.to_string());
    let pace = Pace::of(&state.services, state.rows_per_owner).await?;
    let mut found = Vec::with_capacity(page.batches.len());
    for batch in page.batches {
        let view = describe_now(&state.services, &batch, &pace, clear_failure(&batch)).await;
        found.push((batch, view));
    }
    Ok((found, next_cursor, room))
}

/// Labels to look for.
fn labels(text: &str) -> Result<Vec<String>, Problem> {
    let labels = fields::read_labels(text);
    // Sixteen of the longest ones, and the commas between them.
    if labels.len() > fields::LABELS || text.chars().count() > 1100 {
        return Err(Problem::bad_request("bad_label", "`label` has at most 16 labels of 64 characters"));
    }
    Ok(labels)
}

/// A text to look for in names and labels.
fn searched(text: String) -> Result<String, Problem> {
    if text.chars().count() > NAME_CHARS {
        return Err(Problem::bad_request("bad_search", "`search` has at most 200 characters"));
    }
    Ok(text)
}

/// What is done to a batch as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Cancel,
    Pause,
    Resume,
}

/// Does it to a batch of the caller's own.
///
/// # Errors
/// As [`Caller::own_batch`]; 409 when it does not fit the batch's state.
pub(crate) async fn carry_out(
    caller: &Caller,
    state: &ApiState,
    id: &str,
    command: Command,
) -> Result<Batch, Problem> {
    let batch = caller.own_batch(state, id).await?;
    let (store, actor, now) = (&state.services.store, caller.actor(), state.services.clock.now());
    let done = match command {
        Command::Cancel => store.cancel(batch.seq, &actor, now).await,
        Command::Pause => store.pause(batch.seq, &actor, now).await,
        Command::Resume => store.resume(batch.seq, &actor, now).await,
    };
    Ok(done?)
}

/// The answer to something that was done to a batch.
async fn answer(state: &ApiState, batch: &Batch) -> HttpResponse {
    HttpResponse::Ok().json(done_view(&state.services, batch, state.rows_per_owner).await)
}

/// Shows a batch.
#[utoipa::path(get, operation_id = "show_batch", path = "/v2/batches/{id}", tag = "batches", params(("id" = String, Path)),
    responses((status = 200, description = "As it is now", body = BatchView), refusals::Asked, refusals::Named), security(("key" = [])))]
pub async fn show(
    caller: Caller,
    state: web::Data<ApiState>,
    id: web::Path<String>,
    _: NoQuery,
) -> Result<HttpResponse, Problem> {
    let batch = caller.batch(&state, &id).await?;
    Ok(HttpResponse::Ok().json(batch_view(&state.services, &batch, state.rows_per_owner).await?))
}

/// Cancels a batch: rows that have not started never run.
#[utoipa::path(post, operation_id = "cancel_batch", path = "/v2/batches/{id}/cancel", tag = "batches", params(("id" = String, Path)),
    responses((status = 200, description = "As it is now", body = BatchView), refusals::Asked, refusals::Commanded,
        refusals::Stateful), security(("key" = [])))]
pub async fn cancel(
    caller: Caller,
    state: web::Data<ApiState>,
    id: web::Path<String>,
    _: NoQuery,
) -> Result<HttpResponse, Problem> {
    let batch = carry_out(&caller, &state, &id, Command::Cancel).await?;
    Ok(answer(&state, &batch).await)
}

/// Pauses a batch: no more rows are released.
#[utoipa::path(post, operation_id = "pause_batch", path = "/v2/batches/{id}/pause", tag = "batches", params(("id" = String, Path)),
    responses((status = 200, description = "As it is now", body = BatchView), refusals::Asked, refusals::Commanded,
        refusals::Stateful), security(("key" = [])))]
pub async fn pause(
    caller: Caller,
    state: web::Data<ApiState>,
    id: web::Path<String>,
    _: NoQuery,
) -> Result<HttpResponse, Problem> {
    let batch = carry_out(&caller, &state, &id, Command::Pause).await?;
    Ok(answer(&state, &batch).await)
}

/// Lets a paused or held batch go on.
#[utoipa::path(post, operation_id = "resume_batch", path = "/v2/batches/{id}/resume", tag = "batches", params(("id" = String, Path)),
    responses((status = 200, description = "As it is now", body = BatchView), refusals::Asked, refusals::Commanded,
        refusals::Stateful), security(("key" = [])))]
pub async fn resume(
    caller: Caller,
    state: web::Data<ApiState>,
    id: web::Path<String>,
    _: NoQuery,
) -> Result<HttpResponse, Problem> {
    let batch = carry_out(&caller, &state, &id, Command::Resume).await?;
    Ok(answer(&state, &batch).await)
}

/// Erases a batch: data key, file and payloads. The counts stay.
#[utoipa::path(delete, operation_id = "erase_batch", path = "/v2/batches/{id}", tag = "batches", params(("id" = String, Path)),
    responses((status = 200, description = "As it is now", body = BatchView), refusals::Asked, refusals::Commanded), security(("key" = [])))]
pub async fn erase(
    caller: Caller,
    state: web::Data<ApiState>,
    id: web::Path<String>,
    _: NoQuery,
) -> Result<HttpResponse, Problem> {
    let batch = caller.own_batch(&state, &id).await?;
    let batch = erase_batch(&caller, &state, batch).await?;
    Ok(answer(&state, &batch).await)
}

/// Erases a batch of the caller's own.
///
/// # Errors
/// When the database fails.
pub(crate) async fn erase_batch(caller: &Caller, state: &ApiState, batch: Batch) -> Result<Batch, Problem> {
    let (services, actor) = (state.services.clone(), caller.actor());
    // An erasure that was begun is finished, also when its client hangs up meanwhile.
    let erasing = tokio::spawn(async move { control::erase(&services, &batch, &actor).await });
    let batch = erasing.await.map_err(|error| {
        tracing::error!(%error, "an erasure panicked");
        Problem::internal()
    })??;
    Ok(batch)
}

//! Rows: a page, one, and why they wait.

use actix_web::{HttpResponse, web};
use penstock_domain::row::RowStatus;
use penstock_flow::context::budget::Reserved;
use penstock_flow::read::lines;
use penstock_flow::read::results;
use penstock_flow::read::row_view::{RowView, revealed_row_view, row_view};
use penstock_flow::read::waiting;
use penstock_flow::read::waits::Wait;
use penstock_store::batches::Batch;
use penstock_store::operations::AuditEntry;
use penstock_store::reading::{RowFilter, RowPage as StoredPage};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::Caller;
use crate::batches::{page_size, states};
use crate::body;
use crate::cursors;
use crate::problem::Problem;
use crate::query::Query;
use crate::refusals;
use crate::state::ApiState;

/// Sealed bytes of a page of rows, after which it ends however many were asked for.
const PAGE_BYTES: u64 = 1024 * 1024;

/// Looks at a large batch for rows of a few states, in one request.
const MOST_LOOKS: u32 = 20;

/// A page of rows.
#[derive(Serialize, ToSchema)]
pub struct RowPage {
    /// The rows, in the file's order.
    pub data: Vec<RowView>,
    /// Gives the next page; none behind the last. A page may have fewer rows than were asked for, even none, and be followed by
    /// others.
    pub next_cursor: Option<String>,
}

/// Which rows to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct RowQuery {
    /// States, separated by commas.
    #[param(
        pattern = "^ *(pending|processing|queued|completed|cancelled|failed)? *(, *(pending|processing|queued|completed|cancelled|failed)? *)*$"
    )]
    pub status: Option<String>,
    /// Failed with this code.
    #[param(pattern = "^[^\\x00-\\x1f\\x7f]*$")]
    pub code: Option<String>,
    /// Failed at this step of the pipeline, by name.
    #[param(pattern = "^[a-z0-9_-]{1,64}$")]
    pub step: Option<String>,
    /// From the row on that starts at this physical line of the file, or at the last one before it.
    #[param(minimum = 1, format = Int64, maximum = 4294967295_u32)]
    pub line: Option<u32>,
    /// At most so many, 1 to 1000; 100 without it.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
    /// The last page's `next_cursor`.
    #[param(pattern = "^(0|[1-9][0-9]{0,8})$")]
    pub cursor: Option<String>,
}

/// Lists a batch's rows in the file's order.
#[utoipa::path(get, operation_id = "list_rows", path = "/v2/batches/{id}/rows", tag = "rows", params(("id" = String, Path), RowQuery),
    responses((status = 200, description = "As it is now", body = RowPage),
        refusals::Asked, refusals::Named, refusals::Sealed), security(("key" = [])))]
pub async fn list(
    caller: Caller,
    state: web::Data<ApiState>,
    id: web::Path<String>,
    Query(query): Query<RowQuery>,
) -> Result<HttpResponse, Problem> {
    let batch = caller.batch(&state, &id).await?;
    let (data, next_cursor, room) = page(&caller, &state, &batch, query).await?;
    body::answer(&RowPage { data, next_cursor }, room)
}

/// A page of a batch's rows, what gives the next one, and the memory that they take.
///
/// # Errors
/// As [`list`].
pub(crate) async fn page(
    caller: &Caller,
    state: &ApiState,
    batch: &Batch,
    query: RowQuery,
) -> Result<(Vec<RowView>, Option<String>, Reserved), Problem> {
    let limit = page_size(query.limit, 100)?;
    let cursor = query.cursor.as_deref().map(|cursor| cursors::number(cursor, 9)).transpose()?;
    // Nine digits fit.
    let cursor = cursor.map(|number| u32::try_from(number).unwrap_or(u32::MAX));
    let after = match (cursor, query.line) {
        (Some(after), _) => after,
        (None, None) => 0,
        (None, Some(0)) => return Err(Problem::bad_request("bad_line", "`line` is 1 or more")),
        (None, Some(line)) => {
            let read = state.budgets.read(caller.owner).await?;
            let row = lines::row_at(&state.services, batch, line).await?;
            drop(read);
            row.map_or(0, |number| number.saturating_sub(1))
        }
    };
    let step = match &query.step {
        Some(name) => {
            let is_of_a_name = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
            if name.is_empty() || name.len() > 64 || !name.bytes().all(is_of_a_name) {
                let detail = "`step` is the name of a step: 1 to 64 of `a` to `z`, `0` to `9`, `_` and `-`";
                return Err(Problem::bad_request("bad_step", detail));
            }
            let pipeline = state.services.definition_of(batch).await?;
            let place = pipeline.steps.iter().position(|step| step.name == *name);
            let Some(place) = place.and_then(|place| u16::try_from(place).ok()) else {
                // No row failed at a step that the pipeline does not have, as none has a code that nobody gave.
                results::refuse_erased(&state.services, batch).await?;
                return Ok((Vec::new(), None, state.budgets.answer(caller.owner, 0).await?));
            };
            Some(place)
        }
        None => None,
    };
    let mut filter = RowFilter {
        status: states::<RowStatus>(query.status.as_deref())?,
        code: query.code,
        step,
        after,
        limit,
        max_bytes: Some(PAGE_BYTES),
        payload: false,
    };
    let secrets = state.services.secrets_of(batch).await?;
    let room = state.budgets.answer(caller.owner, PAGE_BYTES).await?;
    let page = found(state, caller, batch, &mut filter).await?;
    results::refuse_erased(&state.services, batch).await?;
    let next_cursor = page.next.map(|next| next.to_string());
    let pipeline = state.services.definition_of(batch).await.ok();
    let data = page.rows.iter().map(|record| row_view(&secrets, pipeline.as_deref(), record)).collect();
    Ok((data, next_cursor, room))
}

/// The next page that has rows. Each look at the batch costs little, and is taken in turns with other readers; after some of
/// them the page is empty, and its cursor leads on.
async fn found(
    state: &ApiState,
    caller: &Caller,
    batch: &Batch,
    filter: &mut RowFilter,
) -> Result<StoredPage, Problem> {
    let mut looks = 0;
    loop {
        let read = state.budgets.read(caller.owner).await?;
        let page = state.services.store.rows(batch.seq, filter).await?;
        drop(read);
        looks += 1;
        match page.next {
            Some(next) if page.rows.is_empty() && looks < MOST_LOOKS => filter.after = next,
            _ => return Ok(page),
        }
    }
}

/// How to show a row.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct OneRowQuery {
    /// Also the row's `values`, and what was sent last at the step that it failed at (`sent`); who asked for it stands in the audit log.
    reveal: Option<bool>,
}

/// Shows a row.
#[utoipa::path(get, operation_id = "show_row", path = "/v2/batches/{id}/rows/{number}", tag = "rows",
    params(("id" = String, Path), ("number" = u32, Path), OneRowQuery),
    responses((status = 200, description = "As it is now", body = RowView), refusals::Asked,
        refusals::Named, refusals::Sealed), security(("key" = [])))]
pub async fn show(
    caller: Caller,
    state: web::Data<ApiState>,
    path: web::Path<(String, String)>,
    Query(query): Query<OneRowQuery>,
) -> Result<HttpResponse, Problem> {
    let (id, number) = path.into_inner();
    let batch = caller.batch(&state, &id).await?;
    let (row, room) = one(&caller, &state, &batch, &number, query.reveal == Some(true)).await?;
    body::answer(&row, room)
}

/// A row by its number, and the memory that it takes; `reveal` is written down before it is shown.
///
/// # Errors
/// As [`show`].
pub(crate) async fn one(
    caller: &Caller,
    state: &ApiState,
    batch: &Batch,
    number: &str,
    reveal: bool,
) -> Result<(RowView, Reserved), Problem> {
    let number = row_number(number).ok_or_else(|| Problem::not_found("such row"))?;
    let secrets = state.services.secrets_of(batch).await?;
    let record =
        state.services.store.row(batch.seq, number).await?.ok_or_else(|| Problem::not_found("such row"))?;
    results::refuse_erased(&state.services, batch).await?;
    let room = state.budgets.answer(caller.owner, record.sealed_bytes() as u64).await?;
    let pipeline = state.services.definition_of(batch).await.ok();
    if !reveal {
        return Ok((row_view(&secrets, pipeline.as_deref(), &record), room));
    }
    let entry = AuditEntry {
        id: 0,
        at: state.services.clock.now(),
        actor: caller.actor(),
        action: "row.reveal".into(),
        batch: Some(batch.id),
        detail: Some(format!("row {number}")),
    };
    state.services.store.audit(&entry).await?;
    Ok((revealed_row_view(&secrets, pipeline.as_deref(), &record), room))
}

/// A row has one address: its number in digits, without a sign or zeros in front.
fn row_number(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// What a batch waits for.
#[derive(Serialize, ToSchema)]
pub struct Waiting {
    /// Each reason, with the time at which it moves next where that can be told.
    pub data: Vec<Wait>,
}

/// Which row to ask about.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct WaitingQuery {
    /// This row; without it, the batch as a whole.
    #[param(format = Int64, maximum = 4294967295_u32)]
    row: Option<u32>,
}

/// Says why a batch (or one row of it) waits, and when it moves next.
#[utoipa::path(get, operation_id = "explain_waiting", path = "/v2/batches/{id}/waiting", tag = "batches", params(("id" = String, Path), WaitingQuery),
    responses((status = 200, description = "As it is now", body = Waiting),
        refusals::Asked, refusals::Named), security(("key" = [])))]
pub async fn waiting(
    caller: Caller,
    state: web::Data<ApiState>,
    id: web::Path<String>,
    Query(query): Query<WaitingQuery>,
) -> Result<HttpResponse, Problem> {
    let batch = caller.batch(&state, &id).await?;
    let calls = state.caller.as_deref();
    let data =
        waiting::explain(&state.services, calls, &batch, query.row, state.rows_per_owner, true).await?;
    Ok(HttpResponse::Ok().json(Waiting { data }))
}

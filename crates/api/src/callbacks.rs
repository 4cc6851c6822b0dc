//! Callbacks: what was sent, and sending one again.

use actix_web::{HttpResponse, web};
use penstock_domain::time::Timestamp;
use penstock_store::callbacks::Callback;
use penstock_store::owners::KeyRole;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::auth::{Caller, reads_only};
use crate::batches::page_size;
use crate::body;
use crate::cursors;
use crate::problem::Problem;
use crate::query::{NoQuery, Query};
use crate::refusals;
use crate::state::ApiState;

/// Bytes that a page may have.
const PAGE_BYTES: u64 = 1024 * 1024;

/// A callback, for the document: the store knows of none.
#[allow(dead_code, reason = "it describes `Callback`")]
#[derive(ToSchema)]
#[schema(as = Callback)]
pub struct CallbackView {
    /// The `webhook-id`.
    id: Uuid,
    /// Which batch.
    batch: Uuid,
    /// Which run of it.
    run: u32,
    /// The event's type.
    event: String,
    /// Where it goes.
    url: String,
    /// When it happened.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// Where it stands.
    #[schema(inline)]
    status: CallbackState,
    /// Deliveries tried.
    attempts: u16,
    /// When it is tried next.
    #[schema(value_type = Option<String>, format = DateTime)]
    next_at: Option<Timestamp>,
    /// The HTTP status that the receiver answered with last.
    last_status: Option<u16>,
    /// Why the last delivery failed.
    last_error: Option<String>,
}

/// Where a callback stands, for the document.
#[allow(dead_code, reason = "it describes `CallbackStatus`")]
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum CallbackState {
    /// It waits for its next delivery.
    Pending,
    /// The receiver accepted it.
    Delivered,
    /// Every delivery failed.
    Exhausted,
    /// The receiver answered 410.
    Disabled,
}

/// A page of callbacks.
#[derive(Serialize, ToSchema)]
pub struct CallbackPage {
    /// The callbacks, newest first.
    #[schema(value_type = Vec<CallbackView>)]
    pub data: Vec<Callback>,
    /// Gives the next page; none behind the last.
    pub next_cursor: Option<String>,
}

/// Which callbacks to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct CallbackQuery {
    /// Of this batch.
    #[param(pattern = "^[^\\x00-\\x1f\\x7f]*$")]
    batch: Option<String>,
    /// At most so many, 1 to 1000; 50 without it.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// The last page's `next_cursor`.
    #[param(pattern = "^(0|[1-9][0-9]{0,14})_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
    cursor: Option<String>,
}

/// Lists callbacks, newest first.
#[utoipa::path(get, operation_id = "list_callbacks", path = "/v2/callbacks", tag = "callbacks", params(CallbackQuery),
    responses((status = 200, description = "As it is now", body = CallbackPage), refusals::Asked, refusals::Named), security(("key" = [])))]
pub async fn list(
    caller: Caller,
    state: web::Data<ApiState>,
    Query(query): Query<CallbackQuery>,
) -> Result<HttpResponse, Problem> {
    let limit = page_size(query.limit, 50)?;
    let batch = match &query.batch {
        Some(id) => Some(caller.batch(&state, id).await?.seq),
        None => {
            caller.for_all_pipelines()?;
            None
        }
    };
    let before = query.cursor.as_deref().map(cursors::moment).transpose()?;
    let room = state.budgets.answer(caller.owner, PAGE_BYTES).await?;
    let read = state.budgets.read(caller.owner).await?;
    let mut data = state.services.store.callbacks(caller.scope(), batch, before, limit + 1).await?;
    drop(read);
    let more = data.len() > limit as usize;
    data.truncate(limit as usize);
    let next_cursor = data.last().filter(|_| more).map(|last| cursors::of_moment(last.created_at, last.id));
    body::answer(&CallbackPage { data, next_cursor }, room)
}

/// Sends a callback again, whatever became of it. Its webhook-id stays. An admin key redelivers its own owner's only.
#[utoipa::path(post, operation_id = "redeliver_callback", path = "/v2/callbacks/{id}/redeliver", tag = "callbacks", params(("id" = String, Path)),
    responses((status = 202, description = "It is taken", body = Object), refusals::Asked,
        refusals::Named, refusals::Reading), security(("key" = [])))]
pub async fn redeliver(
    caller: Caller,
    state: web::Data<ApiState>,
    id: web::Path<String>,
    _: NoQuery,
) -> Result<HttpResponse, Problem> {
    let callback = send_again(&caller, &state, &id).await?;
    Ok(HttpResponse::Accepted().json(callback))
}

/// Sends a callback of the caller's own again.
///
/// # Errors
/// As [`redeliver`].
pub(crate) async fn send_again(caller: &Caller, state: &ApiState, id: &str) -> Result<Callback, Problem> {
    caller.for_all_pipelines()?;
    let id = id.parse().map_err(|_| Problem::not_found("such callback"))?;
    let now = state.services.clock.now();
    let callback = state.services.store.redeliver(id, Some(caller.owner), now).await?;
    callback.ok_or_else(|| match caller.role {
        KeyRole::Client => Problem::not_found("such callback"),
        KeyRole::Admin => reads_only(),
    })
}

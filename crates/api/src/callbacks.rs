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
use crate::problem::Problem;
use crate::query::{self, NoQuery, Query};
use crate::refusals;
use crate::state::ApiState;

/// Bytes that a page may have.
const PAGE_BYTES: u64 = 1024 * 1024;

/// A page of callbacks.
#[derive(Serialize, ToSchema)]
pub struct CallbackPage {
    /// The callbacks, newest first.
    #[schema(value_type = Vec<Object>)]
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
    batch: Option<String>,
    /// At most so many, 1 to 1000; 50 without it.
    limit: Option<u32>,
    /// The last page's `next_cursor`.
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
    let before = query.cursor.as_deref().map(cursor).transpose()?;
    let room = state.budgets.answer(caller.owner, PAGE_BYTES).await?;
    let read = state.budgets.read(caller.owner).await?;
    let mut data = state.engines.store.callbacks(caller.scope(), batch, before, limit + 1).await?;
    drop(read);
    let more = data.len() > limit as usize;
    data.truncate(limit as usize);
    let next_cursor =
        data.last().filter(|_| more).map(|last| format!("{}_{}", last.created_at.millis(), last.id));
    body::answer(&CallbackPage { data, next_cursor }, room)
}

fn cursor(text: &str) -> Result<(Timestamp, Uuid), Problem> {
    let (at, id) = text.split_once('_').ok_or_else(query::bad_cursor)?;
    Ok((Timestamp::from_millis(query::number(at)?), id.parse().map_err(|_| query::bad_cursor())?))
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
    caller.for_all_pipelines()?;
    let id = id.parse().map_err(|_| Problem::not_found("such callback"))?;
    let now = state.engines.clock.now();
    let callback = state.engines.store.redeliver(id, Some(caller.owner), now).await?;
    let callback = callback.ok_or_else(|| match caller.role {
        KeyRole::Client => Problem::not_found("such callback"),
        KeyRole::Admin => reads_only(),
    })?;
    Ok(HttpResponse::Accepted().json(callback))
}

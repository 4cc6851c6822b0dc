//! Limits of dependencies, for admin keys.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use penstock_flow::operate::limits::{self, LimitView, SettingView};
use penstock_store::limits::LimitChange;
use penstock_store::owners::KeyRole;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::body;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::refusals;
use crate::state::ApiState;

/// The limits of all dependencies.
#[derive(Serialize, ToSchema)]
pub struct LimitList {
    /// By the dependency's name; without dependencies that are each owner's own.
    pub data: Vec<LimitView>,
}

/// A change of a dependency's limits; what is left out stays as it is.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitBody {
    /// Calls in a period of its rate.
    #[schema(minimum = 1)]
    #[serde(default, deserialize_with = "body::whole")]
    pub limit: Option<u32>,
    /// Calls at once.
    #[schema(minimum = 1)]
    #[serde(default, deserialize_with = "body::whole")]
    pub concurrency: Option<u32>,
    /// `true`: nobody calls it; calls under way end.
    pub paused: Option<bool>,
}

/// # Errors
/// 403 unless it is an admin key that is for all pipelines.
pub(crate) fn for_admins(caller: &Caller) -> Result<(), Problem> {
    if caller.role != KeyRole::Admin {
        return Err(Problem::forbidden("this is for admin keys"));
    }
    caller.for_all_pipelines()
}

/// Lists the limits of all dependencies as they stand. For admin keys.
#[utoipa::path(get, operation_id = "list_limits", path = "/v2/limits", tag = "operations",
    responses((status = 200, description = "As they are now", body = LimitList), refusals::Asked, refusals::ForAdmins), security(("key" = [])))]
pub async fn list(caller: Caller, state: web::Data<ApiState>, _: NoQuery) -> Result<HttpResponse, Problem> {
    for_admins(&caller)?;
    let data = limits::all(&state.services, state.caller.as_deref()).await?;
    Ok(HttpResponse::Ok().json(LimitList { data }))
}

/// Changes a dependency's limits without a restart, or stops all calls to it. For admin keys.
#[utoipa::path(post, operation_id = "change_limits", path = "/v2/limits/{dependency}", tag = "operations", params(("dependency" = String, Path)),
    request_body = LimitBody,
    responses((status = 200, description = "What is set now", body = SettingView), refusals::Asked, refusals::ForAdmins,
        refusals::Named, refusals::Small, refusals::Unprocessable), security(("key" = [])))]
pub async fn change(
    caller: Caller,
    state: web::Data<ApiState>,
    dependency: web::Path<String>,
    _: NoQuery,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    for_admins(&caller)?;
    let body = body::small(&state, caller.owner, request.headers(), payload).await?;
    let (body, _room) = body.json::<LimitBody>(&state, caller.owner).await?;
    Ok(HttpResponse::Ok().json(set(&caller, &state, &dependency, body).await?))
}

/// Changes a dependency's limits.
///
/// # Errors
/// As [`change`].
pub(crate) async fn set(
    caller: &Caller,
    state: &ApiState,
    dependency: &str,
    body: LimitBody,
) -> Result<penstock_store::limits::LimitSetting, Problem> {
    if [body.limit, body.concurrency].contains(&Some(0)) {
        return Err(Problem::unprocessable("bad_field", "`limit` and `concurrency` are 1 or more"));
    }
    if body.limit.is_none() && body.concurrency.is_none() && body.paused.is_none() {
        return Err(Problem::unprocessable("bad_field", "send `limit`, `concurrency` or `paused`"));
    }
    let change = LimitChange { limit: body.limit, concurrency: body.concurrency, paused: body.paused };
    let set = limits::change(&state.services, dependency, change, &caller.actor()).await?;
    set.ok_or_else(|| Problem::not_found("dependency of this name"))
}

/// Removes what was set of a dependency: its definition counts again. For admin keys.
#[utoipa::path(delete, operation_id = "reset_limits", path = "/v2/limits/{dependency}", tag = "operations", params(("dependency" = String, Path)),
    responses((status = 204, description = "Nothing is set now"), refusals::Asked, refusals::ForAdmins, refusals::Named), security(("key" = [])))]
pub async fn reset(
    caller: Caller,
    state: web::Data<ApiState>,
    dependency: web::Path<String>,
    _: NoQuery,
) -> Result<HttpResponse, Problem> {
    for_admins(&caller)?;
    unset(&caller, &state, &dependency).await?;
    Ok(HttpResponse::build(StatusCode::NO_CONTENT).finish())
}

/// Removes what was set of a dependency.
///
/// # Errors
/// As [`reset`].
pub(crate) async fn unset(caller: &Caller, state: &ApiState, dependency: &str) -> Result<(), Problem> {
    // No dependency has such a name, and no database keeps one.
    if dependency.chars().any(char::is_control) {
        return Err(Problem::not_found("dependency of this name"));
    }
    limits::reset(&state.services, dependency, &caller.actor()).await?;
    Ok(())
}

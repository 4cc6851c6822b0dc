//! Whether the service lives and is ready.

use actix_web::{HttpResponse, web};
use penstock_flow::operate::readiness::readiness;
use serde::Deserialize;
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use crate::problem::Problem;
use crate::query::Query;
use crate::refusals;
use crate::state::ApiState;

/// Lives as long as it answers.
#[utoipa::path(get, operation_id = "live", path = "/livez", tag = "operations",
    responses((status = 200, description = "It lives", body = Object), refusals::Watched))]
pub async fn livez() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "ok" }))
}

/// An engine.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// The database.
    Database,
}

/// What readiness goes by.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ReadyQuery {
    /// The only engine that it goes by. Without the queue this service goes on: uploads are taken and everything can be read.
    #[param(inline)]
    only: Option<Engine>,
}

/// Ready while database, queue and object store answer.
#[utoipa::path(get, operation_id = "ready", path = "/readyz", tag = "operations", params(ReadyQuery),
    responses((status = 200, description = "All services answer", body = Object),
        (status = 503, description = "One does not; which one, and why", body = Object), refusals::Watched,
        (status = 400, description = "The query cannot be read", body = Problem, content_type = "application/problem+json")))]
pub async fn readyz(state: web::Data<ApiState>, Query(query): Query<ReadyQuery>) -> HttpResponse {
    let report = readiness(&state.services).await;
    let ready = match query.only {
        Some(Engine::Database) => report.database_answers(),
        None => report.ready,
    };
    let mut response = if ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    response.json(report)
}

//! Whether the service lives and is ready, and its metrics.

use actix_web::{HttpResponse, web};
use penstock_flow::metrics;
use penstock_flow::readiness::readiness;
use serde_json::json;

use crate::state::ApiState;

/// Lives as long as it answers.
#[utoipa::path(get, operation_id = "live", path = "/livez", tag = "operations",
    responses((status = 200, description = "It lives", body = Object)))]
pub async fn livez() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "ok" }))
}

/// Ready while its engines answer.
#[utoipa::path(get, operation_id = "ready", path = "/readyz", tag = "operations",
    responses((status = 200, description = "All engines answer", body = Object),
        (status = 503, description = "One does not; which one, and why", body = Object)))]
pub async fn readyz(state: web::Data<ApiState>) -> HttpResponse {
    let report = readiness(&state.engines).await;
    let mut response = if report.ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    response.json(report)
}

/// Metrics in Prometheus' text format.
#[utoipa::path(get, operation_id = "metrics", path = "/metrics", tag = "operations",
    responses((status = 200, description = "As they are now", body = String, content_type = "text/plain")))]
pub async fn metrics(state: web::Data<ApiState>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .body(metrics::render(&state.sources.collect().await))
}

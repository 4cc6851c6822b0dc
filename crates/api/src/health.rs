//! Whether the service lives and is ready, and its metrics.

use actix_web::{HttpResponse, web};
use penstock_flow::metrics;
use penstock_flow::readiness::readiness;
use serde_json::json;

use crate::state::ApiState;

/// Lives as long as it answers.
pub async fn livez() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "ok" }))
}

/// Ready while its engines answer.
pub async fn readyz(state: web::Data<ApiState>) -> HttpResponse {
    let report = readiness(&state.engines).await;
    let mut response = if report.ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    response.json(report)
}

/// Metrics in Prometheus' text format.
pub async fn metrics(state: web::Data<ApiState>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .body(metrics::render(&state.sources.collect().await))
}

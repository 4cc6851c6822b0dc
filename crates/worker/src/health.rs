//! The worker's /livez, /readyz and /metrics.

use std::net::SocketAddr;

use actix_web::dev::Server;
use actix_web::{App, HttpResponse, HttpServer, web};
use penstock_flow::operate::collect_metrics::Sources;
use penstock_flow::operate::readiness::readiness;
use penstock_flow::telemetry::metrics;
use serde_json::json;

/// Binds and serves.
///
/// # Errors
/// When the address is taken.
pub fn serve(sources: Sources, bind: SocketAddr) -> std::io::Result<Server> {
    let sources = web::Data::new(sources);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(sources.clone())
            .route("/livez", web::get().to(|| async { HttpResponse::Ok().json(json!({ "status": "ok" })) }))
            .route("/readyz", web::get().to(readyz))
            .route("/metrics", web::get().to(metrics_text))
    });
    Ok(server.workers(1).disable_signals().bind(bind)?.run())
}

async fn readyz(sources: web::Data<Sources>) -> HttpResponse {
    let report = readiness(&sources.services).await;
    let mut response = if report.ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    response.json(report)
}

async fn metrics_text(sources: web::Data<Sources>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .body(metrics::render(&sources.collect().await))
}

//! The worker's /livez, /readyz and /metrics.

use std::net::SocketAddr;
use std::sync::Arc;

use actix_web::dev::Server;
use actix_web::{App, HttpResponse, HttpServer, web};
use penstock_downstream::Caller;
use penstock_flow::process::Worker;
use penstock_flow::readiness::readiness;
use penstock_flow::{Engines, metrics};
use serde_json::json;

/// What the endpoints tell about.
#[derive(Clone)]
struct Told {
    engines: Engines,
    worker: Arc<Worker>,
    caller: Arc<Caller>,
}

/// Binds and serves.
///
/// # Errors
/// When the address is taken.
pub fn serve(
    engines: Engines,
    worker: Arc<Worker>,
    caller: Arc<Caller>,
    bind: SocketAddr,
) -> std::io::Result<Server> {
    let told = web::Data::new(Told { engines, worker, caller });
    let server = HttpServer::new(move || {
        App::new()
            .app_data(told.clone())
            .route("/livez", web::get().to(|| async { HttpResponse::Ok().json(json!({ "status": "ok" })) }))
            .route("/readyz", web::get().to(readyz))
            .route("/metrics", web::get().to(metrics_text))
    });
    Ok(server.workers(1).disable_signals().bind(bind)?.run())
}

async fn readyz(told: web::Data<Told>) -> HttpResponse {
    let report = readiness(&told.engines).await;
    let mut response = if report.ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    response.json(report)
}

async fn metrics_text(told: web::Data<Told>) -> HttpResponse {
    let families = metrics::collect(&told.engines, Some(told.worker.figures()), Some(&told.caller)).await;
    HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .body(metrics::render(&families))
}

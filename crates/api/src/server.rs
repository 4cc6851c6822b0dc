//! The server: routes, bounds and an orderly end.

use std::net::SocketAddr;
use std::time::Duration;

use actix_web::dev::Server;
pub use actix_web::dev::ServerHandle as Handle;
use actix_web::error::{InternalError, QueryPayloadError};
use actix_web::middleware::Compress;
use actix_web::{App, HttpResponse, HttpServer, ResponseError as _, web};
use tracing_actix_web::TracingLogger;
use utoipa_swagger_ui::SwaggerUi;

use crate::problem::Problem;
use crate::state::ApiState;
use crate::trace::Requests;
use crate::{batches, callbacks, events, health, ingest, openapi, presigned, reports, rows};

/// Threads that answer requests. Two keep up with any upload that the rest of the way can take, and bound memory.
const WORKERS: usize = 2;

/// Requests under way get so long after the process was asked to stop.
const SHUTDOWN_SECONDS: u64 = 20;

/// Binds and serves. The caller awaits the server, and stops it by its handle.
///
/// # Errors
/// When the address is taken.
pub fn serve(state: ApiState, bind: SocketAddr) -> std::io::Result<(Server, SocketAddr)> {
    let routes: Vec<String> =
        state.engines.pipelines.iter().filter_map(|pipeline| pipeline.route.clone()).collect();
    let document = web::Data::new(openapi::with_routes(&routes));
    let state = web::Data::new(state);
    let server = HttpServer::new(move || {
        let pipelines = state.engines.pipelines.clone();
        let mut app = App::new()
            .app_data(state.clone())
            .app_data(document.clone())
            .app_data(web::QueryConfig::default().error_handler(bad_query))
            .wrap(Compress::default())
            .wrap(TracingLogger::<Requests>::new())
            .route("/livez", web::get().to(health::livez))
            .route("/readyz", web::get().to(health::readyz))
            .route("/metrics", web::get().to(health::metrics))
            .route("/v2/openapi.json", web::get().to(openapi::document))
            .route("/docs", web::get().to(docs))
            .service(SwaggerUi::new("/docs/{_:.*}").url("/docs/openapi.json", document.get_ref().clone()))
            .route("/v2/pipelines/{name}/batches", web::post().to(ingest::upload_to_pipeline))
            .route("/v2/uploads", web::post().to(presigned::create))
            .route("/v2/uploads/{id}/content", web::put().to(presigned::put))
            .route("/v2/callbacks", web::get().to(callbacks::list))
            .route("/v2/callbacks/{id}/redeliver", web::post().to(callbacks::redeliver))
            .route("/v2/audit", web::get().to(callbacks::audit))
            .route("/v2/batches", web::get().to(batches::list))
            .service(
                web::resource("/v2/batches/{id}")
                    .route(web::get().to(batches::show))
                    .route(web::delete().to(batches::erase)),
            )
            .route("/v2/batches/{id}/cancel", web::post().to(batches::cancel))
            .route("/v2/batches/{id}/pause", web::post().to(batches::pause))
            .route("/v2/batches/{id}/resume", web::post().to(batches::resume))
            .route("/v2/batches/{id}/retry", web::post().to(batches::retry))
            .route("/v2/batches/{id}/errors", web::get().to(batches::errors))
            .route("/v2/batches/{id}/events", web::get().to(events::stream))
            .route("/v2/batches/{id}/waiting", web::get().to(rows::waiting))
            .route("/v2/batches/{id}/rows", web::get().to(rows::list))
            .route("/v2/batches/{id}/rows/{number}", web::get().to(rows::show))
            .route("/v2/batches/{id}/{report}", web::get().to(reports::report));
        for pipeline in pipelines.iter() {
            let Some(route) = pipeline.route.clone() else { continue };
            let pipeline = pipeline.clone();
            app = app.route(
                &route,
                web::post().to(move |caller, state, request, payload| {
                    ingest::upload(caller, state, pipeline.clone(), request, payload)
                }),
            );
        }
        app.default_service(web::to(nothing_here))
    })
    .workers(WORKERS)
    .shutdown_timeout(SHUTDOWN_SECONDS)
    .disable_signals()
    .client_request_timeout(Duration::from_secs(15))
    .bind(bind)?;
    let address = server.addrs().first().copied().unwrap_or(bind);
    Ok((server.run(), address))
}

async fn docs() -> HttpResponse {
    HttpResponse::TemporaryRedirect().insert_header(("location", "/docs/")).finish()
}

async fn nothing_here() -> HttpResponse {
    Problem::not_found("such route").error_response()
}

fn bad_query(error: QueryPayloadError, _: &actix_web::HttpRequest) -> actix_web::Error {
    let response = Problem::bad_request("bad_query", error.to_string()).error_response();
    InternalError::from_response(error, response).into()
}

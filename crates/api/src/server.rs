//! The server: routes, bounds and an orderly end.

use std::future::ready;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_http::HttpServiceBuilder;
use actix_http::error::DispatchError;
use actix_service::{IntoServiceFactory as _, ServiceFactoryExt as _, fn_service, map_config};
pub use actix_web::dev::ServerHandle as Handle;
use actix_web::dev::{AppConfig, Server};
use actix_web::http::Method;
use actix_web::middleware::{Compress, from_fn};
use actix_web::web::ServiceConfig;
use actix_web::{App, FromRequest as _, HttpRequest, HttpResponse, web};
use penstock_app::{Chosen, Settings, StartError};
use penstock_flow::operate::collect_metrics::Sources;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing_actix_web::TracingLogger;

use crate::auth::Caller;
use crate::coding::{Compressing, sparing};
use crate::connections::stream::turn_away;
use crate::connections::{Connections, Guarded, IDLE, track};
use crate::headers::secured;
use crate::keyless::Keyless;
use crate::middleware::{limited, recorded};
use crate::problem::Problem;
use crate::routing::{only, post, read, reading};
use crate::state::ApiState;
use crate::trace::Requests;
use crate::wording::worded;
use crate::{
    audit, batches, callbacks, console, docs, downloads, error_files, errors, events, health, history,
    ingest, keyless, limits, openapi, operations, pipelines, presigned, progress, reports, retry, rows,
    throughput,
};

/// Threads that answer requests. Two keep up with any upload that the rest of the way can take, and bound memory.
const WORKERS: usize = 2;

/// Requests under way get so long after the process was asked to stop.
const SHUTDOWN_SECONDS: u64 = 20;

/// A client that was refused with a body under way has so long to take the answer.
const DISCONNECT: Duration = Duration::from_secs(5);

/// Connections that wait to be accepted.
const BACKLOG: i32 = 2048;

/// Starts the API over these services. The caller awaits the server, and stops it by its handle.
///
/// # Errors
/// When the settings make no sense, or the address is taken.
pub fn start(
    chosen: &Chosen,
    settings: &Settings,
    sources: Sources,
    stop: CancellationToken,
) -> Result<(Server, SocketAddr), StartError> {
    let state = ApiState::new(chosen, settings, sources, stop)?;
    serve(state, settings.bind)
        .map_err(|error| StartError::new(format!("cannot listen on {}: {error}", settings.bind)))
}

/// Binds and serves. The caller awaits the server, and stops it by its handle.
///
/// # Errors
/// When the address is taken.
fn serve(mut state: ApiState, bind: SocketAddr) -> std::io::Result<(Server, SocketAddr)> {
    let pipelines = state.services.pipelines.iter();
    let own_routes: Vec<String> = pipelines.filter_map(|pipeline| pipeline.route.clone()).collect();
    let keyless = web::Data::new(Keyless::new(openapi::written(&openapi::with_routes(&own_routes))));
    let compressing = web::Data::new(Compressing::default());
    let listener = listen(bind)?;
    let address = listener.local_addr()?;
    if state.base.is_empty() && !address.ip().is_unspecified() {
        state.base = format!("http://{address}");
    }
    let state = web::Data::new(state);
    let builder = Server::build().workers(WORKERS).shutdown_timeout(SHUTDOWN_SECONDS).disable_signals();
    let stopping = builder.graceful_shutdown_signal();
    let (connections, shows_console) = (state.connections.clone(), state.console);
    let server = builder.listen("penstock-api", listener, move || {
        let (own_routes, stopping) = (own_routes.clone(), stopping.clone());
        let app = App::new()
            .app_data(state.clone())
            .app_data(keyless.clone())
            .app_data(compressing.clone())
            .wrap(from_fn(console::framed))
            .wrap(from_fn(limited))
            .wrap(from_fn(sparing))
            .wrap(Compress::default())
            .wrap(from_fn(worded))
            .wrap(from_fn(secured))
            .wrap(from_fn(recorded))
            .wrap(TracingLogger::<Requests>::new())
            .wrap(from_fn(track))
            .configure(|config| {
                routes(config, &own_routes);
                if shows_console {
                    console::routes(config);
                }
            })
            .default_service(web::to(elsewhere));
        let http = HttpServiceBuilder::<Guarded, _, _, _>::default()
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            .local_addr(address)
            // Heads have a deadline of ours, each of them.
            .client_request_timeout(Duration::ZERO)
            .client_disconnect_timeout(DISCONNECT)
            .keep_alive(IDLE)
            // Who hangs up is not worked for any more.
            .h1_allow_half_closed(false)
            .on_connect_ext(|io: &Guarded, data| {
                data.insert(io.connection());
            })
            .h1(map_config(
                app.into_factory().map_err(|error: actix_web::Error| error.error_response()),
                |_| AppConfig::default(),
            ));
        let connections = connections.clone();
        fn_service(move |io: TcpStream| ready(admit(&connections, io))).and_then(http)
    })?;
    Ok((server.run(), address))
}

/// The routes; pipelines have some of their own. Which pipeline has one is looked up at each request: definitions may change.
fn routes(routes: &mut ServiceConfig, own_routes: &[String]) {
    routes
        .service(read("/livez", web::to(health::livez)))
        .service(read("/readyz", web::to(health::readyz)))
        .service(read("/metrics", web::to(keyless::metrics)))
        .service(read("/v2/openapi.json", web::to(keyless::document)))
        .service(read("/docs", web::to(docs::redirect)))
        .service(read("/docs/openapi.json", web::to(keyless::document)))
        .service(read("/docs/{file:.*}", web::to(keyless::page)))
        .service(read("/v2/limits", web::to(limits::list)))
        .service(
            only("/v2/limits/{dependency}", "POST, DELETE")
                .route(web::post().to(limits::change))
                .route(web::delete().to(limits::reset)),
        )
        .service(read("/v2/operations", web::to(operations::show)))
        .service(
            only("/v2/reconcile", "GET, HEAD, POST")
                .route(web::to(operations::plan).guard(reading()))
                .route(web::post().to(operations::apply)),
        )
        .service(read("/v2/pipelines", web::to(pipelines::list)))
        .service(read("/v2/pipelines/{name}", web::to(pipelines::show)))
        .service(read("/v2/pipelines/{name}/example.csv", web::to(pipelines::example)))
        .service(post("/v2/pipelines/{name}/batches", web::to(ingest::upload_to_pipeline)))
        .service(post("/v2/uploads", web::to(presigned::create)))
        .service(read("/v2/uploads/{id}/errors.csv", web::to(error_files::of_upload)))
        .service(only("/v2/uploads/{id}/content", "PUT").route(web::put().to(presigned::put)))
        .service(read("/v2/uploads/{id}/progress", web::to(progress::show)))
        .service(read("/v2/callbacks", web::to(callbacks::list)))
        .service(post("/v2/callbacks/{id}/redeliver", web::to(callbacks::redeliver)))
        .service(read("/v2/audit", web::to(audit::list)))
        .service(read("/v2/batches", web::to(batches::list)))
        .service(
            only("/v2/batches/{id}", "GET, HEAD, DELETE")
                .route(web::to(batches::show).guard(reading()))
                .route(web::delete().to(batches::erase)),
        )
        .service(post("/v2/batches/{id}/cancel", web::to(batches::cancel)))
        .service(post("/v2/batches/{id}/pause", web::to(batches::pause)))
        .service(post("/v2/batches/{id}/resume", web::to(batches::resume)))
        .service(post("/v2/batches/{id}/retry", web::to(retry::retry)))
        .service(post("/v2/batches/{id}/downloads", web::to(downloads::create)))
        .service(read("/v2/downloads/{token}", web::to(downloads::follow)))
        .service(read("/v2/batches/{id}/errors", web::to(errors::summarize)))
        .service(read("/v2/batches/{id}/throughput", web::to(throughput::show)))
        .service(read("/v2/batches/{id}/history", web::to(history::show)))
        .service(read("/v2/batches/{id}/events", web::to(events::stream)))
        .service(read("/v2/batches/{id}/waiting", web::to(rows::waiting)))
        .service(read("/v2/batches/{id}/rows", web::to(rows::list)))
        .service(read("/v2/batches/{id}/rows/{number}", web::to(rows::show)))
        .service(read("/v2/batches/{id}/{report}", web::to(reports::report)));
    for route in own_routes {
        routes.service(post(route, web::to(upload_to_route)));
    }
}

/// A listening socket; connections wait in a long line while many come at once.
fn listen(bind: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(bind), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&bind.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A place for a connection, or a word to who gets none.
fn admit(
    connections: &Arc<Connections>,
    io: TcpStream,
) -> Result<(Guarded, Option<SocketAddr>), DispatchError> {
    let peer = io.peer_addr()?;
    let Some(held) = connections.admit(peer.ip()) else {
        tokio::task::spawn_local(turn_away(io, connections.clone()));
        return Err(DispatchError::Io(std::io::ErrorKind::ConnectionRefused.into()));
    };
    let _ = io.set_nodelay(true);
    Ok((Guarded::new(io, held), Some(peer)))
}

/// An upload to a pipeline's own route.
async fn upload_to_route(
    caller: Caller,
    state: web::Data<ApiState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let pipeline = state.services.pipelines.by_route(request.path());
    let pipeline = pipeline.ok_or_else(|| Problem::not_found("such route"))?;
    ingest::upload(caller, state, pipeline, request, payload).await
}

/// A route that was not there at the start: it may be that of a pipeline that was added since.
async fn elsewhere(
    state: web::Data<ApiState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    if request.method() != Method::POST || state.services.pipelines.by_route(request.path()).is_none() {
        return Err(Problem::not_found("such route"));
    }
    let caller = Caller::extract(&request).await?;
    upload_to_route(caller, state, request, payload).await
}

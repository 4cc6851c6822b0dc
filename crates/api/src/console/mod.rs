//! The console's addresses. Each handler asks what the REST handlers ask, as the same caller, and shows it as a page of
//! `penstock-console`.
//!
//! | what | where |
//! |---|---|
//! | who asks, and that a form is its own | [`visitor`], [`sign_in`], [`cookies`]; by OpenID Connect [`oidc`] |
//! | pages | [`batches`], [`batch`], [`commands`], [`rows`], [`upload`] (its form in [`upload_form`]), [`pipelines`]; for admin keys [`limits`], [`operations`] |
//! | what watches batches for everybody who looks | [`watchers`], sent by [`events`]; what operators see, [`operator_events`] |

mod batch;
mod batches;
mod commands;
mod cookies;
mod event_stream;
pub(crate) mod events;
mod limits;
mod oidc;
mod operations;
mod operator_events;
mod pipelines;
mod rows;
mod sign_in;
mod upload;
mod upload_form;
mod visitor;
pub(crate) mod watchers;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::middleware::Next;
use actix_web::web::ServiceConfig;
use actix_web::{
    Error, HttpMessage as _, HttpRequest, HttpResponse, Resource, ResponseError, Route, guard, web,
};
use penstock_console::Template;
use penstock_console::assets;
use penstock_console::layout::{Nav, Page, Viewer};
use penstock_console::problem::ProblemPage;
use penstock_domain::time::Timestamp;
use serde::de::DeserializeOwned;

use crate::problem::Problem;
use crate::query;
use crate::routing::{only, post, read, reading};

pub(crate) use oidc::Provider;
pub use sign_in::one_time_path;

/// Where the console is.
pub(crate) const HOME: &str = "/console/batches";

/// Why a page is not shown.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Nobody is signed in; leads to signing in and then there.
    SignIn(String),
    /// The same refusal that a client of the REST API gets.
    Problem(Box<Problem>),
}

impl<E: Into<Problem>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self::Problem(Box::new(error.into()))
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::SignIn(_) => f.write_str("nobody is signed in"),
            Self::Problem(problem) => problem.fmt(f),
        }
    }
}

impl std::error::Error for Refused {}

impl ResponseError for Refused {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::SignIn(_) => StatusCode::SEE_OTHER,
            Self::Problem(problem) => problem.status_code(),
        }
    }

    fn error_response(&self) -> HttpResponse {
        match self {
            Self::SignIn(to) => see_other(&sign_in::address(to)),
            Self::Problem(problem) => problem_page(problem, None),
        }
    }
}

fn problem_page(problem: &Problem, viewer: Option<Viewer>) -> HttpResponse {
    let page = Page::new(problem.title.clone(), Nav::None, viewer, Timestamp::default());
    let shown = ProblemPage { page, detail: problem.detail.clone(), code: problem.code.clone() };
    let mut response = html(problem.status_code(), &shown);
    if let Some(seconds) = problem.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A middleware that gives pages of refusals the navigation of who asked.
pub(crate) async fn framed(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let response = next.call(request).await?.map_into_boxed_body();
    let viewer = response.request().extensions().get::<Viewer>().cloned();
    let refused = response.response().error().and_then(Error::as_error::<Refused>);
    let (Some(viewer), Some(Refused::Problem(problem))) = (viewer, refused) else { return Ok(response) };
    let page = problem_page(problem, Some(viewer));
    let (request, _) = response.into_parts();
    Ok(ServiceResponse::new(request, page))
}

/// Pages and what they load.
pub(crate) fn routes(routes: &mut ServiceConfig) {
    routes
        .service(read("/", web::to(|| async { see_other("/console") })))
        .service(read("/console", web::to(sign_in::enter)))
        .service(read("/console/", web::to(|| async { see_other(HOME) })))
        .service(read("/console/assets/{file}", web::to(asset)))
        .service(both("/console/sign-in", web::to(sign_in::show), web::to(sign_in::sign_in)))
        .service(read("/console/sign-in/oidc", web::to(oidc::pages::start)))
        .service(only("/console/sign-in/oidc/callback", "GET").route(web::get().to(oidc::pages::come_back)))
        .service(post("/console/sign-out", web::to(sign_in::sign_out)))
        .service(read("/console/events", web::to(events::listen)))
        .service(read(HOME, web::to(batches::list)))
        .service(read("/console/batches/{id}", web::to(batch::show)))
        .service(read("/console/batches/{id}/rows", web::to(rows::list)))
        .service(both("/console/batches/{id}/rows/{number}", web::to(rows::show), web::to(rows::reveal)))
        .service(post("/console/batches/{id}/pause", web::to(commands::pause)))
        .service(post("/console/batches/{id}/resume", web::to(commands::resume)))
        .service(post("/console/batches/{id}/retry", web::to(commands::retry)))
        .service(post("/console/batches/{id}/redeliver", web::to(commands::redeliver)))
        .service(post("/console/batches/{id}/link", web::to(commands::link)))
        .service(both(
            "/console/batches/{id}/cancel",
            web::to(commands::ask_cancel),
            web::to(commands::cancel),
        ))
        .service(both("/console/batches/{id}/erase", web::to(commands::ask_erase), web::to(commands::erase)))
        .service(read("/console/batches/{id}/{report}", web::to(batch::report)))
        .service(read("/console/limits", web::to(limits::list)))
        .service(post("/console/limits/{dependency}", web::to(limits::change)))
        .service(both("/console/operations", web::to(operations::show), web::to(operations::reconcile)))
        .service(both("/console/upload", web::to(upload::show), web::to(upload::take)))
        .service(read("/console/upload/{id}", web::to(upload::progress)))
        .service(read("/console/pipelines", web::to(pipelines::list)))
        .service(read("/console/pipelines/{name}", web::to(pipelines::show)))
        .service(read("/console/pipelines/{name}/example.csv", web::to(pipelines::example)))
        .service(web::resource("/console/{rest:.*}").to(nothing_here));
}

fn both(path: &str, get: Route, send: Route) -> Resource {
    only(path, "GET, HEAD, POST").route(get.guard(reading())).route(send.guard(guard::Post()))
}

/// Asks who it is for the navigation alone.
async fn nothing_here(_: Option<visitor::Visitor>) -> Result<HttpResponse, Refused> {
    Err(Problem::not_found("such page").into())
}

async fn asset(file: web::Path<String>) -> Result<HttpResponse, Refused> {
    let found = assets::all().into_iter().find(|asset| asset.file == *file);
    let asset = found.ok_or_else(|| Problem::not_found("such file"))?;
    Ok(HttpResponse::Ok().content_type(asset.content_type).body(asset.bytes))
}

/// A page.
pub(crate) fn html(status: StatusCode, page: &impl Template) -> HttpResponse {
    match page.render() {
        Ok(text) => HttpResponse::build(status).content_type("text/html; charset=utf-8").body(text),
        Err(error) => {
            tracing::error!(%error, "a page cannot be rendered");
            HttpResponse::InternalServerError()
                .content_type("text/html; charset=utf-8")
                .body("<!doctype html><title>Penstock</title><p>Something went wrong here; it was logged.")
        }
    }
}

/// To another page, after something was done or looked up.
pub(crate) fn see_other(to: &str) -> HttpResponse {
    HttpResponse::SeeOther().insert_header((header::LOCATION, to)).finish()
}

/// The query of a page: parameters that it does not have are passed over, as addresses are written by hand.
pub(crate) fn query<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, Refused> {
    let pairs: Vec<(String, String)> = query::read(request.query_string())?;
    if pairs.iter().any(|(_, value)| value.chars().any(char::is_control)) {
        return Err(Problem::bad_request("bad_query", "a query parameter holds a control character").into());
    }
    Ok(query::read(request.query_string())?)
}

/// What was given, unless it is empty: forms send every field.
pub(crate) fn given(value: &str) -> Option<String> {
    Some(value.trim()).filter(|value| !value.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_a_page_with_what_it_says_escaped() {
        let refused = Refused::from(Problem::bad_request("bad_query", "`<script>` is not known"));
        let response = refused.error_response();
        assert_eq!(response.status(), 400);
        assert_eq!(response.headers().get("content-type").unwrap(), "text/html; charset=utf-8");
        let signing_in = Refused::SignIn("/console/batches?search=a%20b".into()).error_response();
        assert_eq!(signing_in.status(), 303);
        assert_eq!(
            signing_in.headers().get("location").unwrap(),
            "/console/sign-in?to=%2Fconsole%2Fbatches%3Fsearch%3Da%2520b"
        );
    }
}

//! A span for each request, which names the route and not the address: a query may carry what only the batch should know. And
//! what is counted of requests.

use std::time::Instant;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::{Error, HttpMessage as _, HttpRequest, web};
use tracing::Span;
use tracing::field::Empty;
use tracing_actix_web::RootSpanBuilder;
use uuid::Uuid;

use crate::state::ApiState;

/// Builds them.
pub struct Requests;

/// When a request came.
struct Began(Instant);

/// Asked every few seconds, for as long as the process lives.
fn is_watching(route: &str) -> bool {
    matches!(route, "/livez" | "/readyz" | "/metrics")
}

fn route(request: &HttpRequest) -> String {
    request.match_pattern().unwrap_or_else(|| "unknown".to_owned())
}

/// The batch that an address names.
fn batch(path: &str) -> Option<Uuid> {
    let behind = path.strip_prefix("/v2/batches/").or_else(|| path.strip_prefix("/console/batches/"));
    behind?.split('/').next()?.parse().ok()
}

/// Anybody can send any word for a method; those that there are, are few.
fn method(request: &HttpRequest) -> &'static str {
    let known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::OPTIONS,
        Method::PATCH,
    ];
    let names = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];
    known.iter().zip(names).find(|(known, _)| *known == request.method()).map_or("_OTHER", |(_, name)| name)
}

impl RootSpanBuilder for Requests {
    fn on_request_start(request: &ServiceRequest) -> Span {
        request.extensions_mut().insert(Began(Instant::now()));
        let (route, method) = (route(request.request()), method(request.request()));
        if is_watching(&route) {
            return Span::none();
        }
        let span = tracing::info_span!(
            "request",
            otel.name = format!("{method} {route}"),
            otel.kind = "server",
            http.request.method = method,
            http.route = route,
            http.response.status_code = Empty,
            batch = batch(request.path()).map(tracing::field::display),
            trace_id = Empty,
        );
        let state = request.app_data::<web::Data<ApiState>>();
        let parent = request.headers().get("traceparent").and_then(|value| value.to_str().ok());
        if let Some(state) = state {
            state.services.traces.continues(&span, parent.unwrap_or_default());
        }
        span
    }

    fn on_request_end<B: MessageBody>(span: Span, outcome: &Result<ServiceResponse<B>, Error>) {
        let status = match outcome {
            Ok(response) => response.status(),
            Err(error) => error.as_response_error().status_code(),
        };
        span.record("http.response.status_code", i64::from(status.as_u16()));
        let Ok(response) = outcome else { return };
        let request = response.request();
        let took = request.extensions().get::<Began>().map(|began| began.0.elapsed()).unwrap_or_default();
        if !is_watching(&route(request)) {
            let milliseconds = took.as_secs_f64() * 1e3;
            tracing::debug!(parent: &span, milliseconds, "a request was answered");
        }
        let state = request.app_data::<web::Data<ApiState>>();
        if let Some(metrics) = state.and_then(|state| state.sources.requests.as_ref()) {
            metrics.answered(method(request), &route(request), status.as_u16(), took);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_batch_or_none() {
        let id = "01920000-0000-7000-8000-000000000001";
        assert_eq!(batch(&format!("/v2/batches/{id}")).map(|id| id.to_string()).as_deref(), Some(id));
        assert_eq!(batch(&format!("/v2/batches/{id}/rows/3")).map(|id| id.to_string()).as_deref(), Some(id));
        for other in
            ["/v2/batches", "/v2/batches/secret", "/v2/callbacks/01920000-0000-7000-8000-000000000001/x"]
        {
            assert_eq!(batch(other), None, "{other}");
        }
    }
}

//! A span for each request. It names the route, not the address: a query may carry what only the batch should know.

use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use tracing::Span;
use tracing::field::Empty;
use tracing_actix_web::RootSpanBuilder;

use actix_web::web;

use crate::state::ApiState;

/// Builds them.
pub struct Requests;

impl RootSpanBuilder for Requests {
    fn on_request_start(request: &ServiceRequest) -> Span {
        let route = request.match_pattern().unwrap_or_else(|| "unknown".to_owned());
        if matches!(route.as_str(), "/livez" | "/readyz" | "/metrics") {
            // Asked for every few seconds, for ever.
            return Span::none();
        }
        let span = tracing::info_span!(
            "request",
            otel.name = format!("{} {route}", request.method()),
            otel.kind = "server",
            http.request.method = %request.method(),
            http.route = route,
            http.response.status_code = Empty,
            trace_id = Empty,
        );
        let state = request.app_data::<web::Data<ApiState>>();
        let parent = request.headers().get("traceparent").and_then(|value| value.to_str().ok());
        if let Some(state) = state {
            state.engines.traces.continues(&span, parent.unwrap_or_default());
        }
        span
    }

    fn on_request_end<B: MessageBody>(span: Span, outcome: &Result<ServiceResponse<B>, Error>) {
        let status = match outcome {
            Ok(response) => response.status(),
            Err(error) => error.as_response_error().status_code(),
        };
        span.record("http.response.status_code", i64::from(status.as_u16()));
    }
}

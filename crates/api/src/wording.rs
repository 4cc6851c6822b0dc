//! Every refusal is a problem document, also where the framework refuses before a handler is asked.

use actix_web::Error;
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::InternalError;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName};
use actix_web::middleware::Next;
use actix_web::{HttpResponse, ResponseError as _};

use crate::headers::{self, Kind};
use crate::problem::Problem;

/// Headers that belong to a body, and go with the one that is replaced.
const OF_A_BODY: [HeaderName; 4] =
    [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::CONTENT_ENCODING, header::TRANSFER_ENCODING];

/// Words what nobody has worded.
pub async fn worded(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let response = match next.call(request).await {
        Ok(response) => response.map_into_boxed_body(),
        Err(error) => {
            let mut response = of(error.as_response_error().status_code()).error_response();
            headers::set(response.headers_mut(), Kind::Owned);
            return Err(InternalError::from_response(error, response).into());
        }
    };
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) || is_worded(response.response()) {
        return Ok(response);
    }
    let (request, plain) = response.into_parts();
    let mut worded = of(status).error_response();
    for (name, value) in plain.headers().iter().filter(|(name, _)| !OF_A_BODY.contains(name)) {
        worded.headers_mut().append(name.clone(), value.clone());
    }
    Ok(ServiceResponse::new(request, worded))
}

/// `/readyz` is JSON of its own.
fn is_worded(response: &HttpResponse) -> bool {
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|text| {
        // A page of the console says it itself.
        text.starts_with("text/html")
            || text.starts_with("application/problem+json")
            || text.starts_with("application/json")
    })
}

fn of(status: StatusCode) -> Problem {
    let (code, detail) = match status.as_u16() {
        404 => ("not_found", "there is nothing here"),
        406 => (
            "not_acceptable",
            "Accept-Encoding leaves no content coding that is written here: gzip, identity",
        ),
        408 => ("timeout", "the request did not come in time"),
        413 => ("body_too_large", "the body is too large"),
        416 => ("range_not_satisfiable", "the report ends before this range; Content-Range has its length"),
        400..=499 => ("bad_request", "the request cannot be read"),
        503 => ("unavailable", "an engine is not available; try again"),
        _ => ("internal", "something went wrong here; it was logged"),
    };
    Problem::new(status, code, detail)
}

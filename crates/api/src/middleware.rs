//! What happens around every request: an address that asked too often without a valid key is refused, and accesses are recorded.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{Method, StatusCode, header};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage as _, HttpRequest, ResponseError as _, web};

use crate::accesses::{Access, Asker, Subject};
use crate::addresses::client_address;
use crate::connections::Limits;
use crate::problem::Problem;
use crate::state::ApiState;

/// What needs no key and asks no database. It has bounds of its own ([`crate::keyless`]).
const FREE: [&str; 5] = ["/livez", "/readyz", "/metrics", "/v2/openapi.json", "/docs"];

/// A middleware that records refused requests and what admin keys read.
pub async fn recorded<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    let response = next.call(request).await?;
    let request = response.request();
    if let Some(state) = request.app_data::<web::Data<ApiState>>()
        && let Some(subject) = subject(request, response.status(), state.connections.limits())
    {
        state.accesses.record(subject);
    }
    Ok(response)
}

fn subject(request: &HttpRequest, status: StatusCode, limits: &Limits) -> Option<Subject> {
    let asker = request.extensions().get::<Asker>().cloned();
    let reads = [Method::GET, Method::HEAD].contains(request.method());
    let access = match status {
        StatusCode::UNAUTHORIZED => Access::Unauthorized,
        // Of an address that has had too many of them.
        StatusCode::TOO_MANY_REQUESTS if asker.is_none() => Access::Unauthorized,
        StatusCode::FORBIDDEN => Access::Forbidden,
        status if status.is_success() && reads && asker.as_ref()?.admin => Access::AdminRead,
        _ => return None,
    };
    let actor = match asker.filter(|_| access != Access::Unauthorized) {
        Some(asker) => asker.actor,
        None => format!("address:{}", client_address(request, limits)?),
    };
    if access == Access::Unauthorized {
        // A stranger who tries many routes is one subject.
        return Some(Subject { access, actor, batch: None, request: "a request without a valid key".into() });
    }
    // The route and not the address: a query may carry what only the batch should know.
    let route = request.match_pattern().unwrap_or_else(|| "unknown".to_owned());
    let batch = request.match_info().get("id").filter(|_| of_a_batch(&route));
    let batch = batch.and_then(|id| id.parse().ok());
    Some(Subject { access, actor, batch, request: format!("{} {route}", request.method()) })
}

/// Whether a route names a batch.
fn of_a_batch(route: &str) -> bool {
    route.starts_with("/v2/batches/") || route.starts_with("/console/batches/")
}

/// A middleware that refuses an address that asked too often without a valid key.
pub async fn limited(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let path = request.path();
    let free = FREE.contains(&path) || path.starts_with("/docs/");
    let state = request.app_data::<web::Data<ApiState>>().cloned();
    let Some(state) = state.filter(|state| !free && state.address_rates.is_limiting()) else {
        return Ok(next.call(request).await?.map_into_boxed_body());
    };
    let Some(address) = client_address(request.request(), state.connections.limits()) else {
        return Ok(next.call(request).await?.map_into_boxed_body());
    };
    let rates = &state.address_rates;
    // A browser that is signed in has a cookie instead of a key.
    let key = if path.starts_with("/console") { header::COOKIE } else { header::AUTHORIZATION };
    let key = request.headers().get(key).map(|value| value.as_bytes());
    let taken = match rates.take(address, key, rates.now()) {
        Ok(taken) => taken,
        Err(seconds) => {
            let detail = format!(
                "this address sends too many requests without a valid key; try again after {seconds} s"
            );
            let problem =
                Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail).retry_after(seconds);
            return Ok(request.into_response(problem.error_response()));
        }
    };
    let response = next.call(request).await?.map_into_boxed_body();
    let has_key = response.request().extensions().get::<Asker>().is_some();
    // A link that opens something needs no key.
    if has_key || !response.status().is_client_error() {
        rates.refund(&taken, has_key, rates.now());
    } else if response.status() == StatusCode::UNAUTHORIZED {
        rates.forget(&taken);
    }
    Ok(response)
}

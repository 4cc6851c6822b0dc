//! Addresses and the methods that they have.

use actix_web::guard::{self, Guard};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{Resource, ResponseError as _, Route, web};

use crate::problem::Problem;

/// A resource that says which methods it has when it is asked for another (RFC 9110, 15.5.6).
pub(crate) fn only(path: &str, methods: &'static str) -> Resource {
    web::resource(path).default_service(web::to(move || async move {
        let detail = format!("this is for {methods}");
        let mut response =
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail).error_response();
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
        response
    }))
}

pub(crate) fn reading() -> impl Guard {
    guard::Any(guard::Get()).or(guard::Head())
}

pub(crate) fn read(path: &str, route: Route) -> Resource {
    only(path, "GET, HEAD").route(route.guard(reading()))
}

pub(crate) fn post(path: &str, route: Route) -> Resource {
    only(path, "POST").route(route.guard(guard::Post()))
}

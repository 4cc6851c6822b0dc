//! Which answers are compressed on their way out: those that are worth it, and only some at a time.
//!
//! A compressor costs processor time and 256 KiB. Reports reserve theirs ([`crate::budgets`]), and what is the same for
//! everybody is compressed once ([`crate::keyless`]); here are all the others.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, web};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::shared_answer::WORTH_COMPRESSING;

/// Answers that are compressed at a time. Further ones are sent as they are.
const AT_A_TIME: usize = 8;

/// Leave to compress an answer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Compressing(Arc<Semaphore>);

impl Default for Compressing {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_A_TIME)))
    }
}

/// A middleware, inside of the one that compresses: has an answer sent as it is when it is short, or when enough others are
/// being compressed.
///
/// # Errors
/// None of its own.
pub async fn sparing<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<Permitted<B>>, Error> {
    let compressing = request.app_data::<web::Data<Compressing>>().cloned();
    let asked = request.headers().contains_key(header::ACCEPT_ENCODING);
    let mut response = next.call(request).await?;
    let length = length(&response);
    let mut permit = None;
    if asked
        && !response.headers().contains_key(header::CONTENT_ENCODING)
        && let Some(length) = length
    {
        let worth = length >= WORTH_COMPRESSING as u64;
        permit = compressing.filter(|_| worth).and_then(|leave| leave.0.clone().try_acquire_owned().ok());
        if permit.is_none() {
            as_it_is(response.headers_mut());
        }
    }
    Ok(response.map_body(|_, body| Permitted { body: Box::pin(body), _permit: permit }))
}

/// How long the answer is, if it is known; reports and streams of events are written while they are sent.
fn length<B: MessageBody>(response: &ServiceResponse<B>) -> Option<u64> {
    match response.response().body().size() {
        BodySize::None => None,
        BodySize::Sized(length) => Some(length),
        BodySize::Stream => response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok(),
    }
}

fn as_it_is(headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("identity"));
}

/// A coding that is none is not named in an answer (RFC 9110, section 8.4.1).
pub fn unname_identity(headers: &mut HeaderMap) {
    if headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding == "identity") {
        headers.remove(header::CONTENT_ENCODING);
    }
}

/// An answer's body, with its leave to be compressed.
pub struct Permitted<B> {
    body: Pin<Box<B>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl<B: MessageBody> MessageBody for Permitted<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        self.body.as_mut().poll_next(cx)
    }
}

#[cfg(test)]
mod tests {
    use actix_web::middleware::{Compress, from_fn};
    use actix_web::test::{TestRequest, call_service, init_service};
    use actix_web::{App, HttpResponse};

    use super::*;

    #[tokio::test]
    async fn only_some_answers_are_compressed_at_a_time() {
        let app = App::new()
            .app_data(web::Data::new(Compressing::default()))
            .wrap(from_fn(sparing))
            .wrap(Compress::default())
            .route("/long", web::to(|| async { HttpResponse::Ok().body(vec![b'a'; 100_000]) }))
            .route("/short", web::to(|| async { HttpResponse::Ok().body("short") }));
        let app = init_service(app).await;
        let asked = |path| {
            let request = TestRequest::get().uri(path).insert_header((header::ACCEPT_ENCODING, "gzip"));
            call_service(&app, request.to_request())
        };
        let coding = |response: &ServiceResponse<_>| {
            let mut headers = response.headers().clone();
            unname_identity(&mut headers);
            headers.get(header::CONTENT_ENCODING).cloned()
        };
        assert_eq!(coding(&asked("/short").await), None, "it is not worth it");
        let mut held = Vec::new();
        for _ in 0..AT_A_TIME {
            let response = asked("/long").await;
            assert_eq!(coding(&response).unwrap(), "gzip");
            held.push(response);
        }
        assert_eq!(coding(&asked("/long").await), None, "others are being compressed");
        held.pop();
        assert_eq!(coding(&asked("/long").await).unwrap(), "gzip");
    }
}

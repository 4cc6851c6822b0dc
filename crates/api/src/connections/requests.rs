//! Tells a connection where its requests begin and end, and when their bodies are waited for.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::http::header;
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage as _};
use bytes::Bytes;
use futures::Stream;

use super::connection::Connection;
use crate::budgets::PIECE;

/// A middleware, the outermost one.
pub async fn track<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<Tracked<B>>, Error> {
    let connection = request.conn_data::<Arc<Connection>>().cloned();
    let until_answered = connection.clone().map(|connection| {
        let headers = request.headers();
        let has_body = headers.contains_key(header::TRANSFER_ENCODING)
            || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
        connection.request_began(has_body);
        UntilAnswered(connection)
    });
    if let Some(connection) = connection {
        let payload = request.take_payload();
        let body = Body { payload, connection };
        request.set_payload(Payload::Stream { payload: Box::pin(body) });
    }
    let response = next.call(request).await?;
    Ok(response.map_body(|_, body| Tracked {
        body: Box::pin(body),
        rest: Bytes::new(),
        _until_answered: until_answered,
    }))
}

/// Says that a request ended, however it ends.
struct UntilAnswered(Arc<Connection>);

impl Drop for UntilAnswered {
    fn drop(&mut self) {
        self.0.request_ended();
    }
}

/// A request's body.
struct Body {
    payload: Payload,
    connection: Arc<Connection>,
}

impl Stream for Body {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = Pin::new(&mut self.payload).poll_next(cx);
        match &polled {
            Poll::Pending => self.connection.more_is_wanted(),
            Poll::Ready(None) => self.connection.body_ended(),
            Poll::Ready(Some(_)) => {}
        }
        polled
    }
}

impl Drop for Body {
    /// What came of it and was not asked for is no rest that is waited for: most refused requests are there as a whole.
    fn drop(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(Ok(_))) = Pin::new(&mut *self).poll_next(&mut cx) {}
    }
}

/// An answer's body; the request ends with it. The server copies what it is given into the connection's buffer at once, so
/// it is given a little at a time, however much of the answer is there.
pub struct Tracked<B> {
    body: Pin<Box<B>>,
    /// What is there and was not given to the server yet.
    rest: Bytes,
    _until_answered: Option<UntilAnswered>,
}

impl<B: MessageBody> MessageBody for Tracked<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        if self.rest.is_empty() {
            match ready!(self.body.as_mut().poll_next(cx)) {
                Some(Ok(bytes)) => self.rest = bytes,
                ended => return Poll::Ready(ended),
            }
        }
        let piece = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(self.rest.split_to(piece))))
    }
}

#[cfg(test)]
mod tests {
    use actix_web::middleware::from_fn;
    use actix_web::test::{TestRequest, call_service, init_service};
    use actix_web::{App, HttpResponse, web};
    use futures::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn the_server_is_given_a_little_at_a_time() {
        const LENGTH: usize = 2 * PIECE + 1;
        let app = App::new()
            .wrap(from_fn(track))
            .route("/", web::to(|| async { HttpResponse::Ok().body(vec![b'a'; LENGTH]) }));
        let app = init_service(app).await;
        let response = call_service(&app, TestRequest::get().uri("/").to_request()).await;
        let mut body = std::pin::pin!(response.into_body());
        assert_eq!(body.size(), BodySize::Sized(LENGTH as u64));
        let mut pieces = Vec::new();
        while let Some(piece) = poll_fn(|cx| body.as_mut().poll_next(cx)).await {
            pieces.push(piece.unwrap().len());
        }
        assert_eq!(pieces, [PIECE, PIECE, 1]);
    }
}

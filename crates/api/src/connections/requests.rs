//! Tells a connection where its requests begin and end, and when their bodies are waited for.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::http::header;
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage as _};
use bytes::Bytes;
use futures::Stream;

use super::table::Connection;

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
    Ok(response.map_body(|_, body| Tracked { body: Box::pin(body), _until_answered: until_answered }))
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

/// An answer's body; the request ends with it.
pub struct Tracked<B> {
    body: Pin<Box<B>>,
    _until_answered: Option<UntilAnswered>,
}

impl<B: MessageBody> MessageBody for Tracked<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        self.body.as_mut().poll_next(cx)
    }
}

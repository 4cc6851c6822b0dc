//! Answers that go on: server-sent events.

use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::header;
use bytes::Bytes;

use crate::problem::Problem;

/// How often the session's key is looked for again, and something is sent so that the connection stays open.
pub(super) const KEY_EVERY: Duration = Duration::from_secs(15);

/// What is sent so that a connection without news stays open.
pub(super) const STILL_HERE: Bytes = Bytes::from_static(b": still here\n\n");

/// An answer that goes on: server-sent events.
pub(super) fn event_stream(
    events: impl futures::Stream<Item = Result<Bytes, Problem>> + 'static,
) -> HttpResponse {
    let mut response = HttpResponse::Ok();
    response.content_type("text/event-stream");
    // Compression would hold events back until its buffer is full.
    response.insert_header((header::CONTENT_ENCODING, "identity"));
    response.streaming(Box::pin(events))
}

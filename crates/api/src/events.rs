//! Server-sent events: the batch, whenever it changes.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::{Method, header};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use penstock_flow::read::view::batch_view;
use penstock_store::batches::Batch;
use tokio::time::Interval;
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::body::nothing;
use crate::console::events::changes;
use crate::console::watchers::look_at;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::refusals;
use crate::seen::Seen;
use crate::state::ApiState;

/// How often a listener's key is asked for again.
const KEY_EVERY: Duration = Duration::from_secs(3);

/// Looks at the key without an event after which a comment keeps the connection open.
const KEEP_ALIVE_TICKS: u32 = 5;

/// An event, for the document: each line of it is a field.
#[allow(dead_code, reason = "it describes what is written")]
#[derive(ToSchema)]
pub struct BatchEvent {
    /// The batch's revision.
    id: String,
    /// `batch`.
    event: String,
    /// The batch in JSON, as `GET /v2/batches/{id}` shows it.
    data: String,
}

/// Tells the batch whenever it changes, and ends when it has ended. An event's id is the batch's revision;
/// `Last-Event-ID` goes on behind it. A stream also ends when the service stops or the key is revoked: a listener that
/// comes again is answered by another instance, or refused.
#[utoipa::path(get, operation_id = "stream_events", path = "/v2/batches/{id}/events", tag = "batches",
    params(("id" = String, Path), ("Last-Event-ID" = Option<String>, Header, description = "The last event that was seen")),
    responses((status = 200, description = "`batch` events; the data of each is the batch", body = BatchEvent, content_type = "text/event-stream"),
        (status = 204, description = "The batch has ended, and its last event was seen: there is nothing to come again for"),
        refusals::Asked, refusals::Named), security(("key" = [])))]
pub async fn stream(
    caller: Caller,
    state: web::Data<ApiState>,
    id: web::Path<String>,
    _: NoQuery,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let first = caller.batch(&state, &id).await?;
    let mut seen = last_event_id(&request);
    if first.ledger.is_finished() && seen == Some(first.ledger.revision) {
        return Ok(HttpResponse::NoContent().finish());
    }
    let mut response = HttpResponse::Ok();
    response.content_type("text/event-stream");
    // Compression would hold events back until its buffer is full.
    response.insert_header((header::CONTENT_ENCODING, "identity"));
    if request.method() == Method::HEAD {
        return Ok(response.streaming(nothing()));
    }
    let changes = changes(look_at(&state, &first)).boxed();
    let events = async_stream::stream! {
        // What it is now is told at once; what changes, as it is seen.
        let Some((revision, data, ended)) = now(&state, &first).await else { return };
        if seen != Some(revision) {
            yield Ok::<_, Problem>(event(revision, &data));
        }
        // They would be kept for as long as the listener stays.
        drop((first, data));
        seen = Some(revision);
        if ended {
            return;
        }
        let mut tick = tokio::time::interval(KEY_EVERY);
        // The first tick is now.
        tick.tick().await;
        let (mut listener, mut quiet) = (Listener { caller, state, changes, tick }, 0);
        loop {
            match listener.next().await {
                Next::Changed(change) => {
                    // One that was looked at before this listener came may be older than what it knows.
                    if seen < Some(change.revision) {
                        (seen, quiet) = (Some(change.revision), 0);
                        yield Ok(event(change.revision, &change.json));
                    }
                    if change.ended {
                        return;
                    }
                }
                Next::Quiet => {
                    quiet += 1;
                    if quiet % KEEP_ALIVE_TICKS == 0 {
                        yield Ok(Bytes::from_static(b": still here\n\n"));
                    }
                }
                Next::Over => return,
            }
        }
    };
    Ok(response.streaming(Box::pin(events)))
}

/// The revision that a listener who comes again has seen.
fn last_event_id(request: &HttpRequest) -> Option<i64> {
    request.headers().get("last-event-id")?.to_str().ok()?.parse().ok()
}

fn event(revision: i64, data: &str) -> Bytes {
    Bytes::from(format!("id: {revision}\nevent: batch\ndata: {data}\n\n"))
}

/// The batch as it is: its revision, its JSON, and whether it has ended. None when it cannot be read.
async fn now(state: &ApiState, batch: &Batch) -> Option<(i64, String, bool)> {
    let view = batch_view(&state.services, batch, state.rows_per_owner).await.ok()?;
    Some((batch.ledger.revision, serde_json::to_string(&view).ok()?, batch.ledger.is_finished()))
}

/// What a listener waits for, and what it needs to know whether it may go on.
struct Listener {
    caller: Caller,
    state: web::Data<ApiState>,
    changes: BoxStream<'static, Arc<Seen>>,
    tick: Interval,
}

enum Next {
    Changed(Arc<Seen>),
    /// Nothing has changed, and the listener's key is still valid.
    Quiet,
    /// Its key is revoked, or the service stops.
    Over,
}

impl Listener {
    async fn next(&mut self) -> Next {
        tokio::select! {
            change = self.changes.next() => change.map_or(Next::Over, Next::Changed),
            _ = self.tick.tick() => {
                if self.caller.is_valid(&self.state).await { Next::Quiet } else { Next::Over }
            }
            () = self.state.stop.cancelled() => Next::Over,
        }
    }
}

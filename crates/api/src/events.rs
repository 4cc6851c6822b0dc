//! Server-sent events: the batch, whenever it changes.

use std::time::Duration;

use actix_web::http::{Method, header};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures::StreamExt as _;
use penstock_flow::read::view::batch_view;
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::body::nothing;
use crate::console::events::changes;
use crate::console::watchers::look_at;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::refusals;
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
    let mut seen: Option<i64> = request
        .headers()
        .get("last-event-id")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok());
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
    let mut changes = changes(look_at(&state, &first)).boxed();
    let events = async_stream::stream! {
        let mut tick = tokio::time::interval(KEY_EVERY);
        // The first tick is now.
        tick.tick().await;
        let (mut first, mut quiet) = (Some(first), 0);
        loop {
            let is_first = first.is_some();
            // What it is now is told at once; what changes, as it is seen.
            let seen_now = match first.take() {
                Some(batch) => {
                    let Ok(view) = batch_view(&state.services, &batch, state.rows_per_owner).await else { break };
                    let Ok(data) = serde_json::to_string(&view) else { break };
                    Some((batch.ledger.revision, data, batch.ledger.is_finished()))
                }
                None => tokio::select! {
                    change = changes.next() => match change {
                        Some(change) => Some((change.revision, change.json.clone(), change.ended)),
                        None => break,
                    },
                    _ = tick.tick() => {
                        if !caller.is_valid(&state).await {
                            break;
                        }
                        None
                    }
                    () = state.stop.cancelled() => break,
                },
            };
            match seen_now {
                Some((revision, data, ended)) => {
                    // One that was looked at before this listener came may be older than what it knows.
                    let is_new = if is_first { seen != Some(revision) } else { seen < Some(revision) };
                    if is_first || is_new {
                        seen = Some(revision);
                    }
                    if is_new {
                        quiet = 0;
                        yield Ok::<_, Problem>(Bytes::from(format!("id: {revision}\nevent: batch\ndata: {data}\n\n")));
                    }
                    if ended {
                        break;
                    }
                }
                None => {
                    quiet += 1;
                    if quiet % KEEP_ALIVE_TICKS == 0 {
                        yield Ok(Bytes::from_static(b": still here\n\n"));
                    }
                }
            }
        }
    };
    Ok(response.streaming(Box::pin(events)))
}

//! Server-sent events: the batch, whenever it changes.

use std::time::Duration;

use actix_web::http::{Method, header};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use penstock_flow::read::view::batch_view;
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::body::nothing;
use crate::problem::Problem;
use crate::query::NoQuery;
use crate::refusals;
use crate::state::ApiState;

/// How often a batch is looked at for its listeners.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks without a change after which a comment keeps the connection open.
const KEEP_ALIVE_LOOKS: u32 = 15;

/// Looks after which the listener's key is asked for again.
const KEY_LOOKS: u32 = 3;

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
    let events = async_stream::stream! {
        let (mut looks, mut quiet) = (0_u32, 0);
        let mut current = Some(first);
        loop {
            let batch = match current.take() {
                Some(batch) => Some(batch),
                None => caller.batch(&state, &id).await.ok(),
            };
            let Some(batch) = batch else { break };
            if seen != Some(batch.ledger.revision) {
                let Ok(view) = batch_view(&state.services, &batch, state.rows_per_owner).await else { break };
                let Ok(data) = serde_json::to_string(&view) else { break };
                seen = Some(batch.ledger.revision);
                quiet = 0;
                yield Ok::<_, Problem>(Bytes::from(format!("id: {}\nevent: batch\ndata: {data}\n\n", batch.ledger.revision)));
            }
            if batch.ledger.is_finished() {
                break;
            }
            tokio::select! {
                () = state.stop.cancelled() => break,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            looks = looks.wrapping_add(1);
            if looks % KEY_LOOKS == 0 && !caller.is_valid(&state).await {
                break;
            }
            quiet += 1;
            if quiet >= KEEP_ALIVE_LOOKS {
                quiet = 0;
                yield Ok(Bytes::from_static(b": still here\n\n"));
            }
        }
    };
    Ok(response.streaming(Box::pin(events)))
}

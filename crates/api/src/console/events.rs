//! Live pages: what changes, as server-sent events with the HTML that takes its place.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::{Method, header};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, SelectAll};
use penstock_store::owners::KeyRole;
use serde::Deserialize;
use serde_json::json;

use crate::console::visitor::Visitor;
use crate::console::watchers::look_at;
use crate::console::{Refused, query};
use crate::problem::Problem;
use crate::seen::{Seen, Sight};
use crate::state::ApiState;

/// Batches that one page watches, at most: as many as a list shows.
const MOST: usize = 25;

/// How often the session's key is looked for again, and something is sent so that the connection stays open.
const KEY_EVERY: Duration = Duration::from_secs(15);

/// What a page shows: one batch, or a list of them.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Watched {
    batch: String,
    batches: String,
}

impl Watched {
    fn ids(&self) -> Result<Vec<&str>, Problem> {
        let ids: Vec<&str> = if self.batch.is_empty() {
            self.batches.split(',').filter(|id| !id.is_empty()).collect()
        } else {
            vec![&self.batch]
        };
        if ids.is_empty() || ids.len() > MOST {
            return Err(Problem::bad_request("bad_query", "a page watches 1 to 25 batches"));
        }
        Ok(ids)
    }
}

/// Sends what changes of the batches that a page shows. It ends when all of them have, when the session's key is no longer
/// good, or when the service stops.
pub(super) async fn stream(
    visitor: Visitor,
    state: web::Data<ApiState>,
    request: HttpRequest,
) -> Result<HttpResponse, Refused> {
    let watched: Watched = query(&request)?;
    let one = !watched.batch.is_empty();
    let ids = watched.ids()?;
    if request.method() == Method::HEAD {
        return Ok(HttpResponse::Ok().content_type("text/event-stream").finish());
    }
    let mut seen = SelectAll::new();
    let mut open = HashSet::new();
    for id in ids {
        let batch = visitor.caller.batch(&state, id).await?;
        open.insert(batch.id.to_string());
        seen.push(changes(look_at(&state, &batch)).boxed());
    }
    let admin = visitor.caller.role == KeyRole::Admin;
    let body = async_stream::stream! {
        let mut tick = tokio::time::interval(KEY_EVERY);
        // The first tick is now.
        tick.tick().await;
        loop {
            tokio::select! {
                change = seen.next() => match change {
                    Some(change) => {
                        yield Ok::<_, Problem>(event(&change, one, admin));
                        if change.ended {
                            open.remove(&change.id);
                        }
                        if open.is_empty() {
                            // Nothing is left to come again for.
                            yield Ok(Bytes::from_static(b"event: end\ndata: {}\n\n"));
                            break;
                        }
                    }
                    None => break,
                },
                _ = tick.tick() => {
                    if visitor.has_ended(&state) || !visitor.caller.is_valid(&state).await {
                        break;
                    }
                    yield Ok(Bytes::from_static(b": still here\n\n"));
                }
                () = state.stop.cancelled() => break,
            }
        }
    };
    let mut response = HttpResponse::Ok();
    response.content_type("text/event-stream");
    // Compression would hold events back until its buffer is full.
    response.insert_header((header::CONTENT_ENCODING, "identity"));
    Ok(response.streaming(Box::pin(body)))
}

/// What is seen of a batch, each time that it changes.
pub(crate) fn changes(receiver: Sight) -> impl futures::Stream<Item = Arc<Seen>> {
    stream::unfold((receiver, true), |(mut receiver, first)| async move {
        // What was seen before this one came is shown at once.
        let mut seen = if first { receiver.borrow_and_update().clone() } else { None };
        while seen.is_none() {
            receiver.changed().await.ok()?;
            seen.clone_from(&receiver.borrow_and_update());
        }
        seen.map(|seen| (seen, (receiver, false)))
    })
}

fn event(seen: &Seen, one: bool, admin: bool) -> Bytes {
    let html = match (one, admin) {
        (true, _) => &seen.page,
        (false, false) => &seen.line,
        (false, true) => &seen.admin_line,
    };
    let data = json!({ "id": seen.id, "state": seen.state, "html": html });
    Bytes::from(format!("event: batch\ndata: {data}\n\n"))
}

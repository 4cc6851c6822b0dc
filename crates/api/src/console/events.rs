//! Live pages: what changes, as server-sent events with the HTML that takes its place.

use std::collections::HashSet;
use std::sync::Arc;

use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, ResponseError as _, web};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream, SelectAll};
use penstock_domain::ids::BatchSeq;
use penstock_store::owners::KeyRole;
use serde::Deserialize;

use crate::auth::Caller;
use crate::console::event_stream::{KEY_EVERY, STILL_HERE, event_stream};
use crate::console::operator_events::{self, LivePage};
use crate::console::visitor::Visitor;
use crate::console::watchers::{look_at, look_for_new};
use crate::console::{Refused, query};
use crate::problem::Problem;
use crate::seen::{Newcomer, Newcomers, Seen, Sight};
use crate::state::ApiState;

/// Batches that one page watches, at most: as many as a list shows.
const MOST: usize = 25;

/// New batches that a list counts; its reader has looked away for long.
const MOST_NEW: usize = 1000;

/// What a page shows: one batch, or a list of them, of which newer ones may come; or what operators see.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Watched {
    batch: String,
    batches: String,
    newer: Option<i64>,
    /// A page of operators, instead of batches.
    page: Option<LivePage>,
}

impl Watched {
    fn ids(&self) -> Result<Vec<&str>, Problem> {
        let ids: Vec<&str> = if self.batch.is_empty() {
            self.batches.split(',').filter(|id| !id.is_empty()).collect()
        } else {
            vec![&self.batch]
        };
        if (ids.is_empty() && self.newer.is_none()) || ids.len() > MOST {
            return Err(Problem::bad_request("bad_query", "a page watches 1 to 25 batches"));
        }
        Ok(ids)
    }
}

/// What came after a list was made, of what its reader may see.
struct Arrivals {
    newcomers: Newcomers,
    newer: BatchSeq,
    known: HashSet<BatchSeq>,
}

impl Arrivals {
    /// How many they are, each time that this is another number.
    async fn next(&mut self, caller: &Caller) -> Option<usize> {
        loop {
            self.newcomers.changed().await.ok()?;
            let newest = self.newcomers.borrow_and_update().clone();
            let shown = |one: &&Newcomer| {
                let own = caller.role == KeyRole::Admin || one.owner == caller.owner;
                one.seq > self.newer && own && caller.may_use(&one.pipeline)
            };
            let before = self.known.len();
            let room = MOST_NEW.saturating_sub(before);
            self.known.extend(newest.iter().filter(shown).take(room).map(|one| one.seq));
            if self.known.len() > before {
                return Some(self.known.len());
            }
        }
    }
}

/// How many new batches there are, when that changes; never, where nobody wants to know.
async fn arrived(arrivals: &mut Option<Arrivals>, caller: &Caller) -> Option<usize> {
    match arrivals {
        Some(arrivals) => arrivals.next(caller).await,
        None => std::future::pending().await,
    }
}

/// What a page watches.
struct Watch {
    seen: SelectAll<BoxStream<'static, Arc<Seen>>>,
    /// Batches that have not ended, by id.
    open: HashSet<String>,
    arrivals: Option<Arrivals>,
}

async fn watch(
    visitor: &Visitor,
    state: &ApiState,
    ids: &[&str],
    newer: Option<i64>,
) -> Result<Watch, Refused> {
    let (mut seen, mut open) = (SelectAll::new(), HashSet::new());
    for id in ids {
        let batch = match visitor.caller.batch(state, id).await {
            Ok(batch) => batch,
            // A list goes on without one that is gone.
            Err(problem) if problem.status_code() == StatusCode::NOT_FOUND && newer.is_some() => continue,
            Err(problem) => return Err(problem.into()),
        };
        open.insert(batch.id.to_string());
        seen.push(changes(look_at(state, &batch)).boxed());
    }
    let known = HashSet::new();
    let arrivals =
        newer.map(|newer| Arrivals { newcomers: look_for_new(state), newer: BatchSeq(newer), known });
    Ok(Watch { seen, open, arrivals })
}

/// [`stream`], for whoever is signed in. All others get an answer that ends a browser's stream for good, and not a page to sign in,
/// which it would report as an error.
pub(super) async fn listen(
    visitor: Result<Visitor, Refused>,
    state: web::Data<ApiState>,
    request: HttpRequest,
) -> Result<HttpResponse, Refused> {
    match visitor {
        Ok(visitor) => stream(visitor, state, request).await,
        Err(Refused::SignIn(_)) => Ok(HttpResponse::NoContent().finish()),
        Err(refused) => Err(refused),
    }
}

/// Sends what changes of the batches that a page shows, and how many came new since. It ends when all of them have ended and new
/// ones do not matter, when the session's key is no longer good, or when the service stops.
async fn stream(
    visitor: Visitor,
    state: web::Data<ApiState>,
    request: HttpRequest,
) -> Result<HttpResponse, Refused> {
    let watched: Watched = query(&request)?;
    if request.method() == Method::HEAD {
        return Ok(HttpResponse::Ok().content_type("text/event-stream").finish());
    }
    if let Some(page) = watched.page {
        return operator_events::stream(visitor, state.get_ref().clone(), page);
    }
    let one = !watched.batch.is_empty();
    let ids = watched.ids()?;
    let Watch { mut seen, mut open, mut arrivals } = watch(&visitor, &state, &ids, watched.newer).await?;
    let admin = visitor.caller.role == KeyRole::Admin;
    let body = async_stream::stream! {
        let mut tick = tokio::time::interval(KEY_EVERY);
        // The first tick is now.
        tick.tick().await;
        loop {
            tokio::select! {
                count = arrived(&mut arrivals, &visitor.caller) => match count {
                    Some(count) => yield Ok(Bytes::from(format!("event: new\ndata: {count}\n\n"))),
                    None => break,
                },
                change = seen.next(), if !seen.is_empty() => match change {
                    Some(change) => {
                        yield Ok::<_, Problem>(if one { &change.page } else if admin { &change.admin_line } else { &change.line }.clone());
                        if change.ended {
                            open.remove(&change.id);
                        }
                        if open.is_empty() && arrivals.is_none() {
                            // Nothing is left to come again for.
                            yield Ok(Bytes::from_static(b"event: end\ndata: {}\n\n"));
                            break;
                        }
                    }
                    None if arrivals.is_none() => break,
                    None => {}
                },
                _ = tick.tick() => {
                    if visitor.has_ended(&state) || !visitor.caller.is_valid(&state).await {
                        break;
                    }
                    yield Ok(STILL_HERE);
                }
                () = state.stop.cancelled() => break,
            }
        }
    };
    Ok(event_stream(body))
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

//! Live pages of operators: limits and operations. One look at them, rendered once, is for everybody who has such a page open.

use std::time::{Duration, Instant};

use actix_web::HttpResponse;
use bytes::Bytes;
use penstock_console::Template as _;
use penstock_console::layout::{Nav, Page};
use serde::Deserialize;
use serde_json::json;

use crate::console::event_stream::{KEY_EVERY, STILL_HERE, event_stream};
use crate::console::visitor::Visitor;
use crate::console::watchers::WATCHER;
use crate::console::{Refused, limits, operations};
use crate::looks::Shown;
use crate::problem::Problem;
use crate::state::ApiState;

/// How often a page is shown anew.
const SHOW_EVERY: Duration = Duration::from_secs(5);

/// How long one look is shown to everybody: less than that, so that a page never goes back to what was before it.
const HOLDS: Duration = Duration::from_secs(4);

/// A page of operators that is shown anew while it is open.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum LivePage {
    Limits,
    Operations,
}

/// Sends the page anew while it is open. It ends when the session or its key does, or when the service stops.
pub(super) fn stream(visitor: Visitor, state: ApiState, shown: LivePage) -> Result<HttpResponse, Refused> {
    visitor.is_admin()?;
    let body = async_stream::stream! {
        let mut asked = Instant::now();
        let mut tick = tokio::time::interval(SHOW_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first tick is now, and what the page shows is from now.
        tick.tick().await;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = state.stop.cancelled() => break,
            }
            if asked.elapsed() >= KEY_EVERY {
                asked = Instant::now();
                if visitor.has_ended(&state) || !visitor.caller.is_valid(&state).await {
                    break;
                }
            }
            let last = match shown {
                LivePage::Limits => state.operator_pages.limits(),
                LivePage::Operations => state.operator_pages.operations(),
            };
            match last.or_ask(HOLDS, look(&state, shown)).await {
                Ok(event) => yield Ok::<_, Problem>(event),
                Err(error) => {
                    tracing::debug!(error, "failed to look at what an operator's page shows; will retry");
                    yield Ok(STILL_HERE);
                }
            }
        }
    };
    Ok(event_stream(body))
}

/// The event that shows a page anew. It is for everybody: the tokens of its forms are empty, and each page has its own.
async fn look(state: &ApiState, shown: LivePage) -> Shown {
    let _turn = state.budgets.read(WATCHER).await.map_err(|problem| problem.detail)?;
    let frame = |title| Page::new(title, Nav::None, None, state.services.clock.now());
    let html = match shown {
        LivePage::Limits => {
            let seen = limits::look(state).await.map_err(|problem| problem.detail)?;
            limits::page(frame(limits::TITLE), &seen).render()
        }
        LivePage::Operations => {
            let seen = operations::look(state).await.map_err(|problem| problem.detail)?;
            operations::page(frame(operations::TITLE), &seen, None).render()
        }
    };
    let html = html.map_err(|error| error.to_string())?;
    Ok(Bytes::from(format!("event: page\ndata: {}\n\n", json!(html))))
}

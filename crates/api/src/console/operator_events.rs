//! Live pages of operators: limits and operations. One look at them is shared by everybody who has such a page open.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::HttpResponse;
use bytes::Bytes;
use penstock_console::Template as _;
use penstock_flow::operate::limits::LimitView;
use penstock_flow::operate::operations::OperationsView;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Mutex;

use crate::console::events::{KEY_EVERY, STILL_HERE, event_stream};
use crate::console::visitor::Visitor;
use crate::console::watchers::WATCHER;
use crate::console::{Refused, limits, operations};
use crate::problem::Problem;
use crate::state::ApiState;

/// How often a page is shown anew.
const SHOW_EVERY: Duration = Duration::from_secs(5);

/// How old a look may be that is shown: it was made after the page that shows it was asked for.
const RECENT: Duration = Duration::from_secs(4);

/// A page of operators that is shown anew while it is open.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum LivePage {
    Limits,
    Operations,
}

/// What was seen last, for as long as it is recent.
#[derive(Debug)]
struct Recent<T>(Mutex<Option<(Instant, Arc<T>)>>);

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T> Recent<T> {
    /// What was seen last, or else what is seen now; others wait for that look and have it as well.
    async fn or_look<E>(&self, look: impl Future<Output = Result<T, E>>) -> Result<Arc<T>, E> {
        let mut last = self.0.lock().await;
        if let Some((at, seen)) = &*last
            && at.elapsed() < RECENT
        {
            return Ok(seen.clone());
        }
        let seen = Arc::new(look.await?);
        *last = Some((Instant::now(), seen.clone()));
        Ok(seen)
    }
}

/// The looks that operators' pages share. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct OperatorLooks(Arc<Looks>);

#[derive(Debug, Default)]
struct Looks {
    limits: Recent<Vec<LimitView>>,
    operations: Recent<OperationsView>,
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
            match page(&visitor, &state, shown).await {
                Ok(html) => yield Ok::<_, Problem>(Bytes::from(format!("event: page\ndata: {}\n\n", json!(html)))),
                Err(error) => {
                    tracing::debug!(error, "failed to look at what an operator's page shows; will retry");
                    yield Ok(STILL_HERE);
                }
            }
        }
    };
    Ok(event_stream(body))
}

async fn page(visitor: &Visitor, state: &ApiState, shown: LivePage) -> Result<String, String> {
    let looks = &state.operator_looks.0;
    let rendered = match shown {
        LivePage::Limits => {
            let limits = looks.limits.or_look(in_turn(state, limits::look(state))).await;
            let limits = limits.map_err(|problem| problem.detail)?;
            limits::page(visitor, state, &limits).render()
        }
        LivePage::Operations => {
            let view = looks.operations.or_look(in_turn(state, operations::look(state))).await;
            let view = view.map_err(|problem| problem.detail)?;
            operations::page(visitor, state, &view, None).render()
        }
    };
    rendered.map_err(|error| error.to_string())
}

/// A look that takes one turn of the reads, however many pages show it.
async fn in_turn<T>(state: &ApiState, look: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    let _turn = state.budgets.read(WATCHER).await?;
    look.await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_recent_look_is_shared() {
        let recent = Recent::default();
        let look = |seen: u32| async move { Ok::<_, String>(seen) };
        assert_eq!(*recent.or_look(look(1)).await.unwrap(), 1);
        assert_eq!(*recent.or_look(look(2)).await.unwrap(), 1);
        let old = Instant::now().checked_sub(RECENT);
        *recent.0.lock().await = old.map(|at| (at, Arc::new(1)));
        recent.or_look(async { Err::<u32, _>("no".to_owned()) }).await.unwrap_err();
        assert_eq!(*recent.or_look(look(3)).await.unwrap(), 3);
    }
}

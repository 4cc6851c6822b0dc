//! One watcher for everybody who looks at a batch: it reads the batch once a second and renders what changed once, however many
//! pages show it. It ends when nobody looks any more.

use std::sync::Arc;
use std::time::Duration;

use penstock_console::Template as _;
use penstock_console::batch::{Live, state_key};
use penstock_console::batches::{Line, LineCells};
use penstock_console::chart::chart;
use penstock_domain::ids::BatchSeq;
use penstock_flow::read::throughput::throughput;
use penstock_flow::read::view::batch_view;
use penstock_store::batches::Batch;
use tokio::sync::watch;

use crate::console::batch::waits;
use crate::seen::{Seen, Watchers};
use crate::state::ApiState;

/// How often a batch is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks after which it is rendered anew although it did not change: what it waits for may have.
const RENDER_ANEW: u32 = 10;

/// What is seen of a batch, from now on. It closes when the batch has ended, cannot be read, or the service stops.
pub(crate) fn look_at(state: &ApiState, batch: &Batch) -> watch::Receiver<Option<Arc<Seen>>> {
    let (receiver, is_new) = state.watchers.subscribe(batch.seq);
    if is_new {
        let (watchers, state, seq) = (state.watchers.clone(), state.clone(), batch.seq);
        // When it panics its entry is gone with it: who looks is let go, and comes again.
        tokio::spawn(async move {
            let mut entry = Entry { watchers, seq, left: false };
            entry.keep_looking(&state).await;
        });
    }
    receiver
}

/// A watcher's place among all of them; gone when the watcher is.
struct Entry {
    watchers: Watchers,
    seq: BatchSeq,
    /// Whether it was taken away before: another watcher may have taken its place since.
    left: bool,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.left {
            self.watchers.remove(self.seq);
        }
    }
}

impl Entry {
    async fn keep_looking(&mut self, state: &ApiState) {
        let (mut revision, mut looks) = (None, 0_u32);
        loop {
            let Some(batch) = self.read(state).await else { return };
            if revision != Some(batch.ledger.revision) || looks >= RENDER_ANEW {
                let Some(seen) = render(state, &batch).await else { return };
                (revision, looks) = (Some(batch.ledger.revision), 0);
                let ended = seen.ended;
                self.watchers.show(self.seq, seen);
                if ended {
                    return;
                }
            }
            looks += 1;
            tokio::select! {
                () = state.stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if self.is_alone() {
                return;
            }
        }
    }

    async fn read(&self, state: &ApiState) -> Option<Batch> {
        match state.services.store.batches_by_seq(&[self.seq]).await {
            Ok(mut batches) => batches.pop(),
            Err(error) => {
                tracing::warn!(%error, "a batch that somebody looks at cannot be read");
                None
            }
        }
    }

    /// Whether nobody looks any more. Then the entry is taken away at once: who comes next gets a watcher of its own.
    fn is_alone(&mut self) -> bool {
        self.left = self.watchers.remove_if_alone(self.seq);
        self.left
    }
}

async fn render(state: &ApiState, batch: &Batch) -> Option<Seen> {
    let rendered = async {
        let view =
            batch_view(&state.services, batch, state.rows_per_owner).await.map_err(|e| e.to_string())?;
        let waits = waits(state, batch).await.map_err(|problem| problem.detail)?;
        let points = throughput(&state.services, batch).await.map_err(|error| error.to_string())?;
        let (chart, now) = (chart(&points), state.services.clock.now());
        let line = Line { view: &view, owner: &batch.owner_name };
        let cells = |admin| LineCells { line: &line, admin, now }.render().map_err(|error| error.to_string());
        Ok::<_, String>(Seen {
            id: view.id.to_string(),
            ended: batch.ledger.is_finished(),
            state: state_key(&view),
            page: Live { view: &view, waits: &waits, chart: chart.as_ref(), now }
                .render()
                .map_err(|error| error.to_string())?,
            line: cells(false)?,
            admin_line: cells(true)?,
        })
    };
    rendered
        .await
        .inspect_err(|error| tracing::warn!(error, batch = %batch.id, "a batch that somebody looks at cannot be shown"))
        .ok()
}

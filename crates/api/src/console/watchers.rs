//! One watcher for everybody who looks at batches, on pages and over the REST API: it reads all of them at once and renders those
//! that changed, however many look. It ends when nobody looks any more.

use std::time::{Duration, Instant};

use bytes::Bytes;
use penstock_console::Template as _;
use penstock_console::batch::{Live, group_key, state_key};
use penstock_console::batches::{Line, LineCells};
use penstock_console::chart::chart;
use penstock_domain::ids::{BatchSeq, OwnerSeq};
use penstock_flow::read::errors;
use penstock_flow::read::throughput::throughput;
use penstock_flow::read::view::batch_view;
use penstock_store::batches::{Batch, BatchFilter};
use serde_json::json;

use crate::console::batch::waits;
use crate::seen::{Groups, Newcomer, Newcomers, Seen, Sight, Watchers};
use crate::state::ApiState;

/// How often batches are looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A round of looks takes no more than this share of the time: with many batches that change, each is seen less often.
const SHARE: u32 = 20;

/// However long a round takes, the next one begins after this.
const LONGEST: Duration = Duration::from_secs(5);

/// How often failed rows are counted by code and step, at most: the store looks at every failed row for that.
const COUNT_EVERY: Duration = Duration::from_secs(5);

/// Counting takes no more than this share of the time: of many failed rows it is done less often.
const COUNT_SHARE: u32 = 100;

/// Groups whose counts are sent: the most frequent ones.
const MOST_GROUPS: usize = 100;

/// Batches that are read at once.
const AT_ONCE: usize = 100;

/// Newest batches that are looked at for open lists: more do not begin between two looks, or else a list counts too few.
const NEWEST: u32 = 100;

/// Whose turns the watcher takes of the reads: its own, however many look.
pub(super) const WATCHER: OwnerSeq = OwnerSeq(-1);

/// What is seen of a batch, from now on. It closes when the batch has ended, is gone, or the service stops.
pub(crate) fn look_at(state: &ApiState, batch: &Batch) -> Sight {
    let (sight, begins) = state.watchers.subscribe(batch.seq);
    if begins {
        begin(state);
    }
    sight
}

/// The newest batches of everybody, whenever one comes new. It closes when the service stops.
pub(crate) fn look_for_new(state: &ApiState) -> Newcomers {
    let (newcomers, begins) = state.watchers.newcomers();
    if begins {
        begin(state);
    }
    newcomers
}

fn begin(state: &ApiState) {
    let state = state.clone();
    // When it panics, who looks is let go, and comes again.
    tokio::spawn(async move {
        let _ending = Ending(state.watchers.clone());
        keep_looking(&state).await;
    });
}

/// Lets everybody go when the watcher did not end because nobody looks.
struct Ending(Watchers);

impl Drop for Ending {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end();
        }
    }
}

async fn keep_looking(state: &ApiState) {
    loop {
        let began = Instant::now();
        let Some(watched) = state.watchers.watched() else { return };
        if state.watchers.wants_newest() {
            look_at_newest(state).await;
        }
        for some in watched.chunks(AT_ONCE) {
            look(state, some).await;
        }
        let pause = (began.elapsed() * (SHARE - 1)).clamp(LOOK_EVERY, LONGEST);
        tokio::select! {
            () = state.stop.cancelled() => return state.watchers.end(),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn look_at_newest(state: &ApiState) {
    let Ok(_turn) = state.budgets.read(WATCHER).await else { return };
    let filter = BatchFilter { limit: NEWEST, ..BatchFilter::default() };
    match state.services.store.list_batches(&filter).await {
        Ok(page) => {
            let newcomer =
                |batch: Batch| Newcomer { seq: batch.seq, owner: batch.owner, pipeline: batch.pipeline };
            state.watchers.show_newest(page.batches.into_iter().map(newcomer).collect());
        }
        Err(error) => tracing::warn!(%error, "failed to look for new batches; will retry"),
    }
}

/// Looks at some batches. What cannot be read now is looked at in the next round.
async fn look(state: &ApiState, watched: &[BatchSeq]) {
    let Ok(turn) = state.budgets.read(WATCHER).await else { return };
    let mut batches = match state.services.store.batches_by_seq(watched).await {
        Ok(batches) => batches,
        Err(error) => {
            return tracing::warn!(%error, "failed to read the batches that somebody looks at; will retry");
        }
    };
    drop(turn);
    for seq in watched.iter().filter(|seq| !batches.iter().any(|batch| batch.seq == **seq)) {
        state.watchers.remove(*seq);
    }
    batches.sort_by_key(|batch| watched.iter().position(|seq| *seq == batch.seq));
    for batch in batches {
        if !state.watchers.is_due(batch.seq, batch.ledger.revision) {
            continue;
        }
        let Ok(_turn) = state.budgets.read(WATCHER).await else { return };
        match render(state, &batch).await {
            Ok(seen) => state.watchers.show(batch.seq, seen),
            Err(error) => {
                tracing::warn!(error, batch = %batch.id, "failed to show a batch that somebody looks at; will retry");
            }
        }
    }
}

/// Its failed rows by code and step: counted anew when others have failed, as often as that may cost.
async fn groups(state: &ApiState, batch: &Batch, failed: u32) -> Groups {
    let known = state.watchers.groups(batch.seq);
    let began = Instant::now();
    let ended = batch.ledger.is_finished();
    if known.failed == failed || (!ended && known.again.is_some_and(|again| began < again)) {
        return known;
    }
    let counted = errors::by_code(&state.services, batch).await;
    let again = Instant::now() + (began.elapsed() * COUNT_SHARE).max(COUNT_EVERY);
    let counted = match counted {
        Ok(counted) => counted.into_iter().take(MOST_GROUPS),
        Err(error) => {
            // The rest of the batch is shown all the same.
            tracing::warn!(%error, batch = %batch.id, "failed to count failed rows by code; will retry");
            return Groups { again: Some(again), ..known };
        }
    };
    let counts = counted.map(|group| (group_key(&group.code, group.step.as_deref()), group.count)).collect();
    Groups { failed, again: Some(again), counts }
}

async fn render(state: &ApiState, batch: &Batch) -> Result<Seen, String> {
    let view =
        batch_view(&state.services, batch, state.rows_per_owner).await.map_err(|error| error.to_string())?;
    let waits = waits(state, batch).await.map_err(|problem| problem.detail)?;
    let points = throughput(&state.services, batch).await.map_err(|error| error.to_string())?;
    let (chart, now) = (chart(&points), state.services.clock.now());
    let line = Line { view: &view, owner: &batch.owner_name };
    let cells = |admin| LineCells { line: &line, admin, now }.render().map_err(|error| error.to_string());
    let page = Live { view: &view, waits: &waits, chart: chart.as_ref(), now }.render();
    let groups = groups(state, batch, view.counts.failed).await;
    let id = view.id.to_string();
    let event = |html: String, groups: &[(String, u32)]| {
        let data = json!({ "id": id, "state": state_key(&view), "groups": groups, "html": html });
        Bytes::from(format!("event: batch\ndata: {data}\n\n"))
    };
    Ok(Seen {
        revision: batch.ledger.revision,
        ended: batch.ledger.is_finished(),
        page: event(page.map_err(|error| error.to_string())?, &groups.counts),
        line: event(cells(false)?, &[]),
        admin_line: event(cells(true)?, &[]),
        json: serde_json::to_string(&view).map_err(|error| error.to_string())?,
        groups,
        id,
    })
}

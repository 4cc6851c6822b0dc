//! The claim loop: chooses which waiting rows to claim next, and starts those that were claimed.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::worker::lanes::{Turns, Waiting};
use crate::worker::load::Load;
use crate::worker::start::Writers;
use crate::worker::state::{LOOK_AGAIN, Worker};
use crate::worker::suspects::Next;

/// Rows of a claim at most.
const CLAIM_ROWS: usize = 200;

/// A pipeline with little room waits this long after a claim, so that the rows that end meanwhile are replaced by one claim:
/// otherwise each row that ends is a transaction of its own.
const APART: Duration = Duration::from_millis(5);

/// Little room is less than one part in this many of the rows in flight.
const LITTLE: usize = 8;

/// When rows of each pipeline were claimed last.
type ClaimedAt = HashMap<String, Instant>;

/// What is to be claimed next.
enum Pick {
    /// Rows of a pipeline.
    Rows(String, Vec<Waiting>),
    /// Nothing now; a pipeline that has rows and little room may claim at that time.
    Nothing(Option<Instant>),
}

impl Worker {
    /// Claims and starts rows until `stop`.
    pub(super) async fn claim_until(
        self: Arc<Self>,
        stop: &CancellationToken,
        rows: &TaskTracker,
        writers: &Writers,
    ) {
        let mut claimed_at = ClaimedAt::new();
        while !stop.is_cancelled() {
            let now = Instant::now();
            match self.next_of_suspects(now) {
                Next::Others => {}
                Next::Nothing => {
                    self.wait(stop, LOOK_AGAIN).await;
                    continue;
                }
                Next::Suspects(suspects) => {
                    self.claiming.store(true, Ordering::SeqCst);
                    for (row, running) in self.claim_suspects(suspects).await {
                        self.clone().start(row, Some(running), rows, writers.clone());
                    }
                    self.claiming.store(false, Ordering::SeqCst);
                    continue;
                }
            }
            let (pipeline, wanted) = match self.pick(now, &claimed_at) {
                Pick::Rows(pipeline, wanted) => (pipeline, wanted),
                Pick::Nothing(again) => {
                    self.wait_for_work(stop, now, again).await;
                    continue;
                }
            };
            claimed_at.insert(pipeline.clone(), now);
            for row in self.claim_waiting(&pipeline, wanted).await {
                self.clone().start(row, None, rows, writers.clone());
            }
            self.claiming.store(false, Ordering::SeqCst);
        }
    }

    /// The next rows to claim: of the lane with the fewest rows in flight that has rows ready, a free dependency
    /// and slots left.
    fn pick(&self, now: Instant, claimed_at: &ClaimedAt) -> Pick {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ready: Vec<(Load, String)> =
            lanes.ready(now).into_iter().map(|name| (self.slots.load(&name), name)).collect();
        ready.sort_by(|(load, name), (other, other_name)| (load.rows, name).cmp(&(other.rows, other_name)));
        let mut again: Option<Instant> = None;
        for (load, name) in ready {
            let mut allowed = self.admitted(&name, &load);
            if allowed == 0 {
                continue;
            }
            let rests_until = claimed_at.get(&name).map(|at| *at + APART).filter(|until| now < *until);
            if let Some(until) = rests_until.filter(|_| allowed * LITTLE < load.rows) {
                again = Some(again.map_or(until, |earlier| earlier.min(until)));
                continue;
            }
            let sharing = self.sharing(&name);
            let mut turn = Turns { rows: sharing.most, whole: sharing.at_once > 1 };
            if self.is_probing(&name) {
                (allowed, turn.whole) = (1, false);
                lanes.scatter(&name, self.services.id_generator.unit());
            }
            let mut taken = HashMap::new();
            let most = (CLAIM_ROWS / sharing.most).max(1) * sharing.most;
            let rows = lanes.take(&name, allowed.min(most), turn, now, |owner| {
                self.held_until(&name, &load, owner, taken.entry(owner).or_default(), now)
            });
            if !rows.is_empty() {
                // Before anybody can find that they are no more in their lane.
                self.claiming.store(true, Ordering::SeqCst);
                self.metrics.waiting.store(lanes.len(), Ordering::Relaxed);
                self.metrics.of(&name, |of| {
                    rows.iter().for_each(|row| of.queued.took(now.saturating_duration_since(row.due)));
                });
                return Pick::Rows(name, rows);
            }
        }
        Pick::Nothing(again)
    }

    /// Waits until something may have changed, `again` at the latest.
    async fn wait_for_work(&self, stop: &CancellationToken, now: Instant, again: Option<Instant>) {
        let next = {
            let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
            if lanes.ready(now).is_empty() {
                lanes.next_due().map_or(Duration::from_secs(1), |due| due.saturating_duration_since(now))
            } else {
                LOOK_AGAIN
            }
        };
        let next = again.map_or(next, |again| next.min(again.saturating_duration_since(now)));
        self.wait(stop, next.max(Duration::from_millis(1))).await;
    }

    async fn wait(&self, stop: &CancellationToken, most: Duration) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.changed.notified() => {}
            () = tokio::time::sleep(most) => {}
        }
    }
}

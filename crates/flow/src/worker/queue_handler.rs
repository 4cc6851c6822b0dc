//! Receives the queue's messages: rows wait in the worker's lanes, suspects separately, and a file is extracted. A message stays
//! in the queue until its rows are claimed, so that it is delivered again when this worker dies.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use penstock_domain::ids::{BatchSeq, RowRef};
use penstock_queue::{Handler, Lane, Message, Packet, Suspects, Taken};
use tokio::time::Instant;

use crate::context::error::FlowError;
use crate::worker::batches::BatchWork;
use crate::worker::lanes::{Keep, Waiting};
use crate::worker::owner_limits::Owners;
use crate::worker::state::{DATABASE_PAUSE, Worker};
use crate::worker::suspects::Suspect;

/// Rows of a pipeline that a worker receives at once, in multiples of its concurrency.
const RECEIVED_PER_SLOT: usize = 4;

/// The same where rows share calls, in multiples of what a call carries: one that is made, and the next one.
const RECEIVED_CALLS: usize = 2;

/// Rows of a pipeline that it receives at most. Owners alternate among the rows that are known: where a dependency is
/// slower than what is released, the queue's lane would be first come, first served.
const RECEIVED: usize = 8192;

/// Where rows share calls, as many times more are released, and received: up to so many times, which take some megabytes.
const RECEIVED_CALL_ROWS: usize = 8;

/// Beyond what its slots need, a worker receives a further packet only this often: idle workers are faster.
const RECEIVE_AGAIN: Duration = Duration::from_millis(250);

/// Where rows share calls, it is so many times as often at most: a packet carries few calls.
const RECEIVE_FASTER: usize = 25;

/// The worker as the queue sees it.
pub(super) struct QueueHandler(pub(super) Arc<Worker>);

#[async_trait]
impl Handler for QueueHandler {
    fn name(&self) -> String {
        self.0.policy.name.clone()
    }

    async fn handle(&self, message: Message) -> Taken {
        let worker = &self.0;
        match message {
            Message::Rows(packet) => worker.receive(packet).await,
            Message::Suspects(suspects) => worker.receive_suspects(suspects).await,
            Message::Extract { batch } => {
                worker.clone().receive_file(batch).await;
                Taken::at_once()
            }
        }
    }

    fn has_room(&self, lane: &Lane) -> bool {
        let worker = &self.0;
        match lane {
            Lane::Extractions => worker.extraction.available_permits() > 0,
            Lane::Suspects => worker.suspects.lock().unwrap_or_else(PoisonError::into_inner).is_empty(),
            Lane::Rows(pipeline) => {
                let slots = worker.policy.concurrency * RECEIVED_PER_SLOT;
                let rows_per_call = worker.rows_per_call(pipeline);
                let needed = slots.max(rows_per_call * RECEIVED_CALLS);
                let most = RECEIVED * rows_per_call.min(RECEIVED_CALL_ROWS);
                let again = RECEIVE_AGAIN / u32::try_from(rows_per_call.min(RECEIVE_FASTER)).unwrap_or(1);
                let waiting = worker.lanes.lock().unwrap_or_else(PoisonError::into_inner).waiting(pipeline);
                waiting < needed || (waiting < most && worker.received_long_ago(pipeline, again))
            }
        }
    }

    fn pipelines(&self) -> Vec<String> {
        self.0.services.pipelines.iter().map(|pipeline| pipeline.name.clone()).collect()
    }
}

impl Worker {
    /// What takes the queue's messages.
    pub fn queue_handler(self: &Arc<Self>) -> Arc<dyn Handler> {
        Arc::new(QueueHandler(self.clone()))
    }

    fn received_long_ago(&self, pipeline: &str, again: Duration) -> bool {
        let received_at = self.received_at.lock().unwrap_or_else(PoisonError::into_inner);
        received_at.get(pipeline).is_none_or(|at| at.elapsed() >= again)
    }

    async fn receive(&self, packet: Packet) -> Taken {
        self.received_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(packet.pipeline().to_owned(), Instant::now());
        // A packet from the future means that the clock was set back meanwhile: its times count from now.
        let now = self.services.clock.now().millis();
        let base = packet.base_ms();
        let late = (now - base).max(0);
        let began = Instant::now();
        let due = |at: i64| {
            let wait = (at - base - late).max(0);
            began + Duration::from_millis(u64::try_from(wait).unwrap_or(0))
        };
        let rows: Vec<(RowRef, Instant)> = packet.iter().map(|(row, at)| (row, due(at))).collect();
        let (taken, guard) = Taken::when_dropped();
        let keep: Keep = Some(Arc::new(guard));
        while let Err(error) = self.take_up(&rows, &keep).await {
            if !self.tries_again(&error).await {
                break;
            }
        }
        taken
    }

    async fn receive_suspects(&self, suspects: Suspects) -> Taken {
        let (taken, guard) = Taken::when_dropped();
        let keep: Keep = Some(Arc::new(guard));
        let rows: Vec<(RowRef, u16)> = suspects.iter().collect();
        while let Err(error) = self.take_up_suspects(&rows, &keep).await {
            if !self.tries_again(&error).await {
                break;
            }
        }
        taken
    }

    /// Rows that are queued wait in their lanes from now on, until their times come.
    ///
    /// # Errors
    /// When the database fails.
    pub(super) async fn take_up(&self, rows: &[(RowRef, Instant)], keep: &Keep) -> Result<(), FlowError> {
        let batches: Vec<BatchSeq> = rows.iter().map(|(row, _)| row.batch).collect();
        let works = self.cache.get(&self.services, &batches).await?;
        let taken = {
            let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
            // Under the lock: the lanes are drained once, after `draining` was set.
            let taken = !self.draining.load(Ordering::SeqCst);
            for (row, due) in rows.iter().filter(|_| taken) {
                let Some(work) = works.get(&row.batch) else { continue };
                if Owners::matter(&work.pipeline) {
                    self.owners.received(&work.pipeline.name, work.owner.seq, &work.owner_name);
                }
                let waiting = Waiting { row: *row, owner: work.owner, due: *due, keep: keep.clone() };
                lanes.push(&work.pipeline.name, waiting);
            }
            self.metrics.waiting.store(lanes.len(), Ordering::Relaxed);
            taken
        };
        self.requeue_unless(taken, &works, rows.iter().map(|(row, _)| *row)).await;
        Ok(())
    }

    /// Suspects wait from now on until they may run.
    ///
    /// # Errors
    /// When the database fails.
    pub(super) async fn take_up_suspects(
        &self,
        rows: &[(RowRef, u16)],
        keep: &Keep,
    ) -> Result<(), FlowError> {
        let batches: Vec<BatchSeq> = rows.iter().map(|(row, _)| row.batch).collect();
        let works = self.cache.get(&self.services, &batches).await?;
        let taken = {
            let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = !self.draining.load(Ordering::SeqCst);
            for (row, deaths) in rows.iter().filter(|_| taken) {
                let Some(work) = works.get(&row.batch) else { continue };
                let pipeline = work.pipeline.name.clone();
                suspects.push(Suspect { row: *row, deaths: *deaths, pipeline, keep: keep.clone() });
            }
            taken
        };
        self.requeue_unless(taken, &works, rows.iter().map(|(row, _)| *row)).await;
        Ok(())
    }

    /// Requeues rows that do not wait here: all of them where they were not `taken`, and those of batches that cannot be processed
    /// here.
    async fn requeue_unless(
        &self,
        taken: bool,
        works: &HashMap<BatchSeq, Arc<BatchWork>>,
        rows: impl Iterator<Item = RowRef>,
    ) {
        if taken {
            self.changed.notify_one();
        }
        let not_taken: Vec<RowRef> = rows.filter(|row| !taken || !works.contains_key(&row.batch)).collect();
        self.requeue(&not_taken).await;
    }

    /// Rows that this worker does not take are pending again, so that they do not count against their owner's quota.
    pub(super) async fn requeue(&self, rows: &[RowRef]) {
        if rows.is_empty() {
            return;
        }
        if let Err(error) = self.services.store.unqueue(rows, self.services.clock.now()).await {
            tracing::warn!(%error, rows = rows.len(), "failed to requeue rows; the sweep requeues them");
        }
    }

    /// Whether to try a message again, after a pause: the database is unavailable, and this worker does not drain.
    async fn tries_again(&self, error: &FlowError) -> bool {
        if !error.is_transient() || self.draining.load(Ordering::SeqCst) {
            tracing::warn!(%error, "a message is dropped; the sweep requeues its rows");
            return false;
        }
        tracing::warn!(%error, "failed to take up a message; will retry");
        tokio::time::sleep(DATABASE_PAUSE).await;
        true
    }
}

//! What a worker does with the queue's messages: rows wait in its lanes, suspects apart from them, a file is extracted. A message
//! stays in the queue until its rows are claimed, so that it comes again when this worker dies.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use penstock_domain::ids::{BatchSeq, RowRef};
use penstock_queue::{Handler, Lane, Message, Packet, Suspects, Taken};
use penstock_store::batches::{Batch, Checkpoint};
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::context::error::FlowError;
use crate::extract::run;
use crate::extract::run::Extracted;
use crate::telemetry::traces;
use crate::worker::batches::BatchWork;
use crate::worker::lanes::{Keep, Waiting};
use crate::worker::owner_limits::Owners;
use crate::worker::scheduler::{DATABASE_PAUSE, Worker};
use crate::worker::suspects::Suspect;

/// Rows of a pipeline that a worker hears of at once, in multiples of its concurrency.
const HEARD_PER_SLOT: usize = 4;

/// Rows of a pipeline that it hears of at most. Owners take turns among the rows that are known: where a dependency is
/// slower than what is released, the lane of the queue would be first come, first served.
const HEARD: usize = 8192;

/// Beyond what its slots need, a worker hears a further packet only so often: workers that have nothing to do are faster.
const HEAR_AGAIN: Duration = Duration::from_millis(250);

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
            Message::Rows(packet) => worker.hear(packet).await,
            Message::Suspects(suspects) => worker.hear_suspects(suspects).await,
            Message::Extract { batch } => {
                worker.clone().hear_of_file(batch).await;
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
                let needed = worker.policy.concurrency * HEARD_PER_SLOT;
                let waiting = worker.lanes.lock().unwrap_or_else(PoisonError::into_inner).waiting(pipeline);
                waiting < needed || (waiting < HEARD && worker.heard_long_ago(pipeline))
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

    fn heard_long_ago(&self, pipeline: &str) -> bool {
        let heard_at = self.heard_at.lock().unwrap_or_else(PoisonError::into_inner);
        heard_at.get(pipeline).is_none_or(|at| at.elapsed() >= HEAR_AGAIN)
    }

    async fn hear(&self, packet: Packet) -> Taken {
        self.heard_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(packet.pipeline().to_owned(), Instant::now());
        // A packet is never made after it came: then the clock was set back meanwhile, and counts from now.
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

    async fn hear_suspects(&self, suspects: Suspects) -> Taken {
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
            // Under the lock: whoever drains the lanes has said so before, and looks into them once.
            let taken = !self.draining.load(Ordering::SeqCst);
            for (row, due) in rows.iter().filter(|_| taken) {
                let Some(work) = works.get(&row.batch) else { continue };
                if Owners::matter(&work.pipeline) {
                    self.owners.heard(&work.pipeline.name, work.owner.seq, &work.owner_name);
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

    /// Suspects wait for their turn from now on.
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

    /// Rows that were taken wait here; the others, and those of batches that cannot be processed here, do not.
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

    /// Rows that this worker does not take go back to pending, so that they do not count against their owner's quota.
    pub(super) async fn requeue(&self, rows: &[RowRef]) {
        if rows.is_empty() {
            return;
        }
        if let Err(error) = self.services.store.unqueue(rows, self.services.clock.now()).await {
            tracing::warn!(%error, rows = rows.len(), "rows were not requeued; the sweep requeues them");
        }
    }

    /// Whether a message is to be taken up once more, after a pause: the database is away, and this worker does not drain.
    async fn tries_again(&self, error: &FlowError) -> bool {
        if !error.is_transient() || self.draining.load(Ordering::SeqCst) {
            tracing::warn!(%error, "a message is dropped; the sweep brings its rows back");
            return false;
        }
        tracing::warn!(%error, "failed to take up a message; will retry");
        tokio::time::sleep(DATABASE_PAUSE).await;
        true
    }

    async fn hear_of_file(self: Arc<Self>, batch: BatchSeq) {
        let Ok(only) = self.extraction.clone().try_acquire_owned() else { return };
        let batch = loop {
            if self.extract_no_more.is_cancelled() {
                return;
            }
            match self.services.store.batches_by_seq(&[batch]).await {
                Ok(batches) => break batches.into_iter().next(),
                Err(error) if error.is_transient() => {
                    tracing::warn!(%error, "failed to begin an extraction; will retry");
                    tokio::time::sleep(DATABASE_PAUSE).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "an extraction could not begin; the sweep takes it up");
                    return;
                }
            }
        };
        // None: it was deleted meanwhile.
        let Some(batch) = batch else { return };
        let span = traces::extraction(self.services.traces.as_ref(), batch.id.0);
        let extraction = self.clone().extract(batch).instrument(span.clone());
        // A task of its own: it goes on when the queue breaks off in the middle.
        let ended = self.extractions.spawn(async move {
            extraction.await;
            drop(only);
        });
        if let Err(error) = ended.await {
            tracing::error!(parent: &span, %error, "an extraction ended badly; the sweep takes it up");
        }
    }

    async fn extract(self: Arc<Self>, batch: Batch) {
        let began = Instant::now();
        let mut before = None;
        let mut count = |batch: &Batch, at: Checkpoint| {
            let before = before.replace(at).unwrap_or(batch.checkpoint);
            self.metrics.of(&batch.pipeline, |of| {
                of.extracted_rows += u64::from(at.rows.saturating_sub(before.rows));
                of.extracted_bytes += at.offset.saturating_sub(before.offset);
            });
        };
        let stop = &self.extract_no_more;
        let policy = &self.policy.extract;
        let done = loop {
            match run::extract(&self.services, policy, batch.seq, false, stop, &mut count).await {
                // The lease is still this worker's: it goes on from the checkpoint as soon as it can.
                Err(error) if error.is_transient() && !stop.is_cancelled() => {
                    tracing::warn!(%error, "the extraction stopped at its checkpoint; will go on");
                    tokio::time::sleep(DATABASE_PAUSE).await;
                }
                done => break done,
            }
        };
        let end = match &done {
            Ok(Extracted::Held { holder, .. }) => {
                tracing::debug!(holder, "another worker extracts the batch");
                return;
            }
            Ok(Extracted::NotExtractable(_) | Extracted::Hopeless(_)) => return,
            Ok(Extracted::Done(_)) => 0,
            Ok(Extracted::Failed(_) | Extracted::Erased) => 1,
            Ok(Extracted::Stopped) => 2,
            Err(error) => {
                tracing::warn!(%error, "the extraction stopped at its checkpoint; the sweep takes it up");
                if !error.is_transient() {
                    self.cache.report(&self.services, &[], &[(batch.seq, error.to_string())]).await;
                }
                2
            }
        };
        self.metrics.of(&batch.pipeline, |of| of.extractions[end].took(began.elapsed()));
    }
}

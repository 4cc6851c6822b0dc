//! The worker's extraction: one file at a time, in a task of its own, from the queue's message to the end.

use std::sync::Arc;

use penstock_domain::ids::BatchSeq;
use penstock_store::batches::{Batch, Checkpoint};
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::context::error::FlowError;
use crate::extract::run;
use crate::extract::run::Extracted;
use crate::telemetry::traces;
use crate::worker::state::{DATABASE_PAUSE, Worker};

/// How an extraction counts in the metrics.
#[derive(Clone, Copy)]
enum Outcome {
    Done = 0,
    Failed = 1,
    Stopped = 2,
}

impl Worker {
    /// Extracts a batch's file, unless another extraction runs here.
    pub(super) async fn receive_file(self: Arc<Self>, batch: BatchSeq) {
        let Ok(only) = self.extraction.clone().try_acquire_owned() else { return };
        let Some(batch) = self.batch_to_extract(batch).await else { return };
        let span = traces::extraction(self.services.traces.as_ref(), batch.id.0);
        let extraction = self.clone().extract(batch).instrument(span.clone());
        // A task of its own: it continues when the queue cancels the handler.
        let ended = self.extractions.spawn(async move {
            extraction.await;
            drop(only);
        });
        if let Err(error) = ended.await {
            tracing::error!(parent: &span, %error, "extraction panicked: please report it; the sweep repeats it");
        }
    }

    /// The batch. None: it was deleted meanwhile, the worker stops, or the database fails.
    async fn batch_to_extract(&self, batch: BatchSeq) -> Option<Batch> {
        while !self.stop_extracting.is_cancelled() {
            match self.services.store.batches_by_seq(&[batch]).await {
                Ok(batches) => return batches.into_iter().next(),
                Err(error) if error.is_transient() => {
                    tracing::warn!(%error, "failed to begin an extraction; will retry");
                    tokio::time::sleep(DATABASE_PAUSE).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to begin an extraction; the sweep repeats it");
                    return None;
                }
            }
        }
        None
    }

    async fn extract(self: Arc<Self>, batch: Batch) {
        let began = Instant::now();
        let extracted = self.extract_to_the_end(&batch).await;
        let outcome = match extracted {
            Ok(Extracted::Held { holder, .. }) => {
                tracing::debug!(holder, "another worker extracts the batch");
                return;
            }
            Ok(Extracted::NotExtractable(_) | Extracted::Hopeless(_)) => return,
            Ok(Extracted::Done(_)) => Outcome::Done,
            Ok(Extracted::Failed(_) | Extracted::Erased) => Outcome::Failed,
            Ok(Extracted::Stopped) => Outcome::Stopped,
            Err(error) => {
                tracing::warn!(%error, "the extraction stopped at its checkpoint; the sweep continues it");
                if !error.is_transient() {
                    self.cache.report(&self.services, &[], &[(batch.seq, error.to_string())]).await;
                }
                Outcome::Stopped
            }
        };
        self.metrics.of(&batch.pipeline, |of| of.extractions[outcome as usize].took(began.elapsed()));
    }

    /// Extracts the batch, again from its checkpoint while the database is unavailable: the lease is still this worker's.
    async fn extract_to_the_end(&self, batch: &Batch) -> Result<Extracted, FlowError> {
        let mut before = None;
        let mut count = |batch: &Batch, at: Checkpoint| {
            let before = before.replace(at).unwrap_or(batch.checkpoint);
            self.metrics.of(&batch.pipeline, |of| {
                of.extracted_rows += u64::from(at.rows.saturating_sub(before.rows));
                of.extracted_bytes += at.offset.saturating_sub(before.offset);
            });
        };
        let (policy, stop) = (&self.policy.extract, &self.stop_extracting);
        loop {
            match run::extract(&self.services, policy, batch.seq, false, stop, &mut count).await {
                Err(error) if error.is_transient() && !stop.is_cancelled() => {
                    tracing::warn!(%error, "the extraction stopped at its checkpoint; will continue");
                    tokio::time::sleep(DATABASE_PAUSE).await;
                }
                ended => return ended,
            }
        }
    }
}

//! A worker's life: it registers, works, drains when it is stopped, and leaves.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use penstock_domain::ids::RowRef;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::context::tasks::spawn_part;
use crate::worker::intent_log::IntentLog;
use crate::worker::lookups::Lookups;
use crate::worker::settle;
use crate::worker::settle::Concerned;
use crate::worker::settle_calls;
use crate::worker::settle_calls::Writing;
use crate::worker::start::Writers;
use crate::worker::state::Worker;

impl Worker {
    /// Works until `stop`, then drains: rows that wait are requeued, and rows in flight end before their next step or within
    /// the grace period.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        if !self.register(&stop).await {
            return;
        }
        let (settlements, received) = mpsc::channel(settle::GROUP_ROWS * 2);
        let settling = settle::run(self.services.clone(), self.concerned(), received);
        let settler = spawn_part("settlements", settling, &stop);
        let call_ends = self.call_ends.lock().unwrap_or_else(PoisonError::into_inner).take();
        let all_written = CancellationToken::new();
        let calls = settle_calls::run(self.writing(), call_ends, all_written.clone());
        let call_settler = spawn_part("call settlements", calls, &stop);
        let background = self.spawn_background(&stop);
        // However this ends: rows end before their next step, and extractions after their chunk.
        let drain = DrainOnDrop(&self);
        let rows = TaskTracker::new();
        let intent_log = IntentLog::open(self.services.clone(), &stop);
        let lookups = Lookups::open(&self.services, self.metrics.clone(), &stop);
        let writers = Writers { settlements, intent_log, lookups };
        self.clone().claim_until(&stop, &rows, &writers).await;
        drop(drain);
        self.requeue_waiting().await;
        rows.close();
        if tokio::time::timeout(self.policy.grace, rows.wait()).await.is_err() {
            tracing::warn!(
                rows = self.leases.len(),
                "rows are still in flight after the grace period; their leases expire"
            );
        }
        drop(writers);
        // The settler ends with its last sender; rows that never ended hold one, so the wait has a limit.
        if tokio::time::timeout(self.policy.grace, settler).await.is_err() {
            tracing::warn!("settlement did not end within the grace period");
        }
        all_written.cancel();
        if tokio::time::timeout(self.policy.grace, call_settler).await.is_err() {
            tracing::warn!("the settlement of calls did not end within the grace period");
        }
        // An extraction stops after its present chunk.
        self.extractions.wait().await;
        drop(background);
        if self.leases.is_empty()
            && let Err(error) = self.heartbeat.leave(&self.services).await
        {
            tracing::warn!(%error, "failed to delete the record of this worker; the others find that it is gone");
        }
    }

    fn writing(&self) -> Writing {
        Writing { services: self.services.clone(), concerned: self.concerned() }
    }

    fn concerned(&self) -> Concerned {
        Concerned {
            leases: self.leases.clone(),
            metrics: self.metrics.clone(),
            replacements: self.replacements.clone(),
        }
    }

    /// Requeues rows that wait here. Their messages stay in the queue until this is done.
    async fn requeue_waiting(&self) {
        let waiting = self.lanes.lock().unwrap_or_else(PoisonError::into_inner).drain();
        let suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner).drain();
        let rows: Vec<RowRef> =
            waiting.iter().map(|one| one.row).chain(suspects.iter().map(|one| one.row)).collect();
        for group in rows.chunks(settle::GROUP_ROWS) {
            if let Err(error) = self.services.store.unqueue(group, self.services.clock.now()).await {
                tracing::warn!(%error, rows = group.len(), "failed to requeue rows; the sweep requeues them");
                return;
            }
        }
    }
}

/// Makes a worker drain when it is dropped, also by a panic: nothing that the worker spawned continues without it.
struct DrainOnDrop<'a>(&'a Worker);

impl Drop for DrainOnDrop<'_> {
    fn drop(&mut self) {
        self.0.draining.store(true, Ordering::SeqCst);
        self.0.stop_extracting.cancel();
        self.0.extractions.close();
    }
}

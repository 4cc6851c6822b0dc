//! A row that was settled: what is logged and counted of it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use penstock_store::work::{RowFailure, Settled, Settlement};
use tracing::Span;

use crate::telemetry::traces::ROW_LINES;
use crate::telemetry::worker_counters;
use crate::telemetry::worker_counters::WorkerMetrics;
use crate::worker::batches::BatchWork;
use crate::worker::suspects::Running;

/// A row that ended or is requeued: what is written, and what is logged and counted.
pub type Ended = (Settlement, SettledRow);

/// What is logged and counted of a settled row.
pub struct SettledRow {
    /// Its batch.
    pub work: Arc<BatchWork>,
    /// Attempts that failed before this one.
    pub attempts: u16,
    /// Its span, which ends when it is settled.
    pub span: Span,
    /// Set for a row that runs alone: no other one begins before it is settled.
    #[allow(dead_code, reason = "dropping it is what it is for")]
    pub(crate) alone: Option<Running>,
}

impl SettledRow {
    pub(super) fn settled(&self, settled: &Settled, metrics: &WorkerMetrics) {
        let outcome = worker_counters::outcome(settled);
        let attempts = u32::from(self.attempts) + 1;
        metrics.of(&self.work.pipeline.name, |of| {
            of.settled[outcome] += 1;
            if let Some(ended) = of.attempts.get_mut(outcome) {
                ended.observe(f64::from(attempts));
            }
        });
        let step = |failure: &RowFailure| {
            let index = usize::from(failure.step?);
            self.work.pipeline.steps.get(index).map(|step| step.name.as_str())
        };
        match settled {
            Settled::Completed { .. } => {
                tracing::debug!(target: ROW_LINES, parent: &self.span, attempts, "the row is completed");
            }
            Settled::Duplicate { .. } => {
                tracing::debug!(target: ROW_LINES, parent: &self.span, attempts, "the row is a duplicate");
            }
            Settled::Failed(failure) => tracing::warn!(
                target: ROW_LINES,
                parent: &self.span,
                attempts,
                step = step(failure),
                code = failure.code,
                http_status = failure.http_status,
                "the row failed"
            ),
            Settled::Requeued { not_before, attempt, trouble: failure, .. } => tracing::debug!(
                target: ROW_LINES,
                parent: &self.span,
                attempts = u32::from(self.attempts) + u32::from(*attempt),
                step = failure.as_ref().and_then(step),
                code = failure.as_ref().map(|failure| failure.code.as_str()),
                http_status = failure.as_ref().and_then(|failure| failure.http_status),
                %not_before,
                "the row is requeued"
            ),
        }
    }

    pub(super) fn lost(&self, metrics: &WorkerMetrics) {
        metrics.lost.fetch_add(1, Relaxed);
        tracing::warn!(parent: &self.span, "the row's lease was lost before it was settled");
    }
}

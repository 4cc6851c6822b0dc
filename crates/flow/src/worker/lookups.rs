//! What rows' tasks ask the database while they run, in groups.

use std::sync::Arc;

use penstock_crypto::KeyHasher;
use penstock_domain::pipeline::cache::CacheScope;
use penstock_store::duplicates::{CompletedBy, KeyHash, WantedKey};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::context::answer_keys::AnswerKeys;
use crate::context::error::FlowError;
use crate::context::key_hashes;
use crate::context::services::Services;
use crate::telemetry::worker_counters::{CacheLookup, WorkerMetrics};
use crate::worker::answer_counts::AnswerCounts;
use crate::worker::answers::AnswerCache;
use crate::worker::batches::BatchWork;
use crate::worker::grouped::Grouped;

/// Asks for rows' tasks. Clones ask in the same groups.
#[derive(Clone)]
pub struct Lookups {
    /// Whether another batch has completed a row's key.
    pub(crate) completed: Grouped<WantedKey, Option<CompletedBy>>,
    /// Answers that rows have in common.
    pub(crate) answers: Arc<AnswerCache>,
    /// What seals those of wider scopes than a batch.
    pub(crate) answer_keys: Arc<AnswerKeys>,
    hasher: Arc<OnceCell<KeyHasher>>,
    metrics: Arc<WorkerMetrics>,
    counts: AnswerCounts,
}

impl Lookups {
    /// Answers until its last clone is gone.
    pub fn open(services: &Services, metrics: Arc<WorkerMetrics>, stop: &CancellationToken) -> Self {
        let store = services.store.clone();
        let completed = Grouped::open("duplicates", stop, move |wanted: Arc<Vec<WantedKey>>| {
            let store = store.clone();
            async move { store.completed_by_others(&wanted).await }
        });
        let answers = Arc::new(AnswerCache::open(services, stop));
        let counts = AnswerCounts::open(services.clone(), stop);
        Self { completed, answers, answer_keys: Arc::default(), hasher: Arc::default(), metrics, counts }
    }

    /// The hash of the key of an answer; what seals answers of its scope is there by then.
    ///
    /// # Errors
    /// When the database fails, or the keyring lacks the secrets' key.
    pub(crate) async fn answer_hash(
        &self,
        services: &Services,
        parts: &[&[u8]],
        scope: CacheScope,
    ) -> Result<KeyHash, FlowError> {
        if scope != CacheScope::Batch {
            self.answer_keys.refresh(services).await?;
        }
        let hasher = self.hasher.get_or_try_init(|| key_hashes::of_answers(services)).await?;
        Ok(hasher.hash(parts))
    }

    /// Counts what became of a row at a step whose answers are kept.
    pub(crate) fn count(&self, work: &BatchWork, step: Option<u16>, lookup: CacheLookup) {
        self.metrics.of(&work.pipeline.name, |of| of.lookups[lookup as usize] += 1);
        if let Some(step) = step.filter(|_| lookup != CacheLookup::SharedFailure) {
            self.counts.seen(work.seq, step, lookup == CacheLookup::Asked);
        }
    }
}

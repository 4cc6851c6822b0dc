//! What a worker knows of a batch: everything about it that does not change while its rows run.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use penstock_domain::csv::HeaderMap;
use penstock_domain::ids::BatchSeq;
use penstock_domain::pipeline::Pipeline;
use penstock_domain::time::Timestamp;
use penstock_store::batches::Batch;
use penstock_store::work::ClaimedRow;
use uuid::Uuid;

use crate::engines::Engines;
use crate::error::FlowError;
use crate::process::lanes::Owner;
use crate::secrets::SecretsOf;

/// How long it is kept: an erased batch's key leaves every worker after at most this time.
const KEEP: Duration = Duration::from_secs(60);

/// At most so many batches are kept.
const CAPACITY: usize = 1024;

/// A batch, ready to process its rows.
pub struct BatchWork {
    /// Its key in SQL.
    pub seq: BatchSeq,
    /// Its public id.
    pub id: Uuid,
    /// Whose it is, and how it weighs among others.
    pub owner: Owner,
    /// The owner's name: limits may be per owner.
    pub owner_name: String,
    /// The definition it was uploaded under.
    pub pipeline: Arc<Pipeline>,
    /// When it was uploaded.
    pub created_at: Timestamp,
    /// Which run of it this is.
    pub run: u32,
    /// Its data key and context.
    pub secrets: SecretsOf,
    /// The file's columns.
    pub header: HeaderMap,
}

impl BatchWork {
    /// How long after the upload a row starts for the first time; none: it has run before.
    pub fn first_start_of(&self, claimed: &ClaimedRow, now: Timestamp) -> Option<Duration> {
        (self.run == 1 && claimed.first_claimed_at.is_none()).then(|| now.since(self.created_at))
    }
}

/// Batches that rows were heard of lately.
#[derive(Default)]
pub struct BatchCache {
    kept: Mutex<HashMap<BatchSeq, (Timestamp, Arc<BatchWork>)>>,
}

impl BatchCache {
    /// The batches with those keys. Those that cannot be worked on (erased, gone, a definition that does not load
    /// here) are left out, and why is logged.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get(
        &self,
        engines: &Engines,
        wanted: &[BatchSeq],
    ) -> Result<HashMap<BatchSeq, Arc<BatchWork>>, FlowError> {
        let now = engines.clock.now();
        let mut found = HashMap::new();
        let mut missing = Vec::new();
        {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            for batch in wanted {
                match kept.get(batch).filter(|(at, _)| now.since(*at) < KEEP) {
                    Some((_, work)) => {
                        found.insert(*batch, work.clone());
                    }
                    None if !missing.contains(batch) => missing.push(*batch),
                    None => {}
                }
            }
        }
        if missing.is_empty() {
            return Ok(found);
        }
        for batch in engines.store.batches_by_seq(&missing).await? {
            match load(engines, &batch).await {
                Ok(work) => {
                    let work = Arc::new(work);
                    self.insert(now, work.clone());
                    found.insert(batch.seq, work);
                }
                Err(FlowError::Store(error)) if error.is_transient() => return Err(error.into()),
                Err(error) => {
                    tracing::error!(%error, batch = %batch.id, "the batch's rows cannot be processed here")
                }
            }
        }
        Ok(found)
    }

    fn insert(&self, now: Timestamp, work: Arc<BatchWork>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= CAPACITY {
            kept.retain(|_, (at, _)| now.since(*at) < KEEP);
        }
        if kept.len() >= CAPACITY {
            kept.clear();
        }
        kept.insert(work.seq, (now, work));
    }
}

/// Reads what is needed to process a batch's rows.
///
/// # Errors
/// When the database fails, the batch was erased, or its definition does not load here.
pub async fn load(engines: &Engines, batch: &Batch) -> Result<BatchWork, FlowError> {
    let pipeline = engines.pipelines.of(engines, batch).await?;
    let secrets = engines.secrets.of(engines, batch).await?;
    let header = batch.header.as_deref().unwrap_or_default();
    let header = serde_json::from_str(header)
        .map_err(|_| FlowError::Inconsistent(format!("batch {} has no header that can be read", batch.id)))?;
    Ok(BatchWork {
        seq: batch.seq,
        id: batch.id.0,
        owner: Owner { seq: batch.owner, weight: batch.owner_weight },
        owner_name: batch.owner_name.clone(),
        pipeline,
        created_at: batch.created_at,
        run: batch.ledger.run,
        secrets,
        header,
    })
}

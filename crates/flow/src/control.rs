//! What people ask of a batch. The store decides and writes; what is left here is to tell the others.

use object_store::path::Path;
use penstock_domain::time::Timestamp;
use penstock_store::batches::Batch;

use crate::engines::Engines;
use crate::error::FlowError;
use crate::upload::delete;

/// Erases a batch: the data key first, then payloads, then the file. From the first step on nothing of it can be
/// read, not even in backups.
///
/// # Errors
/// When the database fails; a file that cannot be deleted is found by `reconcile`, and unreadable by then.
pub async fn erase(engines: &Engines, batch: &Batch, actor: &str) -> Result<Batch, FlowError> {
    let erased = engines.store.erase(batch.seq, None, actor, engines.clock.now()).await?;
    tell_others(engines, batch).await;
    erased.ok_or_else(|| {
        FlowError::Inconsistent("a batch was not erased although nothing spoke against it".into())
    })
}

/// The same of a batch that is past its time; false when it ended anew since somebody looked.
///
/// # Errors
/// As [`erase`].
pub async fn erase_ended(
    engines: &Engines,
    batch: &Batch,
    ended_before: Timestamp,
    actor: &str,
) -> Result<bool, FlowError> {
    let erased = engines.store.erase(batch.seq, Some(ended_before), actor, engines.clock.now()).await?;
    if erased.is_some() {
        tell_others(engines, batch).await;
    }
    Ok(erased.is_some())
}

async fn tell_others(engines: &Engines, batch: &Batch) {
    engines.secrets.forget(batch.seq);
    delete(engines, &Path::from(batch.object_key.as_str())).await;
}

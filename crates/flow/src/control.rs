//! What people ask of a batch. The store decides and writes; what is left here is to tell the others.

use object_store::path::Path;
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
    let erased = engines.store.erase(batch.seq, actor, engines.clock.now()).await?;
    engines.secrets.forget(batch.seq);
    delete(engines, &Path::from(batch.object_key.as_str())).await;
    Ok(erased)
}

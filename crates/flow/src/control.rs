//! What people ask of a batch. The store decides and writes; what is left here is to tell the others.

use object_store::path::Path;
use penstock_domain::time::Timestamp;
use penstock_store::StoreError;
use penstock_store::batches::Batch;
use penstock_store::control::{DefinitionChange, RetrySelection};

use crate::engines::Engines;
use crate::error::FlowError;
use crate::upload::delete;

/// Why a retry was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum RetryError {
    /// No pipeline of the batch's name is loaded today.
    #[error("no pipeline of the batch's name is loaded today")]
    NoPipeline,
    /// What rows keep of the steps that they have finished does not fit today's definition.
    #[error(
        "today's definition does not fit this batch: {0}; retry without `definition`, or upload the rows again"
    )]
    DoesNotFit(String),
    /// A service failed, or the batch's state forbids it.
    #[error(transparent)]
    Flow(#[from] FlowError),
}

impl From<StoreError> for RetryError {
    fn from(error: StoreError) -> Self {
        Self::Flow(error.into())
    }
}

/// Puts rows back; with `current` the batch goes on under the definition that is loaded today. The batch, and how many rows.
///
/// # Errors
/// As they say.
pub async fn retry(
    engines: &Engines,
    batch: &Batch,
    mut selection: RetrySelection,
    current: bool,
    actor: &str,
) -> Result<(Batch, u32), RetryError> {
    let now = engines.clock.now();
    if current {
        selection.definition = definition_of_today(engines, batch, now).await?;
    }
    Ok(engines.store.retry(batch.seq, &selection, actor, now).await?)
}

/// The change to today's definition; none when the batch has it already.
async fn definition_of_today(
    engines: &Engines,
    batch: &Batch,
    now: Timestamp,
) -> Result<Option<DefinitionChange>, RetryError> {
    let today = engines.pipelines.get(&batch.pipeline).ok_or(RetryError::NoPipeline)?;
    if today.version == batch.version {
        return Ok(None);
    }
    let kept = engines.store.kept_steps(batch.seq).await?;
    // An old definition that no longer loads is no obstacle where nothing was done under it.
    if !kept.is_empty() {
        let earlier = engines.pipelines.of(engines, batch).await?;
        today.can_follow(&earlier, &kept).map_err(RetryError::DoesNotFit)?;
    }
    engines.store.save_definition(today.version, &today.name, &today.source, now).await?;
    Ok(Some(DefinitionChange { from: batch.version, to: today.version, revision: batch.ledger.revision }))
}

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

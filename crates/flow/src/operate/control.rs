//! Commands about a batch. The store decides and writes; here the other processes are notified.

use object_store::path::Path;
use penstock_crypto::Binding;
use penstock_domain::ids::BatchSeq;
use penstock_domain::time::Timestamp;
use penstock_store::StoreError;
use penstock_store::batches::Batch;
use penstock_store::control::{DefinitionChange, RetrySelection};

use crate::context::epochs;
use crate::context::error::FlowError;
use crate::context::services::Services;
use crate::context::stored_definitions;
use crate::intake::manifest;
use crate::intake::sealed_file::sealed_key;

/// Erasures that a sweep reads at once.
const RESUMED_AT_ONCE: u32 = 100;

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
    services: &Services,
    batch: &Batch,
    mut selection: RetrySelection,
    current: bool,
    actor: &str,
) -> Result<(Batch, u32), RetryError> {
    let now = services.clock.now();
    if current {
        selection.definition = definition_of_today(services, batch, now).await?;
    }
    Ok(services.store.retry(batch.seq, &selection, actor, now).await?)
}

/// The change to today's definition; none when the batch has it already.
async fn definition_of_today(
    services: &Services,
    batch: &Batch,
    now: Timestamp,
) -> Result<Option<DefinitionChange>, RetryError> {
    let today = services.pipelines.get(&batch.pipeline).ok_or(RetryError::NoPipeline)?;
    if today.version == batch.version {
        return Ok(None);
    }
    let kept = services.store.kept_steps(batch.seq).await?;
    // An old definition that no longer loads is no obstacle where nothing was done under it.
    if !kept.is_empty() {
        let earlier = services.definition_of(batch).await?;
        today.can_follow(&earlier, &kept).map_err(RetryError::DoesNotFit)?;
    }
    // The data key is bound to the definition. An erased batch has none, and no retry.
    let Some(secrets) = services.try_secrets_of(batch).await? else { return Ok(None) };
    let Some(old) = services.store.sealed_key(batch.seq).await? else { return Ok(None) };
    let (epoch, epoch_key) = epochs::newest(services).await?;
    let mut key = old.key.clone();
    let binding = Binding { version: today.version, ..epochs::binding(batch) };
    epochs::wrap(services, &epoch, &epoch_key, binding, secrets.key(), &mut key)?;
    stored_definitions::save(services, &today, now).await?;
    let revision = batch.ledger.revision;
    Ok(Some(DefinitionChange {
        from: batch.version,
        to: today.version,
        revision,
        from_key: old.key,
        to_key: key,
    }))
}

/// Erases a batch: the data key first, then payloads, then the file. From the first step on nothing of it can be
/// read, not even in backups.
///
/// # Errors
/// When the database fails; what is left then, the sweep of the workers deletes.
pub async fn erase(services: &Services, batch: &Batch, actor: &str) -> Result<Batch, FlowError> {
    let erased = services.store.erase(batch.seq, None, actor, services.clock.now()).await?;
    finish_erasure(services, batch).await;
    erased.ok_or_else(|| {
        FlowError::Inconsistent("a batch was not erased although nothing spoke against it".into())
    })
}

/// The same of a batch that is past its time; false when it ended anew since somebody looked.
///
/// # Errors
/// As [`erase`].
pub async fn erase_ended(
    services: &Services,
    batch: &Batch,
    ended_before: Timestamp,
    actor: &str,
) -> Result<bool, FlowError> {
    let erased = services.store.erase(batch.seq, Some(ended_before), actor, services.clock.now()).await?;
    if erased.is_some() {
        finish_erasure(services, batch).await;
    }
    Ok(erased.is_some())
}

/// The data key is gone already. What cannot be done now, the sweep does.
async fn finish_erasure(services: &Services, batch: &Batch) {
    services.secrets.forget(batch.seq);
    // The extraction may have been in the middle of sealing its copy.
    let copy = sealed_key(&batch.owner_name, batch.id);
    let finished = manifest::delete_with_file(services, &Path::from(batch.object_key.as_str())).await
        && (copy.as_ref() == batch.object_key || manifest::delete_with_file(services, &copy).await)
        && delete_uploads(services, batch).await
        && services.store.finish_erasure(batch.seq).await.unwrap_or_else(|error| {
            tracing::warn!(%error, batch = %batch.id, "failed to finish an erasure");
            false
        });
    if !finished {
        tracing::warn!(batch = %batch.id, "copies of what was erased may be left; the next sweep tries again");
    }
}

/// Deletes what lies in the clear where the batch's file was PUT: the address may have been PUT to again since it was read.
async fn delete_uploads(services: &Services, batch: &Batch) -> bool {
    let uploads = match services.store.uploads_of(batch.seq).await {
        Ok(uploads) => uploads,
        Err(error) => {
            tracing::warn!(%error, batch = %batch.id, "failed to find the uploads of an erased batch");
            return false;
        }
    };
    let mut deleted = true;
    for upload in uploads {
        deleted &= manifest::delete_with_file(services, &Path::from(upload.object_key.as_str())).await;
    }
    deleted
}

/// Finishes erasures that were broken off; returns how many there were.
///
/// # Errors
/// When the database fails.
pub(crate) async fn resume_erasures(services: &Services, actor: &str) -> Result<u32, FlowError> {
    let (mut after, mut found) = (BatchSeq(0), 0);
    loop {
        let batches = services.store.unfinished_erasures(after, RESUMED_AT_ONCE).await?;
        let Some(last) = batches.last() else { return Ok(found) };
        after = last.seq;
        for batch in &batches {
            erase(services, batch, actor).await?;
            found += 1;
        }
    }
}

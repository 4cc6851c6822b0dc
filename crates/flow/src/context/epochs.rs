//! Epochs: what wraps the data keys of batches, and makes an erasure final.
//!
//! An erasure deletes a batch's wrapped data key. Copies of it may be left in freed pages, logs and backups of the database.
//! The key that wrapped it belongs to an epoch; rotation begins a new one, wraps the keys of live batches anew and drops the
//! old one, and with it every copy of the erased keys.

use std::time::Duration;

use penstock_crypto::{Binding, DataKey, EpochKey, Keyring, OpenError};
use penstock_store::batches::{Batch, SealedKey, StoredKey};
use penstock_store::sealing::Epoch;

use crate::context::earlier_releases;
use crate::context::error::FlowError;
use crate::context::services::Services;

const KEY: &str = "the batch's data key";

/// What a batch's data key is bound to.
pub(crate) fn binding(batch: &Batch) -> Binding<'_> {
    Binding { batch: batch.id.0, owner: &batch.owner_name, pipeline: &batch.pipeline, version: batch.version }
}

/// Opens a batch's data key.
///
/// # Errors
/// When the keyring lacks its key; when the batch's owner, pipeline or definition is not the one that the key was wrapped
/// for.
pub(crate) async fn open(
    services: &Services,
    batch: &Batch,
    stored: &StoredKey,
) -> Result<DataKey, FlowError> {
    let sealed = |source| FlowError::Sealed { what: KEY, source };
    let keyring = services.keyring.get();
    let Some(id) = stored.key.epoch else {
        return earlier_releases::open(services, batch, &stored.key).await;
    };
    let epoch = stored.epoch_key.as_ref().ok_or_else(|| sealed(OpenError::EpochDropped))?;
    let epoch = keyring.open_epoch(id, epoch).map_err(sealed)?;
    epoch.unwrap(binding(batch), &stored.key.wrapped).map_err(sealed)
}

/// Wraps a data key into what a batch keeps.
pub(crate) fn wrap(
    services: &Services,
    epoch: &Epoch,
    key: &EpochKey,
    binding: Binding<'_>,
    data_key: &DataKey,
    kept: &mut SealedKey,
) -> Result<(), FlowError> {
    let sealed = |source| FlowError::Sealed { what: KEY, source };
    kept.epoch = Some(epoch.id);
    kept.key_id = Keyring::small_key_id(&epoch.sealed).map_err(sealed)?.to_owned();
    kept.wrapped = key.wrap(binding, data_key, services.random.as_ref()).map_err(sealed)?;
    Ok(())
}

/// The epoch that wraps new keys, and its key. The first one is begun here.
pub(crate) async fn newest(services: &Services) -> Result<(Epoch, EpochKey), FlowError> {
    let epoch = match services.store.newest_epoch().await? {
        Some(epoch) => epoch,
        None => begin(services, 1).await?,
    };
    opened(services, epoch)
}

/// The epoch that keys are to be wrapped in from now on: a new one when the newest is sealed under another key than the
/// keyring's first, or when a batch of it was erased and it is as old as `oldest`.
pub(crate) async fn for_rotation(
    services: &Services,
    oldest: Duration,
) -> Result<(Epoch, EpochKey), FlowError> {
    let Some(newest) = services.store.newest_epoch().await? else {
        let first = begin(services, 1).await?;
        return opened(services, first);
    };
    let keyring = services.keyring.get();
    let stale = Keyring::small_key_id(&newest.sealed).is_ok_and(|id| id != keyring.active_id());
    let over = newest.erased && services.clock.now().since(newest.created_at) >= oldest;
    let epoch = if stale || over { begin(services, newest.id + 1).await? } else { newest };
    opened(services, epoch)
}

fn opened(services: &Services, epoch: Epoch) -> Result<(Epoch, EpochKey), FlowError> {
    let key = services
        .keyring
        .get()
        .open_epoch(epoch.id, &epoch.sealed)
        .map_err(|source| FlowError::Sealed { what: "the key of the newest epoch", source })?;
    Ok((epoch, key))
}

/// Begins the epoch of that number; somebody else may be first, and then it is theirs.
async fn begin(services: &Services, id: i64) -> Result<Epoch, FlowError> {
    let sealed = services
        .keyring
        .get()
        .new_epoch(id, services.random.as_ref())
        .map_err(|source| FlowError::Sealed { what: "the key of a new epoch", source })?;
    let epoch = Epoch { id, sealed, created_at: services.clock.now(), erased: false };
    if services.store.add_epoch(&epoch).await? {
        return Ok(epoch);
    }
    let theirs = services.store.newest_epoch().await?;
    theirs.ok_or_else(|| FlowError::Inconsistent("an epoch vanished while it was the newest".into()))
}

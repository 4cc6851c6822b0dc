//! What earlier releases wrote: data keys that are bound to nothing but their batch, and definitions without a MAC.
//!
//! A writer to the database could pass anything off as such. So they are taken for a day from the migration on, while
//! programs of both releases may run; in that time they are put into the present forms, and afterwards they are refused.

use std::time::Duration;

use penstock_crypto::{DataKey, OpenError, WrappedKey};
use penstock_domain::time::Timestamp;
use penstock_store::batches::{Batch, SealedKey};

use crate::context::error::FlowError;
use crate::context::installation;
use crate::context::services::Services;

/// The installation's record of it: the sealed time until which they are taken. Without one they never are.
const RECORD: &str = "earlier_forms";

/// The first schema with the present forms.
const PRESENT: i64 = 10;

/// How long both releases may run beside each other.
const OPEN_FOR: Duration = Duration::from_secs(24 * 3600);

/// Before a migration from that schema: whether there is something of earlier releases, which is taken from now on.
///
/// # Errors
/// When the database fails; when there is something to take over and this program has no keyring.
pub(crate) async fn open_window(services: &Services, schema: i64) -> Result<(), FlowError> {
    if schema == 0 || schema >= PRESENT {
        return Ok(());
    }
    // The table for it came with one of these.
    services.store.migrate_to(PRESENT - 1).await?;
    let keyring = services.keyring.get();
    let sealed = |source| FlowError::Sealed { what: "what earlier releases wrote", source };
    let until = (services.clock.now() + OPEN_FOR).millis().to_string();
    let record = keyring
        .seal_small("secrets", RECORD, "sealed", until.as_bytes(), services.random.as_ref())
        .map_err(sealed)?;
    // Under a wrong keyring it could not be opened later on.
    if !installation::check_fingerprint(services, &keyring).await?
        && let Some((batch, key)) = services.store.earlier_key().await?
    {
        keyring.unwrap_earlier(batch.0, &wrapped(&key)).map_err(sealed)?;
    }
    // A migration that was broken off may have left one.
    let before = services.store.secret(RECORD).await?;
    services.store.set_secret(RECORD, before.as_deref(), &record).await?;
    Ok(())
}

fn wrapped(key: &SealedKey) -> WrappedKey {
    WrappedKey { key_id: key.key_id.clone(), bytes: key.wrapped.clone() }
}

/// Whether what earlier releases wrote is still taken.
///
/// # Errors
/// When the database fails.
pub(crate) async fn is_open(services: &Services) -> Result<bool, FlowError> {
    let Some(record) = services.store.secret(RECORD).await? else { return Ok(false) };
    let until = services.keyring.get().open_small("secrets", RECORD, "sealed", &record).ok();
    let until = until.and_then(|until| String::from_utf8(until).ok()?.parse().ok());
    Ok(until.is_some_and(|until| services.clock.now() < Timestamp::from_millis(until)))
}

/// Opens a data key that is bound to its batch alone.
///
/// # Errors
/// When such keys are no longer taken, or the keyring lacks its key.
pub(crate) async fn open(services: &Services, batch: &Batch, key: &SealedKey) -> Result<DataKey, FlowError> {
    let sealed = |source| FlowError::Sealed { what: "the batch's data key", source };
    if !is_open(services).await? {
        return Err(sealed(OpenError::EarlierForm));
    }
    services.keyring.get().unwrap_earlier(batch.id.0, &wrapped(key)).map_err(sealed)
}

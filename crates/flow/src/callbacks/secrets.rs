//! The secrets that sign an owner's callbacks.

use std::time::Duration;

use penstock_crypto::webhook;
use penstock_domain::ids::OwnerSeq;
use penstock_store::owners::CallbackSecrets;

use crate::context::error::FlowError;
use crate::context::services::Services;

/// After a rotation the previous secret signs beside the new one for this long.
pub const ROTATION_OVERLAP: Duration = Duration::from_secs(24 * 3600);

/// Creates an owner's secret when its first callback needs one.
pub(super) async fn first_secret(
    services: &Services,
    owner: OwnerSeq,
    none: &CallbackSecrets,
) -> Result<Vec<u8>, FlowError> {
    let secret = webhook::generate_secret(services.random.as_ref())
        .map_err(|source| FlowError::Sealed { what: "a new callback secret", source })?;
    let sealed = seal_secret(services, owner, &secret)?;
    let secrets = CallbackSecrets { current: Some(sealed.clone()), ..none.clone() };
    if services.store.set_callback_secrets(owner, None, &secrets).await? {
        return Ok(sealed);
    }
    let theirs = services.store.callback_secrets(owner).await?.current;
    theirs.ok_or_else(|| FlowError::Inconsistent("an owner's callback secret vanished".into()))
}

/// Gives an owner a new callback secret and returns it as `whsec_…`, to be shown once. The one before signs as well
/// for [`ROTATION_OVERLAP`].
///
/// # Errors
/// When the database fails or somebody else rotates at the same moment.
pub async fn rotate_secret(services: &Services, owner: OwnerSeq) -> Result<String, FlowError> {
    let now = services.clock.now();
    let before = services.store.callback_secrets(owner).await?;
    let secret = webhook::generate_secret(services.random.as_ref())
        .map_err(|source| FlowError::Sealed { what: "a new callback secret", source })?;
    let secrets = CallbackSecrets {
        current: Some(seal_secret(services, owner, &secret)?),
        previous: before.current.clone(),
        previous_until: before.current.as_ref().map(|_| now + ROTATION_OVERLAP),
    };
    if services.store.set_callback_secrets(owner, before.current.as_deref(), &secrets).await? {
        Ok(webhook::format_secret(&secret))
    } else {
        Err(FlowError::Inconsistent(
            "the secret was rotated by somebody else at this moment; ask again".into(),
        ))
    }
}

fn seal_secret(services: &Services, owner: OwnerSeq, secret: &[u8]) -> Result<Vec<u8>, FlowError> {
    services
        .keyring
        .get()
        .seal_small("owners", &owner.0.to_string(), "secret", secret, services.random.as_ref())
        .map_err(|source| FlowError::Sealed { what: "a callback secret", source })
}

pub(super) fn open_secret(services: &Services, owner: OwnerSeq, sealed: &[u8]) -> Result<Vec<u8>, FlowError> {
    services
        .keyring
        .get()
        .open_small("owners", &owner.0.to_string(), "secret", sealed)
        .map_err(|source| FlowError::Sealed { what: "a callback secret", source })
}

/// Seals an owner's callback secrets under the keyring's active key; true when they were under another.
///
/// # Errors
/// When the database fails or the keyring lacks their key.
pub async fn reseal_secrets(
    services: &Services,
    owner: OwnerSeq,
    before: &CallbackSecrets,
) -> Result<bool, FlowError> {
    let keyring = services.keyring.get();
    let active = keyring.active_id();
    let stale = [&before.current, &before.previous]
        .into_iter()
        .flatten()
        .any(|sealed| penstock_crypto::Keyring::small_key_id(sealed).is_ok_and(|id| id != active));
    if !stale {
        return Ok(false);
    }
    let reseal = |sealed: &Option<Vec<u8>>| match sealed {
        None => Ok(None),
        Some(sealed) => seal_secret(services, owner, &open_secret(services, owner, sealed)?).map(Some),
    };
    let secrets = CallbackSecrets {
        current: reseal(&before.current)?,
        previous: reseal(&before.previous)?,
        previous_until: before.previous_until,
    };
    Ok(services.store.set_callback_secrets(owner, before.current.as_deref(), &secrets).await?)
}

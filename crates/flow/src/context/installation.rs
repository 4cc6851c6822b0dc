//! The installation's own secret: made once, sealed under the keyring, never replaced. References, fingerprints of requests and
//! the MACs of API keys come from it, and a program's keyring is checked by whether it opens it.

use penstock_crypto::{Fingerprinter, Keyring};
use penstock_store::Store;

use crate::context::error::FlowError;
use crate::context::services::Services;

/// The installation's own secret under which content is fingerprinted for `Idempotency-Key`.
pub(crate) const FINGERPRINT: &str = "fingerprint";

/// Checks that a keyring is the one under which things in the database are sealed, as far as there are any.
///
/// # Errors
/// [`FlowError::Sealed`] when it is another one; when the database fails.
pub async fn check_keyring(services: &Services, keyring: &Keyring) -> Result<(), FlowError> {
    if check_fingerprint(services, keyring).await? {
        return Ok(());
    }
    if let Some(epoch) = services.store.newest_epoch().await? {
        let sealed = |source| FlowError::Sealed { what: "the key of the newest epoch", source };
        keyring.open_epoch(epoch.id, &epoch.sealed).map_err(sealed)?;
    }
    Ok(())
}

/// The same by the installation's own secret alone; false when there is none.
pub(crate) async fn check_fingerprint(services: &Services, keyring: &Keyring) -> Result<bool, FlowError> {
    let Some(sealed) = services.store.secret(FINGERPRINT).await? else { return Ok(false) };
    open(keyring, &sealed).map(|_| true)
}

/// Checks the keyring of this program before it seals anything. In a new database it leaves a sealed secret, with which
/// later ones are compared.
///
/// # Errors
/// As [`check_keyring`].
pub async fn claim_keyring(services: &Services) -> Result<(), FlowError> {
    let keyring = services.keyring.get();
    check_keyring(services, &keyring).await?;
    fingerprint_secret(services, &keyring).await.map(|_| ())
}

/// Hashes content for an `Idempotency-Key`, under a secret that outlives the keyring's keys.
///
/// # Errors
/// When the database fails, or the keyring lacks the secret's key.
pub async fn fingerprinter(services: &Services) -> Result<Fingerprinter, FlowError> {
    let secret = fingerprint_secret(services, &services.keyring.get()).await?;
    Ok(Fingerprinter::new(&secret))
}

/// The installation's own secret: it outlives the keyring's keys, which only seal it.
///
/// # Errors
/// As [`fingerprinter`].
pub(crate) async fn installation_secret(services: &Services) -> Result<[u8; 32], FlowError> {
    let open = async {
        let secret = fingerprint_secret(services, &services.keyring.get()).await?;
        let wrong = |_| FlowError::Inconsistent("the installation's secret is not 32 bytes".into());
        secret.try_into().map_err(wrong)
    };
    services.secrets.installation.get_or_try_init(|| open).await.copied()
}

/// The same of a database in which a service has started before, for whoever has no more than it and a keyring.
///
/// # Errors
/// As [`fingerprinter`].
pub(crate) async fn secret_of(store: &dyn Store, keyring: &Keyring) -> Result<[u8; 32], FlowError> {
    let missing = || FlowError::Inconsistent("the installation has no secret".into());
    let sealed = store.secret(FINGERPRINT).await?.ok_or_else(missing)?;
    open(keyring, &sealed)?.try_into().map_err(|_| missing())
}

async fn fingerprint_secret(services: &Services, keyring: &Keyring) -> Result<Vec<u8>, FlowError> {
    loop {
        if let Some(sealed) = services.store.secret(FINGERPRINT).await? {
            return open(keyring, &sealed);
        }
        let mut secret = [0; 32];
        services.random.fill(&mut secret).map_err(|_| FlowError::Sealed {
            what: "a new secret",
            source: penstock_crypto::OpenError::NoRandomness,
        })?;
        // Somebody else may be first: then theirs is read.
        services.store.set_secret(FINGERPRINT, None, &seal(services, keyring, &secret)?).await?;
    }
}

pub(crate) async fn reseal(services: &Services) -> Result<bool, FlowError> {
    let Some(sealed) = services.store.secret(FINGERPRINT).await? else { return Ok(false) };
    let keyring = services.keyring.get();
    if Keyring::small_key_id(&sealed).is_ok_and(|id| id == keyring.active_id()) {
        return Ok(false);
    }
    let again = seal(services, &keyring, &open(&keyring, &sealed)?)?;
    Ok(services.store.set_secret(FINGERPRINT, Some(&sealed), &again).await?)
}

fn seal(services: &Services, keyring: &Keyring, secret: &[u8]) -> Result<Vec<u8>, FlowError> {
    keyring
        .seal_small("secrets", FINGERPRINT, "sealed", secret, services.random.as_ref())
        .map_err(|source| FlowError::Sealed { what: "the fingerprint's secret", source })
}

fn open(keyring: &Keyring, sealed: &[u8]) -> Result<Vec<u8>, FlowError> {
    keyring
        .open_small("secrets", FINGERPRINT, "sealed", sealed)
        .map_err(|source| FlowError::Sealed { what: "the fingerprint's secret", source })
}

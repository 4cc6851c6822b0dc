//! The keyring's rotation: what each key is still needed for, and re-wrapping under the active one. It costs by batches, not
//! by rows, and disturbs nobody: what is sealed under a data key stays as it is.

use penstock_crypto::{Fingerprinter, Keyring, WrappedKey};
use penstock_store::batches::SealedKey;
use penstock_store::operations::{AuditEntry, KeyUsage};
use serde::Serialize;

use crate::callbacks::reseal_secrets;
use crate::engines::Engines;
use crate::error::FlowError;

/// Data keys re-wrapped in one step.
const STEP: u32 = 500;

/// The installation's own secret under which content is fingerprinted for `Idempotency-Key`.
const FINGERPRINT: &str = "fingerprint";

/// What a key of the keyring is needed for. Without any of it, it can be dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KeyNeed {
    /// The key's name.
    pub key_id: String,
    /// Batches whose data key it wraps.
    pub data_keys: u64,
    /// Callback secrets, and the installation's own, that it seals.
    pub secrets: u64,
    /// Promises of an `Idempotency-Key` from before there was a secret of its own for them: without the key they are kept no
    /// more, and the same request is refused as another one.
    pub promises: u64,
}

/// What was put under the active key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rewrapped {
    /// Data keys.
    pub data_keys: u64,
    /// Callback secrets and the installation's own.
    pub secrets: u64,
}

/// What every key is needed for, of those that are needed at all.
///
/// # Errors
/// When the database fails.
pub async fn needs(engines: &Engines) -> Result<Vec<KeyNeed>, FlowError> {
    let mut needs: Vec<KeyNeed> = engines
        .store
        .key_usage()
        .await?
        .into_iter()
        .map(|KeyUsage { key_id, data_keys, promises }| KeyNeed { key_id, data_keys, promises, secrets: 0 })
        .collect();
    let mut sealed: Vec<Vec<u8>> = engines.store.secret(FINGERPRINT).await?.into_iter().collect();
    for (_, secrets) in engines.store.all_callback_secrets().await? {
        sealed.extend([secrets.current, secrets.previous].into_iter().flatten());
    }
    for secret in &sealed {
        let key_id = Keyring::small_key_id(secret)
            .map_err(|source| FlowError::Sealed { what: "a small secret", source })?;
        match needs.iter_mut().find(|need| need.key_id == key_id) {
            Some(need) => need.secrets += 1,
            None => needs.push(KeyNeed { key_id: key_id.to_owned(), secrets: 1, ..KeyNeed::default() }),
        }
    }
    Ok(needs)
}

/// Puts everything under the active key, guarded step by step: who changes something meanwhile wins.
///
/// # Errors
/// When the database fails, or the keyring lacks a key; what was moved stays moved.
pub async fn rewrap(engines: &Engines, actor: &str) -> Result<Rewrapped, FlowError> {
    let keyring = engines.keyring.get();
    let active = keyring.active_id();
    let mut done = Rewrapped::default();
    loop {
        let keys = engines.store.keys_to_rewrap(active, STEP).await?;
        let mut moved = 0;
        for (seq, id, old) in &keys {
            let wrapped = WrappedKey { key_id: old.key_id.clone(), bytes: old.wrapped.clone() };
            let new = engines
                .keyring
                .get()
                .rewrap(id.0, &wrapped, engines.random.as_ref())
                .map_err(|source| FlowError::Sealed { what: "a batch's data key", source })?;
            let Some(new) = new else { continue };
            let new = SealedKey { key_id: new.key_id, wrapped: new.bytes, ..old.clone() };
            moved += u64::from(engines.store.rewrap_key(*seq, old, &new).await?);
        }
        done.data_keys += moved;
        if moved == 0 {
            break;
        }
    }
    for (owner, before) in engines.store.all_callback_secrets().await? {
        done.secrets += u64::from(reseal_secrets(engines, owner, &before).await?);
    }
    done.secrets += u64::from(reseal_fingerprint(engines).await?);
    if done != Rewrapped::default() {
        let detail = format!("{} data keys and {} secrets under `{active}`", done.data_keys, done.secrets);
        let entry = AuditEntry {
            id: 0,
            at: engines.clock.now(),
            actor: actor.to_owned(),
            action: "crypto.rewrap".into(),
            batch: None,
            detail: Some(detail),
        };
        // What was done is done.
        if let Err(error) = engines.store.audit(&entry).await {
            tracing::warn!(%error, action = entry.action, "not written to the audit log");
        }
    }
    Ok(done)
}

/// Checks that a keyring is the one under which things in the database are sealed, as far as there are any.
///
/// # Errors
/// [`FlowError::Sealed`] when it is another one; when the database fails.
pub async fn check_keyring(engines: &Engines, keyring: &Keyring) -> Result<(), FlowError> {
    if let Some(sealed) = engines.store.secret(FINGERPRINT).await? {
        return open(keyring, &sealed).map(|_| ());
    }
    // A database from before there was such a secret: any data key tells.
    if let Some((_, id, key)) = engines.store.keys_to_rewrap("", 1).await?.first() {
        let wrapped = WrappedKey { key_id: key.key_id.clone(), bytes: key.wrapped.clone() };
        keyring
            .unwrap(id.0, &wrapped)
            .map_err(|source| FlowError::Sealed { what: "a batch's data key", source })?;
    }
    Ok(())
}

/// Checks the keyring of this program before it seals anything. In a new database it leaves a sealed secret, with which
/// later ones are compared.
///
/// # Errors
/// As [`check_keyring`].
pub async fn claim_keyring(engines: &Engines) -> Result<(), FlowError> {
    let keyring = engines.keyring.get();
    check_keyring(engines, &keyring).await?;
    fingerprint_secret(engines, &keyring).await.map(|_| ())
}

/// Hashes content for an `Idempotency-Key`, under a secret that outlives the keyring's keys.
///
/// # Errors
/// When the database fails, or the keyring lacks the secret's key.
pub async fn fingerprinter(engines: &Engines) -> Result<Fingerprinter, FlowError> {
    let secret = fingerprint_secret(engines, &engines.keyring.get()).await?;
    Ok(Fingerprinter::new(&secret))
}

/// The installation's own secret: it outlives the keyring's keys, which only seal it.
///
/// # Errors
/// As [`fingerprinter`].
pub(crate) async fn installation_secret(engines: &Engines) -> Result<[u8; 32], FlowError> {
    let secret = fingerprint_secret(engines, &engines.keyring.get()).await?;
    secret.try_into().map_err(|_| FlowError::Inconsistent("the installation's secret is not 32 bytes".into()))
}

async fn fingerprint_secret(engines: &Engines, keyring: &Keyring) -> Result<Vec<u8>, FlowError> {
    loop {
        if let Some(sealed) = engines.store.secret(FINGERPRINT).await? {
            return open(keyring, &sealed);
        }
        let mut secret = [0; 32];
        engines.random.fill(&mut secret).map_err(|_| FlowError::Sealed {
            what: "a new secret",
            source: penstock_crypto::OpenError::NoRandomness,
        })?;
        // Somebody else may be first: then theirs is read.
        engines.store.set_secret(FINGERPRINT, None, &seal(engines, keyring, &secret)?).await?;
    }
}

async fn reseal_fingerprint(engines: &Engines) -> Result<bool, FlowError> {
    let Some(sealed) = engines.store.secret(FINGERPRINT).await? else { return Ok(false) };
    let keyring = engines.keyring.get();
    if Keyring::small_key_id(&sealed).is_ok_and(|id| id == keyring.active_id()) {
        return Ok(false);
    }
    let again = seal(engines, &keyring, &open(&keyring, &sealed)?)?;
    Ok(engines.store.set_secret(FINGERPRINT, Some(&sealed), &again).await?)
}

fn seal(engines: &Engines, keyring: &Keyring, secret: &[u8]) -> Result<Vec<u8>, FlowError> {
    keyring
        .seal_small("secrets", FINGERPRINT, "sealed", secret, engines.random.as_ref())
        .map_err(|source| FlowError::Sealed { what: "the fingerprint's secret", source })
}

fn open(keyring: &Keyring, sealed: &[u8]) -> Result<Vec<u8>, FlowError> {
    keyring
        .open_small("secrets", FINGERPRINT, "sealed", sealed)
        .map_err(|source| FlowError::Sealed { what: "the fingerprint's secret", source })
}

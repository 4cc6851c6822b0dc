//! The keyring's rotation: what each key is still needed for, and putting everything under the active one. It costs by batches,
//! not by rows, and disturbs nobody: what is sealed under a data key stays as it is. The same walk ends epochs.

use std::time::Duration;

use penstock_crypto::{EpochKey, Keyring};
use penstock_domain::ids::BatchSeq;
use penstock_store::batches::Batch;
use penstock_store::operations::AuditEntry;
use penstock_store::sealing::{Epoch, KeyUsage};
use serde::Serialize;

use crate::callbacks::secrets::reseal_secrets;
use crate::context::epochs;
use crate::context::error::FlowError;
use crate::context::installation;
use crate::context::periodic::{Schedule, Task};
use crate::context::secrets::SecretLocation;
use crate::context::services::Services;
use crate::context::{
    answer_keys, api_keys, earlier_releases, owner_values, stored_definitions, token_vault,
};

/// Data keys re-wrapped in one step.
const STEP: u32 = 500;

/// How often a service does so. Workers that started together do not do it together.
const EVERY: Duration = Duration::from_secs(600);
const JITTER: f64 = 0.1;

/// What a key of the keyring is needed for. Without any of it, it can be dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KeyNeed {
    /// The key's name.
    pub key_id: String,
    /// Batches whose data key an epoch wraps that it seals.
    pub data_keys: u64,
    /// Callback secrets, owners' values, tokens, and the installation's own, that it seals.
    pub secrets: u64,
    /// Definitions that it authenticates.
    pub definitions: u64,
    /// Promises of an `Idempotency-Key` from before there was a secret of its own for them: without the key they are kept no
    /// more, and the same request is refused as another one.
    pub promises: u64,
}

impl KeyNeed {
    /// Everything that needs it.
    pub fn all(&self) -> u64 {
        self.data_keys + self.secrets + self.definitions + self.promises
    }
}

/// What was put under the active key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rewrapped {
    /// Data keys, wrapped anew in the newest epoch.
    pub data_keys: u64,
    /// Callback secrets, owners' values, tokens and the installation's own.
    pub secrets: u64,
    /// Definitions.
    pub definitions: u64,
    /// Epochs that wrap nothing any more, and were dropped: erasures in them are final.
    pub epochs: u64,
    /// What cannot be opened, and stays as it is.
    pub unreadable: u64,
}

impl Rewrapped {
    /// Whether anything was moved.
    pub fn is_something(&self) -> bool {
        self.data_keys + self.secrets + self.definitions + self.epochs > 0
    }
}

/// Re-wraps what is under an older key in the background.
pub struct RotationTask {
    /// The services.
    pub services: Services,
    /// An epoch in which a batch was erased ends after this time.
    pub epoch: Duration,
}

impl Task for RotationTask {
    const NAME: &'static str = "rotation";
    type Error = FlowError;

    /// Not at the start: while services are restarted one after another, some do not have the new key yet.
    fn schedule(&self) -> Schedule {
        Schedule::after(EVERY).with_jitter(JITTER)
    }

    async fn run(&mut self) -> Result<(), FlowError> {
        let done = rewrap(&self.services, self.epoch, "operator:rotation").await?;
        if done.is_something() {
            let Rewrapped { data_keys, secrets, definitions, epochs, .. } = done;
            tracing::info!(
                data_keys,
                secrets,
                definitions,
                epochs,
                "put under the active key; epochs that wrap nothing any more were dropped"
            );
        }
        Ok(())
    }
}

/// Brings the schema up to date, and puts what earlier releases wrote into the present forms.
///
/// # Errors
/// When the database fails; when there is something to take over, and the keyring is missing or another one.
pub async fn migrate(services: &Services, actor: &str) -> Result<(i64, i64), FlowError> {
    let from = services.store.engine().await?.schema;
    earlier_releases::open_window(services, from).await?;
    let (_, to) = services.store.migrate().await?;
    if earlier_releases::is_open(services).await? {
        rewrap(services, Duration::MAX, actor).await?;
    }
    Ok((from, to))
}

/// What every key is needed for, of those that are needed at all.
///
/// # Errors
/// When the database fails.
pub async fn needs(services: &Services) -> Result<Vec<KeyNeed>, FlowError> {
    let store = &services.store;
    let mut needs: Vec<KeyNeed> = store
        .key_usage()
        .await?
        .into_iter()
        .map(|KeyUsage { key_id, data_keys, promises }| KeyNeed {
            key_id,
            data_keys,
            promises,
            ..KeyNeed::default()
        })
        .collect();
    let mut sealed: Vec<Vec<u8>> = store.secret(installation::FINGERPRINT).await?.into_iter().collect();
    sealed.extend(answer_keys::sealed(services).await?);
    sealed.extend(store.newest_epoch().await?.map(|epoch| epoch.sealed));
    for (_, secrets) in store.all_callback_secrets().await? {
        sealed.extend([secrets.current, secrets.previous].into_iter().flatten());
    }
    sealed.extend(store.all_owner_values().await?.into_iter().map(|value| value.sealed));
    sealed.extend(store.all_tokens().await?.into_iter().map(|(_, tokens)| tokens));
    for secret in &sealed {
        need_of(&mut needs, secret)?.secrets += 1;
    }
    for mac in store.definition_macs().await?.into_iter().filter_map(|(_, mac)| mac) {
        need_of(&mut needs, &mac)?.definitions += 1;
    }
    Ok(needs)
}

/// The need of the key that sealed this.
fn need_of<'a>(needs: &'a mut Vec<KeyNeed>, sealed: &[u8]) -> Result<&'a mut KeyNeed, FlowError> {
    let key_id = Keyring::small_key_id(sealed)
        .map_err(|source| FlowError::Sealed { what: "a small secret", source })?;
    let at = needs.iter().position(|need| need.key_id == key_id).unwrap_or_else(|| {
        needs.push(KeyNeed { key_id: key_id.to_owned(), ..KeyNeed::default() });
        needs.len() - 1
    });
    Ok(&mut needs[at])
}

/// Puts everything under the active key, and ends epochs that are at least as old as `oldest` and in which batches were
/// erased. Guarded step by step: who changes something meanwhile wins. What cannot be opened is logged and left.
///
/// # Errors
/// When the database fails, or the keyring lacks the newest epoch's key; what was moved stays moved.
pub async fn rewrap(services: &Services, oldest: Duration, actor: &str) -> Result<Rewrapped, FlowError> {
    let mut done = Rewrapped::default();
    let (epoch, key) = epochs::for_rotation(services, oldest).await?;
    let mut after = BatchSeq(0);
    loop {
        let batches = services.store.batches_to_rewrap(epoch.id, after, STEP).await?;
        let Some(last) = batches.last() else { break };
        after = last.seq;
        for batch in &batches {
            match rewrap_one(services, &epoch, &key, batch).await {
                Ok(moved) => done.data_keys += u64::from(moved),
                Err(error @ FlowError::Store(_)) => return Err(error),
                Err(error) => {
                    tracing::error!(%error, batch = %batch.id, "the batch's key cannot be wrapped anew: its epoch cannot end");
                    done.unreadable += 1;
                }
            }
        }
    }
    done.epochs = services.store.drop_epochs(epoch.id).await?.into();
    for (owner, before) in services.store.all_callback_secrets().await? {
        done.secrets += u64::from(reseal_secrets(services, owner, &before).await?);
    }
    done.secrets += u64::from(installation::reseal(services).await?);
    done.secrets += u64::from(answer_keys::rotate(services).await?);
    done.secrets += owner_values::reseal(services).await? + token_vault::reseal(services).await?;
    authenticate_definitions(services, &mut done).await?;
    api_keys::convert_earlier(services).await?;
    if done.is_something() {
        write_down(services, actor, &done).await;
    }
    Ok(done)
}

async fn write_down(services: &Services, actor: &str, done: &Rewrapped) {
    let keyring = services.keyring.get();
    let detail = format!(
        "{} data keys, {} secrets and {} definitions under `{}`; {} epochs dropped",
        done.data_keys,
        done.secrets,
        done.definitions,
        keyring.active_id(),
        done.epochs
    );
    let entry = AuditEntry {
        id: 0,
        at: services.clock.now(),
        actor: actor.to_owned(),
        action: "crypto.rewrap".into(),
        batch: None,
        detail: Some(detail),
    };
    // What was done is done.
    if let Err(error) = services.store.audit(&entry).await {
        tracing::warn!(%error, action = entry.action, "not written to the audit log");
    }
}

async fn rewrap_one(
    services: &Services,
    epoch: &Epoch,
    key: &EpochKey,
    batch: &Batch,
) -> Result<bool, FlowError> {
    // Erased since the list was made.
    let Some(old) = services.store.sealed_key(batch.seq).await? else { return Ok(false) };
    let data_key = epochs::open(services, batch, &old).await?;
    let mut new = old.key.clone();
    epochs::wrap(services, epoch, key, epochs::binding(batch), &data_key, &mut new)?;
    if new.header.is_none()
        && old.key.epoch.is_none()
        && let Some(secrets) = services.try_secrets_of(batch).await?
    {
        new.header = secrets.header().map(|header| secrets.seal_json(SecretLocation::Header, &**header));
    }
    Ok(services.store.rewrap_key(batch.seq, &old.key, &new).await?)
}

/// MACs of definitions under the active key; one that does not hold is left, so that it goes on being refused.
async fn authenticate_definitions(services: &Services, done: &mut Rewrapped) -> Result<(), FlowError> {
    let keyring = services.keyring.get();
    for (version, before) in services.store.definition_macs().await? {
        let key_id = before.as_deref().and_then(|mac| Keyring::small_key_id(mac).ok());
        if key_id.is_some_and(|id| id == keyring.active_id()) {
            continue;
        }
        let Some(stored) = services.store.definition(version).await? else { continue };
        match stored_definitions::check(services, version, &stored).await {
            Ok(()) => {
                let mac = stored_definitions::mac(services, version, &stored.name, &stored.source)?;
                done.definitions +=
                    u64::from(services.store.set_definition_mac(version, before.as_deref(), &mac).await?);
            }
            Err(error @ FlowError::Store(_)) => return Err(error),
            Err(error) => {
                tracing::error!(%error, %version, pipeline = stored.name, "a definition in the database is not one that Penstock stored");
                done.unreadable += 1;
            }
        }
    }
    Ok(())
}

//! API keys. What a key grants lies in the clear, under a MAC over it and over the key's secret: whoever can write to the
//! database can neither make a key nor extend one.

use std::time::Duration;

use penstock_crypto::{ApiKey, check_record_mac, record_mac};
use penstock_domain::time::Timestamp;
use penstock_store::owners::{ApiKeyRecord, Owner, Scopes};

use crate::context::earlier_releases;
use crate::context::error::FlowError;
use crate::context::installation::installation_secret;
use crate::context::services::Services;

/// What the installation's secret authenticates keys for.
const PURPOSE: &str = "api-key";

/// The time of the last use is kept to this.
const USED_EVERY: Duration = Duration::from_secs(60);

/// Keys of a person's sign-ins that are kept: one session for each, and afterwards its name for the audit log.
const SIGN_INS_KEPT: u32 = 100;

/// What a new key grants.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The key's name, for people.
    pub name: Option<String>,
    /// Whether it is for a sign-in to the console.
    pub sign_in: bool,
    /// What it may do.
    pub scopes: Scopes,
    /// The pipelines that it may use; none: all.
    pub pipelines: Option<Vec<String>>,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
}

impl Default for Grant {
    fn default() -> Self {
        Self { name: None, sign_in: false, scopes: Scopes::CLIENT, pipelines: None, expires_at: None }
    }
}

/// Makes a key of an owner.
///
/// # Errors
/// When the database fails, or there is no keyring.
pub async fn create(
    services: &Services,
    owner: &Owner,
    grant: Grant,
) -> Result<(ApiKey, ApiKeyRecord), FlowError> {
    let key = ApiKey::generate(services.random.as_ref())
        .map_err(|source| FlowError::Sealed { what: "a new key", source })?;
    let mut record = ApiKeyRecord {
        id: key.id().to_owned(),
        owner: owner.name.clone(),
        owner_seq: owner.seq,
        name: grant.name,
        sign_in: grant.sign_in,
        role: grant.scopes.role(),
        scopes: grant.scopes,
        pipelines: grant.pipelines,
        hash: Vec::new(),
        mac: None,
        created_at: services.clock.now(),
        expires_at: grant.expires_at,
        last_used_at: None,
        revoked_at: None,
    };
    let secret = installation_secret(services).await?;
    record.mac = Some(mac(&secret, &record, &key.hash()));
    services.store.create_key(&record).await?;
    if let (true, Some(name)) = (record.sign_in, &record.name) {
        services.store.delete_sign_ins_beyond(owner.seq, name, SIGN_INS_KEPT).await?;
    }
    Ok((key, record))
}

/// The record of a key that a client sent; none unless it is valid.
///
/// # Errors
/// When the database fails, or the keyring lacks the key of the installation's secret.
pub async fn find(services: &Services, key: &ApiKey) -> Result<Option<ApiKeyRecord>, FlowError> {
    let now = services.clock.now();
    let record = services.store.key(key.id()).await?.filter(|record| record.is_valid(now));
    let Some(record) = record else { return Ok(None) };
    let authentic = match &record.mac {
        Some(mac) => {
            let secret = installation_secret(services).await?;
            check_record_mac(&secret, PURPOSE, &parts(&record, &key.hash()).each(), mac)
        }
        None => key.verify(&record.hash) && earlier_releases::is_open(services).await?,
    };
    if !authentic {
        return Ok(None);
    }
    if record.last_used_at.is_none_or(|at| now.since(at) >= USED_EVERY)
        && let Err(error) = services.store.touch_key(&record.id, now).await
    {
        tracing::warn!(%error, key = record.id, "failed to record the last use of a key");
    }
    Ok(Some(record))
}

/// What a key grants and its MAC, as a word under the installation's secret. A revocation deletes the MAC: what was made with
/// the key before and names this word stays refused, also when a writer to the database undoes the rest of the revocation.
///
/// # Errors
/// When the database fails, or the keyring lacks the key of the installation's secret.
pub async fn word(services: &Services, record: &ApiKeyRecord) -> Result<String, FlowError> {
    let secret = installation_secret(services).await?;
    let word =
        record_mac(&secret, "api-key-word", &parts(record, record.mac.as_deref().unwrap_or_default()).each());
    Ok(word.iter().take(16).map(|byte| format!("{byte:02x}")).collect())
}

/// Authenticates keys of earlier releases, while those are taken; returns how many.
///
/// # Errors
/// When the database fails.
pub(crate) async fn convert_earlier(services: &Services) -> Result<u64, FlowError> {
    if !earlier_releases::is_open(services).await? {
        return Ok(0);
    }
    let secret = installation_secret(services).await?;
    let mut converted = 0;
    for record in services.store.keys().await?.iter().filter(|record| record.mac.is_none()) {
        let mac = mac(&secret, record, &record.hash);
        converted += u64::from(services.store.set_key_mac(&record.id, &mac).await?);
    }
    Ok(converted)
}

fn mac(secret: &[u8; 32], record: &ApiKeyRecord, hash: &[u8]) -> Vec<u8> {
    record_mac(secret, PURPOSE, &parts(record, hash).each())
}

/// What a key's MAC is over.
struct Parts<'a> {
    texts: [&'a [u8]; 3],
    grant: Vec<u8>,
}

fn parts<'a>(record: &'a ApiKeyRecord, hash: &'a [u8]) -> Parts<'a> {
    let (scopes, pipelines, end) =
        (record.scopes, &record.pipelines, record.expires_at.map(Timestamp::millis));
    // A key without a name has the MAC of releases that knew none.
    let grant = match (&record.name, record.sign_in) {
        (None, false) => serde_json::json!([scopes, pipelines, end]),
        (name, sign_in) => serde_json::json!([scopes, pipelines, end, name, sign_in]),
    };
    Parts {
        texts: [hash, record.id.as_bytes(), record.owner.as_bytes()],
        grant: grant.to_string().into_bytes(),
    }
}

impl Parts<'_> {
    fn each(&self) -> [&[u8]; 4] {
        let [hash, id, owner] = self.texts;
        [hash, id, owner, &self.grant]
    }
}

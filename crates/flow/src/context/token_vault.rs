//! Tokens that an endpoint replaces, sealed in the database for all workers.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use penstock_crypto::{CurrentKeyring, Keyring, record_mac};
use penstock_domain::time::Clock;
use penstock_downstream::{KeptTokens, TokenVault};
use penstock_store::Store;
use ring::rand::SecureRandom;
use uuid::Uuid;

use crate::context::error::FlowError;
use crate::context::installation;
use crate::context::services::Services;

const TABLE: &str = "tokens";
/// The purpose under which tokens' names are hashed.
const PURPOSE: &str = "token-name";
const COLUMN: &str = "sealed";
const WHAT: &str = "a dependency's tokens";

/// Keeps tokens in the database, sealed under the keyring.
pub struct SealedVault {
    /// The database.
    pub store: Arc<dyn Store>,
    /// The keyring.
    pub keyring: Arc<CurrentKeyring>,
    /// Randomness for nonces.
    pub random: Arc<dyn SecureRandom + Send + Sync>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

fn failed(error: &FlowError) -> String {
    format!("the dependency's tokens cannot be kept: {error}")
}

#[async_trait]
impl TokenVault for SealedVault {
    /// A hash under the installation's secret: a refresh token is a part of what it is made of.
    async fn name(&self, of: &str) -> Result<Uuid, String> {
        let secret = installation::secret_of(self.store.as_ref(), &self.keyring.get()).await;
        let mac = record_mac(&secret.map_err(|error| failed(&error))?, PURPOSE, &[of.as_bytes()]);
        let start = mac.first_chunk().copied().unwrap_or_default();
        Ok(uuid::Builder::from_custom_bytes(start).into_uuid())
    }

    async fn read(&self, name: Uuid) -> Result<(i64, Option<KeptTokens>), String> {
        let kept = self.store.tokens(name).await.map_err(|error| failed(&error.into()))?;
        let Some(kept) = kept else { return Ok((0, None)) };
        let Some(sealed) = kept.sealed else { return Ok((kept.version, None)) };
        let plain = self.keyring.get().open_small(TABLE, &name.to_string(), COLUMN, &sealed);
        let plain = plain.map_err(|source| failed(&FlowError::Sealed { what: WHAT, source }))?;
        let tokens = serde_json::from_slice(&plain)
            .map_err(|_| failed(&FlowError::Inconsistent(format!("{WHAT} are not JSON"))))?;
        Ok((kept.version, Some(tokens)))
    }

    async fn begin(&self, name: Uuid, version: i64, within: Duration) -> Result<bool, String> {
        let now = self.clock.now();
        let begun = self.store.begin_renewal(name, version, now, now + within).await;
        begun.map_err(|error| failed(&error.into()))
    }

    async fn end(&self, name: Uuid, version: i64, tokens: Option<&KeptTokens>) -> Result<(), String> {
        let sealed = match tokens {
            Some(tokens) => {
                let plain = serde_json::to_vec(tokens).map_err(|error| error.to_string())?;
                let keyring = self.keyring.get();
                let sealed =
                    keyring.seal_small(TABLE, &name.to_string(), COLUMN, &plain, self.random.as_ref());
                Some(sealed.map_err(|source| failed(&FlowError::Sealed { what: WHAT, source }))?)
            }
            None => None,
        };
        let ended = self.store.end_renewal(name, version, sealed.as_deref()).await;
        if !ended.map_err(|error| failed(&error.into()))? {
            tracing::warn!(%name, "a dependency's tokens were renewed by another worker meanwhile");
        }
        Ok(())
    }
}

/// Seals tokens under the keyring's active key; how many were under another.
///
/// # Errors
/// When the database fails or the keyring lacks their key.
pub(crate) async fn reseal(services: &Services) -> Result<u64, FlowError> {
    let keyring = services.keyring.get();
    let sealed_by = |source| FlowError::Sealed { what: WHAT, source };
    let mut done = 0;
    for (name, before) in services.store.all_tokens().await? {
        if Keyring::small_key_id(&before).map_err(sealed_by)? == keyring.active_id() {
            continue;
        }
        let place = name.to_string();
        let plain = keyring.open_small(TABLE, &place, COLUMN, &before).map_err(sealed_by)?;
        let random = services.random.as_ref();
        let after = keyring.seal_small(TABLE, &place, COLUMN, &plain, random).map_err(sealed_by)?;
        done += u64::from(services.store.reseal_tokens(name, &before, &after).await?);
    }
    Ok(done)
}

//! Refresh tokens that an endpoint replaces: kept where all workers find them, and renewed by one worker at a time.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use penstock_domain::pipeline::Grant;
use penstock_domain::time::Timestamp;
use ring::digest;
use uuid::Uuid;

use super::{Fetched, Fetching, endpoint};
use crate::credentials::hex;

/// A renewal is one worker's for this time.
const RENEWED_WITHIN: Duration = Duration::from_secs(60);

/// How often others look whether it is done, and for how long.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const LOOKS: u32 = 25;

/// How often it is tried to keep a token that was received, with a pause between: without it nobody gets another one.
const TRIES: u32 = 20;
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// Tokens as they are kept. Never printed.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
pub struct KeptTokens {
    /// A hash of the refresh token that the definition has: with another one everything begins anew.
    pub seed: String,
    /// The refresh token that is valid now.
    pub refresh: String,
    /// The access token that came with it.
    pub access: String,
    /// When four fifths of its life are over, and when it ends, in milliseconds since 1970; none: unknown.
    pub renew_at: Option<i64>,
    /// See `renew_at`.
    pub ends_at: Option<i64>,
}

/// Where tokens are kept.
#[async_trait]
pub trait TokenVault: Send + Sync {
    /// The name under which the tokens are kept that `of` describes: it tells nothing of what it is made of.
    ///
    /// # Errors
    /// When it cannot be made.
    async fn name(&self, of: &str) -> Result<Uuid, String>;
    /// The tokens of that name, and their version; 0 when there are none.
    ///
    /// # Errors
    /// When they cannot be read.
    async fn read(&self, name: Uuid) -> Result<(i64, Option<KeptTokens>), String>;
    /// Begins a renewal of that version. False: another worker has begun, or there is a newer version.
    ///
    /// # Errors
    /// When it cannot be written down.
    async fn begin(&self, name: Uuid, version: i64, within: Duration) -> Result<bool, String>;
    /// Ends a renewal of that version, with new tokens if there are any.
    ///
    /// # Errors
    /// When it cannot be written down.
    async fn end(&self, name: Uuid, version: i64, tokens: Option<&KeptTokens>) -> Result<(), String>;
}

/// Keeps tokens in this process only.
#[derive(Default)]
pub struct MemoryVault(Mutex<HashMap<Uuid, InMemory>>);

/// The version, whether it is being renewed, and the tokens.
type InMemory = (i64, bool, Option<KeptTokens>);

#[async_trait]
impl TokenVault for MemoryVault {
    async fn name(&self, of: &str) -> Result<Uuid, String> {
        Ok(Uuid::new_v5(&Uuid::NAMESPACE_URL, of.as_bytes()))
    }

    async fn read(&self, name: Uuid) -> Result<(i64, Option<KeptTokens>), String> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(kept.get(&name).map_or((0, None), |(version, _, tokens)| (*version, tokens.clone())))
    }

    async fn begin(&self, name: Uuid, version: i64, _: Duration) -> Result<bool, String> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (current, renewing, _) = kept.entry(name).or_insert((0, false, None));
        let begins = *current == version && !*renewing;
        *renewing |= begins;
        Ok(begins)
    }

    async fn end(&self, name: Uuid, version: i64, tokens: Option<&KeptTokens>) -> Result<(), String> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((current, renewing, kept)) =
            kept.get_mut(&name).filter(|(current, ..)| *current == version)
        {
            *renewing = false;
            if let Some(tokens) = tokens {
                (*current, *kept) = (version + 1, Some(tokens.clone()));
            }
        }
        Ok(())
    }
}

/// A hash of a refresh token.
pub(super) fn hashed(seed: &str) -> String {
    hex(digest::digest(&digest::SHA256, seed.as_bytes()).as_ref())
}

/// A token by a refresh token: the one that another worker has fetched, or a new one. `unusable` is one that was answered 401.
pub(super) async fn renew(
    vault: &dyn TokenVault,
    fetching: &Fetching<'_>,
    name: &str,
    unusable: Option<&str>,
) -> Fetched {
    let fails = |reason: String| Fetched::Fails { reason, after: None };
    let Grant::RefreshToken(seed) = &fetching.auth.grant else {
        return fails("the grant has no refresh token".to_owned());
    };
    let seed = match seed.text(&**fetching.files) {
        Ok(seed) => seed.into_owned(),
        Err(reason) => return fails(reason),
    };
    let hash = hashed(&seed);
    let name = match vault.name(name).await {
        Ok(name) => name,
        Err(reason) => return fails(reason),
    };
    for _ in 0..LOOKS {
        let (version, kept) = match vault.read(name).await {
            Ok(read) => read,
            Err(reason) => return fails(reason),
        };
        let kept = kept.filter(|kept| kept.seed == hash);
        let now = fetching.clock.now();
        if let Some(token) = kept.as_ref().and_then(|kept| still_usable(kept, now, unusable)) {
            return token;
        }
        match vault.begin(name, version, RENEWED_WITHIN).await {
            Ok(true) => {
                let had_end = kept.as_ref().is_some_and(|kept| kept.ends_at.is_some());
                let refresh = kept.map_or(seed, |kept| kept.refresh);
                let asked_at = fetching.clock.now();
                let fetched = endpoint::ask(fetching, Some(&refresh), had_end).await;
                let tokens = kept_of(&fetched, asked_at, refresh, hash);
                return keep(vault, name, version, fetched, tokens).await;
            }
            Ok(false) => tokio::time::sleep(LOOK_EVERY).await,
            Err(reason) => return fails(reason),
        }
    }
    fails("another worker renews the token".to_owned())
}

fn still_usable(kept: &KeptTokens, now: Timestamp, unusable: Option<&str>) -> Option<Fetched> {
    let usable = kept.renew_at.is_none_or(|at| now.millis() < at) && unusable != Some(kept.access.as_str());
    let life = kept.ends_at.map(|at| Timestamp::from_millis(at).since(now));
    usable.then(|| Fetched::Token { access: kept.access.clone(), refresh: None, life })
}

/// What is to be kept of a renewal; none: it failed.
fn kept_of(fetched: &Fetched, asked_at: Timestamp, refresh: String, seed: String) -> Option<KeptTokens> {
    let Fetched::Token { access, refresh: new, life } = fetched else { return None };
    let at = |life: Duration| (asked_at + life).millis();
    Some(KeptTokens {
        seed,
        refresh: new.clone().unwrap_or(refresh),
        access: access.clone(),
        renew_at: life.map(|life| at(life.mul_f64(0.8))),
        ends_at: life.map(at),
    })
}

/// Keeps renewed tokens. When they cannot be kept, the access token is used all the same: it is all there is.
async fn keep(
    vault: &dyn TokenVault,
    name: Uuid,
    version: i64,
    fetched: Fetched,
    tokens: Option<KeptTokens>,
) -> Fetched {
    for _ in 0..TRIES {
        match vault.end(name, version, tokens.as_ref()).await {
            Ok(()) => return fetched,
            Err(error) => {
                tracing::warn!(error, "failed to keep a refresh token; will retry");
                tokio::time::sleep(TRY_AGAIN).await;
            }
        }
    }
    tracing::error!("a refresh token could not be kept; the dependency will need a new one");
    fetched
}

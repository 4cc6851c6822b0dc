//! Tokens that are fetched from an endpoint (RFC 6749): one for each dependency and worker.
//!
//! One call fetches it while the others wait, and while the old one is still valid they go on with it. It is renewed at four
//! fifths of its life; a token without a known end is used until a call is answered 401. An endpoint that fails is asked again
//! after a growing pause; one that refuses is asked again by the next call that begins after the refusal: the batches that need
//! it are held by then.

mod endpoint;
mod jwt;
mod vault;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::header::HeaderValue;
use penstock_domain::pipeline::{Claim, Dependency, Files, Grant, LiveText, OAuth2};
use penstock_domain::time::Clock;
use tokio::time::Instant;

use super::{NoCredentials, secret};
use crate::transport::Transports;

pub use vault::{KeptTokens, MemoryVault, TokenVault};

/// The first pause after an endpoint failed, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Calls that begin this soon after a refusal share it: the batch is about to be held.
const REFUSAL_HOLDS: Duration = Duration::from_millis(100);

/// A fresh token that was answered 401 as well is not replaced again before this time.
const FRESH_REFUSED_FOR: Duration = Duration::from_secs(10);

/// What came of asking for a token.
#[derive(Debug)]
pub(crate) enum Asked {
    /// It is there.
    Token(Token),
    /// The endpoint fails, or a file cannot be read: ask again after this time.
    Fails { after: Duration, reason: String },
    /// The endpoint refuses.
    Refused(Refusal),
}

/// A token as a header's value.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) value: HeaderValue,
    number: u64,
    renew_at: Option<Instant>,
    ends_at: Option<Instant>,
    /// When it was fetched in place of one that was refused; none: it was not. With a refresh token another worker may have ended
    /// it meanwhile, so that it says nothing.
    replaced_at: Option<Instant>,
    /// Whether a call with it was answered otherwise than by 401.
    accepted: Arc<AtomicBool>,
}

impl Token {
    /// A call with it was answered, and not by 401.
    pub(crate) fn was_accepted(&self) {
        self.accepted.store(true, Ordering::Relaxed);
    }

    /// Whether it was fetched just now because another one was refused, and no call with it has gone better: many calls may
    /// find that out at once, and further tokens would not help.
    fn is_fresh(&self, now: Instant) -> bool {
        let replaced = self.replaced_at.is_some_and(|at| now.duration_since(at) < FRESH_REFUSED_FOR);
        replaced && !self.accepted.load(Ordering::Relaxed)
    }
}

/// What an endpoint said when it refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its status.
    pub status: u16,
    /// The error's code: `invalid_client`, for example (RFC 6749, 5.2).
    pub code: String,
    /// Its own words.
    pub reason: String,
}

/// What an answer of the endpoint means.
pub(crate) enum Fetched {
    Token { access: String, refresh: Option<String>, life: Option<Duration> },
    Fails { reason: String, after: Option<Duration> },
    Refuses(Refusal),
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    /// Until when a failing endpoint is not asked, how often it has failed, and why.
    failed: Option<(Instant, u32, String)>,
    refused: Option<(Instant, Refusal)>,
    /// The token that was answered 401 although it was fresh, and when.
    fresh_refused: Option<(u64, Instant)>,
    /// An access token that a call was answered 401 with: what other workers have stored may be the same.
    unusable: Option<String>,
}

#[derive(Default)]
struct Slot {
    state: Mutex<State>,
    /// One fetches.
    fetching: tokio::sync::Mutex<()>,
}

impl Slot {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token that needs no renewal, or one that is valid while another call renews it.
    fn usable(&self, now: Instant, renewing: bool) -> Option<Token> {
        let state = self.state();
        let token = state.token.as_ref()?;
        let until = if renewing { token.ends_at } else { token.renew_at };
        until.is_none_or(|until| now < until).then(|| token.clone())
    }

    /// Why no token can be fetched now, for a call that began then.
    fn hindrance(&self, began: Instant, now: Instant) -> Option<Asked> {
        let state = self.state();
        if let Some((at, refusal)) = &state.refused
            && (began <= *at || now.duration_since(*at) < REFUSAL_HOLDS)
        {
            return Some(Asked::Refused(refusal.clone()));
        }
        let (until, _, reason) = state.failed.as_ref()?;
        let after = until.checked_duration_since(now).filter(|after| !after.is_zero())?;
        Some(Asked::Fails { after, reason: reason.clone() })
    }
}

/// What a fetch works with.
#[derive(Clone, Copy)]
pub(crate) struct Fetching<'a> {
    pub(crate) dependency: &'a Dependency,
    pub(crate) auth: &'a OAuth2,
    pub(crate) files: &'a Arc<dyn Files>,
    pub(crate) transports: &'a Arc<Transports>,
    pub(crate) clock: &'a Arc<dyn Clock>,
}

/// The tokens of a worker.
pub(crate) struct Tokens {
    slots: Mutex<HashMap<String, Arc<Slot>>>,
    vault: Arc<dyn TokenVault>,
    numbers: AtomicU64,
}

impl Tokens {
    pub(crate) fn new(vault: Arc<dyn TokenVault>) -> Self {
        Self { slots: Mutex::default(), vault, numbers: AtomicU64::new(1) }
    }

    /// A token for a call that began then.
    pub(crate) async fn token(&self, fetching: &Fetching<'_>, began: Instant) -> Asked {
        let name = match name(fetching) {
            Ok(name) => name,
            Err(reason) => return Asked::Fails { after: FIRST_PAUSE, reason },
        };
        let slot = self
            .slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(name.clone())
            .or_default()
            .clone();
        if let Some(token) = slot.usable(Instant::now(), false) {
            return Asked::Token(token);
        }
        let valid = slot.usable(Instant::now(), true);
        let _alone = match (&valid, slot.fetching.try_lock()) {
            (_, Ok(alone)) => alone,
            (Some(token), Err(_)) => return Asked::Token(token.clone()),
            (None, Err(_)) => slot.fetching.lock().await,
        };
        // Another call may have fetched it meanwhile.
        let now = Instant::now();
        if let Some(token) = slot.usable(now, false) {
            return Asked::Token(token);
        }
        let hindrance = slot.hindrance(began, now);
        let asked = match hindrance {
            Some(hindrance) => hindrance,
            None => self.fetch(fetching, &name, &slot).await,
        };
        match (asked, valid) {
            (Asked::Token(token), _) => Asked::Token(token),
            (_, Some(valid)) if slot.usable(Instant::now(), true).is_some() => Asked::Token(valid),
            (asked, _) => asked,
        }
    }

    /// The token that a call can leave with now.
    pub(crate) fn current(&self, fetching: &Fetching<'_>) -> Option<Token> {
        let name = name(fetching).ok()?;
        let slot = self.slots.lock().unwrap_or_else(PoisonError::into_inner).get(&name).cloned()?;
        slot.usable(Instant::now(), true)
    }

    /// A call with this token was answered 401. True: another one may be fetched, and the call made once more.
    pub(crate) fn refused(&self, fetching: &Fetching<'_>, token: &Token, fresh: bool) -> bool {
        let Ok(name) = name(fetching) else { return false };
        let slot = self.slots.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default().clone();
        let mut state = slot.state();
        let now = Instant::now();
        if fresh || token.is_fresh(now) {
            state.fresh_refused = Some((token.number, now));
            return false;
        }
        if let Some((number, at)) = state.fresh_refused
            && number == token.number
            && now.duration_since(at) < FRESH_REFUSED_FOR
        {
            return false;
        }
        if state.token.as_ref().is_some_and(|current| current.number == token.number) {
            state.token = None;
            state.unusable =
                token.value.to_str().ok().map(|value| value.trim_start_matches("Bearer ").to_owned());
        }
        true
    }

    /// A renewal goes on when the call that wants it is over: the endpoint takes each refresh token once, and the next one must
    /// be kept.
    async fn renew(&self, fetching: &Fetching<'_>, name: &str, unusable: Option<String>) -> Fetched {
        let (dependency, auth) = (fetching.dependency.clone(), fetching.auth.clone());
        let (files, transports) = (fetching.files.clone(), fetching.transports.clone());
        let (clock, vault, name) = (fetching.clock.clone(), self.vault.clone(), name.to_owned());
        let renewal = tokio::spawn(async move {
            let fetching = Fetching {
                dependency: &dependency,
                auth: &auth,
                files: &files,
                transports: &transports,
                clock: &clock,
            };
            vault::renew(&*vault, &fetching, &name, unusable.as_deref()).await
        });
        renewal.await.unwrap_or_else(|error| Fetched::Fails {
            reason: format!("the renewal failed: {error}"),
            after: None,
        })
    }

    async fn fetch(&self, fetching: &Fetching<'_>, name: &str, slot: &Slot) -> Asked {
        let asked_at = Instant::now();
        let (unusable, had_end) = {
            let state = slot.state();
            (state.unusable.clone(), state.token.as_ref().is_some_and(|token| token.ends_at.is_some()))
        };
        let replaces = unusable.is_some() && !matches!(fetching.auth.grant, Grant::RefreshToken(_));
        let fetched = match &fetching.auth.grant {
            Grant::RefreshToken(_) => self.renew(fetching, name, unusable).await,
            _ => endpoint::ask(fetching, None, had_end).await,
        };
        let mut state = slot.state();
        let now = Instant::now();
        match fetched {
            Fetched::Token { access, life, .. } => {
                let value = match secret("the access token", &format!("Bearer {access}")) {
                    Ok(value) => value,
                    Err(reason) => return failed(&mut state, now, reason, None),
                };
                let token = Token {
                    value,
                    number: self.numbers.fetch_add(1, Ordering::Relaxed),
                    renew_at: life.map(|life| asked_at + life.mul_f64(0.8)),
                    ends_at: life.map(|life| asked_at + life),
                    replaced_at: replaces.then_some(now),
                    accepted: Arc::default(),
                };
                *state = State { token: Some(token.clone()), ..State::default() };
                Asked::Token(token)
            }
            Fetched::Fails { reason, after } => failed(&mut state, now, reason, after),
            Fetched::Refuses(refusal) => {
                state.refused = Some((now, refusal.clone()));
                state.failed = None;
                Asked::Refused(refusal)
            }
        }
    }
}

/// Remembers a failure; the pause before the next try grows.
fn failed(state: &mut State, now: Instant, reason: String, after: Option<Duration>) -> Asked {
    let times = state.failed.as_ref().map_or(0, |(_, times, _)| *times);
    let pause = FIRST_PAUSE.saturating_mul(1 << times.min(5)).min(LONGEST_PAUSE);
    let after = after.map_or(pause, |after| after.max(pause).min(Duration::from_secs(3600)));
    state.failed = Some((now + after, times + 1, reason.clone()));
    state.refused = None;
    Asked::Fails { after, reason }
}

/// What tells one token from others: the dependency, its owner where it reads one, and what it is asked for with but the secrets,
/// which may change meanwhile. A refresh token is whose the access token is: a hash of it is a part.
fn name(fetching: &Fetching<'_>) -> Result<String, NoCredentials> {
    let (auth, files) = (fetching.auth, &**fetching.files);
    // The fragment is the owner's, where the dependency reads one.
    let owner = fetching.dependency.base_url.fragment().unwrap_or_default();
    let mut name = format!("{}\n{owner}\n{}", fetching.dependency.name, auth.token_url.text(files)?);
    let mut add = |text: Option<&LiveText>| {
        let text = text.map(|text| text.text(files)).transpose()?;
        let _ = write!(name, "\n{}", text.unwrap_or_default());
        Ok::<_, NoCredentials>(())
    };
    add(auth.client_id.as_ref())?;
    add(auth.scope.as_ref())?;
    add(auth.audience.as_ref())?;
    for (_, parameter) in &auth.parameters {
        add(Some(parameter))?;
    }
    match &auth.grant {
        Grant::ClientCredentials => {}
        Grant::RefreshToken(seed) => {
            let seed = seed.text(files)?;
            let _ = write!(name, "\nrefresh_token {}", vault::hashed(&seed));
        }
        Grant::JwtBearer(jwt) => {
            add(Some(&jwt.issuer))?;
            add(jwt.subject.as_ref())?;
            add(Some(&jwt.audience))?;
            for (_, claim) in &jwt.claims {
                if let Claim::Text(text) = claim {
                    add(Some(text))?;
                }
            }
        }
    }
    Ok(name)
}

//! Signing in by OpenID Connect: what is asked of the provider, and what its answers are worth. The pages are in [`pages`].
//!
//! Signatures are verified by ring, as everything else here is: the ready-made clients bring an RSA of their own, of which a
//! weakness is known that no release fixes (RUSTSEC-2023-0071).

mod calls;
mod metadata;
pub(super) mod pages;
mod person;
mod token;

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use penstock_app::oidc::OidcProvider;
use penstock_console::session::{Elsewhere, VisitElsewhere, new_token};
use penstock_crypto::OpenError;
use penstock_domain::time::Timestamp;
use penstock_flow::context::error::with_causes;
use ring::digest::{SHA256, digest};
use ring::rand::SecureRandom;
use tokio::sync::Mutex;
use url::Url;

use self::calls::{CallError, Calls, is_refusal};
use self::metadata::Metadata;
use self::person::Person;
use self::token::{Expected, Invalid};

/// How long what a provider says of itself is taken for true.
const KNOWN_FOR: Duration = Duration::from_secs(600);

/// After a failure, or for a key that it had not before, it is asked again no sooner than this.
const FAILED_FOR: Duration = Duration::from_secs(5);

/// How long somebody may take to sign in at the provider.
const VISIT: Duration = Duration::from_secs(penstock_console::session::ELSEWHERE_SECONDS);

/// Why somebody is not signed in.
#[derive(Clone, Debug, thiserror::Error)]
enum NotSignedIn {
    /// The provider does not answer, or nothing that can be used.
    #[error("{0} cannot be reached, or does not answer as an OpenID Connect provider does; try again later")]
    Unavailable(String),
    /// The provider refuses this service, whoever signs in: what it was registered with is not what the settings say.
    #[error("{name} does not let this service ask who you are ({why}); tell whoever operates Penstock")]
    Unregistered { name: String, why: String },
    /// What the provider said of the person is not to be believed.
    #[error("what {0} answered cannot be verified; sign in again")]
    Unverified(String),
    /// The provider took the code no longer, or never gave it.
    #[error("{0} does not accept this sign-in any more; sign in again")]
    Refused(String),
}

impl NotSignedIn {
    const fn status(&self) -> StatusCode {
        match self {
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unregistered { .. } => StatusCode::BAD_GATEWAY,
            Self::Unverified(_) | Self::Refused(_) => StatusCode::UNAUTHORIZED,
        }
    }
}

/// What is known of a sign-in when it comes back, to lead to `to` then.
fn new_visit(to: &str, random: &dyn SecureRandom, now: Timestamp) -> Result<VisitElsewhere, OpenError> {
    Ok(VisitElsewhere {
        state: new_token(random)?,
        nonce: new_token(random)?,
        // 43 characters at least (RFC 7636, 4.1).
        verifier: new_token(random)? + &new_token(random)?,
        to: to.to_owned(),
        ends_at: now + VISIT,
    })
}

/// The provider by which people sign in.
pub(crate) struct Provider {
    /// As the settings describe it.
    pub settings: OidcProvider,
    calls: Calls,
    known: Mutex<Option<Known>>,
}

/// What the provider said of itself, or why it could not be asked.
struct Known {
    at: Instant,
    metadata: Result<Arc<Metadata>, NotSignedIn>,
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Provider").field("issuer", &self.settings.issuer).finish_non_exhaustive()
    }
}

impl Provider {
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(settings: OidcProvider) -> Result<Self, reqwest::Error> {
        Ok(Self { calls: Calls::new(settings.clone())?, settings, known: Mutex::default() })
    }

    /// Whether a session that was begun here may go on: the setting still has the entry that let it in.
    pub fn still_grants(&self, by: &Elsewhere) -> bool {
        by.issuer == self.settings.issuer && self.settings.groups.iter().any(|grant| grant.entry == by.entry)
    }

    fn failed(&self, why: &CallError) -> NotSignedIn {
        let error = with_causes(why);
        tracing::warn!(error, issuer = self.settings.issuer, "failed to ask the OpenID Connect provider");
        let name = self.settings.name.clone();
        match why {
            CallError::Refused(code) if code == "invalid_grant" => NotSignedIn::Refused(name),
            CallError::Refused(code) => NotSignedIn::Unregistered { name, why: format!("`{code}`") },
            CallError::Status(status) if is_refusal(*status) => {
                NotSignedIn::Unregistered { name, why: format!("status {status}") }
            }
            _ => NotSignedIn::Unavailable(name),
        }
    }

    fn unverified(&self, why: &Invalid) -> NotSignedIn {
        tracing::warn!(error = %why, issuer = self.settings.issuer, "an answer of the OpenID Connect provider was refused");
        NotSignedIn::Unverified(self.settings.name.clone())
    }

    /// What the provider says of itself: known for a while, unless it is asked `anew`. One asks for all who wait.
    async fn metadata(&self, anew: bool) -> Result<Arc<Metadata>, NotSignedIn> {
        let mut known = self.known.lock().await;
        if let Some(Known { at, metadata }) = &*known {
            let good = if metadata.is_ok() && !anew { KNOWN_FOR } else { FAILED_FOR };
            if at.elapsed() < good {
                return metadata.clone();
            }
        }
        let found = Metadata::discover(&self.calls, &self.settings).await;
        let metadata = found.map(Arc::new).map_err(|error| self.failed(&error));
        *known = Some(Known { at: Instant::now(), metadata: metadata.clone() });
        metadata
    }

    /// Where a person signs in for this visit, and comes back to `redirect` afterwards.
    async fn begin(&self, redirect: &str, visit: &VisitElsewhere) -> Result<Url, NotSignedIn> {
        let metadata = self.metadata(false).await?;
        let mut url = metadata.authorization.clone();
        let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, visit.verifier.as_bytes()));
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.settings.client_id)
            .append_pair("redirect_uri", redirect)
            .append_pair("scope", &metadata.scopes(&self.settings.scopes))
            .append_pair("state", &visit.state)
            .append_pair("nonce", &visit.nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        Ok(url)
    }

    /// Who came back with a code: asked of the provider, and verified.
    async fn person(
        &self,
        redirect: &str,
        code: &str,
        visit: &VisitElsewhere,
        now: Timestamp,
    ) -> Result<Person, NotSignedIn> {
        let metadata = self.metadata(false).await?;
        let granted = self.calls.tokens(&metadata, &self.settings, redirect, code, &visit.verifier).await;
        let granted = granted.map_err(|error| self.failed(&error))?;
        let expected = Expected {
            issuer: &self.settings.issuer,
            client: &self.settings.client_id,
            nonce: &visit.nonce,
            now,
        };
        let claims = match token::claims(&granted.id_token, &metadata.keys, &expected) {
            // It may sign with a key that it has only now.
            Err(Invalid::UnknownKey) => {
                token::claims(&granted.id_token, &self.metadata(true).await?.keys, &expected)
            }
            other => other,
        };
        let claims = claims.map_err(|error| self.unverified(&error))?;
        let subject = claims["sub"].as_str().unwrap_or_default().to_owned();
        let mut person = Person::new(subject, &claims, &self.settings.groups_claim);
        // Some providers tell groups only to who asks for more.
        if person.groups.is_none()
            && let Some(endpoint) = &metadata.userinfo
        {
            let more = self.calls.userinfo(endpoint, &granted.access_token).await;
            let more = more.map_err(|error| self.failed(&error))?;
            // An answer about somebody else may not be used (OpenID Connect Core, 5.3.2).
            if more["sub"].as_str() != Some(&person.subject) {
                return Err(self.unverified(&Invalid::Claim("sub")));
            }
            person.learn(&more, &self.settings.groups_claim);
        }
        Ok(person)
    }

    /// Where somebody ends the session at the provider as well; none when it has no such page, or does not answer.
    pub async fn end_session(&self, then: &str) -> Option<Url> {
        let mut url = self.metadata(false).await.ok()?.end_session.clone()?;
        url.query_pairs_mut()
            .append_pair("client_id", &self.settings.client_id)
            .append_pair("post_logout_redirect_uri", then);
        Some(url)
    }
}

//! Calls to the provider: by https unless the operator allowed something else, few at once, bounded in time and size, and never
//! redirected.

use std::time::Duration;

use penstock_app::oidc::OidcProvider;
use reqwest::{RequestBuilder, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Semaphore;
use url::{Url, form_urlencoded};

use super::metadata::Metadata;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes that an answer may have: a provider's keys and a token are some kilobytes.
const MOST_BYTES: usize = 1024 * 1024;

/// Calls at once.
const AT_ONCE: usize = 16;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("`{0}` is not an address")]
    Address(String),
    #[error(
        "{0} is not https; without it only a provider on this machine may be called, and only on this machine"
    )]
    Plain(String),
    #[error("the provider says that it is the issuer `{0}`: write PENSTOCK_OIDC_ISSUER so")]
    OtherIssuer(String),
    #[error("the answer is larger than {MOST_BYTES} bytes")]
    TooLarge,
    #[error("the answer has the status {0}")]
    Status(u16),
    #[error("the provider gives no token: {0}")]
    Refused(String),
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    #[error("the answer is not what it has to be: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the service stops")]
    Stopping,
}

/// What a code is exchanged for.
#[derive(Deserialize)]
pub(super) struct Tokens {
    /// Who signed in.
    pub id_token: String,
    /// Opens the user info.
    pub access_token: String,
}

pub(super) struct Calls {
    client: reqwest::Client,
    settings: OidcProvider,
    at_once: Semaphore,
}

impl Calls {
    pub fn new(settings: OidcProvider) -> Result<Self, reqwest::Error> {
        let mut client = reqwest::Client::builder();
        if settings.is_local() {
            // No proxy leads to this machine.
            client = client.no_proxy();
        }
        let client = client
            .timeout(TIMEOUT)
            // What the provider names is called, and nothing that it leads on to.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("penstock/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client, settings, at_once: Semaphore::new(AT_ONCE) })
    }

    /// A JSON document of the provider.
    pub async fn json<T: DeserializeOwned>(&self, address: &Url) -> Result<T, CallError> {
        self.good(address, self.client.get(address.clone())).await
    }

    /// What the provider says of the person to whom a token was given.
    pub async fn userinfo(&self, address: &Url, token: &str) -> Result<Value, CallError> {
        self.good(address, self.client.get(address.clone()).bearer_auth(token)).await
    }

    /// Exchanges a code.
    pub async fn tokens(
        &self,
        metadata: &Metadata,
        settings: &OidcProvider,
        redirect: &str,
        code: &str,
        verifier: &str,
    ) -> Result<Tokens, CallError> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "authorization_code")
            .append_pair("code", code)
            .append_pair("redirect_uri", redirect)
            .append_pair("code_verifier", verifier);
        let mut request = self.client.post(metadata.token.clone());
        let (id, secret) = (&settings.client_id, &settings.client_secret);
        if metadata.secret_in_body {
            form.append_pair("client_id", id).append_pair("client_secret", secret);
        } else {
            // Both are encoded as a form's values are (RFC 6749, 2.3.1).
            let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
            request = request.basic_auth(encoded(id), Some(encoded(secret)));
        }
        request =
            request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.finish());
        let (status, body) = self.send(&metadata.token, request).await?;
        if is_refusal(status)
            && let Some(code) = refusal(&body)
        {
            return Err(CallError::Refused(code));
        }
        parsed(status, &body)
    }

    async fn good<T: DeserializeOwned>(
        &self,
        address: &Url,
        request: RequestBuilder,
    ) -> Result<T, CallError> {
        let (status, body) = self.send(address, request.header(header::ACCEPT, "application/json")).await?;
        parsed(status, &body)
    }

    async fn send(&self, address: &Url, request: RequestBuilder) -> Result<(u16, Vec<u8>), CallError> {
        if !self.settings.may_call(address) {
            return Err(CallError::Plain(address.origin().ascii_serialization()));
        }
        let _permit = self.at_once.acquire().await.map_err(|_| CallError::Stopping)?;
        let mut answer = request.send().await?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            if body.len() + chunk.len() > MOST_BYTES {
                return Err(CallError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok((answer.status().as_u16(), body))
    }
}

/// Whether a status says that asking again is of no use.
pub(super) fn is_refusal(status: u16) -> bool {
    (400..500).contains(&status) && !matches!(status, 408 | 425 | 429)
}

/// The code of a refusal (RFC 6749, 5.2).
fn refusal(body: &[u8]) -> Option<String> {
    let refusal: Value = serde_json::from_slice(body).ok()?;
    let code = refusal["error"].as_str()?;
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    (!code.is_empty() && code.len() <= 60 && code.chars().all(good)).then(|| code.to_owned())
}

fn parsed<T: DeserializeOwned>(status: u16, body: &[u8]) -> Result<T, CallError> {
    if !(200..300).contains(&status) {
        return Err(CallError::Status(status));
    }
    Ok(serde_json::from_slice(body)?)
}

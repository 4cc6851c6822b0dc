//! What a provider says of itself (OpenID Connect Discovery).

use penstock_app::oidc::OidcProvider;
use serde::Deserialize;
use url::Url;

use super::calls::{CallError, Calls};
use super::token::Key;

/// Scopes that are asked for when the provider has them.
const USUAL_SCOPES: [&str; 3] = ["profile", "email", "groups"];

/// Those of them that are asked for when it does not say which it has.
const STANDARD_SCOPES: [&str; 2] = ["profile", "email"];

/// A provider's addresses and keys.
pub(super) struct Metadata {
    /// Where people sign in.
    pub authorization: Url,
    /// Where a code is exchanged for tokens.
    pub token: Url,
    /// Where more is said of a person.
    pub userinfo: Option<Url>,
    /// Where a session is ended.
    pub end_session: Option<Url>,
    /// Whether the client's secret goes into the body: in the header it is, unless the provider takes it there alone.
    pub secret_in_body: bool,
    /// The keys with which it signs.
    pub keys: Vec<Key>,
    scopes: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Document {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    userinfo_endpoint: Option<String>,
    end_session_endpoint: Option<String>,
    jwks_uri: String,
    scopes_supported: Option<Vec<String>>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Key>,
}

impl Metadata {
    /// Asks the provider.
    ///
    /// # Errors
    /// When it does not answer, is another issuer, or names an address that may not be called.
    pub async fn discover(calls: &Calls, settings: &OidcProvider) -> Result<Self, CallError> {
        let address = format!("{}/.well-known/openid-configuration", settings.issuer.trim_end_matches('/'));
        let document: Document = calls.json(&address_of(address)?).await?;
        if document.issuer != settings.issuer {
            return Err(CallError::OtherIssuer(document.issuer));
        }
        let authorization = address_of(document.authorization_endpoint)?;
        let end_session = document.end_session_endpoint.map(address_of).transpose()?;
        let shown = [Some(&authorization), end_session.as_ref()];
        if let Some(plain) = shown.into_iter().flatten().find(|url| !settings.may_call(url)) {
            return Err(CallError::Plain(plain.origin().ascii_serialization()));
        }
        let KeySet { keys } = calls.json(&address_of(document.jwks_uri)?).await?;
        let methods = document.token_endpoint_auth_methods_supported.unwrap_or_default();
        let has = |method: &str| methods.iter().any(|one| one == method);
        Ok(Self {
            authorization,
            token: address_of(document.token_endpoint)?,
            userinfo: document.userinfo_endpoint.map(address_of).transpose()?,
            end_session,
            secret_in_body: has("client_secret_post") && !has("client_secret_basic"),
            keys,
            scopes: document.scopes_supported,
        })
    }

    /// The scopes to ask for: those that are set, or the usual ones that the provider has.
    pub fn scopes(&self, set: &[String]) -> String {
        let mut scopes = vec!["openid"];
        match &self.scopes {
            _ if !set.is_empty() => {
                scopes.extend(set.iter().map(String::as_str).filter(|scope| *scope != "openid"))
            }
            Some(known) => {
                scopes.extend(USUAL_SCOPES.into_iter().filter(|scope| known.iter().any(|one| one == scope)));
            }
            None => scopes.extend(STANDARD_SCOPES),
        }
        scopes.join(" ")
    }
}

fn address_of(text: String) -> Result<Url, CallError> {
    Url::parse(&text).map_err(|_| CallError::Address(text))
}

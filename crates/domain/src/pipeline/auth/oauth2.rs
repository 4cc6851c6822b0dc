//! `oauth2`: tokens that are fetched from an endpoint (RFC 6749).

use std::time::Duration;

use minijinja::{Error, Value};
use serde_saphyr::Spanned;
use url::Url;

use super::Auth;
use super::definition::{GrantDefinition, JwtDefinition, OAuth2Definition};
use super::load::{Reader, optional, text};
use crate::csv::Format;
use crate::pipeline::live::LiveText;

/// How long an assertion is valid unless the definition says otherwise.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(300);

/// How the endpoint sees which client asks (RFC 6749, 2.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// By `Authorization: Basic …`.
    #[default]
    Basic,
    /// By `client_id` and `client_secret` in the body.
    Body,
}

/// How a JWT is signed (RFC 7518, 3.1; RFC 8037).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[allow(missing_docs, reason = "the names are those of the standard")]
pub enum JwtAlgorithm {
    #[default]
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

impl JwtAlgorithm {
    /// Its name in a JWT.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::EdDSA => "EdDSA",
        }
    }
}

/// What a JWT asserts (RFC 7523, 3).
#[derive(Clone, Debug)]
pub struct Jwt {
    /// Who signs it.
    pub issuer: LiveText,
    /// For whom; left out where nothing is said.
    pub subject: Option<LiveText>,
    /// Whom it is meant for.
    pub audience: LiveText,
    /// The private key, in PEM.
    pub key: LiveText,
    /// How it is signed.
    pub algorithm: JwtAlgorithm,
    /// How long it is valid.
    pub lifetime: Duration,
    /// Further claims.
    pub claims: Vec<(String, Claim)>,
}

/// A claim's value.
#[derive(Clone, Debug)]
pub enum Claim {
    /// A text.
    Text(LiveText),
    /// Anything else.
    Json(serde_json::Value),
}

/// What a token is asked for with.
#[derive(Clone, Debug)]
pub enum Grant {
    /// The client's own credentials (RFC 6749, 4.4).
    ClientCredentials,
    /// A signed assertion (RFC 7523, 2.1).
    JwtBearer(Box<Jwt>),
    /// A refresh token (RFC 6749, 6): the first one; the endpoint may replace it.
    RefreshToken(LiveText),
}

/// `auth.oauth2`.
#[derive(Clone, Debug)]
pub struct OAuth2 {
    /// The endpoint.
    pub token_url: LiveText,
    /// What it is asked with.
    pub grant: Grant,
    /// The client.
    pub client_id: Option<LiveText>,
    /// Its secret.
    pub client_secret: Option<LiveText>,
    /// How the endpoint sees which client asks.
    pub client_auth: ClientAuth,
    /// The scope.
    pub scope: Option<LiveText>,
    /// The audience.
    pub audience: Option<LiveText>,
    /// What else the endpoint wants.
    pub parameters: Vec<(String, LiveText)>,
}

impl OAuth2 {
    /// The same for an owner.
    ///
    /// # Errors
    /// When the owner lacks something.
    pub(super) fn for_owner(&self, owner: &Value) -> Result<Self, Error> {
        let of = |text: &LiveText| text.for_owner(owner);
        let some = |text: &Option<LiveText>| text.as_ref().map(of).transpose();
        let grant = match &self.grant {
            Grant::ClientCredentials => Grant::ClientCredentials,
            Grant::RefreshToken(token) => Grant::RefreshToken(of(token)?),
            Grant::JwtBearer(jwt) => {
                let claim = |(name, claim): &(String, Claim)| {
                    let claim = match claim {
                        Claim::Text(text) => Claim::Text(of(text)?),
                        Claim::Json(value) => Claim::Json(value.clone()),
                    };
                    Ok::<_, Error>((name.clone(), claim))
                };
                Grant::JwtBearer(Box::new(Jwt {
                    issuer: of(&jwt.issuer)?,
                    subject: some(&jwt.subject)?,
                    audience: of(&jwt.audience)?,
                    key: of(&jwt.key)?,
                    claims: jwt.claims.iter().map(claim).collect::<Result<_, _>>()?,
                    ..(**jwt).clone()
                }))
            }
        };
        let parameter =
            |(name, text): &(String, LiveText)| Ok::<_, Error>((name.clone(), text.for_owner(owner)?));
        Ok(Self {
            token_url: of(&self.token_url)?,
            grant,
            client_id: some(&self.client_id)?,
            client_secret: some(&self.client_secret)?,
            client_auth: self.client_auth,
            scope: some(&self.scope)?,
            audience: some(&self.audience)?,
            parameters: self.parameters.iter().map(parameter).collect::<Result<_, _>>()?,
        })
    }
}

/// `auth.oauth2`, from the definition.
pub(super) fn load(
    whose: &str,
    oauth2: &OAuth2Definition,
    line: u64,
    source: &mut Reader<'_, '_>,
) -> Option<Auth> {
    let token_url = token_url(whose, &oauth2.token_url, source);
    let of = |key: &str| format!("{whose}.{key}");
    let client_id = optional(&of("client_id"), oauth2.client_id.as_ref(), source);
    let client_secret = optional(&of("client_secret"), oauth2.client_secret.as_ref(), source);
    let scope = optional(&of("scope"), oauth2.scope.as_ref(), source);
    let audience = optional(&of("audience"), oauth2.audience.as_ref(), source);
    let mut parameters = Vec::new();
    for (name, value) in &oauth2.parameters {
        // Vendors name grants of their own that are this one otherwise.
        let is_own_grant = name == "grant_type" && oauth2.grant.value == GrantDefinition::ClientCredentials;
        let is_sent = matches!(
            name.as_str(),
            "grant_type" | "assertion" | "refresh_token" | "client_id" | "client_secret"
        );
        if is_sent && !is_own_grant {
            let message = format!("{whose}.parameters.{name} is sent by Penstock itself; remove it");
            source.error(value.referenced.line(), message);
        }
        parameters.extend(
            text(&of(&format!("parameters.{name}")), value, source).map(|value| (name.clone(), value)),
        );
    }
    check_grant(whose, oauth2, line, source);
    let grant = match oauth2.grant.value {
        GrantDefinition::ClientCredentials => Some(Grant::ClientCredentials),
        GrantDefinition::JwtBearer => {
            let written = oauth2.jwt.as_ref()?;
            jwt(&of("jwt"), &written.value, source).map(|jwt| Grant::JwtBearer(Box::new(jwt)))
        }
        GrantDefinition::RefreshToken => {
            let written = oauth2.refresh_token.as_ref()?;
            text(&of("refresh_token"), written, source).map(Grant::RefreshToken)
        }
    };
    Some(Auth::OAuth2(Box::new(OAuth2 {
        token_url: token_url?,
        grant: grant?,
        client_id: client_id?,
        client_secret: client_secret?,
        client_auth: oauth2.client_auth,
        scope: scope?,
        audience: audience?,
        parameters,
    })))
}

fn token_url(whose: &str, written: &Spanned<String>, source: &mut Reader<'_, '_>) -> Option<LiveText> {
    let url = text(&format!("{whose}.token_url"), written, source)?;
    let open = source.take_left_open();
    let fixed = url.fixed().filter(|_| !open);
    let good = |url: &str| Url::parse(url).is_ok_and(|parsed| parsed.has_host()) && Format::Url.accepts(url);
    if fixed.is_some_and(|url| !good(url)) {
        let message =
            "token_url is not an absolute http or https URL, such as https://login.example.com/token";
        source.error(written.referenced.line(), format!("{whose}.{message}"));
    }
    Some(url)
}

/// What each grant needs.
fn check_grant(whose: &str, oauth2: &OAuth2Definition, line: u64, source: &mut Reader<'_, '_>) {
    let grant = oauth2.grant.value;
    let mut wrong = |message: String| source.broken(line, message);
    if oauth2.client_secret.is_some() && oauth2.client_id.is_none() {
        wrong(format!("{whose} has a client_secret and no client_id; add it"));
    }
    if grant == GrantDefinition::ClientCredentials
        && (oauth2.client_id.is_none() || oauth2.client_secret.is_none())
    {
        wrong(format!("{whose}: the grant `client_credentials` needs `client_id` and `client_secret`"));
    }
    for (key, given, of) in [
        ("jwt", oauth2.jwt.is_some(), GrantDefinition::JwtBearer),
        ("refresh_token", oauth2.refresh_token.is_some(), GrantDefinition::RefreshToken),
    ] {
        let name = if of == GrantDefinition::JwtBearer { "jwt_bearer" } else { "refresh_token" };
        if grant == of && !given {
            wrong(format!("{whose}: the grant `{name}` needs `{key}`"));
        } else if grant != of && given {
            wrong(format!("{whose}: `{key}` is only used by the grant `{name}`; remove one of the two"));
        }
    }
}

fn jwt(whose: &str, jwt: &JwtDefinition, source: &mut Reader<'_, '_>) -> Option<Jwt> {
    let of = |key: &str| format!("{whose}.{key}");
    let issuer = text(&of("issuer"), &jwt.issuer, source);
    let subject = optional(&of("subject"), jwt.subject.as_ref(), source);
    let audience = text(&of("audience"), &jwt.audience, source);
    let at = jwt.key.referenced.line();
    let pem = source.fill(&jwt.key.value, at);
    let open = source.take_left_open();
    let key = source.live(&of("key"), &jwt.key.value, at);
    let is_pem = |pem: String| pem.contains("-----BEGIN ") && pem.contains("PRIVATE KEY-----");
    if !open && !pem.is_none_or(is_pem) {
        source.error(
            at,
            format!("{whose}.key is not in PEM: there is no `-----BEGIN … PRIVATE KEY-----` in it"),
        );
    }
    let lifetime = jwt.lifetime.as_ref().map_or(DEFAULT_LIFETIME, |span| span.value.0);
    if let Some(span) = jwt.lifetime.as_ref().filter(|_| lifetime < Duration::from_secs(1)) {
        source.error(span.referenced.line(), format!("{whose}.lifetime is 1s or more"));
    }
    let mut claims = Vec::new();
    for (name, value) in &jwt.claims {
        let line = value.referenced.line();
        if matches!(name.as_str(), "iss" | "sub" | "aud" | "iat" | "exp" | "jti") {
            source.error(
                line,
                format!("{whose}.claims.{name} has a key of its own, or is set by Penstock; remove it"),
            );
        }
        let claim = match source.json(value) {
            serde_json::Value::String(text) => {
                source.live(&of(&format!("claims.{name}")), &text, line).map(Claim::Text)
            }
            other => Some(Claim::Json(other)),
        };
        claims.extend(claim.map(|claim| (name.clone(), claim)));
    }
    Some(Jwt {
        issuer: issuer?,
        subject: subject?,
        audience: audience?,
        key: key?,
        algorithm: jwt.algorithm,
        lifetime,
        claims,
    })
}

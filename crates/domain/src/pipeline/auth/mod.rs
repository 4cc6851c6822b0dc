//! `auth`: how calls to a dependency show who makes them. The values are secrets: they are never printed, and a call's
//! credentials are made when it is sent.

pub(super) mod definition;
mod hmac;
pub(super) mod load;
mod oauth2;
mod signed;

pub use hmac::{Hmac, HmacAlgorithm, Signable, SignedHeader};
pub use oauth2::{Claim, ClientAuth, Grant, Jwt, JwtAlgorithm, OAuth2};

use minijinja::{Error, Value};

use super::live::LiveText;

/// How a dependency's calls are authenticated.
#[derive(Clone, Debug)]
pub enum Auth {
    /// HTTP's basic authentication (RFC 7617).
    Basic {
        /// The user.
        username: LiveText,
        /// The password; empty where none is given.
        password: LiveText,
    },
    /// A bearer token (RFC 6750).
    Bearer(LiveText),
    /// A key in a header.
    KeyHeader {
        /// The header.
        name: String,
        /// The key.
        value: LiveText,
    },
    /// A key in the query.
    KeyQuery {
        /// The name of the pair.
        name: String,
        /// The key.
        value: LiveText,
    },
    /// Tokens of an endpoint.
    OAuth2(Box<OAuth2>),
    /// A signature over a message that the definition composes.
    Hmac(Box<Hmac>),
    /// AWS Signature Version 4.
    AwsSigV4(Box<AwsSigV4>),
}

/// `auth.aws_sigv4`.
#[derive(Clone, Debug)]
pub struct AwsSigV4 {
    /// The service: `ses`, `s3`, ….
    pub service: String,
    /// The region.
    pub region: String,
    /// The key's id.
    pub access_key_id: LiveText,
    /// The key.
    pub secret_access_key: LiveText,
    /// The token of temporary credentials.
    pub session_token: Option<LiveText>,
}

impl Auth {
    /// The headers that it sets, which nothing else may set.
    pub fn headers(&self) -> Vec<&str> {
        match self {
            Self::Basic { .. } | Self::Bearer(_) | Self::OAuth2(_) => vec!["authorization"],
            Self::AwsSigV4(_) => {
                vec!["authorization", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256"]
            }
            Self::Hmac(hmac) => hmac.headers.iter().map(|(name, _)| name.as_str()).collect(),
            Self::KeyHeader { name, .. } => vec![name],
            Self::KeyQuery { .. } => Vec::new(),
        }
    }

    /// Where its tokens come from.
    pub(super) fn token_url(&self) -> Option<&LiveText> {
        match self {
            Self::OAuth2(auth) => Some(&auth.token_url),
            _ => None,
        }
    }

    /// The pair of the query that it sets.
    pub fn query(&self) -> Option<&str> {
        match self {
            Self::KeyQuery { name, .. } => Some(name),
            _ => None,
        }
    }

    /// The same for an owner.
    ///
    /// # Errors
    /// When the owner lacks something.
    pub(super) fn for_owner(&self, owner: &Value) -> Result<Self, Error> {
        let of = |text: &LiveText| text.for_owner(owner);
        let some = |text: &Option<LiveText>| text.as_ref().map(of).transpose();
        Ok(match self {
            Self::Basic { username, password } => {
                Self::Basic { username: of(username)?, password: of(password)? }
            }
            Self::Bearer(token) => Self::Bearer(of(token)?),
            Self::KeyHeader { name, value } => Self::KeyHeader { name: name.clone(), value: of(value)? },
            Self::KeyQuery { name, value } => Self::KeyQuery { name: name.clone(), value: of(value)? },
            Self::OAuth2(auth) => Self::OAuth2(Box::new(auth.for_owner(owner)?)),
            Self::Hmac(auth) => Self::Hmac(Box::new(Hmac {
                secret: of(&auth.secret)?,
                owner: owner.get_attr("owner").ok(),
                ..(**auth).clone()
            })),
            Self::AwsSigV4(auth) => Self::AwsSigV4(Box::new(AwsSigV4 {
                access_key_id: of(&auth.access_key_id)?,
                secret_access_key: of(&auth.secret_access_key)?,
                session_token: some(&auth.session_token)?,
                ..(**auth).clone()
            })),
        })
    }
}

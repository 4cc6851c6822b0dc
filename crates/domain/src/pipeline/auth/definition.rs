//! The YAML of `auth`, key by key (docs/write-a-pipeline.md is its reference).
#![allow(missing_docs, reason = "the keys are described in the reference, once")]

use indexmap::IndexMap;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::hmac::HmacAlgorithm;
use super::oauth2::{ClientAuth, JwtAlgorithm};
use crate::pipeline::scalars::Span;
use crate::pipeline::written::Written;

/// `dependencies.<name>.auth`: one of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthDefinition {
    pub basic: Option<Spanned<BasicDefinition>>,
    pub bearer: Option<Spanned<String>>,
    pub api_key: Option<Spanned<ApiKeyDefinition>>,
    pub oauth2: Option<Spanned<OAuth2Definition>>,
    pub hmac: Option<Spanned<HmacDefinition>>,
    pub aws_sigv4: Option<Spanned<SigV4Definition>>,
}

/// `auth.basic`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BasicDefinition {
    pub username: Spanned<String>,
    pub password: Option<Spanned<String>>,
}

/// `auth.api_key`: in a header or in the query.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyDefinition {
    pub header: Option<Spanned<String>>,
    pub query: Option<Spanned<String>>,
    pub value: Spanned<String>,
}

/// `auth.oauth2`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OAuth2Definition {
    pub token_url: Spanned<String>,
    pub grant: Spanned<GrantDefinition>,
    pub client_id: Option<Spanned<String>>,
    pub client_secret: Option<Spanned<String>>,
    #[serde(default)]
    pub client_auth: ClientAuth,
    pub scope: Option<Spanned<String>>,
    pub audience: Option<Spanned<String>>,
    #[serde(default)]
    pub parameters: IndexMap<String, Spanned<String>>,
    pub jwt: Option<Spanned<JwtDefinition>>,
    pub refresh_token: Option<Spanned<String>>,
}

/// `auth.oauth2.grant`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantDefinition {
    ClientCredentials,
    JwtBearer,
    RefreshToken,
}

/// `auth.oauth2.jwt`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtDefinition {
    pub issuer: Spanned<String>,
    pub subject: Option<Spanned<String>>,
    pub audience: Spanned<String>,
    pub key: Spanned<String>,
    #[serde(default)]
    pub algorithm: JwtAlgorithm,
    pub lifetime: Option<Spanned<Span>>,
    #[serde(default)]
    pub claims: IndexMap<String, Spanned<Written>>,
}

/// `auth.hmac`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HmacDefinition {
    pub secret: Spanned<String>,
    pub algorithm: HmacAlgorithm,
    pub message: Spanned<String>,
    pub headers: Spanned<IndexMap<String, Spanned<String>>>,
}

/// `auth.aws_sigv4`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SigV4Definition {
    pub service: Spanned<String>,
    pub region: Spanned<String>,
    pub access_key_id: Spanned<String>,
    pub secret_access_key: Spanned<String>,
    pub session_token: Option<Spanned<String>>,
}

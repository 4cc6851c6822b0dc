//! The YAML of `auth`, key by key (docs/write-a-pipeline.md is its reference).
#![allow(missing_docs, reason = "the keys are described in the reference, once")]

use serde::Deserialize;
use serde_saphyr::Spanned;

/// `dependencies.<name>.auth`: one of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthDefinition {
    pub basic: Option<Spanned<BasicDefinition>>,
    pub bearer: Option<Spanned<String>>,
    pub api_key: Option<Spanned<ApiKeyDefinition>>,
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

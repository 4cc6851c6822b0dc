//! `responses` as it is written.
#![allow(missing_docs, reason = "the keys are described in the reference, once")]

use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::pipeline::written::Written;

/// `dependencies.<name>.responses` and `steps[].responses`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResponsesDefinition {
    pub throttled: Option<Spanned<Written>>,
    pub wait: Option<Spanned<Written>>,
    pub hold: Option<Spanned<Written>>,
    pub retry: Option<Spanned<Written>>,
    pub fail: Option<Spanned<Written>>,
    pub success: Option<Spanned<Written>>,
    pub error: Option<Spanned<ErrorDefinition>>,
}

/// `responses.error`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorDefinition {
    pub code: Option<Spanned<Written>>,
    pub message: Option<Spanned<Written>>,
}

//! The YAML, key by key (docs/write-a-pipeline.md is its reference).
#![allow(missing_docs, reason = "the keys are described in the reference, once")]

use std::collections::BTreeMap;

use indexmap::IndexMap;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Unexpected, Visitor};
use serde_saphyr::Spanned;

use super::answer::AnswerKind;
use super::auth::definition::AuthDefinition;
use super::bulk::definition::BulkDefinition;
use super::cache::CacheDefinition;
use super::dedupe::DedupeDefinition;
use super::hours::HoursDefinition;
use super::poll::PollDefinition;
use super::rates::RatesDefinition;
use super::responses::written::ResponsesDefinition;
use super::scalars::{Share, Span};
use super::transport::TlsDefinition;
use super::written::Written;
use crate::csv::{ExtraColumns, Format, LetterCase};
use crate::ledger::Canary;

/// A whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    pub name: Spanned<String>,
    pub route: Option<Spanned<String>>,
    pub csv: CsvDefinition,
    #[serde(default)]
    pub dependencies: BTreeMap<String, Spanned<DependencyDefinition>>,
    #[serde(default)]
    pub steps: Vec<Spanned<StepDefinition>>,
    #[serde(default)]
    pub result: IndexMap<String, Spanned<Written>>,
    #[serde(default)]
    pub retry: RetryDefinition,
    #[serde(default)]
    pub dispatch: DispatchDefinition,
    pub canary: Option<Spanned<CanaryDefinition>>,
    pub dedupe: Option<Spanned<DedupeDefinition>>,
}

/// `csv`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CsvDefinition {
    pub max_rows: Option<Spanned<u64>>,
    pub max_bytes: Option<Spanned<u64>>,
    pub max_field_chars: Option<Spanned<usize>>,
    pub max_record_bytes: Option<Spanned<usize>>,
    #[serde(default)]
    pub ordered: bool,
    pub delimiter: Option<DelimiterDefinition>,
    pub encoding: Option<Spanned<String>>,
    #[serde(default)]
    pub header: HeaderDefinition,
    #[serde(default)]
    pub unique: Vec<Spanned<String>>,
    pub formats: Option<Spanned<Vec<FileFormat>>>,
    pub sheet: Option<Spanned<String>>,
    pub columns: Spanned<Vec<Spanned<ColumnDefinition>>>,
}

/// `csv.delimiter`.
#[derive(Clone, Copy, Debug, Deserialize)]
pub enum DelimiterDefinition {
    #[serde(rename = ",")]
    Comma,
    #[serde(rename = ";")]
    Semicolon,
    #[serde(rename = "tab", alias = "\t")]
    Tab,
    #[serde(rename = "|")]
    Bar,
    #[serde(rename = "auto")]
    Auto,
}

/// `csv.formats[]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    Csv,
    Xlsx,
}

/// `csv.header`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderDefinition {
    #[serde(default)]
    pub ignore_case: bool,
    #[serde(default)]
    pub trim: bool,
    #[serde(default)]
    pub extra_columns: ExtraColumns,
}

/// `csv.columns[].normalize`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormalForm {
    Nfc,
}

/// `csv.columns[]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnDefinition {
    pub name: String,
    #[serde(default)]
    pub aliases: Vec<String>,
    #[serde(default)]
    pub trim: bool,
    pub case: Option<LetterCase>,
    pub normalize: Option<NormalForm>,
    pub default: Option<String>,
    pub message: Option<String>,
    pub example: Option<String>,
    #[serde(default)]
    pub required: bool,
    pub format: Option<Format>,
    pub pattern: Option<String>,
    pub min_length: Option<usize>,
    pub max_length: Option<usize>,
    #[serde(rename = "enum")]
    pub one_of: Option<Vec<String>>,
}

/// `dependencies.<name>`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DependencyDefinition {
    pub base_url: Spanned<String>,
    #[serde(default)]
    pub hosts: Vec<Spanned<String>>,
    #[serde(default)]
    pub headers: BTreeMap<String, Spanned<String>>,
    pub auth: Option<Spanned<AuthDefinition>>,
    pub tls: Option<Spanned<TlsDefinition>>,
    pub proxy: Option<Spanned<String>>,
    pub rate: Option<Spanned<RatesDefinition>>,
    pub hours: Option<Spanned<HoursDefinition>>,
    pub concurrency: Option<Spanned<ConcurrencyDefinition>>,
    pub timeout: Option<Spanned<Span>>,
    #[serde(default)]
    pub breaker: BreakerDefinition,
    pub responses: Option<Spanned<ResponsesDefinition>>,
}

/// `dependencies.<name>.concurrency`: a number, or a number and whether it is each owner's own.
#[derive(Clone, Copy, Debug)]
pub struct ConcurrencyDefinition {
    pub limit: u32,
    pub per_owner: bool,
}

/// The long form of `concurrency`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConcurrencyPerOwner {
    limit: u32,
    #[serde(default)]
    per_owner: bool,
}

impl<'de> Deserialize<'de> for ConcurrencyDefinition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;
        impl<'de> Visitor<'de> for Forms {
            type Value = ConcurrencyDefinition;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number of calls such as 20, or `{ limit: 5, per_owner: true }`,")
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                let limit = u32::try_from(number)
                    .map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))?;
                Ok(ConcurrencyDefinition { limit, per_owner: false })
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                let number =
                    u64::try_from(number).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))?;
                self.visit_u64(number)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let long = ConcurrencyPerOwner::deserialize(MapAccessDeserializer::new(map))?;
                Ok(ConcurrencyDefinition { limit: long.limit, per_owner: long.per_owner })
            }
        }
        deserializer.deserialize_any(Forms)
    }
}

/// `dependencies.<name>.breaker`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakerDefinition {
    pub failure_share: Option<Share>,
    pub min_calls: Option<Spanned<u32>>,
    pub window: Option<Spanned<Span>>,
    pub open_for: Option<Spanned<Span>>,
    pub probes: Option<Spanned<u32>>,
}

/// `steps[]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepDefinition {
    pub name: String,
    pub dependency: Spanned<String>,
    pub cost: Option<Spanned<Written>>,
    pub request: RequestDefinition,
    pub timeout: Option<Spanned<Span>>,
    pub when: Option<Spanned<Written>>,
    pub otherwise: Option<Spanned<IndexMap<String, Spanned<Written>>>>,
    pub response: Option<ResponseDefinition>,
    pub responses: Option<Spanned<ResponsesDefinition>>,
    pub poll: Option<Spanned<PollDefinition>>,
    pub cache: Option<Spanned<CacheDefinition>>,
    pub bulk: Option<Spanned<BulkDefinition>>,
    #[serde(default)]
    pub output: IndexMap<String, Spanned<Written>>,
}

impl StepDefinition {
    /// The names of what it puts out, whether it is called or not.
    pub fn outputs(&self) -> Vec<String> {
        let otherwise = self.otherwise.iter().flat_map(|otherwise| otherwise.value.keys());
        let further = otherwise.filter(|name| !self.output.contains_key(*name));
        self.output.keys().chain(further).cloned().collect()
    }
}

/// `steps[].response`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResponseDefinition {
    #[serde(rename = "as", default)]
    pub kind: AnswerKind,
    pub max_bytes: Option<Spanned<u64>>,
}

/// `steps[].request`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestDefinition {
    pub method: Method,
    pub path: Option<Spanned<String>>,
    pub url: Option<Spanned<String>>,
    #[serde(default)]
    pub query: IndexMap<String, Spanned<Written>>,
    #[serde(default)]
    pub headers: IndexMap<String, Spanned<String>>,
    pub json: Option<Spanned<Written>>,
    pub form: Option<Spanned<Written>>,
    pub text: Option<Spanned<String>>,
    pub xml: Option<Spanned<String>>,
    pub multipart: Option<Spanned<IndexMap<String, Spanned<Written>>>>,
    pub content_type: Option<Spanned<String>>,
    pub idempotency_key: Option<Spanned<KeyDefinition>>,
    pub idempotent: Option<bool>,
}

impl RequestDefinition {
    /// Whether calls carry an idempotency key.
    pub fn is_keyed(&self) -> bool {
        self.idempotency_key.as_ref().is_some_and(|key| !matches!(key.value, KeyDefinition::Flag(false)))
    }
}

/// `idempotency_key`: whether there is one, or where it is sent and what it is.
#[derive(Debug)]
pub enum KeyDefinition {
    Flag(bool),
    Place {
        header: Option<String>,
        query: Option<String>,
        json: Option<String>,
        value: Option<Box<Spanned<String>>>,
    },
}

/// The long form of `idempotency_key`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyPlaceDefinition {
    header: Option<String>,
    query: Option<String>,
    json: Option<String>,
    value: Option<Box<Spanned<String>>>,
}

impl<'de> Deserialize<'de> for KeyDefinition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;
        impl<'de> Visitor<'de> for Forms {
            type Value = KeyDefinition;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("true, or a place such as `{ header: X-Request-Id }`,")
            }
            fn visit_bool<E: Error>(self, flag: bool) -> Result<Self::Value, E> {
                Ok(KeyDefinition::Flag(flag))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let KeyPlaceDefinition { header, query, json, value } =
                    KeyPlaceDefinition::deserialize(MapAccessDeserializer::new(map))?;
                Ok(KeyDefinition::Place { header, query, json, value })
            }
        }
        deserializer.deserialize_any(Forms)
    }
}

/// A request's method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    /// The method on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }

    /// Whether asking twice does no more than asking once (RFC 9110, 9.2.2).
    pub const fn is_idempotent(self) -> bool {
        !matches!(self, Self::Post | Self::Patch)
    }
}

/// `retry`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryDefinition {
    pub attempts: Option<Spanned<u32>>,
    #[serde(default)]
    pub backoff: BackoffDefinition,
    pub deadline: Option<Spanned<Span>>,
    pub throttled_for: Option<Spanned<Span>>,
}

/// `retry.backoff`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackoffDefinition {
    pub initial: Option<Spanned<Span>>,
    pub factor: Option<Spanned<f64>>,
    pub max: Option<Spanned<Span>>,
    pub jitter: Option<bool>,
}

/// `dispatch`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DispatchDefinition {
    pub rows_per_owner: Option<Spanned<u32>>,
    pub rows_polling_per_owner: Option<Spanned<u32>>,
    pub spread: Option<Span>,
}

/// `canary`, in a pipeline or beside an upload.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CanaryDefinition {
    pub rows: u32,
    pub max_failure: Share,
    pub stop_after: Option<u32>,
}

impl From<CanaryDefinition> for Canary {
    fn from(canary: CanaryDefinition) -> Self {
        Self { rows: canary.rows, max_failure_bp: canary.max_failure.0, stop_after: canary.stop_after }
    }
}

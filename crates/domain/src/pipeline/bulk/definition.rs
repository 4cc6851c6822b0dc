//! `steps[].bulk`, key by key.
#![allow(missing_docs, reason = "the keys are described in the reference, once")]

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_saphyr::Spanned;

use crate::pipeline::scalars::Span;
use crate::pipeline::written::Written;

/// `steps[].bulk`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BulkDefinition {
    pub max_rows: Spanned<u64>,
    pub max_wait: Option<Spanned<Span>>,
    pub results: Option<Spanned<String>>,
    #[serde(rename = "match")]
    pub matching: Spanned<MatchDefinition>,
    pub errors: Option<Spanned<ErrorsDefinition>>,
    pub response: Option<Spanned<ItemResponseDefinition>>,
}

/// `bulk.match`: a word, or a pair of templates.
#[derive(Debug)]
pub enum MatchDefinition {
    Order,
    Whole,
    Pair(PairDefinition),
}

/// `bulk.match` and `bulk.errors.match` as a pair.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairDefinition {
    pub result: Spanned<String>,
    pub row: Spanned<String>,
}

/// `bulk.errors`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorsDefinition {
    pub results: Spanned<String>,
    #[serde(rename = "match")]
    pub matching: Spanned<PairDefinition>,
}

/// `bulk.response`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ItemResponseDefinition {
    pub status: Option<Spanned<Written>>,
    pub headers: Option<Spanned<String>>,
    pub body: Option<Spanned<String>>,
}

impl<'de> Deserialize<'de> for MatchDefinition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;
        impl<'de> Visitor<'de> for Forms {
            type Value = MatchDefinition;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`order`, `whole`, or a pair such as `{ result: \"{{ result.id }}\", row: \"{{ row.id }}\" }`,")
            }
            fn visit_str<E: Error>(self, word: &str) -> Result<Self::Value, E> {
                match word {
                    "order" => Ok(MatchDefinition::Order),
                    "whole" => Ok(MatchDefinition::Whole),
                    other => Err(E::unknown_variant(other, &["order", "whole"])),
                }
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                PairDefinition::deserialize(MapAccessDeserializer::new(map)).map(MatchDefinition::Pair)
            }
        }
        deserializer.deserialize_any(Forms)
    }
}

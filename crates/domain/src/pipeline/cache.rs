//! `cache` of a step: rows with the same key have one answer.
#![allow(missing_docs, reason = "the keys are described in the reference, once")]

use std::time::Duration;

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::call::{self, Here, Read};
use super::check::Source;
use super::definition::StepDefinition;
use super::model::Dependency;
use super::names::Names;
use super::scalars::Span;
use super::step::{RenderError, Step};
use super::template::Template;
use super::values::{RowContext, Scope};

/// `steps[].cache`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheDefinition {
    pub key: Spanned<String>,
    pub ttl: Spanned<Span>,
    #[serde(default)]
    pub scope: CacheScope,
}

/// Whose rows have an answer in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheScope {
    /// Those of a batch.
    #[default]
    Batch,
    /// Those of an owner in the pipeline.
    Owner,
    /// All of the pipeline.
    Pipeline,
}

/// How answers of a step are kept.
#[derive(Debug)]
pub struct Cache {
    key: Template,
    /// How long an answer is kept.
    pub ttl: Duration,
    /// Whose rows have it in common.
    pub scope: CacheScope,
}

impl Step {
    /// The key of a row's answer; none without `cache`.
    ///
    /// # Errors
    /// When the template reads something that is not there.
    pub fn cache_key(&self, row: &RowContext<'_>) -> Result<Option<String>, RenderError> {
        let Some(cache) = &self.cache else { return Ok(None) };
        let key = cache.key.render_text(&Scope::of(row).into_value());
        key.map(Some).map_err(|error| RenderError::new(&self.name, "cache.key", &error))
    }
}

/// Reads `cache`.
pub fn cache(
    step: &StepDefinition,
    dependency: Option<&Dependency>,
    names: &Names,
    read: &mut Read,
    source: &mut Source<'_>,
) -> Option<Cache> {
    let definition = step.cache.as_ref()?;
    let CacheDefinition { key, ttl, scope } = &definition.value;
    let request = &step.request;
    let is_harmless = request.idempotent.unwrap_or(request.method.is_idempotent());
    if request.is_keyed() || !is_harmless {
        let why = "cache is for a step that is harmless to repeat: GET, HEAD, PUT, DELETE or `idempotent: true`, \
                   without `idempotency_key`; otherwise a row would miss the effect of its own call";
        source.error(definition.referenced, format!("step `{}`: {why}", step.name));
    }
    if ttl.value.0.is_zero() {
        let why = "cache.ttl is 0, so no answer would be kept; take `cache` out for that";
        source.error(ttl.referenced, format!("step `{}`: {why}", step.name));
    }
    if *scope == CacheScope::Pipeline && dependency.is_some_and(Dependency::reads_owner) {
        let why = "cache.scope is `pipeline`, but the dependency reads `owner`, so an owner would see what another's account \
                   answers; write `scope: owner`";
        source.error(definition.referenced, format!("step `{}`: {why}", step.name));
    }
    let here = Here { names, answer: false, line: key.referenced.line() };
    call::check_braces(&format!("step `{}`: cache.key", step.name), &key.value, here.line, source);
    let key = call::text(&key.value, here, read, source)?;
    Some(Cache { key, ttl: ttl.value.0, scope: *scope })
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::pipeline::{Pipeline, RowValues};
    use crate::time::Timestamp;

    fn pipeline(request: &str, cache: &str) -> Result<Pipeline, String> {
        let text = format!(
            "name: p\ncsv: {{ columns: [ {{ name: a }} ] }}\ndependencies: {{ d: {{ base_url: http://d.example }} }}\nsteps:\n\
             \x20 - {{ name: s, dependency: d, request: {{ path: /x, {request} }}, cache: {cache} }}\n"
        );
        Pipeline::load("p.yaml", &text, &|_| None)
            .map_err(|errors| errors.iter().map(|error| error.message.clone()).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn a_row_has_the_key_of_its_answer() {
        let key = "key: \"{{ row.a | upper | replace(' ', '') }}\", ttl: 1d";
        let pipeline = pipeline("method: GET", &format!("{{ {key} }}")).unwrap();
        let (outputs, step) = (Map::new(), &pipeline.steps[0]);
        let row = [("a".to_owned(), "sw1 2aa".to_owned())].into();
        let values = RowValues::new(&row, &json!({}));
        let context = RowContext { values: &values, steps: &outputs, now: Timestamp::from_millis(0) };
        assert_eq!(step.cache_key(&context).unwrap().as_deref(), Some("SW12AA"));
        let cache = step.cache.as_ref().unwrap();
        assert_eq!((cache.ttl.as_secs(), cache.scope), (86_400, CacheScope::Batch));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let good = "{ key: \"{{ row.a }}\", ttl: 1d, scope: owner }";
        for request in ["method: PUT", "method: DELETE", "method: POST, idempotent: true"] {
            assert!(pipeline(request, good).is_ok(), "{request}");
        }
        for request in [
            "method: POST",
            "method: PATCH",
            "method: GET, idempotent: false",
            "method: POST, idempotency_key: true",
            "method: PUT, idempotency_key: true",
        ] {
            let error = pipeline(request, good).map(|_| ()).unwrap_err();
            assert!(error.starts_with("step `s`: cache is for a step that is harmless to repeat"), "{error}");
        }
        for (cache, wanted) in [
            ("{ ttl: 1d }", "the key `key` is missing here; add it"),
            ("{ key: x }", "the key `ttl` is missing here; add it"),
            ("{ key: \"{{ row.b }}\", ttl: 1d }", "unknown column `b` in a template"),
            ("{ key: \"{{ body.b }}\", ttl: 1d }", "`body` is the answer's"),
            ("{ key: x, ttl: 0s }", "step `s`: cache.ttl is 0"),
        ] {
            let error = pipeline("method: GET", cache).map(|_| ()).unwrap_err();
            assert!(error.starts_with(wanted), "{cache}: {error}");
        }
        assert!(pipeline("method: GET", "{ key: x, ttl: 1d, scope: all }").is_err());
        let of_owner = |scope: &str| {
            let text = format!(
                "name: p\ncsv: {{ columns: [ {{ name: a }} ] }}\ndependencies: {{ d: {{ base_url: http://d.example, \
                 headers: {{ X-Token: \"{{{{ owner.secrets.token }}}}\" }} }} }}\nsteps:\n\
                 \x20 - {{ name: s, dependency: d, request: {{ method: GET, path: /x }}, cache: {{ key: x, ttl: 1d, scope: {scope} }} }}\n"
            );
            Pipeline::load("p.yaml", &text, &|_| None).map_err(|errors| errors[0].message.clone())
        };
        assert!(of_owner("owner").is_ok());
        let error = of_owner("pipeline").map(|_| ()).unwrap_err();
        assert!(
            error.starts_with("step `s`: cache.scope is `pipeline`, but the dependency reads `owner`"),
            "{error}"
        );
    }
}

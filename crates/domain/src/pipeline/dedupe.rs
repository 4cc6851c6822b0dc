//! `dedupe`: a row whose key another batch has completed is not called for again.
#![allow(missing_docs, reason = "the keys are described in the reference, once")]

use std::time::Duration;

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::call::{self, Here, Read};
use super::check::Source;
use super::model::Pipeline;
use super::names::Names;
use super::scalars::Span;
use super::step::RenderError;
use super::template::Template;
use super::values::{RowContext, Scope};

/// `dedupe`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DedupeDefinition {
    pub key: Spanned<String>,
    pub within: Spanned<Span>,
    #[serde(default)]
    pub then: DuplicateEnd,
}

/// How a row ends whose key was completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DuplicateEnd {
    /// It completes.
    #[default]
    Skip,
    /// It fails.
    Fail,
}

/// When a row is a duplicate.
#[derive(Debug)]
pub struct Dedupe {
    key: Template,
    /// What was completed longer ago does not count.
    pub within: Duration,
    /// How such a row ends.
    pub then: DuplicateEnd,
}

impl Pipeline {
    /// The key by which a row is a duplicate of another batch's; none when it has none: without `dedupe`, or when its key is empty.
    ///
    /// # Errors
    /// When the template reads something that is not there.
    pub fn dedupe_key(&self, row: &RowContext<'_>) -> Result<Option<String>, RenderError> {
        let Some(dedupe) = &self.dedupe else { return Ok(None) };
        let key = dedupe.key.render_text(&Scope::of(row).into_value());
        let key = key.map_err(|error| RenderError::new("", "dedupe.key", &error))?;
        Ok(Some(key).filter(|key| !key.trim().is_empty()))
    }
}

/// Reads `dedupe`.
pub fn dedupe(
    definition: Option<&Spanned<DedupeDefinition>>,
    names: &Names,
    read: &mut Read,
    source: &mut Source<'_>,
) -> Option<Dedupe> {
    let DedupeDefinition { key, within, then } = &definition?.value;
    if !key.value.contains("{{") && !key.value.contains("{%") {
        let message = format!("dedupe.key: `{}` is the same for every row; write `{{{{ … }}}}`", key.value);
        source.error(key.referenced, message);
    }
    if within.value.0.is_zero() {
        let message = "dedupe.within is 0, so no row would be a duplicate; take `dedupe` out for that";
        source.error(within.referenced, message.into());
    }
    let here = Here { names, answer: false, line: key.referenced.line() };
    let key = call::text(&key.value, here, read, source)?;
    Some(Dedupe { key, within: within.value.0, then: *then })
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::pipeline::RowValues;
    use crate::time::Timestamp;

    fn pipeline(dedupe: &str) -> Result<Pipeline, String> {
        let text = format!("name: p\ncsv: {{ columns: [ {{ name: a }} ] }}\nsteps: []\ndedupe: {dedupe}\n");
        Pipeline::load("p.yaml", &text, &|_| None)
            .map_err(|errors| errors.iter().map(|error| error.message.clone()).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn a_row_has_its_key_or_none() {
        let pipeline = pipeline("{ key: \"{{ row.a | lower }}\", within: 30d }").unwrap();
        let outputs = Map::new();
        let key = |a: &str| {
            let row = [("a".to_owned(), a.to_owned())].into();
            let values = RowValues::new(&row, &json!({}));
            let context = RowContext { values: &values, steps: &outputs, now: Timestamp::from_millis(0) };
            pipeline.dedupe_key(&context).unwrap()
        };
        assert_eq!(key("A@x").as_deref(), Some("a@x"));
        assert_eq!((key(""), key(" ")), (None, None), "an empty key is nobody's");
        let dedupe = pipeline.dedupe.as_ref().unwrap();
        assert_eq!((dedupe.within.as_secs(), dedupe.then), (30 * 86_400, DuplicateEnd::Skip));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for (dedupe, wanted) in [
            ("{ within: 1d }", "the key `key` is missing here; add it"),
            ("{ key: \"{{ row.a }}\" }", "the key `within` is missing here; add it"),
            ("{ key: a, within: 1d }", "dedupe.key: `a` is the same for every row; write `{{ … }}`"),
            ("{ key: \"{{ row.b }}\", within: 1d }", "unknown column `b` in a template"),
            ("{ key: \"{{ steps.s.x }}\", within: 1d }", "no earlier step is named `s`"),
            ("{ key: \"{{ row.a }}\", within: 0s }", "dedupe.within is 0"),
        ] {
            let error = pipeline(dedupe).map(|_| ()).unwrap_err();
            assert!(error.starts_with(wanted), "{dedupe}: {error}");
        }
        assert!(pipeline("{ key: \"{{ row.a }}\", within: 1d, then: stop }").is_err());
        assert!(pipeline("{ key: \"{{ row.a }}\", within: 1d, then: fail }").is_ok());
    }
}

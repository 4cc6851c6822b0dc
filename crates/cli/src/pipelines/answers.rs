//! Recorded answers: a YAML or JSON list. The first one that fits a request and was not used yet for the row answers it; when all that
//! fit were used, the last of them does again.
//!
//! ```yaml
//! - { method: POST, path: /v1/jobs, status: 201, headers: { location: /v1/jobs/7 }, body: { id: 7 } }
//! - { path: /v1/jobs/*, status: 200, body: { state: done } }
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use penstock_app::StartError;
use penstock_downstream::{Outgoing, Recorded};
use serde::Deserialize;
use serde_json::Value;

use crate::open::said;

/// An answer, and which requests it fits.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Fits requests of this method; none: of any.
    method: Option<String>,
    /// Fits requests whose path ends like this, where `*` stands for anything; none: any.
    path: Option<String>,
    #[serde(default = "ok")]
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// JSON, or a text that is sent as it is.
    #[serde(default)]
    body: Value,
}

const fn ok() -> u16 {
    200
}

/// Recorded answers of a row.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    answers: Vec<(Answer, bool)>,
}

impl Answers {
    pub fn new(answers: Vec<Answer>) -> Self {
        Self { answers: answers.into_iter().map(|answer| (answer, false)).collect() }
    }

    /// Reads a file.
    pub fn read(file: &Path) -> Result<Self, StartError> {
        let cannot = |error: String| said(format!("cannot read the answers in {}: {error}", file.display()));
        let text = std::fs::read_to_string(file).map_err(|error| cannot(error.to_string()))?;
        let answers = serde_saphyr::from_str(&text).map_err(|error| cannot(error.to_string()))?;
        Ok(Self::new(answers))
    }

    /// The next row has all of them again.
    pub fn begin_row(&mut self) {
        self.answers.iter_mut().for_each(|(_, used)| *used = false);
    }

    /// The answer to a request; none when none fits.
    pub fn next(&mut self, request: &Outgoing) -> Option<Recorded> {
        let path = path_of(&request.url);
        let fits = |answer: &Answer| {
            answer.method.as_ref().is_none_or(|method| method.eq_ignore_ascii_case(&request.method))
                && answer.path.as_ref().is_none_or(|pattern| matches(pattern, path))
        };
        let fitting: Vec<usize> =
            (0..self.answers.len()).filter(|index| fits(&self.answers[*index].0)).collect();
        let index = fitting.iter().find(|index| !self.answers[**index].1).or(fitting.last()).copied()?;
        let (answer, used) = self.answers.get_mut(index)?;
        *used = true;
        let mut headers: Vec<(String, String)> =
            answer.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let body = match &answer.body {
            Value::Null => Vec::new(),
            Value::String(text) => text.clone().into_bytes(),
            json => {
                if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
                    headers.push(("content-type".to_owned(), "application/json".to_owned()));
                }
                json.to_string().into_bytes()
            }
        };
        Some(Recorded { status: answer.status, headers, body })
    }
}

/// The path of a URL, without its query.
pub fn path_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.find('/').map_or("/", |at| &rest[at..]);
    path.split(['?', '#']).next().unwrap_or(path)
}

/// Whether a path is, or ends with, what a pattern says.
pub fn matches(pattern: &str, path: &str) -> bool {
    let mut parts = pattern.split('*').rev();
    let last = parts.next().unwrap_or_default();
    let Some(mut rest) = path.strip_suffix(last) else { return false };
    for part in parts {
        let Some(at) = rest.rfind(part) else { return false };
        rest = &rest[..at];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, url: &str) -> Outgoing {
        Outgoing { method: method.into(), url: url.into(), headers: Vec::new(), body: Default::default() }
    }

    #[test]
    fn answers_are_used_once_for_a_row_and_the_last_that_fits_again() {
        let text =
            "[{ method: POST, path: /jobs, status: 201, body: { id: 7 } }, { path: /jobs/*, body: { s: 1 } },
            { path: /jobs/*, body: { s: 2 } }]";
        let mut answers = Answers::new(serde_saphyr::from_str(text).unwrap());
        for _ in 0..2 {
            let mut body = |method: &str, url: &str| {
                answers.next(&request(method, url)).map(|answer| String::from_utf8(answer.body).unwrap())
            };
            assert_eq!(body("POST", "https://h.example/v1/jobs?x=1").as_deref(), Some(r#"{"id":7}"#));
            assert_eq!(body("GET", "https://h.example/v1/jobs/7").as_deref(), Some(r#"{"s":1}"#));
            assert_eq!(body("GET", "https://h.example/v1/jobs/7").as_deref(), Some(r#"{"s":2}"#));
            assert_eq!(body("GET", "https://h.example/v1/jobs/7").as_deref(), Some(r#"{"s":2}"#));
            assert_eq!(body("GET", "https://h.example/v1/people"), None);
            answers.begin_row();
        }
    }
}

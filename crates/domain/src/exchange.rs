//! The last request and answer of a failed row's step, as they are kept, sealed, for whoever looks into it.
//!
//! Headers that carry secrets are masked, and everything is bounded: a failed row keeps at most some ten kilobytes of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::pipeline::RenderedRequest;

/// Stands for a value that is a secret.
const MASKED: &str = "***";

/// Characters of an address, of a header's value, and of a body that are kept.
const ADDRESS_CHARS: usize = 2000;
const HEADER_CHARS: usize = 300;
const BODY_CHARS: usize = 4000;

/// Headers that are kept.
const MOST_HEADERS: usize = 20;

/// A request, and its answer if one came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// The method.
    pub method: String,
    /// The path after the dependency's base URL with its query, or the whole URL that a template made.
    pub target: String,
    /// Headers by name; those that carry secrets are masked.
    pub headers: BTreeMap<String, String>,
    /// The body as text, cut; none when nothing was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The answer; none when none came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<KeptAnswer>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptAnswer {
    /// Its status.
    pub status: u16,
    /// Its headers; those that carry secrets are masked.
    pub headers: BTreeMap<String, String>,
    /// Its body as text, cut; none when it was empty or could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

impl Exchange {
    /// Of a step's request. `own` are the names of the headers that its dependency adds: their values hold secrets.
    pub fn of<'a>(request: &RenderedRequest, own: impl Iterator<Item = &'a str>) -> Self {
        let mut target = request.target.to_kept();
        if !request.query.is_empty() {
            let pairs = request.query.iter().map(|(name, value)| {
                let value = if is_secret(&name.to_ascii_lowercase()) { MASKED } else { value };
                (name.as_str(), value)
            });
            let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
            target = format!("{target}{}{query}", if target.contains('?') { '&' } else { '?' });
        }
        let mut headers: BTreeMap<String, String> =
            own.map(|name| (name.to_ascii_lowercase(), MASKED.to_owned())).collect();
        if let Some(body) = &request.body {
            headers.insert("content-type".to_owned(), body.content_type.clone());
        }
        headers.extend(kept(request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))));
        Self {
            method: request.method.as_str().to_owned(),
            target: cut(&target, ADDRESS_CHARS),
            headers,
            body: request.body.as_ref().map(|body| {
                // No more than can be needed: a body may be long.
                let start = &body.bytes[..body.bytes.len().min(BODY_CHARS * 4)];
                cut(&String::from_utf8_lossy(start), BODY_CHARS)
            }),
            answer: None,
        }
    }

    /// The same with its answer.
    #[must_use]
    pub fn answered(
        self,
        status: u16,
        headers: &BTreeMap<String, String>,
        body: Option<&serde_json::Value>,
    ) -> Self {
        let headers = kept(headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))).collect();
        let body = body.map(|body| match body {
            serde_json::Value::String(text) => cut(text, BODY_CHARS),
            other => cut(&other.to_string(), BODY_CHARS),
        });
        Self { answer: Some(KeptAnswer { status, headers, body }), ..self }
    }
}

fn kept<'a>(headers: impl Iterator<Item = (&'a str, &'a str)>) -> impl Iterator<Item = (String, String)> {
    headers.take(MOST_HEADERS).map(|(name, value)| {
        let name = name.to_ascii_lowercase();
        let value = if is_secret(&name) { MASKED.to_owned() } else { cut(value, HEADER_CHARS) };
        (name, value)
    })
}

/// Whether a header's name says that its value is a secret.
fn is_secret(name: &str) -> bool {
    const WORDS: [&str; 9] =
        ["auth", "cookie", "token", "secret", "password", "signature", "credential", "session", "apikey"];
    let key = name.split(['-', '_']).any(|word| word == "key") && name != "idempotency-key";
    key || WORDS.iter().any(|word| name.contains(word))
}

fn cut(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pipeline::definition::Method;
    use crate::pipeline::{Body, Target};

    #[test]
    fn what_was_sent_is_kept_without_secrets_and_without_end() {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let request = RenderedRequest {
            method: Method::Post,
            target: Target::Path("/people/7".into()),
            query: vec![header("q", "a b")],
            headers: vec![
                header("X-Campaign", "autumn"),
                header("X-Api-Key", "s3cret"),
                header("Idempotency-Key", "k-1"),
                header("X-Signature", "s3cret"),
            ],
            body: Some(Body::json(&json!({ "name": "ö".repeat(9000) }))),
        };
        let answer = BTreeMap::from([header("set-cookie", "s3cret"), header("x-request-id", "7")]);
        let exchange = Exchange::of(&request, ["Authorization"].into_iter()).answered(
            422,
            &answer,
            Some(&json!({ "error": "no" })),
        );
        assert_eq!(exchange.target, "/people/7?q=a+b");
        let text = serde_json::to_string(&exchange).unwrap();
        assert!(!text.contains("s3cret"), "{text}");
        assert_eq!(exchange.headers["authorization"], MASKED);
        assert_eq!(
            (&*exchange.headers["x-campaign"], &*exchange.headers["idempotency-key"]),
            ("autumn", "k-1")
        );
        assert_eq!(exchange.body.unwrap().chars().count(), BODY_CHARS + 1);
        let answer = exchange.answer.unwrap();
        assert_eq!((answer.status, answer.body.as_deref()), (422, Some("{\"error\":\"no\"}")));
        assert_eq!(answer.headers["x-request-id"], "7");
    }
}

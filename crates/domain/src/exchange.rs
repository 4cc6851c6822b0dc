//! The last request and answer of a failed row's step, as they are kept, sealed, for whoever looks into it.
//!
//! What is secret is masked, wherever it stands, and everything is bounded: a failed row keeps at most some ten kilobytes of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::pipeline::{MASK, RenderedRequest, SecretValues};

/// Characters of an address, of a header's value, and of a body that are kept.
const ADDRESS_CHARS: usize = 2000;
const HEADER_CHARS: usize = 300;
const BODY_CHARS: usize = 4000;

/// Bytes of a body in which secrets are looked for: all that can be kept, and a secret at its end.
const BODY_BYTES: usize = BODY_CHARS * 4 + 8 * 1024;

/// Headers that are kept.
const MOST_HEADERS: usize = 20;

/// A request, and its answer if one came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// The method.
    pub method: String,
    /// The path after the dependency's base URL with its query, or the whole URL that a template made.
    pub target: String,
    /// Headers by name; those whose name says that they are secret are masked as a whole.
    pub headers: BTreeMap<String, String>,
    /// The body as text, cut; none when nothing was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The answer; none when none came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<AnswerSeen>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerSeen {
    /// Its status.
    pub status: u16,
    /// Its headers; those whose name says that they are secret are masked as a whole.
    pub headers: BTreeMap<String, String>,
    /// Its body as text, cut; none when it was empty or could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

impl Exchange {
    /// Of a step's request. `own` are the names of the headers that its dependency adds: their values hold secrets.
    pub fn of<'a>(
        request: &RenderedRequest,
        own: impl Iterator<Item = &'a str>,
        secrets: &SecretValues,
    ) -> Self {
        let mut target = request.target.to_kept();
        if !request.query.is_empty() {
            let pairs = request.query.iter().map(|(name, value)| {
                let value = if is_secret(&name.to_ascii_lowercase()) { MASK } else { value };
                (name.as_str(), value)
            });
            let query = crate::query::encoded(pairs);
            target = format!("{target}{}{query}", if target.contains('?') { '&' } else { '?' });
        }
        let mut headers: BTreeMap<String, String> =
            own.map(|name| (name.to_ascii_lowercase(), MASK.to_owned())).collect();
        if let Some(body) = &request.body {
            headers.insert("content-type".to_owned(), secrets.masked(&body.content_type));
        }
        let own = request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        headers.extend(kept(own, secrets));
        Self {
            method: request.method.as_str().to_owned(),
            target: cut(&secrets.masked(&target), ADDRESS_CHARS),
            headers,
            body: request.body.as_ref().map(|body| {
                // No more than can be needed: a body may be long.
                let start = &body.bytes[..body.bytes.len().min(BODY_BYTES)];
                cut(&secrets.masked(&String::from_utf8_lossy(start)), BODY_CHARS)
            }),
            answer: None,
        }
    }
}

impl AnswerSeen {
    /// Of an answer; nothing of `body` is secret any more.
    pub fn of(
        status: u16,
        headers: &BTreeMap<String, String>,
        body: Option<&serde_json::Value>,
        secrets: &SecretValues,
    ) -> Self {
        let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let headers = kept(headers, secrets).collect();
        let body = body.map(|body| match body {
            serde_json::Value::String(text) => cut(text, BODY_CHARS),
            other => cut(&other.to_string(), BODY_CHARS),
        });
        Self { status, headers, body }
    }
}

fn kept<'a>(
    headers: impl Iterator<Item = (&'a str, &'a str)>,
    secrets: &SecretValues,
) -> impl Iterator<Item = (String, String)> {
    headers.take(MOST_HEADERS).map(|(name, value)| {
        let name = name.to_ascii_lowercase();
        let value =
            if is_secret(&name) { MASK.to_owned() } else { cut(&secrets.masked(value), HEADER_CHARS) };
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
        let secrets = SecretValues::default();
        let body = json!({ "error": "no" });
        let answer = AnswerSeen::of(422, &answer, Some(&body), &secrets);
        let exchange = Exchange {
            answer: Some(answer),
            ..Exchange::of(&request, ["Authorization"].into_iter(), &secrets)
        };
        assert_eq!(exchange.target, "/people/7?q=a%20b");
        let text = serde_json::to_string(&exchange).unwrap();
        assert!(!text.contains("s3cret"), "{text}");
        assert_eq!(exchange.headers["authorization"], MASK);
        assert_eq!(
            (&*exchange.headers["x-campaign"], &*exchange.headers["idempotency-key"]),
            ("autumn", "k-1")
        );
        assert_eq!(exchange.body.unwrap().chars().count(), BODY_CHARS + 1);
        let answer = exchange.answer.unwrap();
        assert_eq!((answer.status, answer.body.as_deref()), (422, Some("{\"error\":\"no\"}")));
        assert_eq!(answer.headers["x-request-id"], "7");
    }

    #[test]
    fn a_secret_is_masked_in_the_path_a_pair_a_header_and_the_body() {
        let mut secrets = SecretValues::default();
        secrets.add("s3cr&t");
        let pair = |name: &str| (name.to_owned(), "s3cr&t".to_owned());
        let request = RenderedRequest {
            method: Method::Post,
            target: Target::Path("/hooks/s3cr%26t/x".into()),
            query: vec![pair("q")],
            headers: vec![pair("X-Campaign")],
            // So that it stands where the body is cut.
            body: Some(Body::json(&json!({ "a": "x".repeat(BODY_CHARS - 10), "b": "s3cr&t" }))),
        };
        let answer = BTreeMap::from([pair("x-echo")]);
        let answer = AnswerSeen::of(400, &answer, None, &secrets);
        let exchange = Exchange::of(&request, std::iter::empty(), &secrets);
        assert_eq!(exchange.target, "/hooks/***/x?q=***");
        assert_eq!((&*exchange.headers["x-campaign"], &*answer.headers["x-echo"]), (MASK, MASK));
        assert!(!exchange.body.unwrap().contains("s3"));
    }
}

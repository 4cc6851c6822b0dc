//! What went wrong with a row, and the sentences that its owner reads about it.

use std::time::Duration;

use penstock_domain::cause::Cause;
use penstock_domain::exchange::Exchange;
use penstock_domain::outcome;
use penstock_domain::pipeline::{Dependency, SecretValues, Step};
use penstock_domain::row::{RowError, Throttled};
use penstock_domain::time::Timestamp;
use penstock_downstream::{Failure, Response};
use serde_json::Value;

use crate::worker::kept_answers::KeptAnswer;

/// At most this many characters of a response that is a text stand in an error's sentence.
const TEXT_CHARS: usize = 300;

/// What went wrong, before it is sealed.
pub(super) struct Problem {
    pub(super) code: String,
    /// The API's own code, which clients see in its place.
    pub(super) api_code: Option<String>,
    pub(super) message: String,
    pub(super) http_status: Option<u16>,
    pub(super) detail: Option<Value>,
    /// The request and the answer, for a row that fails.
    pub(super) sent: Option<Box<Exchange>>,
    /// Until when the response asks to wait.
    pub(super) not_before: Option<Timestamp>,
    /// The response of a success that could not be read: kept when the row fails.
    pub(super) answer: Option<KeptAnswer>,
}

impl Problem {
    pub(super) fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            api_code: None,
            message: message.into(),
            http_status: None,
            detail: None,
            sent: None,
            not_before: None,
            answer: None,
        }
    }

    /// The same without secrets in what is shown of it: an API may quote the key that it was called with.
    pub(super) fn masked(self, secrets: &SecretValues) -> Self {
        Self {
            message: secrets.masked(&self.message),
            api_code: self.api_code.filter(|code| !secrets.are_in_code(code)),
            ..self
        }
    }

    /// A row's time is over. The failure of its last call of the step is part of it.
    pub(super) fn expired(code: &str, last: Option<&RowError>) -> Self {
        let Some(last) = last else { return Self::new(code, outcome::sentence(code)) };
        Self {
            http_status: last.http_status,
            detail: last.detail.clone(),
            sent: last.sent.clone(),
            ..Self::new(code, outcome::run_out(code, &last.message))
        }
    }

    /// A row got no permit, because the API refuses every call. The last answer to a call of the row itself is part of it.
    pub(super) fn given_up(step: &Step, last: Option<&RowError>, refused_for: Duration) -> Self {
        let code = outcome::code::THROTTLED;
        let last = last.filter(|last| last.code == code);
        if last.is_some() {
            return Self::expired(code, last);
        }
        let Step { name, .. } = step;
        let seconds = refused_for.as_secs();
        Self::new(
            code,
            format!(
                "step `{name}` was not called: for {seconds} seconds the API answered each call, of any row, that it is called \
                 too often"
            ),
        )
    }
}

/// The message of a failed call: the step, the status if there was one, the cause, and the response if it is a text.
pub(super) fn failed_message(
    code: &str,
    step: &Step,
    dependency: &Dependency,
    response: Option<&Response>,
    failure: Option<&Failure>,
) -> String {
    let Step { name, .. } = step;
    let unknown = code == outcome::code::OUTCOME_UNKNOWN;
    let Some(response) = response else {
        return match failure.map(|failure| failure.sentence.as_str()) {
            Some(cause) if unknown => format!("step `{name}`: {cause}; {}", outcome::sentence(code)),
            Some(cause) => format!("step `{name}`: the call to `{}` failed: {cause}", dependency.name),
            None => format!("step `{name}`: {}", outcome::sentence(code)),
        };
    };
    let status = response.status;
    let text = text_of(response);
    // An error is an error whatever form its body has.
    let cause = failure.filter(|failure| text.is_empty() || failure.cause != Cause::NotJson);
    let cause = match cause {
        _ if unknown => ", and may have had its effect".to_owned(),
        Some(failure) => format!(", but {}", failure.sentence),
        None => String::new(),
    };
    format!("step `{name}` was answered with HTTP status {status}{cause}{text}")
}

/// The message of a success that lacks what the step reads from it.
pub(super) fn unusable_message(
    step: &Step,
    response: &Response,
    failure: Option<&Failure>,
    missing: &str,
) -> String {
    let Response { status, bytes, .. } = response;
    let cause = failure.map_or(String::new(), |failure| format!("{}: ", failure.sentence));
    format!(
        "step `{}` was answered with HTTP status {status} ({bytes} bytes), but {cause}{missing}",
        step.name
    )
}

/// The message of a step that is called too often.
pub(super) fn throttled_message(
    step: &Step,
    response: Option<&Response>,
    words: Option<&str>,
    series: &Throttled,
) -> String {
    let status = response.map_or(String::new(), |answer| format!(" with HTTP status {}", answer.status));
    let text = words.map(|words| format!(": {words}")).or_else(|| response.map(text_of)).unwrap_or_default();
    let alone = if series.alone { ", while calls for other rows went through" } else { "" };
    match series.times {
        0 | 1 => format!("step `{}` was answered{status}: it is called too often{text}", step.name),
        times => format!(
            "step `{}` was answered{status}, {times} times in a row since {}{alone}{text}",
            step.name, series.since
        ),
    }
}

/// The text of a response that is no success, on one line and cut; empty when it is no text.
fn text_of(response: &Response) -> String {
    let Value::String(text) = &*response.body else { return String::new() };
    if matches!(response.status, 200..=299) {
        return String::new();
    }
    // No more than can be needed: a text may be as long as a body.
    let start: String = text.chars().take(TEXT_CHARS * 4).collect();
    let words: Vec<&str> =
        start.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
    let line = words.join(" ");
    match line.char_indices().nth(TEXT_CHARS) {
        _ if line.is_empty() => line,
        Some((end, _)) => format!(": {}…", &line[..end]),
        None => format!(": {line}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_response_that_is_a_text_stands_in_the_message() {
        let text = |status, body| {
            let (headers, memory, signature) = Default::default();
            text_of(&Response { status, headers, body: Arc::new(body), bytes: 0, memory, signature })
        };
        assert_eq!(text(503, json!(" Down for\r\n\u{7}maintenance ")), ": Down for maintenance");
        for body in [json!(null), json!(" \n"), json!({ "error": "no" })] {
            assert_eq!(text(503, body), "");
        }
        assert_eq!(text(200, json!("<html>")), "", "it was to be JSON");
        let long = text(400, json!("ö".repeat(1_000_000)));
        assert_eq!(long, format!(": {}…", "ö".repeat(TEXT_CHARS)));
    }
}

//! The API's own code and words about an error, by the definition's `error` or in the shapes that APIs use.

use std::collections::BTreeMap;

use minijinja::Value;
use serde_json::Value as Json;

use super::lenient;
use crate::pipeline::template::Template;

/// Characters of an API's message that are kept.
pub const MESSAGE_CHARS: usize = 500;

/// Characters of an API's code that are kept.
const CODE_CHARS: usize = 64;

/// What an API says about an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiError {
    /// Its code: 1 to 64 of `a`–`z`, `0`–`9`, `_`, `.` and `-`.
    pub code: Option<String>,
    /// Its words, 1 to [`MESSAGE_CHARS`] characters.
    pub message: Option<String>,
}

/// The templates of `error`.
#[derive(Debug, Default)]
pub(super) struct ErrorTemplate {
    pub code: Option<Template>,
    pub message: Option<Template>,
}

impl ErrorTemplate {
    pub fn of(&self, values: &Value) -> ApiError {
        let text = |template: &Option<Template>| lenient::text(template.as_ref()?, values);
        ApiError {
            code: text(&self.code).and_then(|code| clean_code(&code)),
            message: text(&self.message).and_then(|message| clean_message(&message)),
        }
    }
}

/// A code as rows have it: in lower case, `_` for characters that a code does not have, cut; none when nothing is left.
pub fn clean_code(code: &str) -> Option<String> {
    let clean = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9' | '_' | '.' | '-') => c,
        _ => '_',
    };
    let code: String = code.trim().chars().take(CODE_CHARS).map(clean).collect();
    Some(code).filter(|code| !code.is_empty())
}

/// A message as rows have it: word for word, without control characters but for line breaks and tabs, cut.
fn clean_message(message: &str) -> Option<String> {
    let plain = |c: &char| !c.is_control() || matches!(c, '\n' | '\t');
    let message: String = message.trim().chars().filter(plain).take(MESSAGE_CHARS).collect();
    Some(message).filter(|message| !message.is_empty())
}

/// What is found in a body: a code and a message, either may be missing.
type Found<'a> = (Option<String>, Option<&'a str>);

/// The error of a body in one of the usual shapes: RFC 9457, `error.code`, `code`, `errors[0].code`, or a text in `error`. The
/// first shape with a code counts; a message may stand anywhere.
pub(super) fn usual(headers: &BTreeMap<String, String>, body: &Json) -> ApiError {
    if !body.is_object() {
        return ApiError::default();
    }
    let shapes =
        [problem(headers, body), pair(&body["error"]), pair(body), first_of_list(body), error_text(body)];
    let with_code = shapes.iter().position(|(code, _)| code.is_some());
    let code = with_code.and_then(|shape| clean_code(shapes[shape].0.as_deref()?));
    let message = with_code
        .and_then(|shape| shapes[shape].1)
        .or_else(|| shapes.iter().find_map(|(_, message)| *message))
        .or_else(|| text(&body["detail"]).or_else(|| text(&body["title"])));
    ApiError { code, message: message.and_then(clean_message) }
}

fn text(json: &Json) -> Option<&str> {
    json.as_str().filter(|text| !text.trim().is_empty())
}

/// A code may be a number.
fn code(json: &Json) -> Option<String> {
    match json {
        Json::Number(number) => Some(number.to_string()),
        other => text(other).map(str::to_owned),
    }
}

/// `{ code, message }`.
fn pair(of: &Json) -> Found<'_> {
    (code(&of["code"]), text(&of["message"]))
}

/// Problem details (RFC 9457), by their media type or by their members.
fn problem<'a>(headers: &BTreeMap<String, String>, body: &'a Json) -> Found<'a> {
    let said = headers.get("content-type").is_some_and(|kind| kind.to_ascii_lowercase().contains("problem+"));
    let words = text(&body["detail"]).or_else(|| text(&body["title"]));
    if !said && (words.is_none() || text(&body["type"]).is_none()) {
        return (None, None);
    }
    (code(&body["code"]).or_else(|| last_segment(text(&body["type"])?)), words)
}

/// `email-taken` of `https://api.example/problems/email-taken` and of `urn:problem:email-taken`.
fn last_segment(kind: &str) -> Option<String> {
    if kind.eq_ignore_ascii_case("about:blank") {
        return None;
    }
    let path = kind.split('?').next().unwrap_or_default().trim_end_matches(['/', '#']);
    path.rsplit(['/', '#', ':']).next().filter(|segment| !segment.is_empty()).map(str::to_owned)
}

/// `{ errors: [ { code, message | detail | title } ] }`.
fn first_of_list(body: &Json) -> Found<'_> {
    let first = &body["errors"][0];
    let words = ["message", "detail", "title"].into_iter().find_map(|name| text(&first[name]));
    (code(&first["code"]), words.or_else(|| text(first)))
}

/// `{ error: "email_taken", message | error_description }`, or `{ error: "That address is taken." }`.
fn error_text(body: &Json) -> Found<'_> {
    let Some(error) = text(&body["error"]) else { return (None, None) };
    let looks_like_a_code =
        error.len() <= CODE_CHARS && error.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if !looks_like_a_code {
        return (None, Some(error));
    }
    (Some(error.to_owned()), text(&body["message"]).or_else(|| text(&body["error_description"])))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: &Json) -> (Option<String>, Option<String>) {
        let ApiError { code, message } = usual(&BTreeMap::new(), body);
        (code, message)
    }

    #[test]
    fn the_usual_shapes_are_read_by_themselves() {
        for (body, code, message) in [
            (
                json!({ "error": { "code": "card_declined", "message": "No." } }),
                Some("card_declined"),
                Some("No."),
            ),
            (json!({ "error": { "code": 403, "message": "No." } }), Some("403"), Some("No.")),
            (json!({ "code": "E 42", "message": "No." }), Some("e_42"), Some("No.")),
            (json!({ "code": 20003, "message": "Authenticate" }), Some("20003"), Some("Authenticate")),
            (
                json!({ "errors": [{ "code": "taken", "message": "A" }, { "code": "b" }] }),
                Some("taken"),
                Some("A"),
            ),
            (
                json!({ "errors": [{ "code": "taken", "detail": "D", "title": "T" }] }),
                Some("taken"),
                Some("D"),
            ),
            (json!({ "errors": [{ "code": "taken", "title": "T" }] }), Some("taken"), Some("T")),
            (
                json!({ "message": "All", "errors": [{ "code": "taken", "title": "T" }] }),
                Some("taken"),
                Some("T"),
            ),
            (json!({ "message": "All", "errors": [{ "code": "taken" }] }), Some("taken"), Some("All")),
            (json!({ "errors": ["No."] }), None, Some("No.")),
            (json!({ "error": "email_taken", "message": "M" }), Some("email_taken"), Some("M")),
            (json!({ "error": "invalid_grant", "error_description": "D" }), Some("invalid_grant"), Some("D")),
            (json!({ "error": "Email.Taken" }), Some("email.taken"), None),
            (json!({ "error": "That address is taken." }), None, Some("That address is taken.")),
            (json!({ "error": "x".repeat(65) }), None, Some("x".repeat(65).as_str())),
            (json!({ "message": "Not Found", "documentation_url": "https://x" }), None, Some("Not Found")),
            (
                json!({ "type": "https://api.example/problems/email-taken", "title": "T", "detail": "D" }),
                Some("email-taken"),
                Some("D"),
            ),
            (
                json!({ "type": "https://api.example/p#out-of-credit", "title": "T" }),
                Some("out-of-credit"),
                Some("T"),
            ),
            (json!({ "type": "urn:problem:taken/", "title": "T", "code": "E1" }), Some("e1"), Some("T")),
            (json!({ "type": "about:blank", "title": "Forbidden" }), None, Some("Forbidden")),
            (json!({ "detail": "Not found." }), None, Some("Not found.")),
            (json!({ "error": { "message": "m" }, "code": "x" }), Some("x"), Some("m")),
            (json!({ "error": null, "errors": {}, "code": "", "message": " " }), None, None),
            (json!(["x"]), None, None),
            (json!("x"), None, None),
            (Json::Null, None, None),
        ] {
            let expected = (code.map(str::to_owned), message.map(str::to_owned));
            assert_eq!(read(&body), expected, "{body}");
        }
        let headers = BTreeMap::from([("content-type".to_owned(), "application/problem+json".to_owned())]);
        let found = usual(&headers, &json!({ "type": "https://x/quota-exceeded" }));
        assert_eq!((found.code.as_deref(), found.message), (Some("quota-exceeded"), None));
    }

    #[test]
    fn codes_and_messages_are_bounded() {
        assert_eq!(clean_code("Email Täken!").as_deref(), Some("email_t_ken_"));
        assert_eq!(clean_code(&"A".repeat(100)).unwrap(), "a".repeat(64));
        assert_eq!(clean_code("  "), None);
        assert_eq!(clean_message(" a\u{1}b\nc ").as_deref(), Some("ab\nc"));
        assert_eq!(clean_message(&"ö".repeat(900)).unwrap().chars().count(), MESSAGE_CHARS);
    }
}

//! Reads an answer's body, at most so much of it, and says what is wrong with it.

use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName};
use penstock_domain::cause::Cause;
use penstock_domain::json::{self, JsonError};
use penstock_domain::pipeline::AnswerKind;
use penstock_domain::{json_size, xml};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::client::Room;
use crate::failure::Failure;
use crate::memory::{Reserved, SHORT_BODY};

/// A text may begin with this, and JSON may be read without it (RFC 8259, 8.1).
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// A body that was read.
#[derive(Debug)]
pub(crate) struct Body {
    /// JSON; a string when it is none; null when there is none, or none that could be read.
    pub(crate) value: Value,
    /// Bytes that came.
    pub(crate) bytes: usize,
    /// Why it cannot be used.
    pub(crate) failure: Option<Failure>,
}

/// The bytes of a body.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) bytes: Vec<u8>,
    pub(crate) reserved: Option<Reserved>,
}

/// Reads a body until the deadline: its bytes, or what is wrong with it. A long one waits for room before the rest of it is
/// taken off the connection, and that does not count as the dependency's time.
pub(crate) async fn read(
    headers: &HeaderMap,
    mut incoming: Incoming,
    mut deadline: Instant,
    room: &Room<'_>,
    most: usize,
) -> Result<Read, Body> {
    let (mut bytes, mut reserved) = (Vec::new(), None);
    let declared = incoming.size_hint().exact().or_else(|| text(headers, CONTENT_LENGTH)?.parse().ok());
    let of_all = declared.map_or(String::new(), |all| format!(" of {all}"));
    let unusable = |failure, bytes| Err(Body { value: Value::Null, bytes, failure: Some(failure) });
    loop {
        let frame = match timeout_at(deadline, incoming.frame()).await {
            Err(_) => {
                let sentence = format!("its body did not come in time ({}{of_all} bytes came)", bytes.len());
                return unusable(Failure::with_sentence(Cause::BodyLate, sentence), bytes.len());
            }
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                let sentence = format!("its body broke off ({}{of_all} bytes came)", bytes.len());
                let failure = Failure {
                    detail: format!("{sentence}: {error}"),
                    ..Failure::with_sentence(Cause::BodyCut, sentence)
                };
                return unusable(failure, bytes.len());
            }
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        let came = bytes.len() + data.len();
        if came > most {
            let size = declared.map_or(format!("{came} bytes came"), |all| format!("{all} bytes"));
            let sentence = format!("its body is longer than {most} bytes ({size})");
            return unusable(Failure::with_sentence(Cause::BodyTooLong, sentence), came);
        }
        if came > SHORT_BODY && reserved.is_none() {
            // One whose length nobody declared may become as long as is allowed.
            let declared = declared.and_then(|all| usize::try_from(all).ok());
            let all = declared.unwrap_or(most).clamp(came, most);
            let began = Instant::now();
            reserved = room.memory.bytes(room.dependency, all, room.patience).await;
            if reserved.is_none() {
                let sentence =
                    format!("there was no memory for its body in time ({came}{of_all} bytes came)");
                return unusable(Failure::with_sentence(Cause::BodyLate, sentence), came);
            }
            deadline += began.elapsed();
            if declared.is_some() {
                bytes.reserve_exact(all - bytes.len());
            }
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Read { bytes, reserved })
}

/// What the values of a body take in memory at most.
pub(crate) fn weight(kind: AnswerKind, bytes: &[u8]) -> usize {
    match kind {
        // An error may be JSON, whatever a success is.
        AnswerKind::Xml => json_size::of_xml(bytes).max(json_size::of_json(bytes)),
        AnswerKind::Json | AnswerKind::Text => json_size::of_json(bytes),
    }
}

/// What the bytes of a body say. An error's body is read as what it is, whatever a success is read as.
pub(crate) fn parse(headers: &HeaderMap, bytes: &[u8], kind: AnswerKind, status: u16) -> Body {
    let size = bytes.len();
    if bytes.is_empty() {
        return Body { value: Value::Null, bytes: 0, failure: None };
    }
    let encoding =
        text(headers, CONTENT_ENCODING).filter(|encoding| !encoding.eq_ignore_ascii_case("identity"));
    if let Some(encoding) = encoding {
        let sentence = format!("its body is encoded as `{encoding}`, which was not asked for ({size} bytes)");
        let failure = Failure::with_sentence(Cause::BodyEncoded, sentence);
        return Body { value: Value::Null, bytes: size, failure: Some(failure) };
    }
    let is_error = status >= 400;
    match kind {
        AnswerKind::Xml => match xml::read(bytes, charset(headers).as_deref()) {
            Ok(value) => return Body { value, bytes: size, failure: None },
            Err(error) if !is_error => {
                let sentence = format!("its body is not XML: {error} ({}{size} bytes)", kind_of(headers));
                return unread(bytes, sentence);
            }
            Err(_) => {}
        },
        AnswerKind::Text if !is_error || !is_json(headers) => {
            return match xml::decode(bytes, charset(headers).as_deref()) {
                Ok(text) => Body { value: Value::String(text), bytes: size, failure: None },
                Err(error) => unread(
                    bytes,
                    format!("its body is not a text: {error} ({}{size} bytes)", kind_of(headers)),
                ),
            };
        }
        AnswerKind::Text | AnswerKind::Json => {}
    }
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let decoded = decoded(headers, bytes);
    let plain = decoded.as_deref().map_or(bytes, str::as_bytes);
    match json::read(plain) {
        Ok(value) => Body { value, bytes: size, failure: None },
        Err(error) => {
            let kind = kind_of(headers);
            let what = if matches!(error, JsonError::Invalid(_)) { "is not JSON" } else { "cannot be used" };
            let sentence = format!("its body {what}: {error} ({kind}{size} bytes)");
            let value = Value::String(String::from_utf8_lossy(plain).into_owned());
            Body { value, bytes: size, failure: Some(Failure::with_sentence(Cause::NotJson, sentence)) }
        }
    }
}

/// The text of a body that is no UTF-8 and says what else it is. JSON should be UTF-8 (RFC 8259, 8.1); old APIs send others.
fn decoded(headers: &HeaderMap, bytes: &[u8]) -> Option<String> {
    let charset = charset(headers)?;
    if std::str::from_utf8(bytes).is_ok() {
        return None;
    }
    xml::decode(bytes, Some(&charset)).ok()
}

/// A body that is not what it should be.
fn unread(bytes: &[u8], sentence: String) -> Body {
    let value = Value::String(String::from_utf8_lossy(bytes).into_owned());
    Body { value, bytes: bytes.len(), failure: Some(Failure::with_sentence(Cause::NotJson, sentence)) }
}

/// The content type, for a sentence.
fn kind_of(headers: &HeaderMap) -> String {
    text(headers, CONTENT_TYPE).map_or(String::new(), |kind| format!("{kind}, "))
}

fn is_json(headers: &HeaderMap) -> bool {
    text(headers, CONTENT_TYPE).is_some_and(|kind| {
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        kind.ends_with("/json") || kind.ends_with("+json")
    })
}

/// The charset of the content type.
fn charset(headers: &HeaderMap) -> Option<String> {
    let kind = text(headers, CONTENT_TYPE)?;
    kind.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches('"');
        (name.trim().eq_ignore_ascii_case("charset") && !value.is_empty()).then(|| value.to_owned())
    })
}

/// A header's value, short enough for a sentence.
fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    const LONGEST: usize = 100;
    let value = headers.get(name)?.to_str().ok()?.trim();
    (!value.is_empty()).then(|| value.chars().take(LONGEST).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(header: Option<(HeaderName, &str)>, bytes: &[u8]) -> Body {
        let header = header.map(|(name, value)| (name, value.parse().expect("a header's value")));
        parse(&header.into_iter().collect(), bytes, AnswerKind::Json, 200)
    }

    #[test]
    fn a_byte_order_mark_before_json_is_passed_over() {
        let body = parsed(None, b"\xEF\xBB\xBF{\"ok\":true}");
        assert_eq!((body.value, body.failure), (json!({"ok": true}), None));
    }

    #[test]
    fn an_errors_body_is_read_as_what_it_is() {
        let of = |kind: AnswerKind, status: u16, media: &str, bytes: &[u8]| {
            let header = (CONTENT_TYPE, media.parse().expect("a header's value"));
            parse(&[header].into_iter().collect(), bytes, kind, status)
        };
        for (kind, status, media, bytes, wanted, usable) in [
            (AnswerKind::Xml, 200, "text/xml", &b"<a>1</a>"[..], json!({ "a": "1" }), true),
            (
                AnswerKind::Xml,
                500,
                "text/xml; charset=ISO-8859-1",
                b"<a>\xfc</a>",
                json!({ "a": "\u{fc}" }),
                true,
            ),
            (AnswerKind::Xml, 200, "application/json", b"{\"a\":1}", json!("{\"a\":1}"), false),
            (AnswerKind::Xml, 400, "application/json", b"{\"a\":1}", json!({ "a": 1 }), true),
            (AnswerKind::Xml, 503, "text/html", b"<p>down<br></p>", json!("<p>down<br></p>"), false),
            (AnswerKind::Text, 200, "application/json", b"{\"a\":1}", json!("{\"a\":1}"), true),
            (
                AnswerKind::Text,
                200,
                "text/csv; charset=\"windows-1252\"",
                b"a;\x80",
                json!("a;\u{20ac}"),
                true,
            ),
            (
                AnswerKind::Json,
                200,
                "application/json; charset=iso-8859-1",
                b"[\"\xe9\"]",
                json!(["\u{e9}"]),
                true,
            ),
            // What is UTF-8 is that, whatever is said.
            (
                AnswerKind::Json,
                200,
                "application/json; charset=latin1",
                b"[\"\xc3\xa9\"]",
                json!(["\u{e9}"]),
                true,
            ),
            (
                AnswerKind::Json,
                400,
                "text/plain; charset=latin1",
                b"d\xe9j\xe0",
                json!("d\u{e9}j\u{e0}"),
                false,
            ),
            (AnswerKind::Json, 200, "application/json", b"[\"\xe9\"]", json!("[\"\u{fffd}\"]"), false),
            (AnswerKind::Text, 200, "text/plain", b"\xff\xff", json!("\u{fffd}\u{fffd}"), false),
            (AnswerKind::Text, 400, "application/problem+json", b"{\"a\":1}", json!({ "a": 1 }), true),
            (AnswerKind::Text, 400, "text/plain", b"{\"a\":1}", json!("{\"a\":1}"), true),
        ] {
            let body = of(kind, status, media, bytes);
            assert_eq!((body.value, body.failure.is_none()), (wanted, usable), "{kind:?} {status} {media}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_body_is_said_with_its_size() {
        let html = parsed(Some((CONTENT_TYPE, "text/html; charset=utf-8")), b"<html>");
        assert_eq!(html.value, json!("<html>"), "it is kept for people");
        let failure = html.failure.expect("it is not JSON");
        assert_eq!(failure.cause, Cause::NotJson);
        assert_eq!(
            failure.sentence,
            "its body is not JSON: expected value at line 1 column 1 (text/html; charset=utf-8, 6 bytes)"
        );
        let private = parsed(None, br#"{"$serde_json::private::RawValue":"1"}"#);
        let failure = private.failure.expect("the key is not accepted");
        assert_eq!(failure.cause, Cause::NotJson);
        assert_eq!(
            failure.sentence,
            "its body cannot be used: a key that begins with `$serde_json::private::` is not accepted (38 bytes)"
        );
        let deep = parsed(None, "[".repeat(126).as_bytes()).failure.expect("it is too deep");
        assert_eq!(
            deep.sentence,
            "its body cannot be used: lists and objects are nested more than 64 levels deep (126 bytes)"
        );
        let gzip = parsed(Some((CONTENT_ENCODING, "gzip")), &[0x1f, 0x8b, 8, 0]);
        let failure = gzip.failure.expect("it cannot be read");
        assert_eq!(failure.cause, Cause::BodyEncoded);
        assert_eq!(failure.sentence, "its body is encoded as `gzip`, which was not asked for (4 bytes)");
        assert_eq!(parsed(Some((CONTENT_ENCODING, "identity")), b"1").failure, None);
        assert_eq!(parsed(Some((CONTENT_TYPE, "text/html")), b"").failure, None, "there is no body");
        let utf16 = parsed(None, &[0xff, 0xfe, b'{', 0, b'}', 0]);
        assert_eq!(utf16.failure.expect("only UTF-8 is JSON").cause, Cause::NotJson);
    }
}

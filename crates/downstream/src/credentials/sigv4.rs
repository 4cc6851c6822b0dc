//! AWS Signature Version 4, as "Create a signed AWS API request" in the IAM user guide describes it.

use std::fmt::Write as _;

use hyper::Uri;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use penstock_domain::time::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use ring::{digest, hmac};

use super::{NoCredentials, hex, secret};

/// All but unreserved characters (RFC 3986, 2.3).
const RESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// Who signs, and for what.
pub(crate) struct Scope<'a> {
    pub(crate) service: &'a str,
    pub(crate) region: &'a str,
    pub(crate) access_key_id: &'a str,
    pub(crate) secret_access_key: &'a str,
    pub(crate) session_token: Option<&'a str>,
}

/// Signs a request as it is sent now. Its query, and for S3 its path, are written as the signature wants them.
///
/// # Errors
/// When a value cannot stand in a header.
pub(crate) fn sign(
    scope: &Scope<'_>,
    head: &mut Parts,
    body: &[u8],
    now: Timestamp,
) -> Result<(), NoCredentials> {
    let s3 = scope.service == "s3" || scope.service.starts_with("s3-");
    head.uri =
        rewritten(&head.uri, s3).ok_or_else(|| "auth.aws_sigv4: the URL cannot be signed".to_owned())?;
    let date = date(now);
    let payload = hex(digest::digest(&digest::SHA256, body).as_ref());
    let set = |headers: &mut HeaderMap, name: &'static str, value: &str| {
        headers.insert(HeaderName::from_static(name), secret("auth.aws_sigv4", value)?);
        Ok::<_, NoCredentials>(())
    };
    set(&mut head.headers, "x-amz-date", &date)?;
    if let Some(token) = scope.session_token {
        set(&mut head.headers, "x-amz-security-token", token)?;
    }
    if s3 {
        set(&mut head.headers, "x-amz-content-sha256", &payload)?;
    }
    let (lines, signed) = headers(head);
    let path = if s3 { head.uri.path().to_owned() } else { encoded_path(head.uri.path()) };
    let canonical = format!(
        "{}\n{path}\n{}\n{lines}\n{signed}\n{payload}",
        head.method,
        sorted(head.uri.query().unwrap_or_default()),
    );
    let value = format!(
        "{ALGORITHM} Credential={}/{}, SignedHeaders={signed}, Signature={}",
        scope.access_key_id,
        credential_scope(scope, &date),
        signature(scope, &date, &canonical),
    );
    head.headers.insert(header::AUTHORIZATION, secret("auth.aws_sigv4", &value)?);
    Ok(())
}

/// `20150830T123600Z`.
fn date(now: Timestamp) -> String {
    let at = chrono::DateTime::from_timestamp_millis(now.millis()).unwrap_or_default();
    at.format("%Y%m%dT%H%M%SZ").to_string()
}

fn credential_scope(scope: &Scope<'_>, date: &str) -> String {
    format!("{}/{}/{}/aws4_request", &date[..8], scope.region, scope.service)
}

fn signature(scope: &Scope<'_>, date: &str, canonical: &str) -> String {
    let hash = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
    let text = format!("{ALGORITHM}\n{date}\n{}\n{hash}", credential_scope(scope, date));
    let hmac = |key: &[u8], message: &str| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message.as_bytes()).as_ref().to_vec()
    };
    let key = format!("AWS4{}", scope.secret_access_key).into_bytes();
    let parts = [&date[..8], scope.region, scope.service, "aws4_request"];
    let key = parts.into_iter().fold(key, |key, part| hmac(&key, part));
    hex(&hmac(&key, &text))
}

/// The headers that are signed, a line each, and their names: the host, the type of the body, and all of AWS's own.
fn headers(head: &Parts) -> (String, String) {
    let mut found: Vec<(String, String)> = Vec::new();
    if !head.headers.contains_key(header::HOST) {
        found.push(("host".to_owned(), host(&head.uri)));
    }
    for name in head.headers.keys() {
        let signed =
            *name == header::HOST || *name == header::CONTENT_TYPE || name.as_str().starts_with("x-amz-");
        if signed {
            let values: Vec<String> = head.headers.get_all(name).iter().map(trimmed).collect();
            found.push((name.as_str().to_owned(), values.join(",")));
        }
    }
    found.sort();
    let lines = found.iter().fold(String::new(), |mut lines, (name, value)| {
        let _ = writeln!(lines, "{name}:{value}");
        lines
    });
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    (lines, names.join(";"))
}

/// A header's value without white space around it, and with single spaces in it.
fn trimmed(value: &HeaderValue) -> String {
    let text = String::from_utf8_lossy(value.as_bytes());
    text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

/// The `Host` that HTTP sends for a URL: without the scheme's own port.
fn host(uri: &Uri) -> String {
    let host = uri.host().unwrap_or_default();
    let usual = if uri.scheme_str() == Some("http") { 80 } else { 443 };
    match uri.port_u16().filter(|port| *port != usual) {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// A URL whose query has only what need not be encoded, and for S3 the path as well: S3 reads the path decoded and encodes it
/// once for the signature, all others encode what was sent.
fn rewritten(uri: &Uri, s3: bool) -> Option<Uri> {
    let path = if s3 { encoded_once(uri.path()) } else { uri.path().to_owned() };
    let query = uri.query().map(|query| {
        let pairs: Vec<String> = url::form_urlencoded::parse(query.as_bytes())
            .map(|(name, value)| format!("{}={}", encoded(&name), encoded(&value)))
            .collect();
        pairs.join("&")
    });
    let target = match query.filter(|query| !query.is_empty()) {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target.parse().ok()?);
    Uri::from_parts(parts).ok()
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, &RESERVED).to_string()
}

/// A path as it was sent, encoded (again) segment by segment.
fn encoded_path(path: &str) -> String {
    path.split('/').map(encoded).collect::<Vec<_>>().join("/")
}

fn encoded_once(path: &str) -> String {
    let segment = |segment: &str| {
        let bytes: Vec<u8> = percent_decode_str(segment).collect();
        percent_encoding::percent_encode(&bytes, &RESERVED).to_string()
    };
    path.split('/').map(segment).collect::<Vec<_>>().join("/")
}

/// The pairs of a query by name, then by value.
fn sorted(query: &str) -> String {
    let mut pairs: Vec<(&str, &str)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .collect();
    pairs.sort_unstable();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    /// The credentials of AWS's test suite for Signature Version 4.
    const SUITE: Scope<'_> = Scope {
        service: "service",
        region: "us-east-1",
        access_key_id: "AKIDEXAMPLE",
        secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
        session_token: None,
    };

    /// 2015-08-30T12:36:00Z.
    fn then() -> Timestamp {
        Timestamp::from_millis(1_440_938_160_000)
    }

    fn signed(scope: &Scope<'_>, request: Request<()>, body: &[u8]) -> (String, Parts) {
        let (mut head, ()) = request.into_parts();
        sign(scope, &mut head, body, then()).unwrap();
        let value = head.headers[header::AUTHORIZATION].to_str().unwrap().to_owned();
        assert!(head.headers[header::AUTHORIZATION].is_sensitive());
        (value, head)
    }

    fn of(value: &str) -> (&str, &str) {
        let signed = value.split("SignedHeaders=").nth(1).unwrap();
        signed.split_once(", Signature=").unwrap()
    }

    /// `get-vanilla`, `post-vanilla`, `get-vanilla-query-order-key-case` and the like: what AWS publishes for them.
    #[test]
    fn the_published_signatures_come_out() {
        for (method, url, signature) in [
            (
                "GET",
                "https://example.amazonaws.com/",
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
            (
                "POST",
                "https://example.amazonaws.com/",
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
            (
                "GET",
                "https://example.amazonaws.com/?Param2=value2&Param1=value1",
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
            (
                "GET",
                "https://example.amazonaws.com/?Param1=value1",
                "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb",
            ),
        ] {
            let request = Request::builder().method(method).uri(url).body(()).unwrap();
            let (value, head) = signed(&SUITE, request, b"");
            assert_eq!(head.headers["x-amz-date"], "20150830T123600Z");
            assert_eq!(of(&value), ("host;x-amz-date", signature), "{method} {url}");
            assert!(
                value.starts_with(
                    "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
                ),
                "{value}"
            );
        }
    }

    #[test]
    fn the_published_signature_of_a_form_comes_out() {
        let request = Request::builder()
            .method("POST")
            .uri("https://example.amazonaws.com/")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(())
            .unwrap();
        let (value, _) = signed(&SUITE, request, b"Param1=value1");
        let signature = "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a";
        assert_eq!(of(&value), ("content-type;host;x-amz-date", signature));
    }

    #[test]
    fn the_published_signature_with_a_session_token_comes_out() {
        let token = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";
        let scope = Scope { session_token: Some(token), ..SUITE };
        let request =
            Request::builder().method("POST").uri("https://example.amazonaws.com/").body(()).unwrap();
        let (value, head) = signed(&scope, request, b"");
        let signature = "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead";
        assert_eq!(of(&value), ("host;x-amz-date;x-amz-security-token", signature));
        assert_eq!(head.headers["x-amz-security-token"], token);
    }

    #[test]
    fn what_is_sent_is_what_is_signed() {
        let request = |uri: &str| Request::builder().uri(uri).body(()).unwrap();
        let (_, head) = signed(&SUITE, request("https://h.example:8443/a%20b/@c?q=x+y&q=&a=%2B"), b"");
        assert_eq!(head.uri, "https://h.example:8443/a%20b/@c?q=x%20y&q=&a=%2B");
        assert_eq!(encoded_path(head.uri.path()), "/a%2520b/%40c", "encoded once more than it is sent");
        assert_eq!(sorted(head.uri.query().unwrap()), "a=%2B&q=&q=x%20y");
        assert_eq!(
            (host(&head.uri), host(&"http://h:80/".parse().unwrap())),
            ("h.example:8443".into(), "h".into())
        );
        let s3 = Scope { service: "s3", ..SUITE };
        let (value, head) = signed(&s3, request("https://b.example/a%20b/@c"), b"x");
        assert_eq!(head.uri, "https://b.example/a%20b/%40c");
        assert_eq!(of(&value).0, "host;x-amz-content-sha256;x-amz-date");
    }
}

//! One request to a token endpoint, and what its answer means (RFC 6749, 5).

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Uri};
use penstock_domain::pipeline::{ClientAuth, Files, Grant, LiveText};
use serde_json::Value;
use url::form_urlencoded;

use super::{Fetched, Fetching, Refusal, jwt};
use crate::credentials::{NoCredentials, basic, secret};
use crate::retry_after::wait_until;

/// A token endpoint answers within this time, or within the dependency's own when that is shorter.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// Bytes of an answer that are read.
const MOST_BYTES: usize = 256 * 1024;

/// Characters of the endpoint's own words that are kept.
const MOST_WORDS: usize = 500;

/// Characters of its code.
const MOST_CODE: usize = 64;

/// The longest life of a token, in seconds: ten years.
const LONGEST_LIFE: f64 = 10.0 * 365.0 * 86400.0;

/// How long a token is used of whose life nothing is left.
const NEARLY_OVER: Duration = Duration::from_secs(1);

/// Asks for a token, with a refresh token where the grant is one. `had_end`: the token before this one had an end.
pub(super) async fn ask(fetching: &Fetching<'_>, refresh: Option<&str>, had_end: bool) -> Fetched {
    let fails = |reason: String| Fetched::Fails { reason, after: None };
    let (request, secrets) = match request(fetching, refresh) {
        Ok(request) => request,
        Err(reason) => return fails(reason),
    };
    let client =
        match fetching.transports.of(fetching.dependency, fetching.dependency.timeout, &**fetching.files) {
            Ok((client, route)) => {
                let mut request = request;
                if let Some(Some(proxy)) = route.forwarded(request.uri()) {
                    request.headers_mut().insert(header::PROXY_AUTHORIZATION, proxy);
                }
                client.request(request)
            }
            Err(reason) => return fails(reason),
        };
    let within = fetching.dependency.timeout.min(ANSWERS_WITHIN);
    let answered = tokio::time::timeout(within, async {
        let answer =
            client.await.map_err(|error| crate::failure::sending(&error).1.cause.sentence().to_owned())?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MOST_BYTES).collect().await;
        let body = body.map_err(|_| "its answer broke off, or is too long".to_owned())?;
        Ok::<_, String>((head, body.to_bytes()))
    })
    .await;
    match answered {
        Err(_) => fails(format!("the token endpoint did not answer within {within:?}")),
        Ok(Err(reason)) => fails(format!("the token endpoint: {reason}")),
        Ok(Ok((head, body))) => {
            let after = wait(fetching, head.status.as_u16(), &head.headers);
            meaning(head.status.as_u16(), &body, after, &secrets, had_end)
        }
    }
}

fn wait(fetching: &Fetching<'_>, status: u16, headers: &HeaderMap) -> Option<Duration> {
    let headers = headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
        .collect();
    let now = fetching.clock.now();
    wait_until(status, &headers, now).map(|until| until.since(now))
}

/// What the grant says of itself. `secrets` gets what of it is one.
fn append_grant(
    fetching: &Fetching<'_>,
    refresh: Option<&str>,
    form: &mut form_urlencoded::Serializer<'_, String>,
    secrets: &mut Vec<String>,
) -> Result<(), NoCredentials> {
    let auth = fetching.auth;
    match &auth.grant {
        Grant::ClientCredentials if auth.parameters.iter().any(|(name, _)| name == "grant_type") => {}
        Grant::ClientCredentials => drop(form.append_pair("grant_type", "client_credentials")),
        Grant::JwtBearer(jwt) => {
            let assertion = jwt::signed(jwt, &**fetching.files, fetching.clock.now())?;
            form.append_pair("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer");
            form.append_pair("assertion", &assertion);
            secrets.push(assertion);
        }
        Grant::RefreshToken(_) => {
            let token = refresh.unwrap_or_default();
            form.append_pair("grant_type", "refresh_token").append_pair("refresh_token", token);
            secrets.push(token.to_owned());
        }
    }
    Ok(())
}

/// The request, and the secrets in it, which its answer may quote.
fn request(
    fetching: &Fetching<'_>,
    refresh: Option<&str>,
) -> Result<(Request<Full<Bytes>>, Vec<String>), NoCredentials> {
    let (auth, files) = (fetching.auth, &**fetching.files);
    let url = auth.token_url.text(files)?;
    let mut form = form_urlencoded::Serializer::new(String::new());
    let mut secrets = Vec::new();
    append_grant(fetching, refresh, &mut form, &mut secrets)?;
    for (name, value) in
        [("scope", text(auth.scope.as_ref(), files)?), ("audience", text(auth.audience.as_ref(), files)?)]
    {
        if let Some(value) = value {
            form.append_pair(name, &value);
        }
    }
    for (name, value) in &auth.parameters {
        let value = value.text(files)?;
        form.append_pair(name, &value);
        secrets.push(value.into_owned());
    }
    let (id, password) = (text(auth.client_id.as_ref(), files)?, text(auth.client_secret.as_ref(), files)?);
    secrets.extend(password.as_deref().map(str::to_owned));
    let mut headers = HeaderMap::new();
    match (&id, &password) {
        (Some(id), Some(password)) if auth.client_auth == ClientAuth::Basic => {
            headers.insert(header::AUTHORIZATION, secret("auth.oauth2", &client(id, password))?);
        }
        (id, password) => {
            for (name, value) in [("client_id", id), ("client_secret", password)] {
                if let Some(value) = value {
                    form.append_pair(name, value);
                }
            }
        }
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("penstock/", env!("CARGO_PKG_VERSION"))),
    );
    let mut request = Request::new(Full::new(Bytes::from(form.finish())));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::try_from(&*url).map_err(|_| "auth.oauth2.token_url is not a URL".to_owned())?;
    *request.headers_mut() = headers;
    Ok((request, secrets))
}

fn text<'a>(text: Option<&'a LiveText>, files: &dyn Files) -> Result<Option<Cow<'a, str>>, NoCredentials> {
    text.map(|text| text.text(files)).transpose()
}

/// Both parts are encoded as in a form before they are put together (RFC 6749, 2.3.1).
fn client(id: &str, password: &str) -> String {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    basic(encoded(id), encoded(password))
}

/// What an answer means. 408, 425 and 429 state nothing about the credentials.
fn meaning(status: u16, body: &[u8], after: Option<Duration>, secrets: &[String], had_end: bool) -> Fetched {
    let json: Option<Value> = serde_json::from_slice(body).ok();
    match status {
        200..=299 => match json.as_ref().and_then(|json| token(json, had_end)) {
            Some(token) => token,
            None => without_token(refusal(status, json.as_ref(), &[], secrets), after),
        },
        408 | 425 | 429 => Fetched::Fails { reason: format!("the token endpoint answered {status}"), after },
        400..=499 => Fetched::Refuses(refusal(status, json.as_ref(), body, secrets)),
        _ => Fetched::Fails { reason: format!("the token endpoint answered {status}"), after },
    }
}

/// An answer of success without a token. Some endpoints refuse like that, with an error of the standard's (RFC 6749, 5.2).
fn without_token(refusal: Refusal, after: Option<Duration>) -> Fetched {
    let code = refusal.code.as_str();
    let refuses = code.starts_with("invalid_")
        || ["unauthorized_client", "unsupported_grant_type", "access_denied"].contains(&code);
    if refuses {
        return Fetched::Refuses(refusal);
    }
    let said = if code.starts_with("http_") { String::new() } else { format!(": {code}") };
    Fetched::Fails { reason: format!("the token endpoint's answer has no access token{said}"), after }
}

fn token(json: &Value, had_end: bool) -> Option<Fetched> {
    let text = |key: &str| json.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let access = text("access_token")?.to_owned();
    // Some endpoints write the number as a text.
    let seconds = match json.get("expires_in") {
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.trim().parse::<f64>().ok(),
        _ => None,
    };
    let life = match seconds.filter(|seconds| seconds.is_finite()) {
        Some(seconds) if seconds > 0.0 => Some(Duration::from_secs_f64(seconds.min(LONGEST_LIFE))),
        // The same token again, whose time is over in a moment. An endpoint that has never said more means no end by 0.
        Some(_) => had_end.then_some(NEARLY_OVER),
        None => None,
    };
    Some(Fetched::Token { access, refresh: text("refresh_token").map(str::to_owned), life })
}

/// The endpoint's own words, without the secrets that it was sent.
fn refusal(status: u16, json: Option<&Value>, body: &[u8], secrets: &[String]) -> Refusal {
    let text = |key: &str| json.and_then(|json| json.get(key)).and_then(Value::as_str).map(str::to_owned);
    let code = text("error").or_else(|| text("code")).filter(|code| !code.is_empty());
    let words = text("error_description").or_else(|| text("message")).or_else(|| text("detail"));
    let words = words.unwrap_or_else(|| match &code {
        Some(code) => code.clone(),
        None => String::from_utf8_lossy(body).into_owned(),
    });
    let clean = |text: &str, most: usize| {
        let mut text: String = text.chars().filter(|c| !c.is_control()).collect();
        for secret in secrets.iter().filter(|secret| secret.len() > 3) {
            text = text.replace(secret.as_str(), "…");
        }
        text.trim().chars().take(most).collect::<String>()
    };
    let reason = clean(&words, MOST_WORDS);
    let reason = if reason.is_empty() { format!("the token endpoint answered {status}") } else { reason };
    let code = code.map(|code| clean(&code, MOST_CODE));
    Refusal { status, code: code.unwrap_or_else(|| format!("http_{status}")), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_encoded_before_it_is_put_together() {
        use base64::Engine as _;
        let encoded = base64::prelude::BASE64_STANDARD.encode("a%3Ab+c:%C3%BC%26%2F");
        assert_eq!(client("a:b c", "ü&/"), format!("Basic {encoded}"));
    }

    #[test]
    fn an_answer_is_a_token_a_failure_or_a_refusal() {
        let of = |status: u16, body: &str| match meaning(
            status,
            body.as_bytes(),
            None,
            &["s3cret".to_owned()],
            false,
        ) {
            Fetched::Token { access, refresh, life } => format!("token {access} {refresh:?} {life:?}"),
            Fetched::Fails { reason, .. } => format!("fails: {reason}"),
            Fetched::Refuses(refusal) => format!("refuses {}: {}", refusal.code, refusal.reason),
        };
        for (status, body, meant) in [
            (200, r#"{"access_token": "t", "expires_in": 3600}"#, "token t None Some(3600s)"),
            (
                200,
                r#"{"access_token": "t", "expires_in": "60", "refresh_token": "r"}"#,
                "token t Some(\"r\") Some(60s)",
            ),
            (200, r#"{"access_token": "t"}"#, "token t None None"),
            (200, r#"{"access_token": "t", "expires_in": 0}"#, "token t None None"),
            (200, r#"{"error": "invalid_code"}"#, "refuses invalid_code: invalid_code"),
            (
                200,
                r#"{"ok": false, "error": "ratelimited"}"#,
                "fails: the token endpoint's answer has no access token: ratelimited",
            ),
            (200, r#"{"access_token": ""}"#, "fails: the token endpoint's answer has no access token"),
            (200, "<html>", "fails: the token endpoint's answer has no access token"),
            (302, "", "fails: the token endpoint answered 302"),
            (429, "", "fails: the token endpoint answered 429"),
            (503, "", "fails: the token endpoint answered 503"),
            (400, r#"{"error": "invalid_grant"}"#, "refuses invalid_grant: invalid_grant"),
            (
                401,
                r#"{"error": "invalid_client", "error_description": "secret s3cret\nis wrong"}"#,
                "refuses invalid_client: secret …is wrong",
            ),
            (403, "no", "refuses http_403: no"),
            (401, "", "refuses http_401: the token endpoint answered 401"),
        ] {
            assert_eq!(of(status, body), meant, "{status} {body}");
        }
    }

    #[test]
    fn a_token_of_which_nothing_is_left_ends_where_tokens_have_an_end() {
        for (had_end, expected) in [(true, Some(NEARLY_OVER)), (false, None)] {
            for expires_in in ["0", "-5", "\"0\""] {
                let body = format!(r#"{{"access_token": "t", "expires_in": {expires_in}}}"#);
                let Fetched::Token { life, .. } = meaning(200, body.as_bytes(), None, &[], had_end) else {
                    panic!("{body}")
                };
                assert_eq!(life, expected, "{body}");
            }
        }
    }
}

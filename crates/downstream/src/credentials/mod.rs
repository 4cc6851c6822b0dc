//! What shows a dependency who calls it. Values are marked as sensitive: neither logs nor HPACK's tables keep them
//! (RFC 7541, 7.1.3).

mod hmac;
pub mod oauth2;
mod prepared;
mod sigv4;

use std::fmt::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use penstock_domain::pipeline::{Auth, AwsSigV4, Files, LiveText};
use penstock_domain::time::Timestamp;
use url::Url;

use crate::query;

/// Why a request has no credentials: a sentence that holds none.
pub(crate) type NoCredentials = String;

/// Adds what is known before a call: everything but signatures and tokens.
///
/// # Errors
/// When a file cannot be read, or a value cannot stand in a header.
pub(crate) fn add(
    auth: &Auth,
    files: &dyn Files,
    headers: &mut HeaderMap,
    url: &mut Url,
) -> Result<(), NoCredentials> {
    match auth {
        Auth::Basic { username, password } => {
            let value = basic(&*username.text(files)?, &*password.text(files)?);
            headers.insert(header::AUTHORIZATION, secret("auth.basic", &value)?);
        }
        Auth::Bearer(token) => {
            let value = secret("auth.bearer", &format!("Bearer {}", token.text(files)?))?;
            headers.insert(header::AUTHORIZATION, value);
        }
        Auth::KeyHeader { name, value } => {
            let header =
                HeaderName::try_from(name).map_err(|_| format!("the header `{name}` cannot be sent"))?;
            headers.insert(header, secret("auth.api_key", &value.text(files)?)?);
        }
        Auth::KeyQuery { name, value } => {
            query::append(url, [(name, &*value.text(files)?)]);
        }
        // Known when the call is made.
        Auth::OAuth2(_) | Auth::Hmac(_) | Auth::AwsSigV4(_) => {}
    }
    Ok(())
}

/// Signs a request as it is sent now, where its dependency wants signatures.
///
/// # Errors
/// When a file cannot be read, or a value cannot be signed or sent.
pub(crate) fn sign(
    auth: &Auth,
    files: &dyn Files,
    head: &mut Parts,
    body: &[u8],
    now: Timestamp,
) -> Result<(), NoCredentials> {
    match auth {
        Auth::Hmac(auth) => hmac::sign(auth, files, head, body, now),
        Auth::AwsSigV4(auth) => aws_sigv4(auth, files, head, body, now),
        _ => Ok(()),
    }
}

fn aws_sigv4(
    auth: &AwsSigV4,
    files: &dyn Files,
    head: &mut Parts,
    body: &[u8],
    now: Timestamp,
) -> Result<(), NoCredentials> {
    let token = auth.session_token.as_ref().map(|token| token.text(files)).transpose()?;
    let scope = sigv4::Scope {
        service: &auth.service,
        region: &auth.region,
        access_key_id: &auth.access_key_id.text(files)?,
        secret_access_key: &auth.secret_access_key.text(files)?,
        session_token: token.as_deref().filter(|token| !token.is_empty()),
    };
    sigv4::sign(&scope, head, body, now)
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A header of the dependency.
///
/// # Errors
/// When a file cannot be read, or the value cannot stand in a header.
pub(crate) fn add_header(
    name: &str,
    value: &LiveText,
    files: &dyn Files,
    headers: &mut HeaderMap,
) -> Result<(), NoCredentials> {
    let text = value.text(files)?;
    let wrong = || format!("the header `{name}` cannot be sent");
    let value = if value.is_secret() {
        secret(name, &text)?
    } else {
        HeaderValue::try_from(&*text).map_err(|_| wrong())?
    };
    headers.insert(HeaderName::try_from(name).map_err(|_| wrong())?, value);
    Ok(())
}

/// A user and a password as HTTP sends them (RFC 7617, 2).
pub(crate) fn basic(username: impl AsRef<[u8]>, password: impl AsRef<[u8]>) -> String {
    let credentials = [username.as_ref(), b":", password.as_ref()].concat();
    format!("Basic {}", BASE64_STANDARD.encode(credentials))
}

/// A header's value that nothing shows.
pub(crate) fn secret(whose: &str, value: &str) -> Result<HeaderValue, NoCredentials> {
    let mut value = HeaderValue::try_from(value)
        .map_err(|_| format!("{whose} has a character that no header may have, such as a line break"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use penstock_domain::pipeline::NoFiles;

    use super::*;

    fn sent(auth: &Auth) -> (Option<String>, String) {
        let mut headers = HeaderMap::new();
        let mut url = Url::parse("https://api.example/v1?a=b").unwrap();
        add(auth, &NoFiles, &mut headers, &mut url).unwrap();
        let value = headers.values().next();
        assert!(value.is_none_or(HeaderValue::is_sensitive));
        (value.map(|value| value.to_str().unwrap().to_owned()), url.to_string())
    }

    #[test]
    fn each_kind_is_sent_as_its_standard_says() {
        let basic = |username: &str, password: &str| Auth::Basic {
            username: username.into(),
            password: password.into(),
        };
        let url = "https://api.example/v1?a=b".to_owned();
        for (auth, value) in [
            // RFC 7617, 2 and 2.1.
            (basic("Aladdin", "open sesame"), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
            (basic("test", "123£"), "Basic dGVzdDoxMjPCow=="),
            (basic("sk_test", ""), "Basic c2tfdGVzdDo="),
            (Auth::Bearer("mF_9.B5f-4.1JqM".into()), "Bearer mF_9.B5f-4.1JqM"),
            (Auth::KeyHeader { name: "X-Api-Key".into(), value: "k=1&2".into() }, "k=1&2"),
        ] {
            assert_eq!(sent(&auth), (Some(value.to_owned()), url.clone()));
        }
        let key = Auth::KeyQuery { name: "api key".into(), value: "a&b=c +ü".into() };
        assert_eq!(
            sent(&key),
            (None, "https://api.example/v1?a=b&api%20key=a%26b%3Dc%20%2B%C3%BC".to_owned())
        );
    }

    #[test]
    fn a_line_break_is_refused_and_not_shown() {
        let auth = Auth::Bearer("secret\nvalue".into());
        let url = &mut Url::parse("https://api.example").unwrap();
        let error = add(&auth, &NoFiles, &mut HeaderMap::new(), url).unwrap_err();
        assert_eq!(error, "auth.bearer has a character that no header may have, such as a line break");
        assert!(!format!("{auth:?}").contains("secret"));
    }
}

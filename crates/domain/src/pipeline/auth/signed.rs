//! `hmac` and `aws_sigv4`: from the definition to signers.
#![allow(missing_docs, reason = "private to the loader")]

use serde_saphyr::Spanned;

use super::definition::{HmacDefinition, SigV4Definition};
use super::hmac::{Hmac, SigningTemplate};
use super::load::{Reader, optional, text};
use super::{Auth, AwsSigV4};
use crate::pipeline::dependency::check_header;

pub fn hmac(whose: &str, hmac: &HmacDefinition, source: &mut Reader<'_, '_>) -> Option<Auth> {
    let secret = text(&format!("{whose}.secret"), &hmac.secret, source);
    let message = template(&format!("{whose}.message"), &hmac.message, false, source);
    let mut headers = Vec::new();
    for (name, value) in &hmac.headers.value {
        let at = value.referenced.line();
        check_header(whose, name, at, source);
        let value = template(&format!("{whose}.headers.{name}"), value, true, source);
        headers.extend(value.map(|value| (name.clone(), value)));
    }
    if hmac.headers.value.is_empty() {
        source.error(
            hmac.headers.referenced.line(),
            format!("{whose}.headers is empty, so that nothing is sent of the signature"),
        );
    }
    let auth = Hmac { secret: secret?, algorithm: hmac.algorithm, owner: None, message: message?, headers };
    Some(Auth::Hmac(Box::new(auth)))
}

fn template(
    whose: &str,
    written: &Spanned<String>,
    signature: bool,
    source: &mut Reader<'_, '_>,
) -> Option<SigningTemplate> {
    let line = written.referenced.line();
    source.take_left_open();
    // The line break at the end of a YAML block is no part of a header.
    let text = if signature { written.value.trim_end_matches('\n') } else { &written.value };
    let filled = source.fill_template(text, line, false)?;
    if source.take_left_open() {
        return Some(SigningTemplate::Text(String::new()));
    }
    match SigningTemplate::compile(filled, signature, source.reads) {
        Ok(template) => Some(template),
        Err(message) => {
            let at = source.line_of(&written.value, line);
            source.broken(at, format!("{whose}: {message}"));
            None
        }
    }
}

pub fn aws_sigv4(whose: &str, sigv4: &SigV4Definition, source: &mut Reader<'_, '_>) -> Option<Auth> {
    let mut name = |key: &str, value: &Spanned<String>| {
        let at = value.referenced.line();
        let filled = source.fill(&value.value, at)?;
        let open = source.take_left_open();
        let good = filled.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !open && (filled.is_empty() || !good) {
            source.error(at, format!("{whose}.{key} has small letters, digits and `-`, such as `eu-west-1`"));
        }
        Some(filled)
    };
    let service = name("service", &sigv4.service);
    let region = name("region", &sigv4.region);
    let access_key_id = text(&format!("{whose}.access_key_id"), &sigv4.access_key_id, source);
    let secret_access_key = text(&format!("{whose}.secret_access_key"), &sigv4.secret_access_key, source);
    let session_token = optional(&format!("{whose}.session_token"), sigv4.session_token.as_ref(), source);
    Some(Auth::AwsSigV4(Box::new(AwsSigV4 {
        service: service?,
        region: region?,
        access_key_id: access_key_id?,
        secret_access_key: secret_access_key?,
        session_token: session_token?,
    })))
}

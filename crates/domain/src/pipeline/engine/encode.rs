//! Filters that hash, encode and decode: `md5`, `sha1`, `sha256`, `hmac_sha256`, `base64`, `base64decode`, `hex`, `urlencode`,
//! `fromjson`, `uuid`.
//!
//! A hash is shown as hexadecimal digits, which is what most APIs ask for. `base64`, `hex` and the key of `hmac_sha256` take the
//! bytes that it stands for: a hash is a text that the engine marks as safe, and no other filter makes such texts of its length.

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::Md5;
use minijinja::value::ValueKind;
use minijinja::{Environment, Error, State, Value};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::error::refused;
use super::operators::defined;
use super::text::charged;
use super::value::from_json;
use crate::json;

/// All but unreserved characters (RFC 3986, 2.3).
const RESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Reads base64 of both alphabets once `-` and `_` were replaced, with or without padding (RFC 4648, 4 and 5).
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Adds the filters.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.add_filter("md5", |state: &State<'_, '_>, value: &Value| {
        Ok::<_, Error>(hash(&Md5::digest(input(state, value)?)))
    });
    environment.add_filter("sha1", |state: &State<'_, '_>, value: &Value| {
        Ok::<_, Error>(hash(&Sha1::digest(input(state, value)?)))
    });
    environment.add_filter("sha256", |state: &State<'_, '_>, value: &Value| {
        Ok::<_, Error>(hash(&Sha256::digest(input(state, value)?)))
    });
    environment.add_filter("hmac_sha256", hmac_sha256);
    environment.add_filter("base64", |state: &State<'_, '_>, value: &Value| {
        Ok::<_, Error>(Value::from(STANDARD.encode(raw(state, value)?)))
    });
    environment.add_filter("base64decode", base64decode);
    environment.add_filter("hex", |state: &State<'_, '_>, value: &Value| {
        Ok::<_, Error>(Value::from(digits(&raw(state, value)?)))
    });
    environment.add_filter("urlencode", urlencode);
    environment.add_filter("fromjson", fromjson);
    environment.add_filter("uuid", uuid);
}

/// What is hashed: a text, or the text of another value; of bytes the bytes.
fn input(state: &State<'_, '_>, value: &Value) -> Result<Vec<u8>, Error> {
    defined(state, value)?;
    if let (ValueKind::Bytes, Some(bytes)) = (value.kind(), value.as_bytes()) {
        return Ok(bytes.to_vec());
    }
    Ok(charged(state, value)?.into_owned().into_bytes())
}

/// The same; of a hash the bytes that it stands for.
fn raw(state: &State<'_, '_>, value: &Value) -> Result<Vec<u8>, Error> {
    match value.as_str().filter(|_| value.is_safe()).and_then(bytes_of_hash) {
        Some(bytes) => Ok(bytes),
        None => input(state, value),
    }
}

fn hash(bytes: &[u8]) -> Value {
    Value::from_safe_string(digits(bytes))
}

fn digits(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

fn bytes_of_hash(text: &str) -> Option<Vec<u8>> {
    let is_hash = matches!(text.len(), 32 | 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let byte = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    is_hash.then(|| (0..text.len()).step_by(2).map(byte).collect::<Option<_>>())?
}

/// HMAC (RFC 2104) of a text with a key.
fn hmac_sha256(state: &State<'_, '_>, value: &Value, key: &Value) -> Result<Value, Error> {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(&raw(state, key)?).map_err(|_| refused("the key cannot be used"))?;
    mac.update(&input(state, value)?);
    Ok(hash(&mac.finalize().into_bytes()))
}

/// A text, where the bytes are UTF-8; else the bytes, for a file of a multipart body or a text body.
fn base64decode(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    defined(state, value)?;
    let text = charged(state, value)?;
    let text: String = text
        .chars()
        .filter(|c| !c.is_ascii_whitespace())
        .map(|c| match c {
            '-' => '+',
            '_' => '/',
            c => c,
        })
        .collect();
    let bytes = LENIENT.decode(text).map_err(|_| refused("it is not base64"))?;
    Ok(match String::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(error) => Value::from_bytes(error.into_bytes()),
    })
}

/// A text as a part of a URL; a map as a query.
fn urlencode(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    defined(state, value)?;
    if value.kind() != ValueKind::Map {
        return Ok(Value::from(utf8_percent_encode(&charged(state, value)?, &RESERVED).to_string()));
    }
    let mut pairs = Vec::new();
    for key in value.try_iter()? {
        let field = value.get_item(&key)?;
        if field.is_none() || field.is_undefined() {
            continue;
        }
        let (key, field) = (charged(state, &key)?, charged(state, &field)?);
        pairs.push(format!(
            "{}={}",
            utf8_percent_encode(&key, &RESERVED),
            utf8_percent_encode(&field, &RESERVED)
        ));
    }
    Ok(Value::from(pairs.join("&")))
}

/// JSON in a text as a value, with every digit of its numbers.
fn fromjson(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    defined(state, value)?;
    let text = charged(state, value)?;
    let json: serde_json::Value = json::read(text.as_bytes()).map_err(|_| refused("it is not JSON"))?;
    Ok(from_json(&json))
}

/// The UUID of a text in a namespace (RFC 9562, 5.5): the same text has the same UUID.
fn uuid(state: &State<'_, '_>, value: &Value, namespace: Option<&str>) -> Result<Value, Error> {
    let namespace = match namespace {
        None | Some("oid") => Uuid::NAMESPACE_OID,
        Some("url") => Uuid::NAMESPACE_URL,
        Some("dns") => Uuid::NAMESPACE_DNS,
        Some(other) => other.parse().map_err(|_| refused("a namespace is `oid`, `url`, `dns` or a UUID"))?,
    };
    Ok(Value::from(Uuid::new_v5(&namespace, &input(state, value)?).to_string()))
}

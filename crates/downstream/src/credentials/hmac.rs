//! A signature over a message that the definition composes.

use std::collections::BTreeMap;

use hyper::header::HeaderName;
use hyper::http::request::Parts;
use penstock_domain::pipeline::{Files, Hmac, HmacAlgorithm, Signable, SignedHeader};
use penstock_domain::time::Timestamp;
use ring::{digest, hmac};

use super::{NoCredentials, hex, secret};

/// Signs a request as it is sent now.
///
/// # Errors
/// When the secret cannot be read, or a template cannot be applied.
pub(crate) fn sign(
    auth: &Hmac,
    files: &dyn Files,
    head: &mut Parts,
    body: &[u8],
    now: Timestamp,
) -> Result<(), NoCredentials> {
    let mut headers: BTreeMap<String, String> = head
        .headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
        .collect();
    if let Some(authority) = head.uri.authority() {
        headers.entry("host".to_owned()).or_insert_with(|| authority.to_string());
    }
    let request = Signable {
        timestamp: now.millis().div_euclid(1000),
        method: head.method.as_str(),
        path: head.uri.path(),
        query: head.uri.query().unwrap_or_default(),
        headers: &headers,
        body,
        body_sha256: &hex(digest::digest(&digest::SHA256, body).as_ref()),
    };
    let algorithm = match auth.algorithm {
        HmacAlgorithm::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        HmacAlgorithm::Sha256 => hmac::HMAC_SHA256,
        HmacAlgorithm::Sha512 => hmac::HMAC_SHA512,
    };
    let key = hmac::Key::new(algorithm, auth.secret.text(files)?.as_bytes());
    let signature = hmac::sign(&key, &auth.message(&request)?);
    for SignedHeader { name, value, is_signature } in auth.headers(&request, signature.as_ref())? {
        let mut value = secret("auth.hmac.headers", &value)?;
        value.set_sensitive(is_signature);
        let name = HeaderName::try_from(name).map_err(|_| "auth.hmac.headers: a name is wrong".to_owned())?;
        head.headers.insert(name, value);
    }
    Ok(())
}

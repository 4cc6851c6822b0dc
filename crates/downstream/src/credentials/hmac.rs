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
    let key = hmac::Key::new(algorithm, &auth.secret.bytes(files)?);
    let signature = hmac::sign(&key, &auth.message(&request)?);
    for SignedHeader { name, value, is_signature } in auth.headers(&request, signature.as_ref())? {
        let mut value = secret("auth.hmac.headers", &value)?;
        value.set_sensitive(is_signature);
        let name = HeaderName::try_from(name).map_err(|_| "auth.hmac.headers: a name is wrong".to_owned())?;
        head.headers.insert(name, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use penstock_domain::pipeline::{Auth, NoFiles, Pipeline};

    use super::*;

    /// A scheme as clouds have it: a key in base64, and hashes of the body in base64 in what is signed.
    #[test]
    fn a_key_in_base64_signs_and_hashes_are_encoded_by_their_bytes() {
        let text = "name: p\ncsv: { columns: [ { name: id } ] }\ndependencies:\n  api:\n    base_url: \"http://h\"\n    auth:\n      hmac:\n        \
             secret: \"{{ '${KEY}' | base64decode }}\"\n        algorithm: sha256\n        \
             message: \"{{ request.headers['x-hash'] }};{{ request.body | sha256 | base64 }}\"\n        \
             headers: { X-Hash: \"{{ request.body_sha256 | base64 }}\", X-Signature: \"{{ signature | base64 }}\" }\nsteps: []\n";
        let pipeline = Pipeline::load("p.yaml", text, &|_| Some("/wABgA==".into())).expect("a definition");
        let Some(Auth::Hmac(auth)) = &pipeline.dependencies[0].auth else { panic!("{pipeline:?}") };
        let (mut head, ()) = hyper::Request::post("http://h/x").body(()).expect("a request").into_parts();
        sign(auth, &NoFiles, &mut head, b"abc", Timestamp::from_millis(0)).expect("a signature");
        // FIPS 180-4's example, in base64.
        let hash = "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=";
        assert_eq!(head.headers["x-hash"], hash);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[0xFF, 0, 1, 0x80]);
        let signature = hmac::sign(&key, format!("{hash};{hash}").as_bytes());
        let sent = head.headers["x-signature"].to_str().expect("text");
        assert_eq!(sent, base64::prelude::BASE64_STANDARD.encode(signature.as_ref()));
    }
}

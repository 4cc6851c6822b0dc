//! A signed assertion (RFC 7519, RFC 7523).

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use penstock_domain::pipeline::{Claim, Files, Jwt, JwtAlgorithm};
use penstock_domain::time::Timestamp;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::SignatureScheme;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Map, Value, json};

use crate::credentials::{NoCredentials, hex};

/// The assertion for a token that is asked for now.
///
/// # Errors
/// When the key cannot be read, or cannot sign in this way.
pub(super) fn signed(jwt: &Jwt, files: &dyn Files, now: Timestamp) -> Result<String, NoCredentials> {
    let header = json!({ "alg": jwt.algorithm.name(), "typ": "JWT" });
    let issued = now.millis().div_euclid(1000);
    let lifetime = i64::try_from(jwt.lifetime.as_secs()).unwrap_or(i64::MAX);
    let mut id = [0; 16];
    SystemRandom::new().fill(&mut id).map_err(|_| "there are no random numbers".to_owned())?;
    let mut claims = Map::new();
    claims.insert("iss".to_owned(), text(jwt.issuer.text(files)?));
    if let Some(subject) = &jwt.subject {
        claims.insert("sub".to_owned(), text(subject.text(files)?));
    }
    claims.insert("aud".to_owned(), text(jwt.audience.text(files)?));
    claims.insert("iat".to_owned(), json!(issued));
    claims.insert("exp".to_owned(), json!(issued.saturating_add(lifetime)));
    claims.insert("jti".to_owned(), Value::String(hex(&id)));
    for (name, claim) in &jwt.claims {
        let value = match claim {
            Claim::Text(claim) => text(claim.text(files)?),
            Claim::Json(value) => value.clone(),
        };
        claims.insert(name.clone(), value);
    }
    let encoded = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", encoded(&header), encoded(&Value::Object(claims)));
    let signature = sign(jwt.algorithm, &jwt.key.text(files)?, message.as_bytes())?;
    Ok(format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
}

fn text(text: std::borrow::Cow<'_, str>) -> Value {
    Value::String(text.into_owned())
}

/// Signs with a key in PEM, as TLS would: PKCS #8, PKCS #1 or SEC 1.
fn sign(algorithm: JwtAlgorithm, pem: &str, message: &[u8]) -> Result<Vec<u8>, NoCredentials> {
    let wrong = |why: &str| format!("auth.oauth2.jwt.key {why}");
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| wrong("has no private key in PEM (one without a passphrase)"))?;
    let provider =
        CryptoProvider::get_default().ok_or_else(|| wrong("cannot be used: there is no TLS provider"))?;
    let key = provider.key_provider.load_private_key(key).map_err(|_| wrong("cannot be used"))?;
    let (scheme, half) = match algorithm {
        JwtAlgorithm::RS256 => (SignatureScheme::RSA_PKCS1_SHA256, None),
        JwtAlgorithm::RS384 => (SignatureScheme::RSA_PKCS1_SHA384, None),
        JwtAlgorithm::RS512 => (SignatureScheme::RSA_PKCS1_SHA512, None),
        JwtAlgorithm::PS256 => (SignatureScheme::RSA_PSS_SHA256, None),
        JwtAlgorithm::PS384 => (SignatureScheme::RSA_PSS_SHA384, None),
        JwtAlgorithm::PS512 => (SignatureScheme::RSA_PSS_SHA512, None),
        JwtAlgorithm::ES256 => (SignatureScheme::ECDSA_NISTP256_SHA256, Some(32)),
        JwtAlgorithm::ES384 => (SignatureScheme::ECDSA_NISTP384_SHA384, Some(48)),
        JwtAlgorithm::EdDSA => (SignatureScheme::ED25519, None),
    };
    let signer = key
        .choose_scheme(&[scheme])
        .ok_or_else(|| wrong(&format!("is of a kind that cannot sign as {}", algorithm.name())))?;
    let signature = signer.sign(message).map_err(|_| wrong("could not sign"))?;
    match half {
        None => Ok(signature),
        Some(half) => fixed(&signature, half).ok_or_else(|| wrong("made a signature that cannot be read")),
    }
}

/// Two numbers in DER, as TLS has them, side by side, as a JWT has them (RFC 7518, 3.4). `half`: bytes of one.
fn fixed(der: &[u8], half: usize) -> Option<Vec<u8>> {
    let content = der.strip_prefix(&[0x30])?;
    let (length, content) = content.split_first()?;
    // P-384's may have 102 bytes: the short form of a length goes up to 127.
    let mut rest = content.get(..usize::from(*length))?;
    let mut out = Vec::with_capacity(2 * half);
    for _ in 0..2 {
        let (length, number) = rest.strip_prefix(&[0x02])?.split_first()?;
        let (number, behind) = number.split_at_checked(usize::from(*length))?;
        let number = &number[number.iter().take_while(|byte| **byte == 0).count()..];
        out.resize(out.len() + half.checked_sub(number.len())?, 0);
        out.extend_from_slice(number);
        rest = behind;
    }
    rest.is_empty().then_some(out)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use penstock_domain::pipeline::NoFiles;
    use ring::signature::{self, UnparsedPublicKey};

    use super::*;

    fn jwt(algorithm: JwtAlgorithm, key: &str) -> Jwt {
        Jwt {
            issuer: "me".into(),
            subject: Some("user".into()),
            audience: "https://login.example".into(),
            key: key.into(),
            algorithm,
            lifetime: Duration::from_secs(300),
            claims: vec![("scope".into(), Claim::Text("a b".into())), ("n".into(), Claim::Json(json!(1)))],
        }
    }

    #[test]
    fn an_assertion_is_signed_and_says_who_for_whom_and_until_when() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        for (algorithm, kind, verify) in [
            (
                JwtAlgorithm::ES256,
                &rcgen::PKCS_ECDSA_P256_SHA256,
                &signature::ECDSA_P256_SHA256_FIXED as &dyn signature::VerificationAlgorithm,
            ),
            (JwtAlgorithm::ES384, &rcgen::PKCS_ECDSA_P384_SHA384, &signature::ECDSA_P384_SHA384_FIXED),
            (JwtAlgorithm::EdDSA, &rcgen::PKCS_ED25519, &signature::ED25519),
        ] {
            let key = rcgen::KeyPair::generate_for(kind).unwrap();
            for _ in 0..20 {
                let now = Timestamp::from_millis(1_700_000_000_500);
                let token = signed(&jwt(algorithm, &key.serialize_pem()), &NoFiles, now).unwrap();
                let (message, signature) = token.rsplit_once('.').unwrap();
                let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
                UnparsedPublicKey::new(verify, key.public_key_raw())
                    .verify(message.as_bytes(), &signature)
                    .unwrap();
                let claims = BASE64_URL_SAFE_NO_PAD.decode(message.split('.').nth(1).unwrap()).unwrap();
                let mut claims: Value = serde_json::from_slice(&claims).unwrap();
                assert!(claims.as_object_mut().unwrap().remove("jti").unwrap().as_str().unwrap().len() == 32);
                let wanted = json!({ "iss": "me", "sub": "user", "aud": "https://login.example", "iat": 1_700_000_000,
                    "exp": 1_700_000_300, "scope": "a b", "n": 1 });
                assert_eq!(claims, wanted);
            }
        }
        let key = rcgen::KeyPair::generate().unwrap();
        let error =
            signed(&jwt(JwtAlgorithm::RS256, &key.serialize_pem()), &NoFiles, Timestamp::from_millis(0))
                .unwrap_err();
        assert_eq!(error, "auth.oauth2.jwt.key is of a kind that cannot sign as RS256");
    }
}

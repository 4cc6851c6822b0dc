//! ID tokens: signed by the provider, for this client and this sign-in (OpenID Connect Core, 3.1.3.7).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use penstock_console::session::is_token;
use penstock_domain::time::Timestamp;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::Value;

/// Clocks may differ by this, in seconds.
const LEEWAY: f64 = 60.0;

/// Why a token is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Invalid {
    #[error("the ID token is not a signed JSON Web Token")]
    Malformed,
    #[error("the ID token is signed by an algorithm that is not accepted")]
    Algorithm,
    #[error("the ID token is signed with a key that the provider does not have")]
    UnknownKey,
    #[error("the ID token's signature is wrong")]
    Signature,
    #[error("the ID token's claim `{0}` is not what it has to be")]
    Claim(&'static str),
}

/// A public key of the provider (RFC 7517). Parts that its kind does not have are empty.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Key {
    kty: String,
    kid: Option<String>,
    r#use: Option<String>,
    alg: Option<String>,
    crv: String,
    n: String,
    e: String,
    x: String,
    y: String,
}

/// What a token has to say.
pub(super) struct Expected<'a> {
    pub issuer: &'a str,
    pub client: &'a str,
    pub nonce: &'a str,
    pub now: Timestamp,
}

#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
    /// What a reader has to understand; nothing is understood here.
    crit: Option<Value>,
}

/// The claims of a token, once it is verified.
///
/// # Errors
/// When it is not signed by one of these keys, or does not say what is expected.
pub(super) fn claims(token: &str, keys: &[Key], expected: &Expected<'_>) -> Result<Value, Invalid> {
    let (signed, signature) = token.rsplit_once('.').ok_or(Invalid::Malformed)?;
    let (head, payload) = signed.split_once('.').ok_or(Invalid::Malformed)?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Invalid::Malformed);
    let head: Head = serde_json::from_slice(&decode(head)?).map_err(|_| Invalid::Malformed)?;
    if head.crit.is_some() {
        return Err(Invalid::Malformed);
    }
    let kind = kind(&head.alg).ok_or(Invalid::Algorithm)?;
    let signature = decode(signature)?;
    let mut fitting = keys.iter().filter(|key| key.fits(&head, kind)).peekable();
    if fitting.peek().is_none() {
        return Err(Invalid::UnknownKey);
    }
    if !fitting.any(|key| key.verifies(&head.alg, signed.as_bytes(), &signature)) {
        return Err(Invalid::Signature);
    }
    let claims: Value = serde_json::from_slice(&decode(payload)?).map_err(|_| Invalid::Malformed)?;
    check(&claims, expected).map_err(Invalid::Claim)?;
    Ok(claims)
}

/// The kind of key that an algorithm needs; none for those that are not accepted, `none` and shared secrets among them.
fn kind(alg: &str) -> Option<(&'static str, &'static str)> {
    match alg {
        "RS256" | "RS384" | "RS512" | "PS256" | "PS384" | "PS512" => Some(("RSA", "")),
        "ES256" => Some(("EC", "P-256")),
        "ES384" => Some(("EC", "P-384")),
        "EdDSA" | "Ed25519" => Some(("OKP", "Ed25519")),
        _ => None,
    }
}

impl Key {
    fn fits(&self, head: &Head, (kty, crv): (&str, &str)) -> bool {
        let named = head.kid.is_none() || self.kid.is_none() || head.kid == self.kid;
        let signs = self.r#use.as_deref().is_none_or(|r#use| r#use == "sig");
        let by = self.alg.as_ref().is_none_or(|alg| *alg == head.alg);
        self.kty == kty && (crv.is_empty() || self.crv == crv) && named && signs && by
    }

    fn verifies(&self, alg: &str, signed: &[u8], of_it: &[u8]) -> bool {
        let part = |text: &str| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).unwrap_or_default();
        let rsa = |parameters: &'static signature::RsaParameters| {
            let (n, e) = (part(&self.n), part(&self.e));
            let without_zeros =
                |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<_>>();
            let key = RsaPublicKeyComponents { n: without_zeros(&n), e: without_zeros(&e) };
            key.verify(parameters, signed, of_it).is_ok()
        };
        let point = |size: usize| {
            let mut point = vec![4];
            for coordinate in [part(&self.x), part(&self.y)] {
                point.resize(point.len() + size.saturating_sub(coordinate.len()), 0);
                point.extend(coordinate);
            }
            point
        };
        let ec = |algorithm: &'static dyn signature::VerificationAlgorithm, key: Vec<u8>| {
            UnparsedPublicKey::new(algorithm, key).verify(signed, of_it).is_ok()
        };
        match alg {
            "RS256" => rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
            "RS384" => rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
            "RS512" => rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
            "PS256" => rsa(&signature::RSA_PSS_2048_8192_SHA256),
            "PS384" => rsa(&signature::RSA_PSS_2048_8192_SHA384),
            "PS512" => rsa(&signature::RSA_PSS_2048_8192_SHA512),
            "ES256" => ec(&signature::ECDSA_P256_SHA256_FIXED, point(32)),
            "ES384" => ec(&signature::ECDSA_P384_SHA384_FIXED, point(48)),
            _ => ec(&signature::ED25519, part(&self.x)),
        }
    }
}

/// The claim that is not what it has to be.
fn check(claims: &Value, expected: &Expected<'_>) -> Result<(), &'static str> {
    #[allow(clippy::cast_precision_loss, reason = "seconds since 1970 are exact in a double")]
    let now = expected.now.millis() as f64 / 1000.0;
    let holds = |claim: &'static str, good: bool| if good { Ok(()) } else { Err(claim) };
    let is_client = |value: &Value| value.as_str() == Some(expected.client);
    holds("iss", claims["iss"].as_str() == Some(expected.issuer))?;
    let (meant, alone) = match &claims["aud"] {
        Value::Array(all) => (all.iter().any(is_client), all.len() == 1),
        one => (is_client(one), true),
    };
    holds("aud", meant)?;
    // Who is meant among several says `azp`.
    holds("azp", claims.get("azp").map_or(alone, is_client))?;
    holds("exp", claims["exp"].as_f64().is_some_and(|end| now < end + LEEWAY))?;
    holds(
        "nbf",
        claims.get("nbf").is_none_or(|from| from.as_f64().is_some_and(|from| now >= from - LEEWAY)),
    )?;
    holds("nonce", claims["nonce"].as_str().is_some_and(|nonce| is_token(expected.nonce, nonce)))?;
    // It goes into the audit log and the log's lines.
    let is_text = |subject: &str| (1..=255).contains(&subject.len()) && !subject.contains(char::is_control);
    holds("sub", claims["sub"].as_str().is_some_and(is_text))
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
    use serde_json::json;

    use super::*;

    const EXPECTED: Expected<'_> = Expected {
        issuer: "https://id.example.com",
        client: "penstock",
        nonce: "n1",
        now: Timestamp::from_millis(1_000_000_000),
    };

    fn good() -> Value {
        json!({ "iss": "https://id.example.com", "aud": "penstock", "exp": 1_000_300, "nonce": "n1", "sub": "ann" })
    }

    fn encode(value: &Value) -> String {
        URL_SAFE_NO_PAD.encode(value.to_string())
    }

    struct Signer(EcdsaKeyPair);

    impl Signer {
        fn new() -> Self {
            let random = SystemRandom::new();
            let kept = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
            Self(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, kept.as_ref(), &random).unwrap())
        }

        fn key(&self) -> Key {
            let point = self.0.public_key().as_ref();
            let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
            let (kty, crv) = ("EC".to_owned(), "P-256".to_owned());
            Key { kty, crv, kid: Some("k1".into()), x: part(1..33), y: part(33..65), ..Key::default() }
        }

        fn token(&self, head: &Value, claims: &Value) -> String {
            let signed = format!("{}.{}", encode(head), encode(claims));
            let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
        }
    }

    #[test]
    fn a_token_is_good_as_the_provider_signed_it() {
        let signer = Signer::new();
        let (keys, head) = ([signer.key()], json!({ "alg": "ES256", "kid": "k1" }));
        let token = signer.token(&head, &good());
        assert_eq!(claims(&token, &keys, &EXPECTED).unwrap()["sub"], "ann");
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let forged = format!("{}.{}.{signature}", encode(&head), encode(&json!({ "sub": "eve" })));
        assert_eq!(claims(&forged, &keys, &EXPECTED).unwrap_err(), Invalid::Signature);
        let plain = format!("{}.{}.", encode(&json!({ "alg": "none" })), encode(&good()));
        assert_eq!(claims(&plain, &keys, &EXPECTED).unwrap_err(), Invalid::Algorithm);
        for alg in ["HS256", "RS256"] {
            let other = signer.token(&json!({ "alg": alg, "kid": "k1" }), &good());
            assert!(claims(&other, &keys, &EXPECTED).is_err(), "{alg}");
        }
        for head in [json!({ "alg": "ES256", "kid": "k2" }), json!({ "alg": "ES384", "kid": "k1" })] {
            let other = signer.token(&head, &good());
            assert_eq!(claims(&other, &keys, &EXPECTED).unwrap_err(), Invalid::UnknownKey);
        }
        let encrypts = Key { r#use: Some("enc".into()), ..signer.key() };
        assert_eq!(claims(&token, &[encrypts], &EXPECTED).unwrap_err(), Invalid::UnknownKey);
        assert_eq!(claims(&token, &[Signer::new().key()], &EXPECTED).unwrap_err(), Invalid::Signature);
        let critical = signer.token(&json!({ "alg": "ES256", "crit": ["b64"] }), &good());
        for broken in ["", "a.b", "a.b.c", signed, &critical] {
            assert!(claims(broken, &keys, &EXPECTED).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_token_is_for_this_client_and_this_sign_in() {
        let signer = Signer::new();
        let (keys, head) = ([signer.key()], json!({ "alg": "ES256" }));
        let with = |more: Value| {
            let mut all = good();
            for (name, value) in more.as_object().unwrap() {
                all[name] = value.clone();
            }
            claims(&signer.token(&head, &all), &keys, &EXPECTED)
        };
        for (more, claim) in [
            (json!({ "iss": "https://id.example.com/" }), "iss"),
            (json!({ "aud": "other" }), "aud"),
            (json!({ "aud": ["penstock", "other"] }), "azp"),
            (json!({ "aud": ["penstock", "other"], "azp": "other" }), "azp"),
            (json!({ "exp": 999_900 }), "exp"),
            (json!({ "exp": "never" }), "exp"),
            (json!({ "nbf": 1_000_100 }), "nbf"),
            (json!({ "nonce": "n2" }), "nonce"),
            (json!({ "nonce": null }), "nonce"),
            (json!({ "sub": "" }), "sub"),
        ] {
            assert_eq!(with(more.clone()).unwrap_err(), Invalid::Claim(claim), "{more}");
        }
        for more in [
            json!({ "aud": ["penstock"] }),
            json!({ "aud": ["penstock", "other"], "azp": "penstock" }),
            json!({ "exp": 999_950, "nbf": 1_000_050 }),
        ] {
            with(more).unwrap();
        }
    }
}

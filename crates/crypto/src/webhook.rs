//! Signatures after Standard Webhooks
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>): HMAC-SHA256 over
//! `id.timestamp.body`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use ring::rand::SecureRandom;

use crate::OpenError;

const PREFIX: &str = "whsec_";
const SECRET_BYTES: usize = 32;

/// New random secret bytes (256 bits; the specification asks for 192 to 512).
///
/// # Errors
/// When the system gives no random numbers.
pub fn generate_secret(random: &dyn SecureRandom) -> Result<Vec<u8>, OpenError> {
    let mut secret = vec![0; SECRET_BYTES];
    random.fill(&mut secret).map_err(|_| OpenError::NoRandomness)?;
    Ok(secret)
}

/// A secret as receivers are given it: `whsec_…`.
pub fn format_secret(secret: &[u8]) -> String {
    format!("{PREFIX}{}", STANDARD.encode(secret))
}

/// Reads what [`format_secret`] wrote.
pub fn parse_secret(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text.strip_prefix(PREFIX)?).ok()
}

/// One entry of the `webhook-signature` header. `timestamp` is in seconds since the epoch.
pub fn sign(secret: &[u8], id: &str, timestamp: i64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    context.update(format!("{id}.{timestamp}.").as_bytes());
    context.update(body);
    format!("v1,{}", STANDARD.encode(context.sign()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's reference libraries.
    #[test]
    fn the_reference_example_is_signed_alike() {
        let secret = parse_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        assert_eq!(
            sign(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }
}

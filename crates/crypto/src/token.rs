//! Tokens: short texts that the keyring signs (HMAC-SHA256), `<key's name>.<what it says>.<tag>`. Who holds one can read
//! what it says and change none of it. It stays good for as long as its key is in the ring.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;

use crate::aead::{self, KEY_LEN};
use crate::places::encoded;
use crate::{Keyring, OpenError};

impl Keyring {
    /// Signs what a token says under the active key. A token for one purpose is none for another.
    ///
    /// # Errors
    /// When there is no key.
    pub fn sign_token(&self, purpose: &str, payload: &[u8]) -> Result<String, OpenError> {
        let (id, secret) = self.active()?;
        let tag = hmac::sign(&key(secret), &message(purpose, id, payload));
        Ok(format!("{id}.{}.{}", URL_SAFE_NO_PAD.encode(payload), URL_SAFE_NO_PAD.encode(tag)))
    }

    /// What a token of [`Keyring::sign_token`] says. Takes the same time for every wrong tag.
    ///
    /// # Errors
    /// When it is no token, is for another purpose, was changed, or its key is no longer in the ring.
    pub fn read_token(&self, purpose: &str, token: &str) -> Result<Vec<u8>, OpenError> {
        let mut parts = token.split('.');
        let (Some(id), Some(payload), Some(tag), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(OpenError::Malformed);
        };
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| OpenError::Malformed);
        let (payload, tag) = (decode(payload)?, decode(tag)?);
        let key = key(self.secret(id)?);
        hmac::verify(&key, &message(purpose, id, &payload), &tag).map_err(|_| OpenError::Rejected)?;
        Ok(payload)
    }
}

fn key(secret: &[u8; KEY_LEN]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &aead::derive(secret, "token"))
}

fn message(purpose: &str, id: &str, payload: &[u8]) -> Vec<u8> {
    encoded("", &[purpose.as_bytes(), id.as_bytes(), payload])
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::STANDARD;

    /// Keys that begin with a byte of their own, and follow no pattern that a keyring refuses.
    fn keyring(ids: &[(&str, u8)]) -> Keyring {
        let byte = |at: u8, first: u8| at.wrapping_mul(at).wrapping_mul(5).wrapping_add(at ^ first);
        let key =
            |first: u8| STANDARD.encode(std::array::from_fn::<u8, KEY_LEN, _>(|at| byte(at as u8, first)));
        let entries: Vec<String> = ids.iter().map(|(id, first)| format!("{id}:{}", key(*first))).collect();
        Keyring::parse(&entries.join(",")).unwrap()
    }

    #[test]
    fn a_token_outlives_a_rotation_and_not_its_key() {
        let token = keyring(&[("a", 1)]).sign_token("report", b"seven").unwrap();
        assert_eq!(keyring(&[("b", 2), ("a", 1)]).read_token("report", &token).unwrap(), b"seven");
        assert_eq!(keyring(&[("b", 2)]).read_token("report", &token), Err(OpenError::UnknownKey("a".into())));
        assert_eq!(keyring(&[("a", 2)]).read_token("report", &token), Err(OpenError::Rejected));
    }

    #[test]
    fn a_token_is_for_its_purpose_and_says_what_was_signed() {
        let keyring = keyring(&[("a", 1), ("b", 1)]);
        let token = keyring.sign_token("report", b"seven").unwrap();
        assert_eq!(keyring.read_token("upload", &token), Err(OpenError::Rejected));
        let other = keyring.sign_token("report", b"eight").unwrap();
        let (payload, tag) = (other.split('.').nth(1).unwrap(), token.rsplit('.').next().unwrap());
        assert_eq!(keyring.read_token("report", &format!("a.{payload}.{tag}")), Err(OpenError::Rejected));
        assert_eq!(keyring.read_token("report", &token.replacen('a', "b", 1)), Err(OpenError::Rejected));
        for text in ["", "a", "a.b", "..", "a.c2V2ZW4.%", &token[..token.len() - 4], &format!("{token}.x")] {
            assert!(keyring.read_token("report", text).is_err(), "{text}");
        }
    }
}

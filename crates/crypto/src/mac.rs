//! MACs: records that lie in the clear, and that nobody without the keyring can make or change (HMAC-SHA256, RFC 2104).
//!
//! Format: one byte with the length of the key's name, the name, 32 bytes of tag.

use ring::hmac;

use crate::aead::{self, KEY_LEN};
use crate::keyring::small_parts;
use crate::places::encoded;
use crate::{Keyring, OpenError};

impl Keyring {
    /// A MAC of a record's parts under the active key. One for a purpose is none for another.
    ///
    /// # Errors
    /// When there is no key.
    pub fn mac(&self, purpose: &str, parts: &[&[u8]]) -> Result<Vec<u8>, OpenError> {
        let (id, secret) = self.active()?;
        let mut out = vec![u8::try_from(id.len()).map_err(|_| OpenError::Malformed)?];
        out.extend_from_slice(id.as_bytes());
        out.extend_from_slice(hmac::sign(&key(secret, purpose), &encoded("record/", parts)).as_ref());
        Ok(out)
    }

    /// Checks a MAC of [`Keyring::mac`]. Takes the same time for every wrong tag.
    ///
    /// # Errors
    /// When the record is not the one whose MAC it is, or the keyring lacks its key.
    pub fn check_mac(&self, purpose: &str, parts: &[&[u8]], mac: &[u8]) -> Result<(), OpenError> {
        let (id, tag) = small_parts(mac)?;
        let key = key(self.secret(id)?, purpose);
        hmac::verify(&key, &encoded("record/", parts), tag).map_err(|_| OpenError::Rejected)
    }
}

/// A MAC of a record's parts under a secret that outlives the keyring's keys.
pub fn record_mac(secret: &[u8; KEY_LEN], purpose: &str, parts: &[&[u8]]) -> Vec<u8> {
    hmac::sign(&key(secret, purpose), &encoded("record/", parts)).as_ref().to_vec()
}

/// Whether a MAC is the one of [`record_mac`]. Takes the same time for every wrong one.
pub fn check_record_mac(secret: &[u8; KEY_LEN], purpose: &str, parts: &[&[u8]], mac: &[u8]) -> bool {
    hmac::verify(&key(secret, purpose), &encoded("record/", parts), mac).is_ok()
}

fn key(secret: &[u8; KEY_LEN], purpose: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &aead::derive(secret, &format!("mac/{purpose}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "a:WX9EIDV99ywIg2xC6vzpTAJnAdGLt132YsRseUckGJk=";
    const B: &str = "b:/uCJxTJpisAeedm7CqonBAj9fmoHPHj9Lr0ixtwWPvU=";

    #[test]
    fn a_record_is_known_again_until_its_key_leaves_the_keyring() {
        let mac = Keyring::parse(A).unwrap().mac("definition", &[b"one", b"two"]).unwrap();
        let both = Keyring::parse(&format!("{B},{A}")).unwrap();
        assert_eq!(both.check_mac("definition", &[b"one", b"two"], &mac), Ok(()));
        assert_eq!(Keyring::small_key_id(&mac), Ok("a"));
        let gone = Keyring::parse(B).unwrap().check_mac("definition", &[b"one", b"two"], &mac);
        assert_eq!(gone, Err(OpenError::UnknownKey("a".into())));
    }

    #[test]
    fn a_secret_of_its_own_authenticates_as_well() {
        let parts: &[&[u8]] = &[b"one", b"two"];
        let mac = record_mac(&[1; KEY_LEN], "key", parts);
        assert!(check_record_mac(&[1; KEY_LEN], "key", parts, &mac));
        assert!(!check_record_mac(&[2; KEY_LEN], "key", parts, &mac));
        assert!(!check_record_mac(&[1; KEY_LEN], "other", parts, &mac));
        assert!(!check_record_mac(&[1; KEY_LEN], "key", &[b"on", b"etwo"], &mac));
        assert!(!check_record_mac(&[1; KEY_LEN], "key", parts, &[]));
    }

    #[test]
    fn another_record_purpose_or_key_is_refused() {
        let ring = Keyring::parse(A).unwrap();
        let mac = ring.mac("definition", &[b"one", b"two"]).unwrap();
        for parts in
            [&[b"one".as_slice(), b"twp"][..], &[b"onet", b"wo"], &[b"onetwo"], &[b"one", b"two", b""], &[]]
        {
            assert_eq!(ring.check_mac("definition", parts, &mac), Err(OpenError::Rejected), "{parts:?}");
        }
        assert_eq!(ring.check_mac("other", &[b"one", b"two"], &mac), Err(OpenError::Rejected));
        let same_name = Keyring::parse(&B.replace("b:", "a:")).unwrap();
        assert_eq!(same_name.check_mac("definition", &[b"one", b"two"], &mac), Err(OpenError::Rejected));
        for wrong in [&[][..], &[200], &mac[..mac.len() - 1], &mac[..2]] {
            assert!(ring.check_mac("definition", &[b"one", b"two"], wrong).is_err());
        }
        assert_eq!(Keyring::none().mac("definition", &[]), Err(OpenError::NoKey));
    }
}

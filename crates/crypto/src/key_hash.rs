//! Keyed hashes of texts that may be compared and never read: HMAC-SHA256 (RFC 2104) under a key derived for one purpose.

use ring::hmac;

use crate::aead::{self, KEY_LEN};

/// Bytes of a hash.
const HASH_LEN: usize = 32;

/// Hashes for one purpose.
#[derive(Clone)]
pub struct KeyHasher(hmac::Key);

impl KeyHasher {
    /// Under a secret that outlives the keyring's keys. Another purpose has other hashes.
    pub fn new(secret: &[u8; KEY_LEN], purpose: &str) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &aead::derive(secret, purpose)))
    }

    /// The hash of these parts, each of them with its length: no two lists of parts are the same text.
    pub fn hash(&self, parts: &[&[u8]]) -> [u8; HASH_LEN] {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut hash = [0; HASH_LEN];
        hash.copy_from_slice(context.sign().as_ref());
        hash
    }
}

impl std::fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyHasher").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_depends_on_each_part_its_border_the_purpose_and_the_secret() {
        let hasher = KeyHasher::new(&[1; KEY_LEN], "a");
        let hash = hasher.hash(&[b"ab", b"c"]);
        assert_eq!(hash, hasher.clone().hash(&[b"ab", b"c"]));
        for other in [
            hasher.hash(&[b"a", b"bc"]),
            hasher.hash(&[b"ab", b"c", b""]),
            KeyHasher::new(&[1; KEY_LEN], "b").hash(&[b"ab", b"c"]),
            KeyHasher::new(&[2; KEY_LEN], "a").hash(&[b"ab", b"c"]),
        ] {
            assert_ne!(hash, other);
        }
    }
}

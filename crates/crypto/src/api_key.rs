//! API keys: `psk_<id>_<secret>`. The id is public; of the secret only a keyed hash is kept.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use ring::rand::SecureRandom;

use crate::OpenError;

const PREFIX: &str = "psk_";
const ID_LEN: usize = 12;
const SECRET_BYTES: usize = 32;

/// An API key as its owner holds it. Never prints its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    id: String,
    secret: String,
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiKey({})", self.id)
    }
}

impl ApiKey {
    /// A new key with 256 random bits.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn generate(random: &dyn SecureRandom) -> Result<Self, OpenError> {
        let mut id = [0; ID_LEN / 2];
        let mut secret = [0; SECRET_BYTES];
        random.fill(&mut id).and_then(|()| random.fill(&mut secret)).map_err(|_| OpenError::NoRandomness)?;
        let id = id.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { id, secret: URL_SAFE_NO_PAD.encode(secret) })
    }

    /// Reads what a client sends; none when it cannot be a key of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let shaped = id.len() == ID_LEN && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        let shaped = shaped && URL_SAFE_NO_PAD.decode(secret).is_ok_and(|bytes| bytes.len() == SECRET_BYTES);
        shaped.then(|| Self { id: id.to_owned(), secret: secret.to_owned() })
    }

    /// The public part: stands in lists, logs and the audit.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What the owner is shown, once.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}_{}", self.id, self.secret)
    }

    /// SHA-256 of the secret: what its record is authenticated with. It needs no slow hash (as passwords do): 256 random bits
    /// cannot be guessed.
    pub fn hash(&self) -> Vec<u8> {
        digest::digest(&digest::SHA256, self.secret.as_bytes()).as_ref().to_vec()
    }

    /// Whether the key is the one behind a hash that an earlier release stored. Takes the same time for every wrong one.
    pub fn verify(&self, stored: &[u8]) -> bool {
        let hash = self.hash();
        hash.len() == stored.len() && hash.iter().zip(stored).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::rand::SystemRandom;

    #[test]
    fn a_key_is_known_again_by_its_hash_and_shown_by_nothing() {
        let key = ApiKey::generate(&SystemRandom::new()).unwrap();
        let again = ApiKey::parse(&key.reveal()).unwrap();
        assert_eq!(again, key);
        assert!(again.verify(&key.hash()));
        let other = ApiKey::generate(&SystemRandom::new()).unwrap();
        assert!(!other.verify(&key.hash()));
        assert!(!format!("{key:?}").contains(&key.secret));
    }

    #[test]
    fn what_cannot_be_a_key_is_none() {
        for text in ["", "psk_", "psk_abc_def", "sk_0123456789ab_AAAA", "psk_0123456789ab_%%%"] {
            assert_eq!(ApiKey::parse(text), None, "{text}");
        }
    }
}

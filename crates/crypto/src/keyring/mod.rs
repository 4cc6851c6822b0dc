//! The keyring: keys by name, of which the first seals and any opens.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::aead::LessSafeKey;
use ring::hmac;
use ring::rand::SecureRandom;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::OpenError;
use crate::aead::{self, KEY_LEN};
use crate::data_key::DataKey;
use crate::places::encoded;

/// A data key under a key of the keyring, as it was before there were epochs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedKey {
    /// The keyring's key.
    pub key_id: String,
    /// The sealed data key.
    pub bytes: Vec<u8>,
}

/// What is wrong with `PENSTOCK_ENCRYPTION_KEYS`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// There is no key at all.
    #[error("there is no key: give `id:base64`, with 32 bytes from `openssl rand -base64 32`")]
    Empty,
    /// An entry without a colon or a name.
    #[error("entry {0} is not `id:base64`")]
    Shape(usize),
    /// A name with other characters, or over 32 of them.
    #[error("the name of entry {0} may have letters, digits, `-` and `_`, 32 at most")]
    Name(usize),
    /// Not base64, or not 32 bytes.
    #[error("the key `{0}` is not 32 bytes in base64: make one with `openssl rand -base64 32`")]
    Key(String),
    /// Two entries of one name.
    #[error("the key `{0}` is there twice")]
    Duplicate(String),
    /// All zeros, a pattern, a word: not what a random generator gives.
    #[error("the key `{0}` is not random: make one with `openssl rand -base64 32`")]
    NotRandom(String),
}

/// Different bytes that a key has at least. 32 random bytes have fewer than 16 once in 10^15 keys; zeros, repeated words and
/// digits have fewer.
const DISTINCT_BYTES: usize = 16;

/// Whether a random generator may have given this: few bytes are the same, and neither do all of them follow each other at
/// one distance (0, 1, 2, …; 255, 253, 251, …) nor is the second half the first one again or backwards.
fn looks_random(secret: &[u8; KEY_LEN]) -> bool {
    let distinct: HashSet<u8> = secret.iter().copied().collect();
    let distances: HashSet<u8> = secret.windows(2).map(|two| two[1].wrapping_sub(two[0])).collect();
    let (first, second) = secret.split_at(KEY_LEN / 2);
    let repeats = first == second || first.iter().eq(second.iter().rev());
    // Of 31 random distances fewer than 8 differ less often still.
    distinct.len() >= DISTINCT_BYTES && distances.len() >= DISTINCT_BYTES / 2 && !repeats
}

struct Entry {
    id: String,
    secret: Zeroizing<[u8; KEY_LEN]>,
    wrap: LessSafeKey,
    small: LessSafeKey,
}

/// Keys by name. Never prints them.
pub struct Keyring {
    entries: Vec<Entry>,
}

/// The keyring of a running program, which may be replaced while it runs.
#[derive(Debug)]
pub struct CurrentKeyring(RwLock<Arc<Keyring>>);

impl CurrentKeyring {
    /// Begins with this one.
    pub fn new(keyring: Keyring) -> Self {
        Self(RwLock::new(Arc::new(keyring)))
    }

    /// The present one.
    pub fn get(&self) -> Arc<Keyring> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces it.
    pub fn replace(&self, keyring: Arc<Keyring>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = keyring;
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.ids()).finish()
    }
}

impl Keyring {
    /// Reads `id:base64,id:base64`.
    ///
    /// # Errors
    /// A sentence that names the entry and how to fix it, and never shows a key.
    pub fn parse(keys: &str) -> Result<Self, KeyringError> {
        let mut entries: Vec<Entry> = Vec::new();
        let parts = keys.split(',').map(str::trim).filter(|part| !part.is_empty());
        for (index, part) in parts.enumerate() {
            let (id, key) = part.split_once(':').ok_or(KeyringError::Shape(index + 1))?;
            let named = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if id.is_empty() || id.len() > 32 || !id.chars().all(named) {
                return Err(KeyringError::Name(index + 1));
            }
            let bytes = Zeroizing::new(STANDARD.decode(key).map_err(|_| KeyringError::Key(id.to_owned()))?);
            let secret: [u8; KEY_LEN] =
                bytes.as_slice().try_into().map_err(|_| KeyringError::Key(id.to_owned()))?;
            if !looks_random(&secret) {
                return Err(KeyringError::NotRandom(id.to_owned()));
            }
            if entries.iter().any(|entry| entry.id == id) {
                return Err(KeyringError::Duplicate(id.to_owned()));
            }
            entries.push(Entry {
                id: id.to_owned(),
                wrap: aead::cipher(&aead::derive(&secret, "wrap")),
                small: aead::cipher(&aead::derive(&secret, "small")),
                secret: Zeroizing::new(secret),
            });
        }
        if entries.is_empty() { Err(KeyringError::Empty) } else { Ok(Self { entries }) }
    }

    /// Of a program that neither seals nor opens anything: it has no key.
    pub fn none() -> Self {
        Self { entries: Vec::new() }
    }

    /// A new key for a keyring, as `id:base64`.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn new_entry(id: &str, random: &dyn SecureRandom) -> Result<String, OpenError> {
        let mut secret = Zeroizing::new([0; KEY_LEN]);
        random.fill(secret.as_mut()).map_err(|_| OpenError::NoRandomness)?;
        Ok(format!("{id}:{}", STANDARD.encode(secret.as_ref())))
    }

    /// The name of the key that seals; empty when there is none.
    pub fn active_id(&self) -> &str {
        self.entries.first().map_or("", |entry| &entry.id)
    }

    /// All names, the active one first.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.id.as_str())
    }

    /// Whether there is a key of that name.
    pub fn contains(&self, id: &str) -> bool {
        self.entries.iter().any(|entry| entry.id == id)
    }

    /// The name of the key that seals, and the key.
    pub(crate) fn active(&self) -> Result<(&str, &[u8; KEY_LEN]), OpenError> {
        self.first().map(|entry| (entry.id.as_str(), &*entry.secret))
    }

    fn first(&self) -> Result<&Entry, OpenError> {
        self.entries.first().ok_or(OpenError::NoKey)
    }

    /// The key of that name.
    pub(crate) fn secret(&self, id: &str) -> Result<&[u8; KEY_LEN], OpenError> {
        self.entry(id).map(|entry| &*entry.secret)
    }

    fn entry(&self, id: &str) -> Result<&Entry, OpenError> {
        self.entries.iter().find(|entry| entry.id == id).ok_or_else(|| OpenError::UnknownKey(id.to_owned()))
    }

    /// Opens a data key that was wrapped before there were epochs: bound to its batch alone.
    ///
    /// # Errors
    /// When the keyring lacks its key, or it is another batch's.
    pub fn unwrap_earlier(&self, batch: Uuid, wrapped: &WrappedKey) -> Result<DataKey, OpenError> {
        let entry = self.entry(&wrapped.key_id)?;
        let secret = Zeroizing::new(aead::open(&entry.wrap, &wrap_ad(batch, &entry.id), &wrapped.bytes)?);
        DataKey::of(&secret)
    }

    /// Hashes content under a key of the keyring, so that a fingerprint shows nothing to whoever has only the database.
    pub fn fingerprint(&self, id: &str) -> Option<Fingerprinter> {
        let entry = self.entry(id).ok()?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &aead::derive(&entry.secret, "fingerprint"));
        Some(Fingerprinter(hmac::Context::with_key(&key)))
    }

    /// Seals a small secret that belongs to no batch under the active key; the result carries the key's name.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn seal_small(
        &self,
        table: &str,
        row: &str,
        column: &str,
        plain: &[u8],
        random: &dyn SecureRandom,
    ) -> Result<Vec<u8>, OpenError> {
        let entry = self.first()?;
        let mut out = vec![u8::try_from(entry.id.len()).map_err(|_| OpenError::Malformed)?];
        out.extend_from_slice(entry.id.as_bytes());
        aead::seal_into(&entry.small, aead::nonce(random)?, &small_ad(table, row, column), plain, &mut out)?;
        Ok(out)
    }

    /// Opens what [`Keyring::seal_small`] made.
    ///
    /// # Errors
    /// When the keyring lacks its key, or it belongs to another place.
    pub fn open_small(
        &self,
        table: &str,
        row: &str,
        column: &str,
        sealed: &[u8],
    ) -> Result<Vec<u8>, OpenError> {
        let (id, rest) = small_parts(sealed)?;
        aead::open(&self.entry(id)?.small, &small_ad(table, row, column), rest)
    }

    /// Seals the key of something that belongs to no batch.
    ///
    /// # Errors
    /// As [`Keyring::seal_small`].
    pub fn seal_key(
        &self,
        table: &str,
        row: &str,
        key: &DataKey,
        random: &dyn SecureRandom,
    ) -> Result<Vec<u8>, OpenError> {
        self.seal_small(table, row, "key", key.secret(), random)
    }

    /// Opens what [`Keyring::seal_key`] made.
    ///
    /// # Errors
    /// As [`Keyring::open_small`].
    pub fn open_key(&self, table: &str, row: &str, sealed: &[u8]) -> Result<DataKey, OpenError> {
        DataKey::of(&self.open_small(table, row, "key", sealed)?)
    }

    /// The name of the key that sealed a small secret.
    ///
    /// # Errors
    /// When it is none.
    pub fn small_key_id(sealed: &[u8]) -> Result<&str, OpenError> {
        small_parts(sealed).map(|(id, _)| id)
    }
}

/// The name of the key and what is after it.
pub(crate) fn small_parts(sealed: &[u8]) -> Result<(&str, &[u8]), OpenError> {
    let len = usize::from(*sealed.first().ok_or(OpenError::Malformed)?);
    let id = sealed.get(1..=len).ok_or(OpenError::Malformed)?;
    let id = std::str::from_utf8(id).map_err(|_| OpenError::Malformed)?;
    Ok((id, &sealed[1 + len..]))
}

fn wrap_ad(batch: Uuid, key_id: &str) -> Vec<u8> {
    [b"data-key/".as_slice(), batch.as_bytes(), key_id.as_bytes()].concat()
}

fn small_ad(table: &str, row: &str, column: &str) -> Vec<u8> {
    encoded("small/", &[table.as_bytes(), row.as_bytes(), column.as_bytes()])
}

/// A keyed hash (HMAC-SHA256, RFC 2104) of content that comes in pieces.
#[derive(Clone)]
pub struct Fingerprinter(hmac::Context);

impl Fingerprinter {
    /// A hash under a secret of its own.
    pub fn new(secret: &[u8]) -> Self {
        Self(hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret)))
    }

    /// Takes the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all pieces.
    pub fn finish(self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.0.sign().as_ref());
        hash
    }
}

#[cfg(test)]
mod tests;

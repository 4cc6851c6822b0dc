//! AES-256-GCM with random nonces, and the derivation of keys for one purpose each.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use ring::rand::SecureRandom;

use crate::OpenError;

/// Bytes of a key.
pub const KEY_LEN: usize = 32;

/// Bytes that a tag adds.
pub const TAG_LEN: usize = 16;

/// The first byte of every sealed value.
const FORMAT: u8 = 1;

/// What a sealed value is longer than the plain one: format byte, nonce, tag.
pub const OVERHEAD: usize = 1 + NONCE_LEN + TAG_LEN;

struct KeyLen;

impl KeyType for KeyLen {
    fn len(&self) -> usize {
        KEY_LEN
    }
}

/// A key for one purpose, by HKDF-SHA256 (RFC 5869) with the purpose as its info.
pub fn derive(secret: &[u8; KEY_LEN], purpose: &str) -> [u8; KEY_LEN] {
    let mut key = [0; KEY_LEN];
    let info = [b"penstock/".as_slice(), purpose.as_bytes()];
    let filled =
        Salt::new(HKDF_SHA256, &[]).extract(secret).expand(&info, KeyLen).and_then(|okm| okm.fill(&mut key));
    filled.expect("HKDF fills 255 hashes, and this is one");
    key
}

/// The cipher under a key.
pub fn cipher(key: &[u8; KEY_LEN]) -> LessSafeKey {
    // The length is the algorithm's own, so this cannot fail.
    let key = UnboundKey::new(&AES_256_GCM, key).unwrap_or_else(|_| unreachable!("a key of 32 bytes"));
    LessSafeKey::new(key)
}

/// Appends a sealed value: format byte, nonce, ciphertext, tag.
pub fn seal_into(
    cipher: &LessSafeKey,
    nonce: [u8; NONCE_LEN],
    ad: &[u8],
    plain: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), OpenError> {
    out.reserve(OVERHEAD + plain.len());
    out.push(FORMAT);
    out.extend_from_slice(&nonce);
    let at = out.len();
    out.extend_from_slice(plain);
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = cipher
        .seal_in_place_separate_tag(nonce, Aad::from(ad), &mut out[at..])
        .map_err(|_| OpenError::Malformed)?;
    out.extend_from_slice(tag.as_ref());
    Ok(())
}

/// Opens what [`seal_into`] made.
pub fn open(cipher: &LessSafeKey, ad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
    if sealed.len() < OVERHEAD || sealed[0] != FORMAT {
        return Err(OpenError::Malformed);
    }
    let (nonce, rest) = sealed[1..].split_at(NONCE_LEN);
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| OpenError::Malformed)?;
    let mut buffer = rest.to_vec();
    let len = cipher.open_in_place(nonce, Aad::from(ad), &mut buffer).map_err(|_| OpenError::Rejected)?.len();
    buffer.truncate(len);
    Ok(buffer)
}

/// A fresh nonce.
pub fn nonce(random: &dyn SecureRandom) -> Result<[u8; NONCE_LEN], OpenError> {
    let mut nonce = [0; NONCE_LEN];
    random.fill(&mut nonce).map_err(|_| OpenError::NoRandomness)?;
    Ok(nonce)
}

//! A batch's data key: seals its rows, results and receipts, each for its own place.

use std::sync::{Mutex, PoisonError};

use ring::aead::{LessSafeKey, NONCE_LEN};
use ring::rand::{SecureRandom, SystemRandom};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::OpenError;
use crate::aead::{self, KEY_LEN};

/// Nonces are drawn from the system this many at a time: one system call for 256 rows instead of one a row.
const NONCES_AT_ONCE: usize = 256;

/// Where a ciphertext belongs: it opens nowhere else.
#[derive(Clone, Copy, Debug)]
pub struct Ad<'a> {
    /// The table.
    pub table: &'a str,
    /// The batch.
    pub batch: Uuid,
    /// The row's number; 0 for what belongs to the batch as a whole.
    pub row: u32,
    /// The column.
    pub column: &'a str,
}

/// Associated data: lengths before names, so that no two places read alike.
struct EncodedAd {
    bytes: [u8; 128],
    len: usize,
}

impl EncodedAd {
    fn new(ad: Ad<'_>) -> Self {
        let mut encoded = Self { bytes: [0; 128], len: 0 };
        encoded.push(ad.batch.as_bytes());
        encoded.push(&ad.row.to_be_bytes());
        encoded.name(ad.table);
        encoded.name(ad.column);
        encoded
    }

    fn push(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        assert!(end <= self.bytes.len(), "names of tables and columns are short");
        self.bytes[self.len..end].copy_from_slice(bytes);
        self.len = end;
    }

    fn name(&mut self, name: &str) {
        let len = u8::try_from(name.len()).unwrap_or(u8::MAX);
        self.push(&[len]);
        self.push(name.as_bytes());
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A batch's data key, opened. Its bytes are wiped when it goes, and it never prints itself.
pub struct DataKey {
    secret: Zeroizing<[u8; KEY_LEN]>,
    rows: LessSafeKey,
    nonces: Mutex<Nonces>,
}

struct Nonces {
    drawn: [u8; NONCE_LEN * NONCES_AT_ONCE],
    used: usize,
}

impl std::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DataKey(…)")
    }
}

impl DataKey {
    /// The key with these bytes.
    pub(crate) fn new(secret: [u8; KEY_LEN]) -> Self {
        let rows = aead::cipher(&aead::derive(&secret, "rows"));
        let nonces = Nonces { drawn: [0; NONCE_LEN * NONCES_AT_ONCE], used: NONCES_AT_ONCE };
        Self { secret: Zeroizing::new(secret), rows, nonces: Mutex::new(nonces) }
    }

    /// A new key.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn generate(random: &dyn SecureRandom) -> Result<Self, OpenError> {
        let mut secret = Zeroizing::new([0; KEY_LEN]);
        random.fill(secret.as_mut()).map_err(|_| OpenError::NoRandomness)?;
        Ok(Self::new(*secret))
    }

    /// The key that was wrapped.
    pub(crate) fn of(bytes: &[u8]) -> Result<Self, OpenError> {
        bytes.try_into().map(Self::new).map_err(|_| OpenError::Malformed)
    }

    pub(crate) fn secret(&self) -> &[u8; KEY_LEN] {
        &self.secret
    }

    /// The key of the batch's file: streams and values never share nonces under one key.
    pub(crate) fn file_cipher(&self) -> LessSafeKey {
        aead::cipher(&aead::derive(&self.secret, "file"))
    }

    /// Seals a value for its place. 29 bytes longer than the plain one.
    ///
    /// Nonces are random 96-bit numbers: safe for 2^32 values under a key (NIST SP 800-38D, 8.3); a batch has a few
    /// million.
    ///
    /// # Panics
    /// When the system gives no random numbers: going on would reuse a nonce. When `plain` has 64 GiB or more.
    pub fn seal(&self, ad: Ad<'_>, plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(aead::OVERHEAD + plain.len());
        self.seal_into(ad, plain, &mut out);
        out
    }

    /// [`DataKey::seal`], appended to `out`.
    pub fn seal_into(&self, ad: Ad<'_>, plain: &[u8], out: &mut Vec<u8>) {
        let sealed = aead::seal_into(&self.rows, self.nonce(), EncodedAd::new(ad).as_slice(), plain, out);
        sealed.expect("GCM seals less than 64 GiB");
    }

    /// Opens a value from its place.
    ///
    /// # Errors
    /// When it was sealed for another place or under another key, or changed since.
    pub fn open(&self, ad: Ad<'_>, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        aead::open(&self.rows, EncodedAd::new(ad).as_slice(), sealed)
    }

    fn nonce(&self) -> [u8; NONCE_LEN] {
        let mut nonces = self.nonces.lock().unwrap_or_else(PoisonError::into_inner);
        if nonces.used == NONCES_AT_ONCE {
            SystemRandom::new().fill(&mut nonces.drawn).expect("the system gives random numbers");
            nonces.used = 0;
        }
        let at = nonces.used * NONCE_LEN;
        nonces.used += 1;
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&nonces.drawn[at..at + NONCE_LEN]);
        nonce
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> DataKey {
        DataKey::new([7; KEY_LEN])
    }

    fn ad(row: u32, column: &str) -> Ad<'_> {
        Ad { table: "row_data", batch: Uuid::from_u128(1), row, column }
    }

    #[test]
    fn a_value_opens_in_its_place_and_nowhere_else() {
        let key = key();
        let sealed = key.seal(ad(1, "payload"), b"secret");
        assert_eq!(key.open(ad(1, "payload"), &sealed).unwrap(), b"secret");
        for other in [
            ad(2, "payload"),
            ad(1, "result"),
            Ad { batch: Uuid::from_u128(2), ..ad(1, "payload") },
            Ad { table: "row_datap", column: "ayload", ..ad(1, "") },
        ] {
            assert_eq!(key.open(other, &sealed), Err(OpenError::Rejected), "{other:?}");
        }
        assert_eq!(DataKey::new([8; KEY_LEN]).open(ad(1, "payload"), &sealed), Err(OpenError::Rejected));
    }

    #[test]
    fn no_byte_can_change() {
        let key = key();
        let sealed = key.seal(ad(1, "payload"), b"secret");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(key.open(ad(1, "payload"), &changed).is_err(), "byte {at}");
        }
        assert_eq!(key.open(ad(1, "payload"), &sealed[..10]), Err(OpenError::Malformed));
    }

    #[test]
    fn nonces_do_not_repeat_across_a_refill() {
        let key = key();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..3 * NONCES_AT_ONCE {
            assert!(seen.insert(key.nonce()));
        }
    }

    #[test]
    fn the_format_does_not_change_unnoticed() {
        // Sealed once by this code with a fixed nonce: format byte, nonce, ciphertext, tag.
        let mut out = Vec::new();
        aead::seal_into(
            &key().rows,
            [9; NONCE_LEN],
            EncodedAd::new(ad(1, "payload")).as_slice(),
            b"x",
            &mut out,
        )
        .unwrap();
        assert_eq!((out[0], &out[1..13], out.len()), (1, &[9_u8; 12][..], aead::OVERHEAD + 1));
        assert_eq!(key().open(ad(1, "payload"), &out).unwrap(), b"x");
    }

    #[test]
    fn a_key_never_prints_itself() {
        assert_eq!(format!("{:?}", key()), "DataKey(…)");
    }
}

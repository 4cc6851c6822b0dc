//! What lies beside a batch's file: its data key and what was recorded of it, sealed under the installation's own secret for that file
//! alone. With it the batch can be made again in a database that does not know it.

use ring::aead::LessSafeKey;
use ring::rand::SecureRandom;
use zeroize::Zeroizing;

use crate::OpenError;
use crate::aead::{self, KEY_LEN};
use crate::data_key::DataKey;
use crate::places::encoded;

/// Seals and opens manifests.
pub struct ManifestKey(LessSafeKey);

impl std::fmt::Debug for ManifestKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ManifestKey(…)")
    }
}

impl ManifestKey {
    /// Under a secret that outlives the keyring's keys.
    pub fn new(secret: &[u8; KEY_LEN]) -> Self {
        Self(aead::cipher(&aead::derive(secret, "manifest")))
    }

    /// Seals the manifest of a file.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn seal(
        &self,
        file: &str,
        key: &DataKey,
        details: &[u8],
        random: &dyn SecureRandom,
    ) -> Result<Vec<u8>, OpenError> {
        let plain = Zeroizing::new([key.secret().as_slice(), details].concat());
        let mut sealed = Vec::new();
        aead::seal_into(&self.0, aead::nonce(random)?, &place(file), &plain, &mut sealed)?;
        Ok(sealed)
    }

    /// Opens the manifest of a file: the batch's data key, and what was recorded of it.
    ///
    /// # Errors
    /// When it was sealed for another file, under another secret, or changed since.
    pub fn open(&self, file: &str, sealed: &[u8]) -> Result<(DataKey, Vec<u8>), OpenError> {
        let plain = Zeroizing::new(aead::open(&self.0, &place(file), sealed)?);
        let (key, details) = plain.split_at_checked(KEY_LEN).ok_or(OpenError::Malformed)?;
        Ok((DataKey::of(key)?, details.to_vec()))
    }
}

fn place(file: &str) -> Vec<u8> {
    encoded("manifest/", &[file.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::rand::SystemRandom;

    #[test]
    fn a_manifest_opens_beside_its_file_and_nowhere_else() {
        let random = SystemRandom::new();
        let manifests = ManifestKey::new(&[1; KEY_LEN]);
        let key = DataKey::generate(&random).unwrap();
        let sealed = manifests.seal("owners/a/batches/1", &key, b"details", &random).unwrap();
        let (opened, details) = manifests.open("owners/a/batches/1", &sealed).unwrap();
        assert_eq!((opened.secret(), details.as_slice()), (key.secret(), b"details".as_slice()));
        assert_eq!(manifests.open("owners/a/batches/2", &sealed).unwrap_err(), OpenError::Rejected);
        let others = ManifestKey::new(&[2; KEY_LEN]);
        assert_eq!(others.open("owners/a/batches/1", &sealed).unwrap_err(), OpenError::Rejected);
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(manifests.open("owners/a/batches/1", &changed).is_err(), "byte {at}");
        }
        assert!(!sealed.windows(7).any(|part| part == b"details"));
        assert_eq!(format!("{manifests:?}"), "ManifestKey(…)");
    }
}

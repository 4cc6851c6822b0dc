//! Epochs: the keyring seals one key for a time, and that key wraps the data keys of batches. Once live batches are wrapped
//! anew and the epoch's record is dropped, no copy of an erased batch's wrapped key can be opened any more, wherever it lies.

use ring::aead::LessSafeKey;
use ring::rand::SecureRandom;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::aead::{self, KEY_LEN};
use crate::data_key::DataKey;
use crate::places::encoded;
use crate::{Keyring, OpenError};

/// What a data key belongs to. Wrapped for one batch, owner, pipeline and definition, it opens for no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding<'a> {
    /// The batch's public id.
    pub batch: Uuid,
    /// The name of its owner.
    pub owner: &'a str,
    /// The name of its pipeline.
    pub pipeline: &'a str,
    /// The definition that it was uploaded under.
    pub version: Uuid,
}

/// An epoch's key, opened. Its bytes are kept by nobody.
pub struct EpochKey {
    id: i64,
    wrap: LessSafeKey,
}

impl std::fmt::Debug for EpochKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EpochKey({})", self.id)
    }
}

impl Keyring {
    /// A key for a new epoch, sealed under the active key of the keyring.
    ///
    /// # Errors
    /// When there is no key, or the system gives no random numbers.
    pub fn new_epoch(&self, id: i64, random: &dyn SecureRandom) -> Result<Vec<u8>, OpenError> {
        let mut secret = Zeroizing::new([0; KEY_LEN]);
        random.fill(secret.as_mut()).map_err(|_| OpenError::NoRandomness)?;
        self.seal_small("epochs", &id.to_string(), "sealed", secret.as_ref(), random)
    }

    /// Opens an epoch's key.
    ///
    /// # Errors
    /// When the keyring lacks its key, or it is another epoch's.
    pub fn open_epoch(&self, id: i64, sealed: &[u8]) -> Result<EpochKey, OpenError> {
        let secret = Zeroizing::new(self.open_small("epochs", &id.to_string(), "sealed", sealed)?);
        let secret: Zeroizing<[u8; KEY_LEN]> =
            Zeroizing::new(secret.as_slice().try_into().map_err(|_| OpenError::Malformed)?);
        Ok(EpochKey { id, wrap: aead::cipher(&aead::derive(&secret, "epoch")) })
    }
}

impl EpochKey {
    /// Wraps a batch's data key.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn wrap(
        &self,
        binding: Binding<'_>,
        key: &DataKey,
        random: &dyn SecureRandom,
    ) -> Result<Vec<u8>, OpenError> {
        let mut bytes = Vec::new();
        aead::seal_into(&self.wrap, aead::nonce(random)?, &self.ad(binding), key.secret(), &mut bytes)?;
        Ok(bytes)
    }

    /// Opens a batch's data key.
    ///
    /// # Errors
    /// When it was wrapped for another batch, owner, pipeline or definition, or in another epoch.
    pub fn unwrap(&self, binding: Binding<'_>, wrapped: &[u8]) -> Result<DataKey, OpenError> {
        let secret = Zeroizing::new(aead::open(&self.wrap, &self.ad(binding), wrapped)?);
        DataKey::of(&secret)
    }

    fn ad(&self, binding: Binding<'_>) -> Vec<u8> {
        let names = [
            &self.id.to_be_bytes()[..],
            binding.batch.as_bytes(),
            binding.owner.as_bytes(),
            binding.pipeline.as_bytes(),
            binding.version.as_bytes(),
        ];
        encoded("batch-key/", &names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::rand::SystemRandom;

    const KEYS: &str = "a:WX9EIDV99ywIg2xC6vzpTAJnAdGLt132YsRseUckGJk=";

    fn binding() -> Binding<'static> {
        Binding { batch: Uuid::from_u128(1), owner: "acme", pipeline: "invite", version: Uuid::from_u128(2) }
    }

    #[test]
    fn a_data_key_opens_for_what_it_was_wrapped_for_and_nothing_else() {
        let random = SystemRandom::new();
        let keyring = Keyring::parse(KEYS).unwrap();
        let sealed = keyring.new_epoch(7, &random).unwrap();
        let epoch = keyring.open_epoch(7, &sealed).unwrap();
        let key = DataKey::generate(&random).unwrap();
        let wrapped = epoch.wrap(binding(), &key, &random).unwrap();
        assert_eq!(epoch.unwrap(binding(), &wrapped).unwrap().secret(), key.secret());
        for other in [
            Binding { batch: Uuid::from_u128(3), ..binding() },
            Binding { owner: "acm", ..binding() },
            Binding { owner: "acmei", pipeline: "nvite", ..binding() },
            Binding { pipeline: "invit", ..binding() },
            Binding { version: Uuid::from_u128(3), ..binding() },
        ] {
            assert_eq!(epoch.unwrap(other, &wrapped).unwrap_err(), OpenError::Rejected, "{other:?}");
        }
        for at in 0..wrapped.len() {
            let mut changed = wrapped.clone();
            changed[at] ^= 1;
            assert!(epoch.unwrap(binding(), &changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn an_epoch_is_its_own_numbers_and_its_own_key() {
        let random = SystemRandom::new();
        let keyring = Keyring::parse(KEYS).unwrap();
        let sealed = [keyring.new_epoch(1, &random).unwrap(), keyring.new_epoch(2, &random).unwrap()];
        assert_eq!(keyring.open_epoch(2, &sealed[0]).unwrap_err(), OpenError::Rejected);
        let first = keyring.open_epoch(1, &sealed[0]).unwrap();
        let second = keyring.open_epoch(2, &sealed[1]).unwrap();
        let key = DataKey::generate(&random).unwrap();
        let wrapped = first.wrap(binding(), &key, &random).unwrap();
        assert_eq!(second.unwrap(binding(), &wrapped).unwrap_err(), OpenError::Rejected);
        assert_eq!(format!("{first:?}"), "EpochKey(1)");
    }
}

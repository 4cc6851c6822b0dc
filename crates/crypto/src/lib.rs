//! What is sealed, and how: the keyring seals an epoch's key, an epoch's key wraps one data key a batch, and a data key seals
//! the batch's rows and its file.
//!
//! AES-256-GCM throughout (ring). Associated data binds every ciphertext to its place, so that one copied to another
//! row, column or batch does not open. Erasing a wrapped data key makes everything under it unreadable.

mod aead;
pub mod api_key;
mod data_key;
mod epoch;
mod key_hash;
mod key_series;
mod keyring;
mod mac;
mod manifest;
mod places;
mod short_token;
mod stream;
mod token;
pub mod webhook;

pub use api_key::ApiKey;
pub use data_key::{Ad, DataKey};
pub use epoch::{Binding, EpochKey};
pub use key_hash::KeyHasher;
pub use key_series::KeySeries;
pub use keyring::{CurrentKeyring, Fingerprinter, Keyring, KeyringError, WrappedKey};
pub use mac::{check_record_mac, record_mac};
pub use manifest::ManifestKey;
pub use short_token::ShortTokens;
pub use stream::{ChunkPosition, StreamLayout, StreamOpener, StreamSealer};

/// Why a ciphertext cannot be opened (or, rarely, not be made).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The keyring has no key of that name.
    #[error("the keyring has no key `{0}`")]
    UnknownKey(String),
    /// This program has no keyring.
    #[error("this program has no keyring: set PENSTOCK_ENCRYPTION_KEYS")]
    NoKey,
    /// The epoch whose key wrapped it was dropped.
    #[error("its epoch was dropped")]
    EpochDropped,
    /// It has the form of an earlier release, which is no longer taken.
    #[error("it has the form of an earlier release, and the time for taking that over has passed")]
    EarlierForm,
    /// Another key, another place, or changed bytes: the tag does not fit.
    #[error("it was sealed for another place, under another key, or changed since")]
    Rejected,
    /// Too short, or of a format that this program does not know.
    #[error("it is not a ciphertext of a known format")]
    Malformed,
    /// A stream that ends before its last chunk.
    #[error("the stream was cut off")]
    Truncated,
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    NoRandomness,
}

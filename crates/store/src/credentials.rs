//! What calls are authenticated with and definitions do not hold: owners' values, and tokens that endpoints replace. All of it is
//! sealed under the keyring.

use async_trait::async_trait;
use penstock_domain::ids::OwnerSeq;
use penstock_domain::time::Timestamp;
use uuid::Uuid;

use crate::StoreResult;

/// A value of an owner: for example its name at a vendor, or its token there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerValue {
    /// Whose it is.
    pub owner: OwnerSeq,
    /// Whether it is a secret, which is never shown again; otherwise a variable. Each kind has its own names.
    pub secret: bool,
    /// Its name.
    pub name: String,
    /// The value, sealed.
    pub sealed: Vec<u8>,
}

/// Tokens of a dependency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedTokens {
    /// Counts the renewals.
    pub version: i64,
    /// The tokens, sealed; none before the first renewal has ended.
    pub sealed: Option<Vec<u8>>,
}

/// Owners' values and tokens.
#[async_trait]
pub trait Credentials: Send + Sync {
    /// An owner's values, by kind and name.
    async fn owner_values(&self, owner: OwnerSeq) -> StoreResult<Vec<OwnerValue>>;
    /// Everybody's values.
    async fn all_owner_values(&self) -> StoreResult<Vec<OwnerValue>>;
    /// Sets a value, or replaces it.
    async fn set_owner_value(&self, value: &OwnerValue) -> StoreResult<()>;
    /// Replaces a value, provided that what is stored is still `before`; true when it was.
    async fn reseal_owner_value(&self, value: &OwnerValue, before: &[u8]) -> StoreResult<bool>;
    /// Deletes a value; true when it was there.
    async fn unset_owner_value(&self, owner: OwnerSeq, secret: bool, name: &str) -> StoreResult<bool>;
    /// The tokens of that name; none before the first renewal.
    async fn tokens(&self, name: Uuid) -> StoreResult<Option<SealedTokens>>;
    /// Begins a renewal of that version (0: the first), which is one worker's until `until`. False: another one renews it, or it
    /// is renewed already.
    async fn begin_renewal(
        &self,
        name: Uuid,
        version: i64,
        now: Timestamp,
        until: Timestamp,
    ) -> StoreResult<bool>;
    /// Ends a renewal of that version: with new tokens there is a new version. True when that version was still there.
    async fn end_renewal(&self, name: Uuid, version: i64, sealed: Option<&[u8]>) -> StoreResult<bool>;
    /// All sealed tokens by name.
    async fn all_tokens(&self) -> StoreResult<Vec<(Uuid, Vec<u8>)>>;
    /// Replaces tokens by the same under another key, provided that what is stored is still `before`; true when it was.
    async fn reseal_tokens(&self, name: Uuid, before: &[u8], sealed: &[u8]) -> StoreResult<bool>;
}

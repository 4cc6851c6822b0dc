//! Owners, their keys, quotas and secrets.

use async_trait::async_trait;
use penstock_domain::ids::OwnerSeq;
use penstock_domain::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::StoreResult;

/// Whose batches a key may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyRole {
    /// Its owner's.
    Client,
    /// Everybody's, to read; for operators.
    Admin,
}

impl KeyRole {
    /// Its number in the database.
    pub const fn code(self) -> i16 {
        match self {
            Self::Client => 0,
            Self::Admin => 1,
        }
    }

    /// The role with that number.
    pub fn from_code(code: i16) -> Option<Self> {
        [Self::Client, Self::Admin].into_iter().find(|role| role.code() == code)
    }
}

/// An owner: a client of the company that runs Penstock.
#[derive(Clone, Debug, Serialize)]
pub struct Owner {
    /// Its key in SQL.
    #[serde(skip)]
    pub seq: OwnerSeq,
    /// Its name, unique.
    pub name: String,
    /// Rows in flight at the most; none: the service's setting.
    pub rows: Option<u32>,
    /// Its share when a run's cap is short; 1 unless set.
    pub weight: u32,
    /// When it was created.
    pub created_at: Timestamp,
}

/// The sealed secrets that sign an owner's callbacks.
#[derive(Clone, Debug, Default)]
pub struct CallbackSecrets {
    /// Signs, sealed under the keyring.
    pub current: Option<Vec<u8>>,
    /// Signs as well until `previous_until`.
    pub previous: Option<Vec<u8>>,
    /// When the previous one stops to sign.
    pub previous_until: Option<Timestamp>,
}

/// An API key as it is kept: never the secret, only its hash.
#[derive(Clone, Debug, Serialize)]
pub struct ApiKeyRecord {
    /// Public part, shown in lists and logs.
    pub id: String,
    /// The owner's name.
    pub owner: String,
    /// Its key in SQL.
    #[serde(skip)]
    pub owner_seq: OwnerSeq,
    /// What the key may see.
    pub role: KeyRole,
    /// SHA-256 of the secret part.
    #[serde(skip)]
    pub hash: Vec<u8>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

/// Owners and keys.
#[async_trait]
pub trait Owners: Send + Sync {
    /// The owner of that name, created if there is none.
    async fn ensure_owner(&self, name: &str, now: Timestamp) -> StoreResult<Owner>;
    /// All owners, by name.
    async fn owners(&self) -> StoreResult<Vec<Owner>>;
    /// Sets an owner's quota and weight; `None` leaves one as it is, `Some(None)` takes the quota back to the default.
    ///
    /// # Errors
    /// `NotFound` when there is no such owner.
    async fn set_owner(
        &self,
        name: &str,
        rows: Option<Option<u32>>,
        weight: Option<u32>,
    ) -> StoreResult<Owner>;
    /// Stores a new key of an owner.
    async fn create_key(&self, key: &ApiKeyRecord) -> StoreResult<()>;
    /// The key with that public part, revoked ones included.
    async fn key(&self, id: &str) -> StoreResult<Option<ApiKeyRecord>>;
    /// All keys, newest first.
    async fn keys(&self) -> StoreResult<Vec<ApiKeyRecord>>;
    /// Revokes a key; true when this call did it.
    async fn revoke_key(&self, id: &str, now: Timestamp) -> StoreResult<bool>;
    /// Everybody's callback secrets, of owners that have any.
    async fn all_callback_secrets(&self) -> StoreResult<Vec<(OwnerSeq, CallbackSecrets)>>;
    /// The owner's callback secrets.
    async fn callback_secrets(&self, owner: OwnerSeq) -> StoreResult<CallbackSecrets>;
    /// Replaces the callback secrets, provided that `current` is still the one given as `expected`; true when it was.
    async fn set_callback_secrets(
        &self,
        owner: OwnerSeq,
        expected: Option<&[u8]>,
        secrets: &CallbackSecrets,
    ) -> StoreResult<bool>;
}

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

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Read batches, reports, events and callbacks.
    Read,
    /// Upload files.
    Upload,
    /// Command batches: cancel, pause, resume, retry, erase; redeliver callbacks.
    Command,
    /// Read every owner's, and the audit log.
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Read, Self::Upload, Self::Command, Self::Admin];

    const fn bit(self) -> i16 {
        1 << self as i16
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Upload => "upload",
            Self::Command => "command",
            Self::Admin => "admin",
        }
    }
}

/// Several scopes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scopes(i16);

impl Scopes {
    /// Those of a key for which nothing else is asked.
    pub const CLIENT: Self = Self(Scope::Read.bit() | Scope::Upload.bit() | Scope::Command.bit());

    /// Those of their number in the database; none unless there is at least one.
    pub fn from_code(code: i16) -> Option<Self> {
        (1..1 << Scope::ALL.len()).contains(&code).then_some(Self(code))
    }

    /// Their number in the database.
    pub const fn code(self) -> i16 {
        self.0
    }

    /// Whether a scope is among them. Who reads everything reads its own.
    pub const fn allow(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0 || (matches!(scope, Scope::Read) && self.0 & Scope::Admin.bit() != 0)
    }

    /// The same and one more.
    #[must_use]
    pub const fn with(self, scope: Scope) -> Self {
        Self(self.0 | scope.bit())
    }

    /// Whose batches they reach.
    pub const fn role(self) -> KeyRole {
        if self.0 & Scope::Admin.bit() == 0 { KeyRole::Client } else { KeyRole::Admin }
    }

    /// One after another.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.0 & scope.bit() != 0)
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<T: IntoIterator<Item = Scope>>(scopes: T) -> Self {
        scopes.into_iter().fold(Self(0), Self::with)
    }
}

impl Serialize for Scopes {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.iter())
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
    /// Rows in flight at most; none: the service's setting.
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

/// An API key as it is kept: never the secret.
#[derive(Clone, Debug, Serialize)]
pub struct ApiKeyRecord {
    /// Public part, shown in lists and logs.
    pub id: String,
    /// The owner's name.
    pub owner: String,
    /// Its key in SQL.
    #[serde(skip)]
    pub owner_seq: OwnerSeq,
    /// Its name, for people; whose sign-in made it, when one did.
    pub name: Option<String>,
    /// Whether a sign-in to the console made it: nobody has its secret.
    pub sign_in: bool,
    /// What the key may see.
    pub role: KeyRole,
    /// What it may do.
    pub scopes: Scopes,
    /// The pipelines that it may use; none: all.
    pub pipelines: Option<Vec<String>>,
    /// SHA-256 of the secret part, of keys from before there were MACs; otherwise empty.
    #[serde(skip)]
    pub hash: Vec<u8>,
    /// A MAC over the secret's hash and over what the key grants; none before there were any, empty once it is revoked.
    #[serde(skip)]
    pub mac: Option<Vec<u8>>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

impl ApiKeyRecord {
    /// Whether it is neither revoked nor past its end.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }
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
    /// Records that a key was used.
    async fn touch_key(&self, id: &str, now: Timestamp) -> StoreResult<()>;
    /// Authenticates a key from before there were MACs; true when it had none.
    async fn set_key_mac(&self, id: &str, mac: &[u8]) -> StoreResult<bool>;
    /// Revokes a key, and deletes its MAC; true when this call did it.
    async fn revoke_key(&self, id: &str, now: Timestamp) -> StoreResult<bool>;
    /// Deletes the keys of sign-ins that ended before a time. How many.
    async fn delete_sign_ins(&self, ended_before: Timestamp) -> StoreResult<u64>;
    /// Deletes the keys of a person's sign-ins but for the newest, this many. How many it deleted.
    async fn delete_sign_ins_beyond(&self, owner: OwnerSeq, name: &str, newest: u32) -> StoreResult<u64>;
    /// Uses up a ticket that signs in once; false when it was used before, whichever process took it.
    async fn use_ticket(&self, number: &str, ends_at: Timestamp) -> StoreResult<bool>;
    /// Forgets used tickets that have ended. How many.
    async fn drop_tickets(&self, now: Timestamp) -> StoreResult<u64>;
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

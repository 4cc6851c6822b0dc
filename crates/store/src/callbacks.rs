//! The outbox: callbacks written by the transactions that cause them, delivered by workers.

use async_trait::async_trait;
use penstock_domain::ids::{BatchSeq, LeaseToken, OwnerSeq};
use penstock_domain::time::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use crate::StoreResult;

/// Where a callback stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(i16)]
pub enum CallbackStatus {
    /// Waits for its (next) delivery.
    Pending = 0,
    /// The receiver took it.
    Delivered = 1,
    /// The schedule is exhausted.
    Exhausted = 2,
    /// The receiver answered 410 Gone.
    Disabled = 3,
}

impl CallbackStatus {
    /// The number that SQL stores.
    pub const fn code(self) -> i16 {
        self as i16
    }

    /// The state behind a stored number.
    pub fn from_code(code: i16) -> Option<Self> {
        [Self::Pending, Self::Delivered, Self::Exhausted, Self::Disabled]
            .into_iter()
            .find(|s| s.code() == code)
    }
}

/// A callback. `id` is the `webhook-id`: one for (batch, run, event, ordinal), kept by every redelivery.
#[derive(Clone, Debug, Serialize)]
pub struct Callback {
    /// The `webhook-id`.
    pub id: Uuid,
    /// Whose batch.
    #[serde(skip)]
    pub owner: OwnerSeq,
    /// Which batch.
    #[serde(skip)]
    pub batch: BatchSeq,
    /// The event's type.
    pub event: String,
    /// Where it goes.
    pub url: String,
    /// When it happened.
    pub created_at: Timestamp,
    /// The batch at that moment: [`crate::batches::Batch`] in JSON.
    #[serde(skip)]
    pub snapshot: String,
    /// Where it stands.
    pub status: CallbackStatus,
    /// Deliveries tried.
    pub attempts: u16,
    /// When it is tried next.
    pub next_at: Option<Timestamp>,
    /// What the receiver answered last.
    pub last_status: Option<u16>,
    /// Why the last delivery failed.
    pub last_error: Option<String>,
}

/// What came of a delivery.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The callback.
    pub id: Uuid,
    /// The lease it was delivered under.
    pub token: LeaseToken,
    /// Where it stands now.
    pub status: CallbackStatus,
    /// When to try again, while pending.
    pub next_at: Option<Timestamp>,
    /// The answer.
    pub http_status: Option<u16>,
    /// What went wrong.
    pub error: Option<String>,
}

/// The outbox.
#[async_trait]
pub trait Callbacks: Send + Sync {
    /// Takes up to `limit` callbacks that are due under a lease; of one batch the oldest first.
    async fn lease_callbacks(
        &self,
        token: LeaseToken,
        now: Timestamp,
        until: Timestamp,
        limit: u32,
    ) -> StoreResult<Vec<Callback>>;
    /// Writes down what came of a delivery; false when the lease was lost.
    async fn settle_callback(&self, delivery: &Delivery) -> StoreResult<bool>;
    /// Says `batch.delayed` of batches of these pipelines that run now, and have somewhere to send it: once in a run of a
    /// batch, and of so many batches at the most. Of how many it was said.
    async fn say_delayed(&self, pipelines: &[String], limit: u32, now: Timestamp) -> StoreResult<u32>;
    /// An owner's callbacks, newest first; `before` is the last one of the page before.
    async fn callbacks(
        &self,
        owner: Option<OwnerSeq>,
        batch: Option<BatchSeq>,
        before: Option<(Timestamp, Uuid)>,
        limit: u32,
    ) -> StoreResult<Vec<Callback>>;
    /// Sends one again now, whatever became of it; none when it is not this owner's.
    async fn redeliver(
        &self,
        id: Uuid,
        owner: Option<OwnerSeq>,
        now: Timestamp,
    ) -> StoreResult<Option<Callback>>;
}

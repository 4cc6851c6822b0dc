//! The outbox: callbacks written by the transactions that cause them, delivered by workers.

use async_trait::async_trait;
use penstock_domain::ids::{BatchId, BatchSeq, LeaseToken, OwnerSeq};
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
    /// The receiver answered 410 Gone, to this one or to another one of the same address.
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
    /// Which batch, by its key in SQL.
    #[serde(skip)]
    pub seq: BatchSeq,
    /// Which batch.
    pub batch: BatchId,
    /// Which run of it.
    pub run: u32,
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
    /// When it ended.
    pub at: Timestamp,
    /// Where it stands now.
    pub status: CallbackStatus,
    /// When to try again, while pending.
    pub next_at: Option<Timestamp>,
    /// The answer.
    pub http_status: Option<u16>,
    /// What went wrong.
    pub error: Option<String>,
}

/// Where an event of a batch stands among all of its events: what was said at an earlier revision goes before, whatever
/// the clocks of those who said it. `index` counts the events of one transaction.
pub fn position(revision: i64, index: usize) -> i32 {
    const EVENTS_AT_ONCE: i64 = 8;
    let index = i64::try_from(index).unwrap_or(i64::MAX).min(EVENTS_AT_ONCE - 1);
    i32::try_from(revision.saturating_mul(EVENTS_AT_ONCE).saturating_add(index)).unwrap_or(i32::MAX)
}

/// Which callbacks to take, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct CallbackLease {
    /// Its secret.
    pub token: LeaseToken,
    /// Due by now.
    pub now: Timestamp,
    /// When it runs out.
    pub until: Timestamp,
    /// At most so many.
    pub limit: u32,
    /// At most so many of one owner's receiver, with those that are under way already, whoever delivers them.
    pub per_receiver: u32,
    /// At most that many of one owner, with those that are under way already, whoever delivers them.
    pub per_owner: u32,
}

/// The receiver behind a callback's address: the address up to its path.
pub fn receiver_of(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find(['/', '?', '#']).map_or(url.len(), |at| host + at);
    &url[..end]
}

/// The outbox.
#[async_trait]
pub trait Callbacks: Send + Sync {
    /// Takes callbacks that are due. Owners take turns, and so do the receivers of each; first tries go before repeated ones, and of one batch what
    /// happened first goes first. `batch.progress` of a run that has ended is dropped: nothing comes behind `batch.finished`.
    async fn lease_callbacks(&self, lease: &CallbackLease) -> StoreResult<Vec<Callback>>;
    /// Writes down what came of a delivery; false when the lease was lost. An address that is disabled gets nothing more, of
    /// no batch of its owner, until an upload names it again or it takes a redelivery.
    async fn settle_callback(&self, delivery: &Delivery) -> StoreResult<bool>;
    /// Keeps a callback's snapshot, so that each of its deliveries says the same; false when the lease was lost.
    async fn keep_snapshot(&self, id: Uuid, token: LeaseToken, snapshot: &str) -> StoreResult<bool>;
    /// Batches of these pipelines that run now, have somewhere to send `batch.delayed`, and have not said it in this run; so many
    /// at most.
    async fn delay_not_reported(&self, pipelines: &[String], limit: u32) -> StoreResult<Vec<BatchSeq>>;
    /// Says `batch.delayed` of batches that run and have somewhere to send it: once in a run of a batch. Of how many it was said
    /// or had been said.
    async fn report_delay(&self, batches: &[BatchSeq], now: Timestamp) -> StoreResult<u32>;
    /// An owner's callbacks, newest first, without their snapshots; `before` is the last one of the page before.
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

#[cfg(test)]
mod tests {
    use super::receiver_of;

    #[test]
    fn a_receiver_is_an_address_up_to_its_path() {
        for (url, receiver) in [
            ("https://a.example/hook/7?x=1", "https://a.example"),
            ("http://a.example:8080?x", "http://a.example:8080"),
            ("https://a.example", "https://a.example"),
            ("https://[::1]:9/x", "https://[::1]:9"),
        ] {
            assert_eq!(receiver_of(url), receiver);
        }
    }
}

//! Answers that rows have in common: one row asks, the others wait, and what came of it is kept for a while.

use async_trait::async_trait;
use penstock_domain::ids::{BatchSeq, LeaseToken, RowRef};
use penstock_domain::time::Timestamp;

use crate::StoreResult;
use crate::duplicates::KeyHash;

/// A row that wants the answer to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedAnswer {
    /// The key's hash.
    pub key: KeyHash,
    /// Set when only this batch's rows have the answer in common: it is forgotten when the batch is erased.
    pub of_batch: Option<BatchSeq>,
    /// The row, which asks if nobody else does.
    pub row: RowRef,
    /// Names its question from then on.
    pub token: LeaseToken,
    /// Since when it waits for somebody else's; none: it did not wait.
    pub waits_since: Option<Timestamp>,
    /// Whether an answer that is kept cannot be opened, so that another one is needed.
    pub unreadable: bool,
}

/// What is known of a wanted answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundAnswer {
    /// It is kept, sealed, until then.
    Kept {
        /// The sealed answer.
        sealed: Vec<u8>,
        /// When it is over.
        expires_at: Timestamp,
    },
    /// The call that the row has waited for failed for good.
    Failed {
        /// The sealed failure.
        sealed: Vec<u8>,
    },
    /// Nobody has asked: the row does.
    Ask,
    /// Another row has asked.
    Awaited {
        /// When that one is tried again at the earliest, if its call has failed in a way that may pass.
        until: Option<Timestamp>,
    },
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerEnd {
    /// The key's hash.
    pub key: KeyHash,
    /// As for [`WantedAnswer::of_batch`].
    pub of_batch: Option<BatchSeq>,
    /// The row that asked.
    pub row: RowRef,
    /// The name of its question; none: it asked before it was taken up this time.
    pub token: Option<LeaseToken>,
    /// What came of it.
    pub outcome: AnswerOutcome,
}

/// What came of a question, sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerOutcome {
    /// The answer, kept until then.
    Kept {
        /// The sealed answer.
        sealed: Vec<u8>,
        /// When it is over.
        expires_at: Timestamp,
    },
    /// The call failed for good: rows that wait share that.
    Failed {
        /// The sealed failure.
        sealed: Vec<u8>,
        /// When.
        at: Timestamp,
        /// Until when rows that wait find it.
        expires_at: Timestamp,
    },
    /// The row will ask again by itself: others wait for it until then.
    AsksAgain {
        /// Until when.
        until: Timestamp,
    },
    /// The row has not asked: any other one may.
    NotAsked,
}

/// Rows of a batch at a step whose answers are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerCount {
    /// The batch.
    pub batch: BatchSeq,
    /// The step's place in the pipeline, from 0.
    pub step: u16,
    /// Rows that found an answer, or waited for one.
    pub found: u32,
    /// Rows that asked.
    pub asked: u32,
}

/// Answers that rows have in common.
#[async_trait]
pub trait Answers: Send + Sync {
    /// What is known of each wanted answer, in their order. Of several rows that want one nobody has asked for, one asks. A
    /// question is another row's as long as that row is processing, or until the time for which it was to ask again is over.
    async fn find_answers(&self, wanted: &[WantedAnswer], now: Timestamp) -> StoreResult<Vec<FoundAnswer>>;

    /// Records what came of questions. An answer of an erased batch is not kept.
    async fn end_answers(&self, ends: &[AnswerEnd], now: Timestamp) -> StoreResult<()>;

    /// Adds to what is counted; each batch and step once.
    async fn count_answers(&self, counts: &[AnswerCount]) -> StoreResult<()>;

    /// What was counted of a batch, by step.
    async fn answer_counts(&self, batch: BatchSeq) -> StoreResult<Vec<AnswerCount>>;

    /// Forgets up to `limit` answers whose time is over. How many.
    async fn drop_expired_answers(&self, now: Timestamp, limit: u32) -> StoreResult<u64>;
}

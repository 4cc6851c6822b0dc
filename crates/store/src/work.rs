//! Work: claims, leases, receipts and settlements, always in groups.

use async_trait::async_trait;
use penstock_domain::ids::{BatchSeq, LeaseToken, RowRef};
use penstock_domain::row::Receipt;
use penstock_domain::time::Timestamp;

use crate::StoreResult;
use crate::calls::RecordedCall;
use crate::duplicates::CompletedKey;

/// A row under one lease.
pub type Held = (RowRef, LeaseToken);

/// A group of rows that a worker wants.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    /// The rows; those that are not queued are left out, silently.
    pub rows: &'a [RowRef],
    /// The lease they will be held under; one for the whole group.
    pub token: LeaseToken,
    /// Who claims: a process that is [registered](crate::workers::Workers::register_worker). Others claim nothing.
    pub holder: &'a str,
    /// Also take rows that are pending (an operator's `process-row`).
    pub also_pending: bool,
    /// Also take rows that processes died of before: they run alone, and are left out otherwise. A row that two died of is taken
    /// only when it is the only one of the claim: whoever sent for it with others did not know of the second death.
    pub suspects: bool,
}

impl Claim<'_> {
    /// Of how many processes at most it may be known that they died while they held a row, for the row to be taken.
    pub fn most_crashes(&self) -> u16 {
        match (self.suspects, self.rows.len()) {
            (false, _) => 0,
            (true, 0..=1) => u16::MAX,
            (true, _) => 1,
        }
    }
}

/// A row that is now the worker's.
#[derive(Clone, Debug)]
pub struct ClaimedRow {
    /// Which row.
    pub row: RowRef,
    /// Its physical line in the file.
    pub line: u32,
    /// Attempts that failed so far.
    pub attempts: u16,
    /// How many processes died while they held it.
    pub crashes: u16,
    /// When its first attempt of this run began; none: this is it.
    pub first_claimed_at: Option<Timestamp>,
    /// Its record, sealed.
    pub payload: Vec<u8>,
    /// Outputs of the steps that are done, sealed, in order.
    pub receipts: Vec<Receipt>,
    /// The error (with the story of attempts) that an earlier attempt left, sealed.
    pub error: Option<Vec<u8>>,
    /// The bulk call that it was recorded for.
    pub call: Option<RecordedCall>,
    /// Which run of its batch this is: what a worker knows of an earlier run may not hold.
    pub run: u32,
}

/// What a worker found out about a row.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// The row.
    pub row: RowRef,
    /// The lease it is held under.
    pub token: LeaseToken,
    /// What became of it.
    pub outcome: Settled,
}

/// What became of a row.
#[derive(Clone, Debug)]
pub enum Settled {
    /// Every step is done; the result, sealed, unless the pipeline has none.
    Completed {
        /// The sealed result.
        result: Option<Vec<u8>>,
        /// The row's key, of a pipeline whose rows have one.
        key: Option<Box<CompletedKey>>,
    },
    /// It completes without a call, because another batch had completed its key.
    Duplicate {
        /// The [`RowError`](penstock_domain::row::RowError) that says which row that was, sealed.
        error: Vec<u8>,
    },
    /// It ended with an error.
    Failed(RowFailure),
    /// It goes back to pending until `not_before`.
    Requeued {
        /// When it may be released again.
        not_before: Timestamp,
        /// Whether this cost an attempt; waiting for a limit does not.
        attempt: bool,
        /// Why; none when nothing is wrong (a worker drains).
        trouble: Option<RowFailure>,
        /// Outputs of steps done meanwhile.
        receipts: Vec<Receipt>,
        /// When it fails if it is still not done; none: never.
        expires: Option<Expiry>,
        /// Set when the answer holds the row's whole batch.
        hold: Option<Box<BatchHold>>,
        /// Whether it waits for a result: workers bring it back at its time, and no run of the dispatcher does.
        polling: bool,
    },
}

/// An answer that holds a batch: its API refuses the batch, whatever the row.
#[derive(Clone, Debug)]
pub struct BatchHold {
    /// The API's own code, or one of Penstock's; it is stored as it is.
    pub code: String,
    /// The step that was answered so, by name.
    pub step: Option<String>,
    /// The answer's words, sealed.
    pub words: Vec<u8>,
}

/// When a row that is not done fails, and as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// When.
    pub at: Timestamp,
    /// Its code then.
    pub code: &'static str,
}

/// What went wrong, in clear for counting and sealed for reading.
#[derive(Clone, Debug)]
pub struct RowFailure {
    /// See [`penstock_domain::outcome`].
    pub code: String,
    /// The API's own code, which stands in its place in SQL.
    pub api_code: Option<Box<str>>,
    /// The step's place in the pipeline, from 0.
    pub step: Option<u16>,
    /// The answer's HTTP status.
    pub http_status: Option<u16>,
    /// The [`RowError`](penstock_domain::row::RowError), sealed; none leaves an earlier one as it is.
    pub error: Option<Vec<u8>>,
    /// Outputs of steps done in this attempt (only read for failed rows; a requeue has its own).
    pub receipts: Vec<Receipt>,
}

/// What a group of settlements did.
#[derive(Clone, Debug, Default)]
pub struct SettleReport {
    /// Leases that were lost: nothing was written for their rows.
    pub lost: Vec<(RowRef, LeaseToken)>,
    /// Batches that this group finished.
    pub finished: Vec<BatchSeq>,
    /// Batches that this group held, each by the row at this place in it.
    pub held: Vec<(BatchSeq, usize)>,
}

/// A row that is long, or is claimed with long ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LongRow {
    /// The row.
    pub row: RowRef,
    /// The first of the rows asked for that are claimed together with it, since they were recorded for the same bulk call; else itself.
    pub first: RowRef,
    /// What the long ones of all that are claimed together have, in bytes.
    pub bytes: u64,
}

/// Claims, leases, settlements.
#[async_trait]
pub trait Work: Send + Sync {
    /// Claims what of the group is queued, of batches that run. Queued rows of a batch that is paused or held go back
    /// to pending; those of a cancelled one stay as they are. With a row that was recorded for a bulk call its other rows are claimed,
    /// whatever the group names and whenever they are due. While somebody else holds one of them, none is claimed, and those that
    /// were to be are pending for a moment. An operator's claim takes the row alone.
    async fn claim(&self, claim: &Claim<'_>, now: Timestamp) -> StoreResult<Vec<ClaimedRow>>;
    /// Those of the rows that are long, or are claimed together with long ones. A row is long when its sealed payload has more than
    /// `bytes`.
    async fn longer_than(&self, bytes: u64, rows: &[RowRef]) -> StoreResult<Vec<LongRow>>;
    /// Notes, of rows still held, the step that each is about to ask for: one that is called at most once; and saves `receipts`, the
    /// outputs of the same rows' steps before. Tells which rows are held. A row whose process dies behind such a note ends as
    /// `outcome_unknown`; a receipt of the step, or the row's settlement, takes the note away.
    async fn record_intents(
        &self,
        asked: &[(RowRef, LeaseToken, u16)],
        receipts: &[(RowRef, LeaseToken, Receipt)],
    ) -> StoreResult<Vec<Held>>;
    /// Saves outputs of finished steps of rows still held, so that a crash does not call those steps again.
    async fn save_receipts(&self, receipts: &[(RowRef, LeaseToken, Receipt)]) -> StoreResult<()>;
    /// Settles a group: rows, results, errors, counters, finishes and callbacks in one transaction.
    async fn settle(&self, group: &[Settlement], now: Timestamp) -> StoreResult<SettleReport>;
    /// Requeues queued rows that this worker has heard of and will not take (it drains); others are left alone.
    async fn unqueue(&self, rows: &[RowRef], now: Timestamp) -> StoreResult<u32>;
    /// Who holds a row, and until when at the least.
    async fn holder(&self, row: RowRef) -> StoreResult<Option<(String, Timestamp)>>;
}

//! Bulk calls: which rows go together, so that they do again.
//!
//! A call is recorded with all of its rows before it is made, in one transaction. From then on they are claimed together or not at
//! all ([`Work::claim`](crate::work::Work::claim)), until the transaction that settles the call says that it is over.

use async_trait::async_trait;
use penstock_domain::ids::{CallId, LeaseToken, RowRef};
use penstock_domain::row::Receipt;
use penstock_domain::time::Timestamp;

use crate::StoreResult;
use crate::work::{Held, SettleReport, Settlement};

/// A finished step of a row that is held.
pub type HeldReceipt = (RowRef, LeaseToken, Receipt);

/// A call that is about to be made.
#[derive(Clone, Copy, Debug)]
pub struct CallRecord<'a> {
    /// Its name, new for each call.
    pub call: CallId,
    /// Its rows, all of one batch.
    pub rows: &'a [Held],
    /// The step, where a row whose process dies during the call ends as `outcome_unknown`; none: the rows go again.
    pub once: Option<u16>,
    /// Outputs of earlier steps that are not saved yet.
    pub receipts: &'a [HeldReceipt],
}

/// What became of a call's rows.
#[derive(Clone, Copy, Debug)]
pub struct CallEnd<'a> {
    /// Rows that end, or are requeued.
    pub settled: &'a [Settlement],
    /// Rows that go on: the step's output of each.
    pub kept: &'a [HeldReceipt],
    /// Rows that are still held, and may go in other calls from now on: this one was refused as a whole.
    pub freed: &'a [Held],
    /// Whether the call is over, so that its rows may go with others from now on.
    pub over: bool,
}

impl CallEnd<'_> {
    /// All rows that it names.
    pub fn rows(&self) -> impl Iterator<Item = RowRef> {
        let settled = self.settled.iter().map(|one| one.row);
        let kept = self.kept.iter().map(|(row, ..)| *row);
        settled.chain(kept).chain(self.freed.iter().map(|(row, _)| *row))
    }
}

/// The call that a claimed row was recorded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordedCall {
    /// Its name.
    pub call: CallId,
    /// How many rows it was recorded with.
    pub rows: u32,
    /// Whether all of them were claimed with this one. Where not, some have ended, and these cannot go again under its key.
    pub complete: bool,
}

/// Bulk calls.
#[async_trait]
pub trait Calls: Send + Sync {
    /// Records a call before it is made. False: one of its rows is not held any more, nothing was written, and the call may not be
    /// made.
    async fn record_call(&self, record: &CallRecord<'_>) -> StoreResult<bool>;
    /// Settles a call: all of its rows in one transaction, as [`Work::settle`](crate::work::Work::settle) does.
    async fn settle_call(&self, end: &CallEnd<'_>, now: Timestamp) -> StoreResult<SettleReport>;
}

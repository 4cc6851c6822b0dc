//! What a group of settlements means, before any engine writes it: both engines write the same columns.

use std::collections::{BTreeMap, HashSet};

use penstock_domain::ids::{LeaseToken, RowRef};
use penstock_domain::ledger::{Event, Hold, Tally};
use penstock_domain::outcome::code;
use penstock_domain::row::{Receipt, RowStatus};
use penstock_domain::time::Timestamp;

use crate::StoreResult;
use crate::batches::Batch;
use crate::error::overdrawn;
use crate::work::{BatchHold, Expiry, Held, RowFailure, SettleReport, Settled, Settlement};

/// A row's new state, column by column. It is written only where the row is still held under the token.
#[derive(Clone, Copy, Debug)]
pub struct Move<'a> {
    /// The row.
    pub row: RowRef,
    /// The lease it is held under.
    pub token: LeaseToken,
    /// Where it goes.
    pub status: RowStatus,
    /// Whether it costs an attempt.
    pub attempt: bool,
    /// When it may be released again.
    pub not_before: Option<Timestamp>,
    /// When it fails while it waits.
    pub expires: Option<Expiry>,
    /// The step that went wrong.
    pub step: Option<u16>,
    /// What went wrong.
    pub code: Option<&'a str>,
    /// With which HTTP status.
    pub http_status: Option<u16>,
    /// Whether a later claim has to read errors or receipts.
    pub has_output: bool,
    /// Whether it waits for a result.
    pub polling: bool,
}

impl RowFailure {
    /// The code that clients see: the API's own, where there is one.
    pub fn shown_code(&self) -> &str {
        self.api_code.as_deref().unwrap_or(&self.code)
    }
}

impl Settlement {
    /// The row, and the lease under which it was.
    pub fn held(&self) -> Held {
        (self.row, self.token)
    }

    /// The row's new state.
    pub fn moved(&self) -> Move<'_> {
        let (status, attempt, not_before, expires, trouble) = match &self.outcome {
            Settled::Completed { .. } | Settled::Duplicate { .. } => {
                (RowStatus::Completed, true, None, None, None)
            }
            Settled::Failed(trouble) => (RowStatus::Failed, true, None, None, Some(trouble)),
            Settled::Requeued { not_before, attempt, trouble, expires, .. } => {
                let not_before = expires.map_or(*not_before, |expires| expires.at.min(*not_before));
                (RowStatus::Pending, *attempt, Some(not_before), *expires, trouble.as_ref())
            }
        };
        let has_output = match &self.outcome {
            Settled::Completed { .. } => false,
            Settled::Failed(_) | Settled::Duplicate { .. } => true,
            Settled::Requeued { receipts, .. } => !receipts.is_empty() || self.error().is_some(),
        };
        Move {
            row: self.row,
            token: self.token,
            status,
            attempt,
            not_before,
            expires,
            step: trouble.and_then(|trouble| trouble.step),
            code: match &self.outcome {
                Settled::Duplicate { .. } => Some(code::DUPLICATE),
                _ => trouble.map(RowFailure::shown_code),
            },
            http_status: trouble.and_then(|trouble| trouble.http_status),
            has_output,
            polling: matches!(self.outcome, Settled::Requeued { polling: true, .. }),
        }
    }

    /// What holds the row's batch.
    pub fn hold(&self) -> Option<&BatchHold> {
        match &self.outcome {
            Settled::Requeued { hold, .. } => hold.as_deref(),
            Settled::Completed { .. } | Settled::Duplicate { .. } | Settled::Failed(_) => None,
        }
    }

    /// The sealed result to keep.
    pub fn result(&self) -> Option<&[u8]> {
        match &self.outcome {
            Settled::Completed { result, .. } => result.as_deref(),
            _ => None,
        }
    }

    /// The sealed error to keep; none leaves an earlier one as it is.
    pub fn error(&self) -> Option<&[u8]> {
        match &self.outcome {
            Settled::Completed { .. } => None,
            Settled::Duplicate { error } => Some(error),
            Settled::Failed(trouble) => trouble.error.as_deref(),
            Settled::Requeued { trouble, .. } => trouble.as_ref()?.error.as_deref(),
        }
    }

    /// The finished steps' outputs to keep.
    pub fn receipts(&self) -> &[Receipt] {
        match &self.outcome {
            Settled::Completed { .. } | Settled::Duplicate { .. } => &[],
            Settled::Failed(trouble) => &trouble.receipts,
            Settled::Requeued { receipts, .. } => receipts,
        }
    }
}

/// A batch that a transaction has locked and moved.
#[derive(Debug)]
pub struct Moved {
    /// As it is to be written.
    pub batch: Batch,
    /// The revision it was read at: what the write is guarded by.
    pub read_revision: i64,
    /// What is to be said in the outbox.
    pub events: Vec<Event>,
}

impl Moved {
    /// A batch as it was read.
    pub fn new(batch: Batch) -> Self {
        Self { read_revision: batch.ledger.revision, batch, events: Vec::new() }
    }

    /// Rows leave `processing`. `first_failed` is the lowest number of those that failed. Whether that finished the batch.
    ///
    /// # Errors
    /// When the ledger does not have so many.
    pub fn settle(&mut self, tally: Tally, first_failed: Option<u32>, now: Timestamp) -> StoreResult<bool> {
        let was_finished = self.batch.ledger.is_finished();
        self.events.extend(self.batch.ledger.settle(tally, now).map_err(overdrawn(self.batch.seq))?);
        if !self.batch.ledger.allow_failures && self.batch.failure_row.is_none() {
            self.batch.failure_row = first_failed;
        }
        Ok(self.batch.ledger.is_finished() && !was_finished)
    }

    /// Rows that waited, `pending` and `queued`, fail; `first_failed` as for [`Moved::settle`].
    ///
    /// # Errors
    /// When the ledger does not have so many.
    pub fn fail_waiting(
        &mut self,
        pending: u32,
        queued: u32,
        first_failed: Option<u32>,
        now: Timestamp,
    ) -> StoreResult<()> {
        let (ledger, overdrawn) = (&mut self.batch.ledger, overdrawn(self.batch.seq));
        ledger.release(0, 0, pending).map_err(&overdrawn)?;
        ledger.claim(pending + queued).map_err(&overdrawn)?;
        self.settle(Tally { failed: pending + queued, ..Tally::default() }, first_failed, now).map(|_| ())
    }

    /// Rows leave `processing` because their process is gone, or let them go: some failed, some are queued again, the others
    /// are pending. `first_failed` is the lowest number of those that failed.
    ///
    /// # Errors
    /// When the ledger does not have so many.
    pub fn take_back(
        &mut self,
        requeued: u32,
        pending: u32,
        failed: u32,
        first_failed: Option<u32>,
        now: Timestamp,
    ) -> StoreResult<()> {
        self.settle(Tally { failed, requeued: requeued + pending, completed: 0 }, first_failed, now)?;
        if requeued > 0 {
            self.batch.ledger.release(0, 0, requeued).map_err(overdrawn(self.batch.seq))?;
        }
        Ok(())
    }

    /// Whether there is anything to write.
    pub fn is_dirty(&self) -> bool {
        self.batch.ledger.revision != self.read_revision || !self.events.is_empty()
    }
}

/// A group in parts in which no row comes twice. A worker that lost a row and claimed it anew may settle both claims in
/// one group; a statement that touches a row twice would not tell which of the two it wrote.
pub fn apart<'a>(group: impl IntoIterator<Item = &'a Settlement>) -> Vec<Vec<&'a Settlement>> {
    let mut parts: Vec<(HashSet<RowRef>, Vec<&Settlement>)> = Vec::new();
    for settlement in group {
        match parts.iter_mut().find(|(rows, _)| !rows.contains(&settlement.row)) {
            Some((rows, part)) => {
                rows.insert(settlement.row);
                part.push(settlement);
            }
            None => parts.push((HashSet::from([settlement.row]), vec![settlement])),
        }
    }
    parts.into_iter().map(|(_, part)| part).collect()
}

/// Moves the ledgers of a group's batches by what was really `held` (and so was moved), and reports.
///
/// # Errors
/// When a ledger does not have what was held.
pub fn account(
    batches: &mut [Moved],
    group: &[Settlement],
    held: &HashSet<Held>,
    now: Timestamp,
) -> StoreResult<SettleReport> {
    let mut report = SettleReport::default();
    let mut tallies: BTreeMap<_, (Tally, Option<u32>)> = BTreeMap::new();
    let mut holds: BTreeMap<_, (usize, &BatchHold)> = BTreeMap::new();
    for (place, settlement) in group.iter().enumerate() {
        if !held.contains(&settlement.held()) {
            report.lost.push(settlement.held());
            continue;
        }
        if let Some(hold) = settlement.hold() {
            holds.entry(settlement.row.batch).or_insert((place, hold));
        }
        let (tally, first_failed) = tallies.entry(settlement.row.batch).or_default();
        match &settlement.outcome {
            Settled::Completed { .. } | Settled::Duplicate { .. } => tally.completed += 1,
            Settled::Failed(_) => {
                tally.failed += 1;
                let number = settlement.row.number;
                *first_failed = Some(first_failed.map_or(number, |first| first.min(number)));
            }
            Settled::Requeued { .. } => tally.requeued += 1,
        }
    }
    for moved in batches {
        let Some((tally, first_failed)) = tallies.remove(&moved.batch.seq) else { continue };
        if moved.settle(tally, first_failed, now)? {
            report.finished.push(moved.batch.seq);
        }
        let Some((place, hold)) = holds.remove(&moved.batch.seq) else { continue };
        let hold = Hold { code: hold.code.clone(), step: hold.step.clone(), since: now };
        if moved.batch.ledger.hold(hold, &mut moved.events) {
            report.held.push((moved.batch.seq, place));
        }
    }
    Ok(report)
}

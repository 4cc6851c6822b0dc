//! The ledger of a batch: its state and counters, and every way in which they move.
//!
//! Both stores lock the batch, read its ledger, let one of these methods decide, and write the result with
//! `WHERE revision = <the one read>`, in the same transaction as the rows. So the rules stand here once: no
//! service can differ, and a model checker can walk the very code that runs (promises 4 and 5).

mod command;
mod event;
mod extraction;
mod hold;
mod rows;
mod rules;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use command::{Refusal, RetryScope};
pub use event::Event;
pub use hold::Hold;
pub use rows::{Overdrawn, Tally};
pub use rules::PROGRESS_EVERY;

use crate::batch::{BatchStatus, Counts, Outcome};
use crate::ids::RowNumber;
use crate::row::RowStatus;
use crate::time::Timestamp;

/// The trial that a batch has to pass before all of it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct Canary {
    /// How many rows run first.
    pub rows: u32,
    /// The highest share of failed rows, in hundredths of a percent.
    pub max_failure_bp: u16,
    /// After the trial the same ceiling holds once this many rows are terminal; none: no ceiling afterwards.
    pub stop_after: Option<u32>,
}

/// State, flags, counters and cursors of one batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct Ledger {
    /// Where the batch stands.
    pub status: BatchStatus,
    /// How it went, once it has ended.
    pub outcome: Option<Outcome>,
    /// Whether rows go on after one has failed.
    pub allow_failures: bool,
    /// Whether a person stopped the release of rows.
    pub paused: bool,
    /// Whether the canary or an answer stopped it.
    pub held: bool,
    /// The answer that holds it; none when it is not held, or by its canary.
    #[serde(default)]
    pub hold: Option<Hold>,
    /// How often answers have held it: numbers the callbacks of a run.
    #[serde(default)]
    pub holds: u32,
    /// The trial still to be passed, or the ceiling that stays.
    pub canary: Option<Canary>,
    /// Whether the trial was passed (or waved through by `resume`).
    pub canary_passed: bool,
    /// The counters.
    pub counts: Counts,
    /// Which run of the batch this is, from 1.
    pub run: u32,
    /// Whether every row is in SQL and the total is final.
    pub extracted: bool,
    /// The first number that was never released: rows from here to `release_end` have no state of their own.
    pub next_number: RowNumber,
    /// One past the last number that may be released.
    pub release_end: RowNumber,
    /// The run in which `batch.row_failed_first` was last reported.
    pub failure_said_run: u32,
    /// The percentage last reported by `batch.progress`, or reached when a retry took rows back.
    pub progress_said: u8,
    /// When it was reported.
    pub progress_said_at: Option<Timestamp>,
    /// When a worker first took the batch up.
    pub started_at: Option<Timestamp>,
    /// When this run ended.
    pub finished_at: Option<Timestamp>,
    /// When somebody cancelled it.
    pub cancelled_at: Option<Timestamp>,
    /// Counts every change; the id of a server-sent event, and the guard of every write.
    pub revision: i64,
}

impl Ledger {
    /// The ledger of a new batch. `rows` is what the upload counted; none when nobody has read the file yet.
    pub fn new(rows: Option<u32>, allow_failures: bool, canary: Option<Canary>) -> Self {
        let total = rows.unwrap_or(0);
        Self {
            status: BatchStatus::Pending,
            outcome: None,
            allow_failures,
            paused: false,
            held: false,
            hold: None,
            holds: 0,
            canary,
            canary_passed: canary.is_none(),
            counts: Counts { total, pending: total, ..Counts::default() },
            run: 1,
            extracted: false,
            next_number: 1,
            release_end: 1,
            failure_said_run: 0,
            progress_said: 0,
            progress_said_at: None,
            started_at: None,
            finished_at: None,
            cancelled_at: None,
            revision: 1,
        }
    }

    /// Whether this run has ended.
    pub fn is_finished(&self) -> bool {
        self.status.is_terminal()
    }

    /// Percent done, floored; see [`Counts::progress`]. Never falls within a run, also when a retry takes failed rows
    /// back while others still run.
    pub fn progress(&self) -> u8 {
        let now = self.counts.progress(self.is_finished());
        if self.is_finished() { now } else { now.max(self.progress_said) }
    }

    /// Whether queued rows may be claimed.
    pub fn claimable(&self) -> bool {
        self.status == BatchStatus::Queued && !self.paused && !self.held && self.cancelled_at.is_none()
    }

    /// How many rows that were never released may be released now: all, or what is left of the canary.
    pub fn fresh(&self) -> u32 {
        if !self.claimable() {
            return 0;
        }
        let end = match self.canary {
            Some(canary) if !self.canary_passed => self.release_end.min(canary.rows.saturating_add(1)),
            _ => self.release_end,
        };
        end.saturating_sub(self.next_number)
    }

    /// How many pending rows have a state of their own: they were released before and came back.
    pub fn returned(&self) -> u32 {
        if self.cancelled_at.is_some() || !self.extracted {
            return 0;
        }
        self.counts.pending.saturating_sub(self.release_end.saturating_sub(self.next_number))
    }

    /// The state of row `number`, given what its own record says (none: it was never released).
    pub fn status_of(&self, number: RowNumber, recorded: Option<RowStatus>) -> RowStatus {
        match recorded {
            None if self.cancelled_at.is_some() => RowStatus::Cancelled,
            None if self.extracted && number >= self.release_end => RowStatus::Cancelled,
            None => RowStatus::Pending,
            Some(RowStatus::Pending | RowStatus::Queued) if self.cancelled_at.is_some() => {
                RowStatus::Cancelled
            }
            Some(status) => status,
        }
    }

    fn touch(&mut self) {
        self.revision += 1;
        debug_assert!(self.counts.add_up(), "{:?}", self.counts);
    }
}

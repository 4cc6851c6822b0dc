//! Transitions of rows: pending, queued, claimed, settled. Each takes rows out of one counter and adds them to others.

use super::{Event, Ledger};
use crate::time::Timestamp;

/// How many rows of one batch a settlement ended, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Completed.
    pub completed: u32,
    /// Failed.
    pub failed: u32,
    /// Back to pending.
    pub requeued: u32,
}

impl Tally {
    /// All of them.
    pub fn rows(self) -> u32 {
        self.completed + self.failed + self.requeued
    }
}

/// More rows would leave a state than are in it: the rows and the ledger contradict each other, and nothing may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rows} rows cannot leave `{state}`, which has {has}")]
pub struct Overdrawn {
    /// The counter.
    pub state: &'static str,
    /// What it counts.
    pub has: u32,
    /// What was to leave.
    pub rows: u32,
}

fn draw(state: &'static str, from: &mut u32, rows: u32) -> Result<(), Overdrawn> {
    *from = from.checked_sub(rows).ok_or(Overdrawn { state, has: *from, rows })?;
    Ok(())
}

impl Ledger {
    /// The dispatcher hands rows to the queue: `fresh` ones from the cursor, which moves over `skipped` more that
    /// were terminal already, and `returned` ones.
    ///
    /// # Errors
    /// When fewer are pending.
    pub fn release(&mut self, fresh: u32, skipped: u32, returned: u32) -> Result<(), Overdrawn> {
        draw("pending", &mut self.counts.pending, fresh + returned)?;
        self.next_number += fresh + skipped;
        self.counts.queued += fresh + returned;
        self.touch();
        Ok(())
    }

    /// Queued rows that no worker will take go back: the queue was lost, the batch was paused, a worker drains.
    ///
    /// # Errors
    /// When fewer are queued, as when the batch was cancelled meanwhile.
    pub fn unqueue(&mut self, rows: u32) -> Result<(), Overdrawn> {
        draw("queued", &mut self.counts.queued, rows)?;
        self.counts.pending += rows;
        self.touch();
        Ok(())
    }

    /// A worker claimed queued rows.
    ///
    /// # Errors
    /// When fewer are queued, as when the batch was cancelled meanwhile.
    pub fn claim(&mut self, rows: u32) -> Result<(), Overdrawn> {
        draw("queued", &mut self.counts.queued, rows)?;
        self.counts.processing += rows;
        self.touch();
        Ok(())
    }

    /// Claimed rows are settled, or their leases ran out (`requeued`).
    ///
    /// # Errors
    /// When fewer are claimed.
    pub fn settle(&mut self, tally: Tally, now: Timestamp) -> Result<Vec<Event>, Overdrawn> {
        let mut events = Vec::new();
        draw("processing", &mut self.counts.processing, tally.rows())?;
        self.counts.completed += tally.completed;
        self.counts.failed += tally.failed;
        if self.cancelled_at.is_some() {
            self.counts.cancelled += tally.requeued;
        } else {
            self.counts.pending += tally.requeued;
        }
        self.note_failures(tally.failed, now, &mut events);
        self.judge_canary(&mut events);
        self.finish_if_done(now, &mut events);
        if !self.is_finished() {
            self.note_progress(now, &mut events);
        }
        self.touch();
        Ok(events)
    }
}

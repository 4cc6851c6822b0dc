//! A batch that is held because of an answer: its API refuses it as a whole, and every further row would be told the same.

use serde::{Deserialize, Serialize};

use super::{Event, Ledger};
use crate::time::Timestamp;

/// Which answer holds a batch. Its words are kept sealed, beside the batch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Hold {
    /// The answer's code: the API's own, or `http_<status>`.
    pub code: String,
    /// The step that was answered so, by name; none when it was not a step's call.
    pub step: Option<String>,
    /// Since when.
    pub since: Timestamp,
}

impl Ledger {
    /// An answer holds the batch: no row of it starts until somebody resumes it; rows in flight end. Nothing changes when it is
    /// held already, has ended or is being cancelled. Whether it is held by this answer from now on.
    pub fn hold(&mut self, hold: Hold, events: &mut Vec<Event>) -> bool {
        if self.held || self.is_finished() || self.cancelled_at.is_some() {
            return false;
        }
        self.held = true;
        self.hold = Some(hold);
        self.holds = self.holds.saturating_add(1);
        events.push(Event::Held);
        self.touch();
        true
    }

    /// Numbers an event among those of its kind in one run.
    pub fn ordinal(&self, event: Event) -> u32 {
        match event {
            Event::Progress => u32::from(self.progress_said),
            Event::Held if self.hold.is_some() => self.holds,
            _ => 0,
        }
    }

    /// Nothing holds it any more.
    pub(super) fn release_hold(&mut self) {
        self.held = false;
        self.hold = None;
    }
}

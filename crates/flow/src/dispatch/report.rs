//! What a run did.

use std::collections::HashMap;

use penstock_domain::ids::OwnerSeq;
use penstock_domain::time::Timestamp;
use penstock_store::dispatch::{OwnerLoad, RunRecord};
use serde::Serialize;

/// What a run did, or would do.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// Whether another run held the lock, so that this one did nothing.
    pub locked_out: bool,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Rows by owner.
    pub owners: Vec<OwnerRelease>,
    /// What is recorded of it.
    pub record: RunRecord,
    /// Where each owner stands in `owners`.
    #[serde(skip)]
    index: HashMap<OwnerSeq, usize>,
}

/// Rows that were released for an owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OwnerRelease {
    /// The owner's name.
    pub owner: String,
    /// Rows released.
    pub rows: u32,
    /// Batches they came from.
    pub batches: u32,
}

impl RunReport {
    /// A run that begins.
    pub(super) fn new(started_at: Timestamp, dry_run: bool) -> Self {
        Self {
            locked_out: false,
            dry_run,
            owners: Vec::new(),
            index: HashMap::new(),
            record: RunRecord { started_at, ..RunRecord::default() },
        }
    }

    /// Adds rows of one batch. Loads differ from pass to pass, so owners are found by their keys.
    pub(super) fn add(&mut self, load: &OwnerLoad, rows: u32) {
        if rows > 0 {
            let index = *self.index.entry(load.owner).or_insert_with(|| {
                self.owners.push(OwnerRelease { owner: load.name.clone(), rows: 0, batches: 0 });
                self.owners.len() - 1
            });
            self.owners[index].rows += rows;
            self.owners[index].batches += 1;
            self.record.rows += rows;
        }
        self.record.owners = u32::try_from(self.owners.len()).unwrap_or(u32::MAX);
    }
}

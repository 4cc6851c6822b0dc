//! Long rows take memory while they are in flight: as they are stored, opened, as values, as a request. They share a budget;
//! a row that does not fit stays in its lane.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use penstock_domain::ids::{BatchSeq, RowRef};
use penstock_store::work::LongRow;

use crate::context::budget::{Budget, Reserved};
use crate::context::error::FlowError;
use crate::context::services::Services;
use crate::worker::batches::BatchWork;

/// Rows of at most this many stored bytes are not weighed: their number is bounded.
const LIGHT: u64 = 32 * 1024;

/// In multiples of its stored bytes, what a row in flight takes.
const COST: u64 = 4;

/// The budget of a worker.
pub(super) struct Weights(Budget);

/// Rows to claim, with the memory that long ones among them hold, and those for which there is none now.
#[derive(Debug, Default)]
pub(super) struct Weighed {
    pub rows: Vec<RowRef>,
    pub held: HashMap<RowRef, Reserved>,
    pub no_room: HashSet<RowRef>,
}

impl Weights {
    /// A budget of this many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        Self(Budget::new(bytes))
    }

    /// Reserves memory for the long ones of some rows. A row longer than everything goes alone.
    pub(super) async fn weigh(
        &self,
        services: &Services,
        works: &HashMap<BatchSeq, Arc<BatchWork>>,
        rows: Vec<RowRef>,
    ) -> Result<Weighed, FlowError> {
        let may_be_long = |row: &&RowRef| works.get(&row.batch).is_some_and(|work| work.file_bytes > LIGHT);
        let asked: Vec<RowRef> = rows.iter().filter(may_be_long).copied().collect();
        if asked.is_empty() {
            return Ok(Weighed { rows, ..Weighed::default() });
        }
        let long = services.store.longer_than(LIGHT, &asked).await?;
        let long: HashMap<RowRef, LongRow> = long.into_iter().map(|one| (one.row, one)).collect();
        let mut weighed = Weighed::default();
        for row in rows {
            if let (Some(long), Some(work)) = (long.get(&row), works.get(&row.batch)) {
                // Rows that are claimed together have memory together, or none of them.
                if weighed.no_room.contains(&long.first) {
                    weighed.no_room.insert(row);
                    continue;
                }
                if !weighed.held.contains_key(&long.first) {
                    let cost = usize::try_from(long.bytes.saturating_mul(COST)).unwrap_or(usize::MAX);
                    let Ok(held) = self.0.reserve(work.owner.seq, cost, Duration::ZERO).await else {
                        weighed.no_room.extend([row, long.first]);
                        continue;
                    };
                    weighed.held.insert(long.first, held);
                }
            }
            weighed.rows.push(row);
        }
        Ok(weighed)
    }
}

//! How many rows the queue's lanes have room for.

use std::collections::HashMap;

use penstock_domain::fair::Share;
use penstock_domain::ids::BatchSeq;
use penstock_queue::{Lane, MAX_BACKLOG, PACKET_ROWS};
use penstock_store::dispatch::OwnerLoad;

/// A lane of the queue in which this many messages wait gets no more rows in this run. What a run adds to a lane still fits
/// above that.
pub const FULL_LANE: u32 = MAX_BACKLOG / 2;

/// The messages that wait in the queue's lanes.
pub(super) struct LaneRoom(pub(super) HashMap<Lane, u64>);

impl LaneRoom {
    /// Whether a pipeline's lane gets no more rows.
    pub(super) fn is_full(&self, pipeline: &str) -> bool {
        self.waiting(pipeline) >= u64::from(FULL_LANE)
    }

    fn waiting(&self, pipeline: &str) -> u64 {
        self.0.get(&Lane::Rows(pipeline.to_owned())).copied().unwrap_or(0)
    }

    /// Rows were released into a lane.
    pub(super) fn take(&mut self, pipeline: &str, rows: u32) {
        let messages = u64::from(rows).div_ceil(PACKET_ROWS as u64);
        *self.0.entry(Lane::Rows(pipeline.to_owned())).or_default() += messages;
    }

    /// Cuts shares of pipelines whose lanes have no room for all of them, each by the same part: rows that the queue would not
    /// take are not released.
    pub(super) fn cut(&self, mut shares: Vec<Share>, loads: &[OwnerLoad]) -> Vec<Share> {
        let pipelines: HashMap<BatchSeq, &str> = loads
            .iter()
            .flat_map(|load| &load.batches)
            .map(|batch| (batch.batch, batch.pipeline.as_str()))
            .collect();
        let mut wanted: HashMap<&str, u64> = HashMap::new();
        for share in &shares {
            *wanted.entry(pipelines[&share.batch]).or_default() += u64::from(share.rows);
        }
        for share in &mut shares {
            let pipeline = pipelines[&share.batch];
            let messages = u64::from(MAX_BACKLOG).saturating_sub(self.waiting(pipeline));
            let (room, wanted) = (messages * PACKET_ROWS as u64, wanted[pipeline]);
            if room < wanted {
                share.rows = u32::try_from(u64::from(share.rows) * room / wanted).unwrap_or(share.rows);
            }
        }
        shares.retain(|share| share.rows > 0);
        shares
    }
}

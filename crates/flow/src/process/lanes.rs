//! Rows that this worker has heard of and not yet claimed: one lane for each pipeline, turns for owners in a lane.
//!
//! Only ids stand here. A row becomes ready at its start time; a pipeline whose dependency is exhausted holds up
//! nobody but itself.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};

use penstock_domain::ids::{OwnerSeq, RowRef};
use penstock_domain::time::Timestamp;

/// The waiting rows of all lanes.
#[derive(Debug, Default)]
pub struct Lanes {
    lanes: Vec<Lane>,
    known: HashSet<RowRef>,
    /// Milliseconds that rows waited here after their time had come, in sum over all that were taken.
    waited_ms: u64,
}

#[derive(Debug)]
struct Lane {
    pipeline: String,
    later: BinaryHeap<Reverse<(Timestamp, u64, OwnerSeq, RowRef)>>,
    ready: HashMap<OwnerSeq, VecDeque<(Timestamp, RowRef)>>,
    turns: VecDeque<OwnerSeq>,
    arrivals: u64,
    waiting: usize,
}

impl Lanes {
    /// Adds a row that may start at `due`; false when it is known already (a doubled message).
    pub fn push(&mut self, pipeline: &str, owner: OwnerSeq, row: RowRef, due: Timestamp) -> bool {
        if !self.known.insert(row) {
            return false;
        }
        let index = self.lanes.iter().position(|lane| lane.pipeline == pipeline).unwrap_or_else(|| {
            self.lanes.push(Lane {
                pipeline: pipeline.to_owned(),
                later: BinaryHeap::new(),
                ready: HashMap::new(),
                turns: VecDeque::new(),
                arrivals: 0,
                waiting: 0,
            });
            self.lanes.len() - 1
        });
        let lane = &mut self.lanes[index];
        lane.arrivals += 1;
        lane.waiting += 1;
        lane.later.push(Reverse((due, lane.arrivals, owner, row)));
        true
    }

    /// How many rows wait.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// How many rows of a pipeline wait.
    pub fn waiting(&self, pipeline: &str) -> usize {
        self.lanes.iter().find(|lane| lane.pipeline == pipeline).map_or(0, |lane| lane.waiting)
    }

    /// Milliseconds that the rows taken so far had waited after their time had come.
    pub fn waited_ms(&self) -> u64 {
        self.waited_ms
    }

    /// Whether no row waits.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The pipelines that have rows ready.
    pub fn ready(&mut self, now: Timestamp) -> Vec<String> {
        let mut names = Vec::new();
        for lane in &mut self.lanes {
            lane.ripen(now);
            if !lane.turns.is_empty() {
                names.push(lane.pipeline.clone());
            }
        }
        names
    }

    /// When the next row becomes ready that is not yet.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.lanes.iter().filter_map(|lane| lane.later.peek().map(|Reverse((due, ..))| *due)).min()
    }

    /// Takes up to `most` ready rows of a pipeline, an owner a turn.
    pub fn take(&mut self, pipeline: &str, most: usize, now: Timestamp) -> Vec<RowRef> {
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.pipeline == pipeline) else {
            return Vec::new();
        };
        lane.ripen(now);
        let mut rows = Vec::new();
        while rows.len() < most {
            let Some(owner) = lane.turns.pop_front() else { break };
            let Some(queue) = lane.ready.get_mut(&owner) else { continue };
            if let Some((due, row)) = queue.pop_front() {
                self.known.remove(&row);
                lane.waiting -= 1;
                self.waited_ms += u64::try_from(now.since(due).as_millis()).unwrap_or(u64::MAX);
                rows.push(row);
            }
            if queue.is_empty() {
                lane.ready.remove(&owner);
            } else {
                lane.turns.push_back(owner);
            }
        }
        rows
    }

    /// Takes everything: the worker drains.
    pub fn drain(&mut self) -> Vec<RowRef> {
        self.lanes.clear();
        self.known.drain().collect()
    }
}

impl Lane {
    fn ripen(&mut self, now: Timestamp) {
        while let Some(Reverse((due, ..))) = self.later.peek()
            && *due <= now
        {
            let Some(Reverse((due, _, owner, row))) = self.later.pop() else { break };
            let queue = self.ready.entry(owner).or_default();
            if queue.is_empty() {
                self.turns.push_back(owner);
            }
            queue.push_back((due, row));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_domain::ids::BatchSeq;

    fn row(batch: i64, number: u32) -> RowRef {
        RowRef { batch: BatchSeq(batch), number }
    }

    const NOW: Timestamp = Timestamp::from_millis(1000);

    #[test]
    fn owners_take_turns_whatever_came_first() {
        let mut lanes = Lanes::default();
        for number in 1..=100 {
            lanes.push("invite", OwnerSeq(1), row(1, number), NOW);
        }
        lanes.push("invite", OwnerSeq(2), row(2, 1), NOW);
        assert_eq!(lanes.take("invite", 3, NOW), [row(1, 1), row(2, 1), row(1, 2)]);
    }

    #[test]
    fn a_row_waits_for_its_time() {
        let mut lanes = Lanes::default();
        let later = Timestamp::from_millis(2000);
        lanes.push("invite", OwnerSeq(1), row(1, 1), later);
        assert!(lanes.ready(NOW).is_empty());
        assert_eq!(lanes.next_due(), Some(later));
        assert_eq!(lanes.ready(later), ["invite"]);
        assert_eq!(lanes.take("invite", 10, later + std::time::Duration::from_millis(300)), [row(1, 1)]);
        assert_eq!(lanes.waited_ms(), 300);
        assert!(lanes.is_empty());
    }

    #[test]
    fn a_doubled_message_is_heard_once() {
        let mut lanes = Lanes::default();
        assert!(lanes.push("invite", OwnerSeq(1), row(1, 1), NOW));
        assert!(!lanes.push("invite", OwnerSeq(1), row(1, 1), NOW));
        assert_eq!(lanes.len(), 1);
        lanes.take("invite", 1, NOW);
        assert!(lanes.push("invite", OwnerSeq(1), row(1, 1), NOW), "taken rows may come again");
    }
}

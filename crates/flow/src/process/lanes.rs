//! Rows that this worker has heard of and not yet claimed: one lane for each pipeline, turns for owners in a lane.
//!
//! Only ids stand here. A row becomes ready at its start time; a pipeline whose dependency is exhausted holds up
//! nobody but itself. Where a lane is the bottleneck its owners share it by their weights, by start-time fair queueing
//! (Goyal, Vin & Cheng 1996): each row has a tag on a clock that goes by rows served, an owner's tags lie the further
//! apart the less it weighs, and the lowest tag is next. Who comes anew starts at the present tag: before everybody
//! else's backlog, behind nobody's, and with no credit for the time it was away. An owner that its own limit holds up is
//! passed over until that has time for it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use penstock_domain::ids::{OwnerSeq, RowRef};
use penstock_domain::time::Timestamp;

/// What a row of an owner of weight 1 adds to its owner's tag: divisible without much loss by any weight in use.
const STRIDE: u64 = 1 << 32;

/// When more owners' tags are remembered, those that have no effect any more are dropped.
const MOST_TAGS: usize = 1024;

/// Whose row it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// The owner.
    pub seq: OwnerSeq,
    /// Its weight, at least 1.
    pub weight: u32,
}

/// The waiting rows of all lanes.
#[derive(Debug, Default)]
pub struct Lanes {
    lanes: Vec<Lane>,
    known: HashSet<RowRef>,
}

#[derive(Debug, Default)]
struct Lane {
    pipeline: String,
    later: BinaryHeap<Reverse<(Timestamp, u64, Owner, RowRef)>>,
    ready: HashMap<OwnerSeq, VecDeque<(Timestamp, RowRef)>>,
    /// Owners with rows ready, by the tag of their next row; the number keeps those of one tag in order.
    turns: BinaryHeap<Reverse<(u64, u64, Owner)>>,
    /// Owners that were passed over, by when they are looked at again; then as in `turns`.
    parked: BinaryHeap<Reverse<(Timestamp, u64, u64, Owner)>>,
    /// Where owners' tags end, behind their last rows.
    tags: HashMap<OwnerSeq, u64>,
    /// The tag of the row that was taken last.
    now: u64,
    arrivals: u64,
    waiting: usize,
}

impl Lanes {
    /// Adds a row that may start at `due`; false when it is known already (a doubled message).
    pub fn push(&mut self, pipeline: &str, owner: Owner, row: RowRef, due: Timestamp) -> bool {
        if !self.known.insert(row) {
            return false;
        }
        let index = self.lanes.iter().position(|lane| lane.pipeline == pipeline).unwrap_or_else(|| {
            self.lanes.push(Lane { pipeline: pipeline.to_owned(), ..Lane::default() });
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
        let rows = self.lanes.iter().filter_map(|lane| lane.later.peek().map(|Reverse((due, ..))| *due));
        let owners = self.lanes.iter().filter_map(|lane| lane.parked.peek().map(|Reverse((at, ..))| *at));
        rows.chain(owners).min()
    }

    /// Takes up to `most` ready rows of a pipeline, owners by their turns; with each, how long it waited after its time had
    /// come. An owner is passed over for which `held_until` says until when, and asked for again then.
    pub fn take(
        &mut self,
        pipeline: &str,
        most: usize,
        now: Timestamp,
        mut held_until: impl FnMut(OwnerSeq) -> Option<Timestamp>,
    ) -> Vec<(RowRef, Duration)> {
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.pipeline == pipeline) else {
            return Vec::new();
        };
        lane.ripen(now);
        let mut rows = Vec::new();
        while rows.len() < most {
            let Some((due, row)) = lane.next(&mut held_until) else { break };
            self.known.remove(&row);
            rows.push((row, now.since(due)));
        }
        rows
    }

    /// Brings a row from anywhere among the next owner's rows to their front; `unit` is a random number in [0, 1). For probes of
    /// a dependency that failed: where rows that fail for reasons of their own stand together, the next one is no good probe.
    pub fn scatter(&mut self, pipeline: &str, unit: f64) {
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.pipeline == pipeline) else { return };
        let Some(Reverse((.., owner))) = lane.turns.peek() else { return };
        let Some(queue) = lane.ready.get_mut(&owner.seq).filter(|queue| queue.len() > 1) else { return };
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a place among some thousand rows"
        )]
        let place = (unit * queue.len() as f64) as usize;
        queue.swap(0, place.min(queue.len() - 1));
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
            let Some(Reverse((due, arrival, owner, row))) = self.later.pop() else { break };
            let queue = self.ready.entry(owner.seq).or_default();
            queue.push_back((due, row));
            if queue.len() == 1 {
                let tag = self.tags.get(&owner.seq).map_or(self.now, |tag| self.now.max(*tag));
                self.turns.push(Reverse((tag, arrival, owner)));
            }
        }
        while let Some(Reverse((at, tag, turn, owner))) = self.parked.peek().copied()
            && at <= now
        {
            self.parked.pop();
            self.turns.push(Reverse((self.now.max(tag), turn, owner)));
        }
    }

    fn next(
        &mut self,
        held_until: &mut impl FnMut(OwnerSeq) -> Option<Timestamp>,
    ) -> Option<(Timestamp, RowRef)> {
        let (tag, turn, owner) = loop {
            let Reverse((tag, turn, owner)) = self.turns.pop()?;
            let Some(at) = held_until(owner.seq) else { break (tag, turn, owner) };
            self.parked.push(Reverse((at, tag, turn, owner)));
        };
        let queue = self.ready.get_mut(&owner.seq)?;
        let taken = queue.pop_front();
        self.now = tag;
        let behind = tag + STRIDE / u64::from(owner.weight.max(1));
        if queue.is_empty() {
            self.ready.remove(&owner.seq);
            self.tags.insert(owner.seq, behind);
            if self.tags.len() > MOST_TAGS {
                self.tags.retain(|_, tag| *tag > self.now);
            }
        } else {
            self.turns.push(Reverse((behind, turn, owner)));
        }
        self.waiting -= 1;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_domain::ids::BatchSeq;

    fn row(batch: i64, number: u32) -> RowRef {
        RowRef { batch: BatchSeq(batch), number }
    }

    fn owner(seq: i64) -> Owner {
        Owner { seq: OwnerSeq(seq), weight: 1 }
    }

    const NOW: Timestamp = Timestamp::from_millis(1000);

    #[test]
    fn owners_take_turns_whatever_came_first() {
        let mut lanes = Lanes::default();
        for number in 1..=100 {
            lanes.push("invite", owner(1), row(1, number), NOW);
        }
        lanes.push("invite", owner(2), row(2, 1), NOW);
        let taken = [row(1, 1), row(2, 1), row(1, 2)].map(|row| (row, Duration::ZERO));
        assert_eq!(lanes.take("invite", 3, NOW, |_| None), taken);
    }

    #[test]
    fn owners_share_a_lane_by_their_weights_whenever_their_rows_come() {
        let mut lanes = Lanes::default();
        let mut served = [0_i64; 3];
        for turn in 0..7000 {
            // The third owner's rows come one by one, and its queue is empty in between.
            for (index, weight) in [1, 2, 4].into_iter().enumerate() {
                let owner = Owner { seq: OwnerSeq(index as i64), weight };
                if index < 2 || turn % 7 < 5 {
                    lanes.push("invite", owner, row(index as i64, turn), NOW);
                }
            }
            for (one, _) in lanes.take("invite", 1, NOW, |_| None) {
                served[usize::try_from(one.batch.0).unwrap()] += 1;
            }
        }
        for (rows, share) in served.into_iter().zip([1000, 2000, 4000]) {
            assert!((rows - share).abs() <= 2, "{served:?}");
        }
    }

    #[test]
    fn who_comes_late_is_served_at_once_and_has_no_credit() {
        let mut lanes = Lanes::default();
        (0..1000).for_each(|number| assert!(lanes.push("invite", owner(1), row(1, number), NOW)));
        lanes.take("invite", 500, NOW, |_| None);
        (0..100).for_each(|number| assert!(lanes.push("invite", owner(2), row(2, number), NOW)));
        let taken = lanes.take("invite", 20, NOW, |_| None);
        assert_eq!(taken.iter().filter(|(row, _)| row.batch == BatchSeq(2)).count(), 10, "{taken:?}");
    }

    #[test]
    fn who_is_held_up_by_its_own_limit_is_passed_over_until_then() {
        let mut lanes = Lanes::default();
        for number in 0..10 {
            lanes.push("invite", owner(1), row(1, number), NOW);
            lanes.push("invite", owner(2), row(2, number), NOW);
        }
        let later = Timestamp::from_millis(1500);
        let mut asked = 0;
        let held = |seq: OwnerSeq| {
            asked += usize::from(seq == OwnerSeq(1));
            (seq == OwnerSeq(1)).then_some(later)
        };
        let taken = lanes.take("invite", 20, NOW, held);
        assert!(taken.len() == 10 && taken.iter().all(|(row, _)| row.batch == BatchSeq(2)), "{taken:?}");
        assert_eq!(asked, 1, "it is asked for once");
        assert!(lanes.ready(NOW).is_empty());
        assert_eq!((lanes.next_due(), lanes.len()), (Some(later), 10));
        (10..15).for_each(|number| assert!(lanes.push("invite", owner(1), row(1, number), NOW)));
        assert!(lanes.ready(NOW).is_empty(), "more of its rows change nothing");
        assert_eq!(lanes.ready(later), ["invite"]);
        assert_eq!(lanes.take("invite", 20, later, |_| None).len(), 15);
    }

    #[test]
    fn a_row_waits_for_its_time() {
        let mut lanes = Lanes::default();
        let later = Timestamp::from_millis(2000);
        lanes.push("invite", owner(1), row(1, 1), later);
        assert!(lanes.ready(NOW).is_empty());
        assert_eq!(lanes.next_due(), Some(later));
        assert_eq!(lanes.ready(later), ["invite"]);
        let waited = Duration::from_millis(300);
        assert_eq!(lanes.take("invite", 10, later + waited, |_| None), [(row(1, 1), waited)]);
        assert!(lanes.is_empty());
    }

    #[test]
    fn a_doubled_message_is_heard_once() {
        let mut lanes = Lanes::default();
        assert!(lanes.push("invite", owner(1), row(1, 1), NOW));
        assert!(!lanes.push("invite", owner(1), row(1, 1), NOW));
        assert_eq!(lanes.len(), 1);
        lanes.take("invite", 1, NOW, |_| None);
        assert!(lanes.push("invite", owner(1), row(1, 1), NOW), "taken rows may come again");
    }

    #[test]
    fn a_probe_comes_from_anywhere_and_each_row_once() {
        let mut lanes = Lanes::default();
        lanes.scatter("invite", 0.5);
        for number in 0..10 {
            lanes.push("invite", owner(1), row(1, number), NOW);
        }
        lanes.ready(NOW);
        let mut taken = Vec::new();
        for unit in [0.5, 0.999, 0.0] {
            lanes.scatter("invite", unit);
            taken.extend(lanes.take("invite", 1, NOW, |_| None).into_iter().map(|(row, _)| row.number));
        }
        assert_eq!(taken, [5, 9, 2]);
        taken.extend(lanes.take("invite", 10, NOW, |_| None).into_iter().map(|(row, _)| row.number));
        taken.sort_unstable();
        assert_eq!(taken, (0..10).collect::<Vec<_>>());
    }
}

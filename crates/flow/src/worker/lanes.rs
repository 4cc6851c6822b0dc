//! Rows that this worker has received and not yet claimed: a lane for each pipeline, in which owners alternate.
//!
//! Lanes hold only ids. A row becomes ready at its start time; a pipeline whose dependency is exhausted holds up
//! only itself. Where a lane is the bottleneck its owners share it by their weights, by start-time fair queueing
//! (Goyal, Vin & Cheng 1996): each row has a tag on a clock that goes by rows served, an owner's tags are the further
//! apart the less it weighs, and the lowest tag is next. An owner whose rows are new starts at the present tag: before the
//! other owners' backlog, and with no credit for the time without rows. An owner that its own limit holds up is skipped until
//! the limit has a permit for it. Times are monotonic: a clock that is set keeps no row waiting.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use penstock_domain::ids::{OwnerSeq, RowRef};
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

/// Keeps a row's message in the queue while it lives, so that the message is delivered again when this worker dies.
pub type Keep = Option<Arc<DropGuard>>;

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
    later: BinaryHeap<Reverse<Later>>,
    ready: HashMap<OwnerSeq, VecDeque<Waiting>>,
    /// Owners with rows ready, by the tag of their next row; the number keeps those of one tag in order.
    order: BinaryHeap<Reverse<(u64, u64, Owner)>>,
    /// Owners that were skipped, by when they are checked again; then as in `order`.
    parked: BinaryHeap<Reverse<(Instant, u64, u64, Owner)>>,
    /// Where owners' tags end, after their last rows.
    tags: HashMap<OwnerSeq, u64>,
    /// The tag of the row that was taken last.
    now: u64,
    arrivals: u64,
    waiting: usize,
}

/// A row that waits.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The row.
    pub row: RowRef,
    /// Whose it is.
    pub owner: Owner,
    /// When it may start.
    pub due: Instant,
    /// See [`Keep`].
    pub keep: Keep,
}

/// A row whose time has not come; the number keeps those of one moment in order.
#[derive(Debug)]
struct Later(u64, Waiting);

impl Later {
    fn key(&self) -> (Instant, u64) {
        (self.1.due, self.0)
    }
}

impl PartialEq for Later {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Later {}

impl PartialOrd for Later {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Later {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl Lanes {
    /// Adds a row; false when it is known already (a doubled message).
    pub fn push(&mut self, pipeline: &str, waiting: Waiting) -> bool {
        if !self.known.insert(waiting.row) {
            return false;
        }
        let index = self.lanes.iter().position(|lane| lane.pipeline == pipeline).unwrap_or_else(|| {
            self.lanes.push(Lane { pipeline: pipeline.to_owned(), ..Lane::default() });
            self.lanes.len() - 1
        });
        let lane = &mut self.lanes[index];
        lane.arrivals += 1;
        lane.waiting += 1;
        lane.later.push(Reverse(Later(lane.arrivals, waiting)));
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
    pub fn ready(&mut self, now: Instant) -> Vec<String> {
        let mut names = Vec::new();
        for lane in &mut self.lanes {
            lane.ripen(now);
            if !lane.order.is_empty() {
                names.push(lane.pipeline.clone());
            }
        }
        names
    }

    /// When the next row becomes ready that is not yet.
    pub fn next_due(&self) -> Option<Instant> {
        let rows = self.lanes.iter().filter_map(|lane| lane.later.peek().map(|Reverse(later)| later.1.due));
        let owners = self.lanes.iter().filter_map(|lane| lane.parked.peek().map(|Reverse((at, ..))| *at));
        rows.chain(owners).min()
    }

    /// Takes up to `most` ready rows of a pipeline, in the order of their owners' tags. An owner for which `held_until` is a time
    /// is skipped until then.
    pub fn take(
        &mut self,
        pipeline: &str,
        most: usize,
        now: Instant,
        mut held_until: impl FnMut(OwnerSeq) -> Option<Instant>,
    ) -> Vec<Waiting> {
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.pipeline == pipeline) else {
            return Vec::new();
        };
        lane.ripen(now);
        let mut rows = Vec::new();
        while rows.len() < most {
            let Some(waiting) = lane.next(&mut held_until) else { break };
            self.known.remove(&waiting.row);
            rows.push(waiting);
        }
        rows
    }

    /// Brings a row from anywhere among the next owner's rows to their front; `unit` is a random number in [0, 1). For probes of
    /// a dependency that failed: where rows that fail for their own reasons are next to each other, the next one is no good probe.
    pub fn scatter(&mut self, pipeline: &str, unit: f64) {
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.pipeline == pipeline) else { return };
        let Some(Reverse((.., owner))) = lane.order.peek() else { return };
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

    /// Takes everything, because the worker drains.
    pub fn drain(&mut self) -> Vec<Waiting> {
        self.known.clear();
        let lanes = std::mem::take(&mut self.lanes).into_iter();
        lanes
            .flat_map(|lane| {
                let later = lane.later.into_iter().map(|Reverse(later)| later.1);
                lane.ready.into_values().flatten().chain(later)
            })
            .collect()
    }
}

impl Lane {
    fn ripen(&mut self, now: Instant) {
        while let Some(Reverse(later)) = self.later.peek()
            && later.1.due <= now
        {
            let Some(Reverse(Later(arrival, waiting))) = self.later.pop() else { break };
            let owner = waiting.owner;
            let queue = self.ready.entry(owner.seq).or_default();
            queue.push_back(waiting);
            if queue.len() == 1 {
                let tag = self.tags.get(&owner.seq).map_or(self.now, |tag| self.now.max(*tag));
                self.order.push(Reverse((tag, arrival, owner)));
            }
        }
        while let Some(Reverse((at, tag, arrival, owner))) = self.parked.peek().copied()
            && at <= now
        {
            self.parked.pop();
            self.order.push(Reverse((self.now.max(tag), arrival, owner)));
        }
    }

    fn next(&mut self, held_until: &mut impl FnMut(OwnerSeq) -> Option<Instant>) -> Option<Waiting> {
        let (tag, arrival, owner) = loop {
            let Reverse((tag, arrival, owner)) = self.order.pop()?;
            let Some(at) = held_until(owner.seq) else { break (tag, arrival, owner) };
            self.parked.push(Reverse((at, tag, arrival, owner)));
        };
        let queue = self.ready.get_mut(&owner.seq)?;
        let taken = queue.pop_front();
        self.now = tag;
        let next_tag = tag + STRIDE / u64::from(owner.weight.max(1));
        if queue.is_empty() {
            self.ready.remove(&owner.seq);
            self.tags.insert(owner.seq, next_tag);
            if self.tags.len() > MOST_TAGS {
                self.tags.retain(|_, tag| *tag > self.now);
            }
        } else {
            self.order.push(Reverse((next_tag, arrival, owner)));
        }
        self.waiting -= 1;
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use penstock_domain::ids::BatchSeq;

    fn row(batch: i64, number: u32) -> RowRef {
        RowRef { batch: BatchSeq(batch), number }
    }

    fn owner(seq: i64) -> Owner {
        Owner { seq: OwnerSeq(seq), weight: 1 }
    }

    fn waiting(owner: Owner, row: RowRef, due: Instant) -> Waiting {
        Waiting { row, owner, due, keep: None }
    }

    fn rows(taken: &[Waiting]) -> Vec<RowRef> {
        taken.iter().map(|one| one.row).collect()
    }

    #[test]
    fn owners_alternate_whatever_came_first() {
        let (mut lanes, now) = (Lanes::default(), Instant::now());
        for number in 1..=100 {
            lanes.push("invite", waiting(owner(1), row(1, number), now));
        }
        lanes.push("invite", waiting(owner(2), row(2, 1), now));
        let taken = lanes.take("invite", 3, now, |_| None);
        assert_eq!(rows(&taken), [row(1, 1), row(2, 1), row(1, 2)]);
    }

    #[test]
    fn owners_share_a_lane_by_their_weights_whenever_their_rows_come() {
        let (mut lanes, now) = (Lanes::default(), Instant::now());
        let mut served = [0_i64; 3];
        for turn in 0..7000 {
            // The third owner's rows come one by one, and its queue is empty in between.
            for (index, weight) in [1, 2, 4].into_iter().enumerate() {
                let owner = Owner { seq: OwnerSeq(index as i64), weight };
                if index < 2 || turn % 7 < 5 {
                    lanes.push("invite", waiting(owner, row(index as i64, turn), now));
                }
            }
            for one in lanes.take("invite", 1, now, |_| None) {
                served[usize::try_from(one.row.batch.0).unwrap()] += 1;
            }
        }
        for (count, share) in served.into_iter().zip([1000, 2000, 4000]) {
            assert!((count - share).abs() <= 2, "{served:?}");
        }
    }

    #[test]
    fn a_late_owner_is_served_at_once_and_has_no_credit() {
        let (mut lanes, now) = (Lanes::default(), Instant::now());
        (0..1000).for_each(|number| assert!(lanes.push("invite", waiting(owner(1), row(1, number), now))));
        lanes.take("invite", 500, now, |_| None);
        (0..100).for_each(|number| assert!(lanes.push("invite", waiting(owner(2), row(2, number), now))));
        let taken = lanes.take("invite", 20, now, |_| None);
        assert_eq!(taken.iter().filter(|one| one.row.batch == BatchSeq(2)).count(), 10, "{taken:?}");
    }

    #[test]
    fn an_owner_that_its_own_limit_holds_up_is_skipped_until_then() {
        let (mut lanes, now) = (Lanes::default(), Instant::now());
        for number in 0..10 {
            lanes.push("invite", waiting(owner(1), row(1, number), now));
            lanes.push("invite", waiting(owner(2), row(2, number), now));
        }
        let later = now + Duration::from_millis(500);
        let mut asked = 0;
        let held = |seq: OwnerSeq| {
            asked += usize::from(seq == OwnerSeq(1));
            (seq == OwnerSeq(1)).then_some(later)
        };
        let taken = lanes.take("invite", 20, now, held);
        assert!(taken.len() == 10 && taken.iter().all(|one| one.row.batch == BatchSeq(2)), "{taken:?}");
        assert_eq!(asked, 1, "it is asked for once");
        assert!(lanes.ready(now).is_empty());
        assert_eq!((lanes.next_due(), lanes.len()), (Some(later), 10));
        (10..15).for_each(|number| assert!(lanes.push("invite", waiting(owner(1), row(1, number), now))));
        assert!(lanes.ready(now).is_empty(), "more of its rows change nothing");
        assert_eq!(lanes.ready(later), ["invite"]);
        assert_eq!(lanes.take("invite", 20, later, |_| None).len(), 15);
    }

    #[test]
    fn a_row_waits_for_its_time() {
        let (mut lanes, now) = (Lanes::default(), Instant::now());
        let later = now + Duration::from_secs(1);
        lanes.push("invite", waiting(owner(1), row(1, 1), later));
        assert!(lanes.ready(now).is_empty());
        assert_eq!(lanes.next_due(), Some(later));
        assert_eq!(lanes.ready(later), ["invite"]);
        let taken = lanes.take("invite", 10, later, |_| None);
        assert_eq!((rows(&taken), taken[0].due), (vec![row(1, 1)], later));
        assert!(lanes.is_empty());
    }

    #[test]
    fn a_doubled_message_counts_once() {
        let (mut lanes, now) = (Lanes::default(), Instant::now());
        assert!(lanes.push("invite", waiting(owner(1), row(1, 1), now)));
        assert!(!lanes.push("invite", waiting(owner(1), row(1, 1), now)));
        assert_eq!(lanes.len(), 1);
        lanes.take("invite", 1, now, |_| None);
        assert!(lanes.push("invite", waiting(owner(1), row(1, 1), now)), "taken rows may come again");
    }

    #[test]
    fn rows_whose_claim_failed_are_put_back() {
        let (mut lanes, now) = (Lanes::default(), Instant::now());
        (1..=3).for_each(|number| assert!(lanes.push("invite", waiting(owner(1), row(1, number), now))));
        let taken = lanes.take("invite", 2, now, |_| None);
        assert_eq!((lanes.len(), lanes.waiting("invite")), (1, 1));
        taken.into_iter().for_each(|one| assert!(lanes.push("invite", one)));
        assert_eq!((lanes.len(), lanes.waiting("invite")), (3, 3));
        let mut again = rows(&lanes.take("invite", 9, now, |_| None));
        again.sort_unstable();
        assert_eq!(again, [row(1, 1), row(1, 2), row(1, 3)]);
    }

    #[test]
    fn a_probe_comes_from_anywhere_and_each_row_once() {
        let (mut lanes, now) = (Lanes::default(), Instant::now());
        lanes.scatter("invite", 0.5);
        for number in 0..10 {
            lanes.push("invite", waiting(owner(1), row(1, number), now));
        }
        lanes.ready(now);
        let mut taken = Vec::new();
        for unit in [0.5, 0.999, 0.0] {
            lanes.scatter("invite", unit);
            taken.extend(lanes.take("invite", 1, now, |_| None).into_iter().map(|one| one.row.number));
        }
        assert_eq!(taken, [5, 9, 2]);
        taken.extend(lanes.take("invite", 10, now, |_| None).into_iter().map(|one| one.row.number));
        taken.sort_unstable();
        assert_eq!(taken, (0..10).collect::<Vec<_>>());
    }
}

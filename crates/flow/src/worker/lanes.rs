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

use penstock_domain::ids::{BatchSeq, OwnerSeq, RowRef};
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
    /// How many rows of each batch wait.
    of_batch: HashMap<BatchSeq, usize>,
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
    /// An owner of which more rows are taken before the next one's turn: they go in the same call.
    turn: Option<Turn>,
    /// Where owners' tags end, after their last rows.
    tags: HashMap<OwnerSeq, u64>,
    /// The tag with which the last turn began.
    now: u64,
    arrivals: u64,
    waiting: usize,
}

/// Owners' turns: each is so many rows of a batch long.
#[derive(Clone, Copy, Debug)]
pub struct Turns {
    /// The rows.
    pub rows: usize,
    /// Whether a turn that has begun is taken to its end, also beyond what is asked for: its rows go in one call.
    pub whole: bool,
}

/// An owner's turn.
#[derive(Clone, Copy, Debug)]
struct Turn {
    tag: u64,
    arrival: u64,
    owner: Owner,
    /// Only rows of this batch.
    batch: BatchSeq,
    /// How many more.
    left: usize,
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
        *self.of_batch.entry(waiting.row.batch).or_default() += 1;
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

    /// How many rows of a batch wait.
    pub fn waiting_of(&self, batch: BatchSeq) -> usize {
        self.of_batch.get(&batch).copied().unwrap_or(0)
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
            if !lane.order.is_empty() || lane.turn.is_some() {
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
        turns: Turns,
        now: Instant,
        mut held_until: impl FnMut(OwnerSeq) -> Option<Instant>,
    ) -> Vec<Waiting> {
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.pipeline == pipeline) else {
            return Vec::new();
        };
        lane.ripen(now);
        let mut rows = Vec::new();
        while rows.len() < most || (turns.whole && lane.turn.is_some()) {
            let Some(waiting) = lane.next(turns.rows, &mut held_until) else { break };
            self.known.remove(&waiting.row);
            if let Some(left) = self.of_batch.get_mut(&waiting.row.batch) {
                *left -= 1;
                if *left == 0 {
                    self.of_batch.remove(&waiting.row.batch);
                }
            }
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
        self.of_batch.clear();
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

    fn next(
        &mut self,
        turn: usize,
        held_until: &mut impl FnMut(OwnerSeq) -> Option<Instant>,
    ) -> Option<Waiting> {
        let Turn { tag, arrival, owner, batch, left } = self.next_turn(turn, held_until)?;
        let queue = self.ready.get_mut(&owner.seq)?;
        let taken = queue.pop_front();
        let next_tag = tag + STRIDE / u64::from(owner.weight.max(1));
        if queue.is_empty() {
            self.ready.remove(&owner.seq);
            self.tags.insert(owner.seq, next_tag);
            if self.tags.len() > MOST_TAGS {
                self.tags.retain(|_, tag| *tag > self.now);
            }
        } else {
            self.turn = Some(Turn { tag: next_tag, arrival, owner, batch, left: left.saturating_sub(1) });
            self.end_turn();
        }
        self.waiting -= 1;
        taken
    }

    /// The owner whose row is next: one whose turn goes on, or the one with the lowest tag.
    fn next_turn(
        &mut self,
        turn: usize,
        held_until: &mut impl FnMut(OwnerSeq) -> Option<Instant>,
    ) -> Option<Turn> {
        if let Some(goes_on) = self.turn.take() {
            match held_until(goes_on.owner.seq) {
                None => return Some(goes_on),
                Some(at) => {
                    let Turn { tag, arrival, owner, .. } = goes_on;
                    self.parked.push(Reverse((at, tag, arrival, owner)));
                }
            }
        }
        let (tag, arrival, owner) = loop {
            let Reverse((tag, arrival, owner)) = self.order.pop()?;
            let Some(at) = held_until(owner.seq) else { break (tag, arrival, owner) };
            self.parked.push(Reverse((at, tag, arrival, owner)));
        };
        self.now = tag;
        let batch = self.ready.get(&owner.seq)?.front()?.row.batch;
        Some(Turn { tag, arrival, owner, batch, left: turn })
    }

    /// Ends a turn that is over: nothing is left of it, or the next row is another batch's.
    fn end_turn(&mut self) {
        let Some(Turn { tag, arrival, owner, batch, left }) = self.turn else { return };
        let next = self.ready.get(&owner.seq).and_then(|queue| queue.front()).map(|next| next.row.batch);
        if left == 0 || next != Some(batch) {
            self.turn = None;
            self.order.push(Reverse((tag, arrival, owner)));
        }
    }
}

#[cfg(test)]
mod tests;

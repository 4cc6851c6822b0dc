//! A worker's slots, and how pipelines share them: one whose dependency hangs holds up only itself.
//!
//! Dynamic thresholds (Choudhury & Hahne 1998) with a window, as in TCP (Jacobson 1988). A pipeline holds at most four times
//! what it leaves free. Its own rows that wait for a limit count, because all of them may hang a moment later; other
//! pipelines' do not, because rows that wait must not keep others from working. Beyond a first few rows it holds no more than
//! have ended at its dependencies, twice as many each time, and when none did for a while it starts again. The others leave
//! room for those first few beforehand, so that they do not slow down. A small part is reserved for each pipeline, whatever
//! the others hold. A call without an answer neither opens the window nor counts for how long a row takes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use penstock_domain::outcome::code;
use penstock_store::work::{RowFailure, Settled};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::telemetry::worker_counters::WorkerMetrics;
use crate::worker::load::{Load, Waiting};
use crate::worker::uses::Uses;

/// In parts of the concurrency, what all pipelines together may hold before any of their rows has ended.
const FIRST: usize = 4;

/// In parts of the concurrency, what is left free for those that begin.
const RESERVED: usize = 8;

/// A pipeline holds at most this many times what it leaves free. A higher value makes better use of a worker with few busy
/// pipelines, a lower one leaves more to those that start.
const ALPHA: usize = 4;

/// In parts of the concurrency, what is reserved for all pipelines, each the same.
const KEPT: usize = 8;

/// Rows in bulk calls that other rows lead, in multiples of the concurrency, at most: they take memory, and no slot.
const RIDING: usize = 16;

/// How many rows of a pipeline share a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sharing {
    /// At the step whose calls carry the most.
    pub(super) most: usize,
    /// At the first step: so many rows take one slot together.
    pub(super) at_once: usize,
}

/// The slots of a worker.
pub(super) struct Slots {
    concurrency: usize,
    pipelines: usize,
    metrics: Arc<WorkerMetrics>,
    lanes: Mutex<HashMap<String, Load>>,
    changed: Arc<Notify>,
}

impl Slots {
    /// Slots for `concurrency` rows of `pipelines` pipelines; `changed` is notified when one becomes free.
    pub(super) fn new(
        concurrency: usize,
        pipelines: usize,
        metrics: Arc<WorkerMetrics>,
        changed: Arc<Notify>,
    ) -> Arc<Self> {
        Arc::new(Self { concurrency, pipelines, metrics, lanes: Mutex::default(), changed })
    }

    /// What a pipeline has in flight.
    pub(super) fn load(&self, pipeline: &str) -> Load {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.get(pipeline).cloned().unwrap_or_default()
    }

    /// How many further rows a pipeline may have in flight. Where rows share their first call, each free slot has room for all rows
    /// of a call.
    pub(super) fn room(&self, load: &Load, sharing: Sharing) -> usize {
        let riding = self.metrics.riding.load(Ordering::Relaxed);
        let most_riding = self.concurrency.saturating_mul(RIDING).max(sharing.most * 2);
        let own_riding = load.waiting.riding.load(Ordering::Relaxed);
        // A pipeline has its share of them, whatever the others hold.
        if riding >= most_riding && own_riding > 0 && own_riding >= most_riding / self.pipelines.max(1) {
            return 0;
        }
        let calls = self.free_slots(load, riding);
        let most = most_riding.saturating_sub(riding).max(sharing.at_once);
        if sharing.at_once > 1 { (calls * sharing.at_once).min(most) } else { calls }
    }

    fn free_slots(&self, load: &Load, riding: usize) -> usize {
        let in_flight = self.metrics.in_flight.load(Ordering::Relaxed);
        let active = in_flight.saturating_sub(self.metrics.limited.load(Ordering::Relaxed));
        let free = self.concurrency.saturating_sub(active);
        // Rows that wait for a limit take no slot, but memory: they are bounded too.
        let bounded = (self.concurrency * 2).saturating_sub(in_flight.saturating_sub(riding));
        if self.pipelines <= 1 {
            return free.min(bounded);
        }
        let own = load.rows.saturating_sub(load.waiting.limited.load(Ordering::Relaxed));
        let others = active.saturating_sub(own).max(self.concurrency / RESERVED);
        let most = (self.concurrency.saturating_sub(others) * ALPHA).div_ceil(ALPHA + 1);
        let first = (self.concurrency / FIRST / self.pipelines).max(1);
        let most = most.min(first + if load.is_stalled() { 0 } else { load.window });
        // One slot is left, however few there are.
        let most = most.min(self.concurrency.saturating_sub(1).max(1));
        let kept = (self.concurrency / KEPT / self.pipelines).max(1).min(self.concurrency / self.pipelines);
        let rows = load.rows.saturating_sub(load.waiting.riding.load(Ordering::Relaxed));
        most.saturating_sub(rows).min(free).min(bounded).max(kept.saturating_sub(rows))
    }

    /// A row of a pipeline takes a slot.
    pub(super) fn take(self: &Arc<Self>, pipeline: &str) -> Slot {
        self.metrics.in_flight.fetch_add(1, Ordering::Relaxed);
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let load = lanes.entry(pipeline.to_owned()).or_default();
        load.rows += 1;
        if load.rows == 1 {
            load.moved_at = Some(Instant::now());
        }
        let waiting = load.waiting.clone();
        Slot {
            waits: Arc::new(Waits {
                metrics: self.metrics.clone(),
                waiting,
                waited: AtomicU64::new(0),
                rode: AtomicBool::new(false),
            }),
            slots: self.clone(),
            pipeline: pipeline.to_owned(),
            since: Instant::now(),
            end: End::Unserved,
        }
    }
}

/// How a row left its slot.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It was requeued without an attempt, its lease was lost, or its call got no answer.
    Unserved,
    /// An attempt failed with an answer.
    Attempted,
    /// It was completed, or failed permanently.
    Ended,
}

/// A row's slot in the worker, free again when it is dropped.
pub(super) struct Slot {
    /// Its waits for limits.
    pub(super) waits: Arc<Waits>,
    slots: Arc<Slots>,
    pipeline: String,
    since: Instant,
    end: End,
}

impl Slot {
    /// How the row's run ended.
    pub(super) fn ended(&mut self, settled: &Settled) {
        self.end = match settled {
            // A look had its answer, if nothing was wrong.
            Settled::Requeued { polling: true, trouble: None, .. } => End::Ended,
            Settled::Requeued { attempt: false, .. } => End::Unserved,
            Settled::Requeued { trouble: Some(failure), .. } | Settled::Failed(failure)
                if is_unanswered(failure) =>
            {
                End::Unserved
            }
            Settled::Requeued { attempt: true, .. } => End::Attempted,
            Settled::Completed { .. } | Settled::Duplicate { .. } | Settled::Failed(_) => End::Ended,
        };
    }
}

fn is_unanswered(failure: &RowFailure) -> bool {
    let codes = [code::TIMEOUT, code::CONNECT_FAILED, code::CONNECTION_LOST, code::OUTCOME_UNKNOWN];
    failure.http_status.is_none() && codes.contains(&failure.code.as_str())
}

impl Drop for Slot {
    fn drop(&mut self) {
        let metrics = &self.slots.metrics;
        metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
        let took = self.since.elapsed();
        metrics.of(&self.pipeline, |of| of.processing.took(took));
        let mut lanes = self.slots.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(load) = lanes.get_mut(&self.pipeline) {
            load.rows = load.rows.saturating_sub(1);
            load.any_left = true;
            if self.end != End::Unserved && !self.waits.rode.load(Ordering::Relaxed) {
                let waited = Duration::from_micros(self.waits.waited.load(Ordering::Relaxed));
                load.served(took.saturating_sub(waited));
            }
            if self.end == End::Ended {
                load.moved(self.slots.concurrency);
            }
        }
        drop(lanes);
        self.slots.changed.notify_one();
    }
}

/// A row's waits for limits.
pub(super) struct Waits {
    metrics: Arc<WorkerMetrics>,
    waiting: Arc<Waiting>,
    /// Microseconds.
    waited: AtomicU64,
    /// Whether the row was in a call that another one led: how long that took the other one says.
    rode: AtomicBool,
}

impl Waits {
    /// Which dependencies rows of its pipeline call.
    pub(super) fn uses(&self) -> &Uses {
        &self.waiting.uses
    }
}

/// While it lives, a row waits for a limit and its slot is free for another row.
pub(super) struct Limited {
    waits: Arc<Waits>,
    since: Instant,
    /// Whether it waits in a call that another row leads: that one has a slot for all of them.
    rides: bool,
}

impl Limited {
    /// A row begins to wait.
    pub(super) fn new(waits: Arc<Waits>) -> Self {
        waits.metrics.limited.fetch_add(1, Ordering::Relaxed);
        waits.waiting.limited.fetch_add(1, Ordering::Relaxed);
        Self { waits, since: Instant::now(), rides: false }
    }

    /// A row waits in a call that another row leads.
    pub(super) fn riding(waits: Arc<Waits>) -> Self {
        waits.rode.store(true, Ordering::Relaxed);
        waits.metrics.riding.fetch_add(1, Ordering::Relaxed);
        waits.waiting.riding.fetch_add(1, Ordering::Relaxed);
        let mut riding = Self::new(waits);
        riding.rides = true;
        riding
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let waited = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.waits.waited.fetch_add(waited, Ordering::Relaxed);
        self.waits.waiting.limited.fetch_sub(1, Ordering::Relaxed);
        self.waits.waiting.first_permit_at.get_or_init(Instant::now);
        self.waits.metrics.limited.fetch_sub(1, Ordering::Relaxed);
        if self.rides {
            self.waits.metrics.riding.fetch_sub(1, Ordering::Relaxed);
            self.waits.waiting.riding.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;

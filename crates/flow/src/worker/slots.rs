//! A worker's slots, and how pipelines share them: one whose dependency hangs holds up only itself.
//!
//! Dynamic thresholds (Choudhury & Hahne 1998) with a window, as in TCP (Jacobson 1988). A pipeline holds at most four times
//! what it leaves free. Its own rows that wait for a limit count, because all of them may hang a moment later; other
//! pipelines' do not, because rows that wait must not keep others from working. Beyond a first few rows it holds no more than
//! have ended at its dependencies, twice as many each time, and when none did for a while it starts again. The others leave
//! room for those first few beforehand, so that they do not slow down. A small part is reserved for each pipeline, whatever
//! the others hold. A call without an answer neither opens the window nor counts for how long a row takes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use penstock_domain::outcome::code;
use penstock_store::work::{RowFailure, Settled};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::telemetry::worker_counters::WorkerMetrics;
use crate::worker::load::{Load, Waiting};

/// In parts of the concurrency, what all pipelines together may hold before any of their rows has ended.
const FIRST: usize = 4;

/// In parts of the concurrency, what is left free for those that begin.
const RESERVED: usize = 8;

/// A pipeline holds at most this many times what it leaves free. A higher value makes better use of a worker with few busy
/// pipelines, a lower one leaves more to those that start.
const ALPHA: usize = 4;

/// In parts of the concurrency, what is reserved for all pipelines, each the same.
const KEPT: usize = 8;

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

    /// How many further rows a pipeline may have in flight.
    pub(super) fn room(&self, load: &Load) -> usize {
        let in_flight = self.metrics.in_flight.load(Ordering::Relaxed);
        let active = in_flight.saturating_sub(self.metrics.limited.load(Ordering::Relaxed));
        let free = self.concurrency.saturating_sub(active);
        // Rows that wait for a limit take no slot, but memory: they are bounded too.
        let bounded = (self.concurrency * 2).saturating_sub(in_flight);
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
        most.saturating_sub(load.rows).min(free).min(bounded).max(kept.saturating_sub(load.rows))
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
            waits: Arc::new(Waits { metrics: self.metrics.clone(), waiting, waited: AtomicU64::new(0) }),
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
            if self.end != End::Unserved {
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
}

/// While it lives, a row waits for a limit and its slot is free for another row.
pub(super) struct Limited {
    waits: Arc<Waits>,
    since: Instant,
}

impl Limited {
    /// A row begins to wait.
    pub(super) fn new(waits: Arc<Waits>) -> Self {
        waits.metrics.limited.fetch_add(1, Ordering::Relaxed);
        waits.waiting.limited.fetch_add(1, Ordering::Relaxed);
        Self { waits, since: Instant::now() }
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let waited = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.waits.waited.fetch_add(waited, Ordering::Relaxed);
        self.waits.waiting.limited.fetch_sub(1, Ordering::Relaxed);
        self.waits.waiting.first_permit_at.get_or_init(Instant::now);
        self.waits.metrics.limited.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::load::STALLED;
    use crate::worker::row::failure_of;

    fn slots(concurrency: usize, pipelines: usize) -> Arc<Slots> {
        Slots::new(concurrency, pipelines, Arc::default(), Arc::default())
    }

    /// Claims as long as there is room, a claim's rows waiting for their limit at once as they do.
    fn claim(slots: &Arc<Slots>, pipeline: &str, at_once: usize) -> Vec<(Slot, Option<Limited>)> {
        let mut held = Vec::new();
        loop {
            let more = slots.room(&slots.load(pipeline)).min(at_once);
            if more == 0 {
                return held;
            }
            for _ in 0..more {
                let slot = slots.take(pipeline);
                let limited = Limited::new(slot.waits.clone());
                held.push((slot, Some(limited)));
            }
        }
    }

    /// Their permits have come: they take slots, and hang.
    fn hang(held: &mut [(Slot, Option<Limited>)]) {
        held.iter_mut().for_each(|(_, limited)| drop(limited.take()));
    }

    /// Rows pass well until the pipeline has its whole window.
    fn pass(slots: &Arc<Slots>, pipeline: &str, rows: usize) {
        for _ in 0..rows {
            slots.take(pipeline).ended(&Settled::Completed { result: None, key: None });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pipeline_that_never_answered_takes_only_the_first_few_and_from_nobody() {
        let slots = slots(256, 2);
        pass(&slots, "well", 1000);
        let well = claim(&slots, "well", 200);
        assert_eq!(well.len(), 180, "four fifths of what is not left for the first few");
        drop(well);
        let mut ill = claim(&slots, "ill", 200);
        assert_eq!(ill.len(), 32);
        hang(&mut ill);
        assert_eq!(claim(&slots, "well", 200).len(), 180);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pipeline_that_comes_to_hang_leaves_a_part() {
        let slots = slots(256, 2);
        pass(&slots, "ill", 1000);
        let mut ill = claim(&slots, "ill", 200);
        hang(&mut ill);
        assert_eq!(ill.len(), 180);
        pass(&slots, "well", 1000);
        assert_eq!(claim(&slots, "well", 1).len(), 61);
    }

    #[tokio::test(start_paused = true)]
    async fn when_nothing_ends_it_starts_again() {
        let slots = slots(256, 2);
        pass(&slots, "ill", 1000);
        let ill = claim(&slots, "ill", 200);
        tokio::time::advance(STALLED + Duration::from_millis(1)).await;
        drop(ill);
        let held = slots.take("ill");
        assert_eq!(slots.room(&slots.load("ill")), 179, "a new beginning, not a stall");
        tokio::time::advance(STALLED + Duration::from_millis(1)).await;
        assert_eq!(slots.room(&slots.load("ill")), 31);
        drop(held);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_without_an_answer_open_nothing() {
        let slots = slots(256, 2);
        pass(&slots, "ill", 1000);
        let mut ill = claim(&slots, "ill", 200);
        hang(&mut ill);
        tokio::time::advance(Duration::from_secs(10)).await;
        for (index, (mut slot, _)) in ill.drain(..).enumerate() {
            let code = if index % 2 == 0 { code::TIMEOUT } else { code::OUTCOME_UNKNOWN };
            let failure = failure_of(code);
            slot.ended(&if index % 3 == 0 {
                Settled::Failed(failure)
            } else {
                Settled::Requeued {
                    not_before: penstock_domain::time::Timestamp::from_millis(0),
                    attempt: true,
                    trouble: Some(failure),
                    receipts: Vec::new(),
                    expires: None,
                    hold: None,
                    polling: false,
                }
            });
        }
        let _one = slots.take("ill");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(slots.room(&slots.load("ill")), 31);
    }

    #[tokio::test(start_paused = true)]
    async fn how_long_a_row_takes_is_known_before_one_has_ended() {
        let slots = slots(256, 1);
        assert_eq!(slots.load("slow").service(), Duration::ZERO);
        let mut slot = slots.take("slow");
        let limited = Limited::new(slot.waits.clone());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(slots.load("slow").service(), Duration::ZERO, "it waits");
        drop(limited);
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(slots.load("slow").service(), Duration::from_secs(20));
        slot.ended(&Settled::Completed { result: None, key: None });
        drop(slot);
        assert_eq!(slots.load("slow").service(), Duration::from_secs(20));
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_others_hold_something_is_kept() {
        let slots = slots(256, 4);
        let names = ["a", "b", "c"];
        names.iter().for_each(|name| pass(&slots, name, 1000));
        let mut held: Vec<_> = names.iter().flat_map(|name| claim(&slots, name, 200)).collect();
        hang(&mut held);
        assert!(held.len() >= 256, "{}", held.len());
        assert_eq!(claim(&slots, "well", 200).len(), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_pipeline_has_all_slots() {
        let slots = slots(256, 1);
        let mut held = claim(&slots, "only", 200);
        assert_eq!(held.len(), 512, "waiting rows take none");
        hang(&mut held);
        assert_eq!(slots.room(&slots.load("only")), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn few_slots_are_shared_too() {
        for concurrency in 2..16 {
            let slots = slots(concurrency, 2);
            pass(&slots, "ill", 1000);
            let mut ill = claim(&slots, "ill", 200);
            hang(&mut ill);
            assert!(!claim(&slots, "well", 1).is_empty(), "of {concurrency}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_that_hang_at_once_leave_something() {
        let slots = slots(256, 11);
        let mut ill: Vec<_> =
            (0..10).flat_map(|number| claim(&slots, &format!("ill-{number}"), 200)).collect();
        hang(&mut ill);
        pass(&slots, "well", 1000);
        assert!(ill.len() <= 64, "{}", ill.len());
        assert!(claim(&slots, "well", 1).len() > 150);
    }

    #[tokio::test(start_paused = true)]
    async fn one_slot_is_enough_to_go_on() {
        let slots = slots(1, 2);
        assert_eq!(slots.room(&slots.load("a")), 1);
        let _held = slots.take("a");
        assert_eq!(slots.room(&slots.load("b")), 0);
    }
}

//! A worker's slots, and how pipelines share them: one whose dependency hangs holds up nobody but itself.
//!
//! Dynamic thresholds (Choudhury & Hahne 1998) with a window, as TCP has one (Jacobson 1988). A pipeline holds at most
//! four times what it leaves free; its own rows that wait for a limit count, for they may all come to hang a moment later,
//! and other pipelines' do not, for what waits shall keep nobody from working. Beyond a first few rows it holds no more
//! than have come to an end at its dependencies, twice as many each time, and when for a while none did it starts again.
//! What those first few take is left free by the others beforehand, so that they do not slow down by it. A small part is
//! kept for each pipeline, whatever the others hold. A call that got no answer says nothing good: it neither opens the
//! window nor counts for how long a row takes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use penstock_domain::outcome::code;
use penstock_store::work::{RowFailure, Settled};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::telemetry::worker_counters::WorkerMetrics;

/// In parts of the concurrency, what pipelines may hold before any of their rows has come to an end, all of them together.
const FIRST: usize = 4;

/// In parts of the concurrency, what is left free for those that begin.
const RESERVED: usize = 8;

/// A pipeline holds at most so many times what it leaves free. More makes better use of a worker that few pipelines keep
/// busy, less leaves more to those that come.
const ALPHA: usize = 4;

/// In parts of the concurrency, what is kept for all pipelines, each the same.
const KEPT: usize = 8;

/// A pipeline none of whose rows ends for so long starts again with its first few, or for longer where a row takes longer.
const STALLED: Duration = Duration::from_secs(1);

/// In multiples of the time that a row takes.
const STALLED_ROWS: u32 = 3;

/// The slots of a worker.
pub(super) struct Slots {
    concurrency: usize,
    pipelines: usize,
    metrics: Arc<WorkerMetrics>,
    lanes: Mutex<HashMap<String, Load>>,
    changed: Arc<Notify>,
}

/// What a pipeline has in flight.
#[derive(Clone, Debug, Default)]
pub(super) struct Load {
    /// Rows, those that wait for a limit among them.
    pub rows: usize,
    /// How long a row is on its way, without its waits for limits: a moving mean.
    service: Duration,
    /// Whether any of its rows has left a slot.
    pub any_left: bool,
    waiting: Arc<Waiting>,
    /// How many rows it may hold beyond the first few.
    window: usize,
    /// When one of its rows ended last, or the first one began.
    moved_at: Option<Instant>,
}

/// What a pipeline's rows in flight tell of their waits.
#[derive(Debug, Default)]
struct Waiting {
    /// How many wait for a limit.
    limited: AtomicUsize,
    /// When the first of them had waited.
    called_at: OnceLock<Instant>,
}

impl Slots {
    /// So many for so many pipelines; `changed` is told of each that becomes free.
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
        // However few there are, one is left.
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
            end: End::Away,
        }
    }
}

impl Load {
    /// Each further row moves the mean by so much.
    const WEIGHT: u32 = 32;

    /// How long a row is on its way, without its waits for limits. Until one has come to its end: for how long none did.
    pub(super) fn service(&self) -> Duration {
        if !self.service.is_zero() {
            return self.service;
        }
        let all_wait = self.waiting.limited.load(Ordering::Relaxed) >= self.rows;
        let began_at = self.waiting.called_at.get().copied().or(self.moved_at.filter(|_| !all_wait));
        began_at.filter(|_| self.rows > 0).map(|at| at.elapsed()).unwrap_or_default()
    }

    fn served(&mut self, took: Duration) {
        self.service = if self.service.is_zero() {
            took
        } else {
            (self.service * (Self::WEIGHT - 1) + took) / Self::WEIGHT
        };
    }

    fn is_stalled(&self) -> bool {
        let patience = STALLED.max(self.service * STALLED_ROWS);
        self.moved_at.is_some_and(|at| at.elapsed() > patience)
    }

    /// A row has ended, and its dependencies answer.
    fn moved(&mut self, concurrency: usize) {
        if self.is_stalled() {
            self.window = 0;
        }
        self.window = (self.window + 1).min(concurrency);
        self.moved_at = Some(Instant::now());
    }
}

/// How a row left its slot.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It was sent away, or is nobody's any more, or its call got no answer.
    Away,
    /// An attempt failed at its answer.
    Tried,
    /// It was completed, or failed for good.
    Ended,
}

/// A row's place in the worker, given up when the row has ended.
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
            Settled::Requeued { attempt: false, .. } => End::Away,
            Settled::Requeued { trouble: Some(trouble), .. } | Settled::Failed(trouble)
                if is_unanswered(trouble) =>
            {
                End::Away
            }
            Settled::Requeued { attempt: true, .. } => End::Tried,
            Settled::Completed { .. } | Settled::Failed(_) => End::Ended,
        };
    }
}

fn is_unanswered(trouble: &RowFailure) -> bool {
    let codes = [code::TIMEOUT, code::CONNECT_FAILED, code::CONNECTION_LOST, code::OUTCOME_UNKNOWN];
    trouble.http_status.is_none() && codes.contains(&trouble.code.as_str())
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
            if self.end != End::Away {
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

/// While it lives, a row waits for a limit and its slot is free for another.
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
        self.waits.waiting.called_at.get_or_init(Instant::now);
        self.waits.metrics.limited.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// Their moments have come: they take slots, and hang.
    fn hang(held: &mut [(Slot, Option<Limited>)]) {
        held.iter_mut().for_each(|(_, limited)| drop(limited.take()));
    }

    /// Rows pass well until the pipeline has its whole window.
    fn pass(slots: &Arc<Slots>, pipeline: &str, rows: usize) {
        for _ in 0..rows {
            slots.take(pipeline).ended(&Settled::Completed { result: None });
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
        for (place, (mut slot, _)) in ill.drain(..).enumerate() {
            let code = if place % 2 == 0 { code::TIMEOUT } else { code::OUTCOME_UNKNOWN };
            let trouble = RowFailure { code: code.into(), ..crate::worker::row::quiet() };
            slot.ended(&if place % 3 == 0 {
                Settled::Failed(trouble)
            } else {
                Settled::Requeued {
                    not_before: penstock_domain::time::Timestamp::from_millis(0),
                    attempt: true,
                    trouble: Some(trouble),
                    receipts: Vec::new(),
                    expires: None,
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
        slot.ended(&Settled::Completed { result: None });
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

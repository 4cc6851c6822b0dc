//! What a pipeline has in flight, how long its rows take and how many it may hold.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

use crate::worker::uses::Uses;

/// A pipeline none of whose rows ends for this long starts again with its first few; where a row takes longer, later.
pub(super) const STALLED: Duration = Duration::from_secs(1);

/// In multiples of the time that a row takes.
const STALLED_ROWS: u32 = 3;

/// What a pipeline has in flight.
#[derive(Clone, Debug, Default)]
pub(super) struct Load {
    /// Rows, those that wait for a limit among them.
    pub(super) rows: usize,
    /// How long a row is in flight, without its waits for limits: a moving mean.
    service: Duration,
    /// Whether any of its rows has left a slot.
    pub(super) any_left: bool,
    pub(super) waiting: Arc<Waiting>,
    /// How many rows it may hold beyond the first few.
    pub(super) window: usize,
    /// When one of its rows ended last, or the first one began.
    pub(super) moved_at: Option<Instant>,
}

/// The waits of a pipeline's rows in flight.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// How many wait for a limit.
    pub(super) limited: AtomicUsize,
    /// How many of these wait in bulk calls that other rows lead.
    pub(super) riding: AtomicUsize,
    /// When the first of them ended its wait.
    pub(super) first_permit_at: OnceLock<Instant>,
    /// How many rows call a dependency that some may not call.
    pub(super) uses: Uses,
}

impl Load {
    /// Each further row moves the mean by one part in this many.
    const WEIGHT: u32 = 32;

    /// How long a row is in flight, without its waits for limits. Until one has ended: for how long none did.
    pub(super) fn service(&self) -> Duration {
        if !self.service.is_zero() {
            return self.service;
        }
        let all_wait = self.waiting.limited.load(Ordering::Relaxed) >= self.rows;
        let began_at = self.waiting.first_permit_at.get().copied().or(self.moved_at.filter(|_| !all_wait));
        began_at.filter(|_| self.rows > 0).map(|at| at.elapsed()).unwrap_or_default()
    }

    /// A row ended whose dependencies answered.
    pub(super) fn served(&mut self, took: Duration) {
        self.service = if self.service.is_zero() {
            took
        } else {
            (self.service * (Self::WEIGHT - 1) + took) / Self::WEIGHT
        };
    }

    /// Whether no row ended for a while.
    pub(super) fn is_stalled(&self) -> bool {
        let patience = STALLED.max(self.service * STALLED_ROWS);
        self.moved_at.is_some_and(|at| at.elapsed() > patience)
    }

    /// A row ended for good: the pipeline may hold one more.
    pub(super) fn moved(&mut self, concurrency: usize) {
        if self.is_stalled() {
            self.window = 0;
        }
        self.window = (self.window + 1).min(concurrency);
        self.moved_at = Some(Instant::now());
    }
}

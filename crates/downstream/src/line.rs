//! Those of this process who wait for a slot at a gate: first come, first served, and only the first one asks.
//!
//! A hundred rows that wait for one of two slots would otherwise ask the shared limiter two thousand times a second.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as Turns, Notify, OwnedMutexGuard};

/// With more gates than that, those where nobody waits are dropped.
const MOST_LINES: usize = 1000;

/// The lines at all gates.
#[derive(Default)]
pub struct Lines(Mutex<HashMap<String, Arc<Line>>>);

/// The line at one gate.
#[derive(Default)]
pub struct Line {
    waiting: Arc<AtomicUsize>,
    /// tokio's mutex serves in the order of arrival.
    turn: Arc<Turns<()>>,
    freed: Notify,
}

/// The first place in a line.
pub struct Turn {
    _waits: Waits,
    _turn: OwnedMutexGuard<()>,
}

struct Waits(Arc<AtomicUsize>);

impl Lines {
    /// The line at a gate.
    pub fn at(&self, gate: &str) -> Arc<Line> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get(gate) {
            return line.clone();
        }
        if lines.len() > MOST_LINES {
            lines.retain(|_, line| Arc::strong_count(line) > 1);
        }
        lines.entry(gate.to_owned()).or_default().clone()
    }

    /// A slot at the gate was given back here: the first in line asks at once.
    pub fn freed(&self, gate: &str) {
        if let Some(line) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(gate) {
            line.freed.notify_one();
        }
    }

    /// How many wait at the gate.
    pub fn waiting(&self, gate: &str) -> usize {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.get(gate).map_or(0, |line| line.waiting())
    }
}

impl Line {
    /// How many wait, the first one included.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits until nobody else is before.
    pub async fn turn(&self) -> Turn {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let waits = Waits(self.waiting.clone());
        Turn { _turn: self.turn.clone().lock_owned().await, _waits: waits }
    }

    /// Waits until a slot is given back here. The first in line only.
    pub async fn freed(&self) {
        self.freed.notified().await;
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

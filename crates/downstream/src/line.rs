//! Those of this process who wait for a slot at a gate: first come, first served, and only the first ones ask.
//!
//! A hundred rows that wait for one of two slots would otherwise ask the shared limiter two thousand times a second. As
//! many ask at a time as a quarter of the slots and one more: with a limiter that answers after a fifth of a second, one at
//! a time would take up no more than five slots a second.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// With more gates than that, those where nobody waits are dropped.
const MOST_LINES: usize = 1000;

/// The lines at all gates.
#[derive(Default)]
pub struct Lines(Mutex<HashMap<String, Arc<Line>>>);

/// The line at one gate.
pub struct Line {
    waiting: Arc<AtomicUsize>,
    /// tokio's semaphore serves in the order of arrival. It is never closed.
    turns: Arc<Semaphore>,
    freed: Notify,
}

/// One of the first places in a line.
pub struct Turn {
    _waits: Waits,
    _turn: Option<OwnedSemaphorePermit>,
}

struct Waits(Arc<AtomicUsize>);

impl Lines {
    /// The line at a gate with so many slots.
    pub fn at(&self, (gate, slots): (&str, u32)) -> Arc<Line> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get(gate) {
            return line.clone();
        }
        if lines.len() > MOST_LINES {
            lines.retain(|_, line| Arc::strong_count(line) > 1);
        }
        let line = Line {
            waiting: Arc::default(),
            turns: Arc::new(Semaphore::new(slots as usize / 4 + 1)),
            freed: Notify::new(),
        };
        lines.entry(gate.to_owned()).or_insert(Arc::new(line)).clone()
    }

    /// A slot at the gate was given back here: one of the first in line asks at once.
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
    /// How many wait, the first ones included.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits until it is among the first.
    pub async fn turn(&self) -> Turn {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let waits = Waits(self.waiting.clone());
        Turn { _turn: self.turns.clone().acquire_owned().await.ok(), _waits: waits }
    }

    /// Waits until a slot is given back here. For those who are among the first.
    pub async fn freed(&self) {
        self.freed.notified().await;
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

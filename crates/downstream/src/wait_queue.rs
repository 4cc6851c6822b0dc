//! Calls of this process that wait for a slot: first come, first served, and only the first ones ask.
//!
//! A hundred rows that wait for one of two slots would otherwise ask the shared limiter two thousand times a second. At a time
//! as many ask as a quarter of the slots and one more: with a limiter that answers after a fifth of a second, one at a time
//! would take up no more than five slots a second.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// With more queues than that, those where nobody waits are dropped.
const MOST_QUEUES: usize = 1000;

/// The queues of all limits, by the key of their state.
#[derive(Default)]
pub struct WaitQueues(Mutex<HashMap<String, Arc<WaitQueue>>>);

/// The queue of one limit.
pub struct WaitQueue {
    waiting: Arc<AtomicUsize>,
    /// tokio's semaphore serves in the order of arrival. It is never closed.
    first: Arc<Semaphore>,
    freed: Notify,
}

/// One of the first positions in a queue: whoever has it may ask.
pub struct Position {
    _waiting: Waiting,
    _first: Option<OwnedSemaphorePermit>,
}

struct Waiting(Arc<AtomicUsize>);

impl WaitQueues {
    /// The queue of a limit with that many slots.
    pub fn at(&self, (key, slots): (&str, u32)) -> Arc<WaitQueue> {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(key) {
            return queue.clone();
        }
        if queues.len() > MOST_QUEUES {
            queues.retain(|_, queue| Arc::strong_count(queue) > 1);
        }
        let queue = WaitQueue {
            waiting: Arc::default(),
            first: Arc::new(Semaphore::new(slots as usize / 4 + 1)),
            freed: Notify::new(),
        };
        queues.entry(key.to_owned()).or_insert(Arc::new(queue)).clone()
    }

    /// A slot was released here: one of the first in the queue asks at once.
    pub fn slot_freed(&self, key: &str) {
        if let Some(queue) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key) {
            queue.freed.notify_one();
        }
    }

    /// How many calls wait.
    pub fn waiting(&self, key: &str) -> usize {
        let queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        queues.get(key).map_or(0, |queue| queue.waiting())
    }
}

impl WaitQueue {
    /// How many calls wait, the first ones included.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits until the call is among the first.
    pub async fn position(&self) -> Position {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting(self.waiting.clone());
        Position { _first: self.first.clone().acquire_owned().await.ok(), _waiting: waiting }
    }

    /// Waits until a slot is released here. For calls that are among the first.
    pub async fn slot_freed(&self) {
        self.freed.notified().await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

//! Values that are kept for a while, by what they take in memory.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

/// How long a value is kept at most: an erased batch is unreadable in every process after this time.
pub(crate) const KEEP: Duration = Duration::from_secs(60);

/// How often values that are past their time are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Bytes of all values of one kind together. The oldest goes first.
pub(crate) const MOST_BYTES: usize = 32 * 1024 * 1024;

/// Values of one kind.
const MOST: usize = 1024;

/// Values by their keys. None is kept longer than [`KEEP`], asked for or not: a task of its own removes it.
pub(crate) struct Kept<K, V>(Arc<Mutex<State<K, V>>>);

struct State<K, V> {
    entries: HashMap<K, Entry<V>>,
    bytes: usize,
    /// Whether a task looks for values that are past their time.
    watched: bool,
}

struct Entry<V> {
    since: Instant,
    bytes: usize,
    value: V,
}

impl<K, V> Default for Kept<K, V> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State { entries: HashMap::new(), bytes: 0, watched: false })))
    }
}

impl<K: Copy + Eq + Hash + Send + 'static, V: Clone + Send + 'static> Kept<K, V> {
    fn state(&self) -> MutexGuard<'_, State<K, V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value of that key.
    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let state = self.state();
        state.entries.get(key).filter(|entry| entry.since.elapsed() < KEEP).map(|entry| entry.value.clone())
    }

    /// Keeps a value that takes so many bytes, and that is as old as `since`. One that takes more than there is for all is
    /// not kept.
    pub(crate) fn insert(&self, key: K, value: V, bytes: usize, since: Instant) {
        let mut state = self.state();
        state.remove(&key);
        if bytes > MOST_BYTES {
            return;
        }
        while state.bytes + bytes > MOST_BYTES || state.entries.len() >= MOST {
            let oldest = state.entries.iter().min_by_key(|(_, entry)| entry.since).map(|(key, _)| *key);
            let Some(oldest) = oldest else { break };
            state.remove(&oldest);
        }
        state.bytes += bytes;
        state.entries.insert(key, Entry { since, bytes, value });
        if !state.watched {
            state.watched = true;
            // It only takes entries out of a map, and ends when none is left.
            tokio::spawn(watch(Arc::downgrade(&self.0)));
        }
    }

    /// Drops the value of that key.
    pub(crate) fn remove(&self, key: &K) {
        self.state().remove(key);
    }
}

impl<K: Copy + Eq + Hash, V> State<K, V> {
    fn remove(&mut self, key: &K) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry.bytes;
        }
    }

    fn remove_old(&mut self) {
        // What would be too old at the next look goes now.
        let old = |entry: &Entry<V>| entry.since.elapsed() + LOOK_EVERY >= KEEP;
        let old: Vec<K> = self.entries.iter().filter(|(_, entry)| old(entry)).map(|(key, _)| *key).collect();
        for key in old {
            self.remove(&key);
        }
    }
}

async fn watch<K: Copy + Eq + Hash, V>(kept: Weak<Mutex<State<K, V>>>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(kept) = kept.upgrade() else { return };
        let mut state = kept.lock().unwrap_or_else(PoisonError::into_inner);
        state.remove_old();
        if state.entries.is_empty() {
            state.watched = false;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept_longer_than_its_time_though_nobody_asks() {
        let kept = Kept::default();
        let value = Arc::new(());
        kept.insert(1, value.clone(), 10, Instant::now());
        kept.insert(2, value.clone(), 10, Instant::now() - KEEP / 2);
        assert!(kept.get(&1).is_some() && kept.get(&2).is_some());
        tokio::time::sleep(KEEP / 2).await;
        assert_eq!((Arc::strong_count(&value), kept.state().bytes), (2, 10), "one was older");
        tokio::time::sleep(KEEP / 2).await;
        assert_eq!((Arc::strong_count(&value), kept.state().bytes), (1, 0));
        assert!(!kept.state().watched, "the task has ended");
        kept.insert(3, value.clone(), 10, Instant::now());
        tokio::time::sleep(KEEP).await;
        assert_eq!(Arc::strong_count(&value), 1, "and another one begins");
    }

    #[tokio::test(start_paused = true)]
    async fn values_together_take_no_more_than_there_is() {
        let kept = Kept::default();
        let began = Instant::now();
        for key in 0..10 {
            kept.insert(key, (), MOST_BYTES / 4, began + Duration::from_millis(key));
        }
        assert_eq!(kept.state().bytes, MOST_BYTES);
        let left: Vec<u64> = (0..10).filter(|key| kept.get(key).is_some()).collect();
        assert_eq!(left, [6, 7, 8, 9], "the oldest went");
        kept.insert(10, (), MOST_BYTES + 1, began);
        assert!(kept.get(&10).is_none(), "what is too large is not kept, and takes nobody's place");
        assert_eq!(kept.state().entries.len(), 4);
        kept.insert(9, (), 1, began);
        assert_eq!(kept.state().bytes, MOST_BYTES / 4 * 3 + 1, "a value that is replaced counts once");
        for key in 0..2 * MOST as u64 {
            kept.insert(key, (), 0, began);
        }
        assert_eq!(kept.state().entries.len(), MOST);
    }
}

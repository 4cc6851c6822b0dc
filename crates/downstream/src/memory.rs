//! Bounds what long answers take in memory: their bytes until they are parsed, their values until the row's task has read
//! them. Short ones are not counted: their number is bounded by the rows in flight.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, timeout};

/// Bytes of a body that are read without a reservation.
pub(crate) const SHORT_BODY: usize = 64 * 1024;

/// Bytes of values that are made without a reservation.
const FEW_VALUES: usize = 128 * 1024;

/// Unless a setting says otherwise.
pub const DEFAULT_BYTES: usize = 64 * 1024 * 1024;

/// Memory for the long answers of a process. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct AnswerMemory(Arc<Pools>);

/// Two pools, so that nobody who holds of the second waits for the first: what waits for values holds bytes.
#[derive(Debug)]
struct Pools {
    bytes: Pool,
    /// A dependency has at most half of the bytes: answers that come slowly leave room to the others.
    shares: Mutex<HashMap<String, Pool>>,
    values: Pool,
}

/// What an answer holds until this is dropped.
#[derive(Debug, Default)]
pub struct Reserved {
    _permits: Vec<OwnedSemaphorePermit>,
}

#[derive(Clone, Debug)]
struct Pool {
    semaphore: Arc<Semaphore>,
    size: usize,
}

impl Pool {
    fn new(size: usize) -> Self {
        let size = size.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Self { semaphore: Arc::new(Semaphore::new(size)), size }
    }

    /// Waits for so much; for all of it when that is not enough.
    async fn reserve(&self, amount: usize) -> Option<OwnedSemaphorePermit> {
        let amount = u32::try_from(amount.min(self.size)).unwrap_or(u32::MAX);
        // It is never closed.
        self.semaphore.clone().acquire_many_owned(amount).await.ok()
    }
}

impl AnswerMemory {
    /// Of this many bytes in all.
    pub(crate) fn new(bytes: usize) -> Self {
        let (bytes, values) = (Pool::new(bytes / 2), Pool::new(bytes / 2));
        Self(Arc::new(Pools { bytes, shares: Mutex::default(), values }))
    }

    fn share(&self, dependency: &str) -> Pool {
        let mut shares = self.0.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(dependency) {
            return share.clone();
        }
        let share = Pool::new(self.0.bytes.size / 2);
        shares.insert(dependency.to_owned(), share.clone());
        share
    }

    /// Room for a body's bytes; none when there is none in time.
    pub(crate) async fn bytes(&self, dependency: &str, bytes: usize, within: Duration) -> Option<Reserved> {
        let share = self.share(dependency);
        let bytes = bytes.min(share.size);
        let both = async {
            Reserved {
                _permits: share
                    .reserve(bytes)
                    .await
                    .into_iter()
                    .chain(self.0.bytes.reserve(bytes).await)
                    .collect(),
            }
        };
        timeout(within, both).await.ok()
    }

    /// Room for values of this weight. They are read and dropped without a look at the network, so it is soon free.
    pub(crate) async fn values(&self, weight: usize) -> Reserved {
        if weight <= FEW_VALUES {
            return Reserved::default();
        }
        Reserved { _permits: self.0.values.reserve(weight).await.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_dependency_leaves_half_of_the_bytes_to_the_others() {
        let memory = AnswerMemory::new(16);
        let first = memory.bytes("slow", 4, SOON).await.expect("room");
        assert!(memory.bytes("slow", 1, SOON).await.is_none(), "its share is taken");
        let other = memory.bytes("other", 4, SOON).await.expect("the other half");
        assert!(memory.bytes("third", 1, SOON).await.is_none(), "all is taken");
        drop(first);
        drop(memory.bytes("third", 1, SOON).await.expect("room again"));
        // A body that is longer than its share takes all of it.
        drop(memory.bytes("slow", 100, SOON).await.expect("it goes alone"));
        drop(other);
    }

    #[tokio::test(start_paused = true)]
    async fn values_wait_for_each_other_and_few_wait_for_nobody() {
        let memory = AnswerMemory::new(4 * FEW_VALUES);
        let all = memory.values(100 * FEW_VALUES).await;
        drop(memory.values(FEW_VALUES).await);
        assert!(timeout(SOON, memory.values(FEW_VALUES + 1)).await.is_err());
        drop(all);
        drop(memory.values(FEW_VALUES + 1).await);
    }
}

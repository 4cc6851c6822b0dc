//! Batches that somebody looks at in the console, as they were seen last: for every page that shows one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use penstock_domain::ids::BatchSeq;
use tokio::sync::watch;

/// A batch as it was seen last.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Which one, by its public id.
    pub id: String,
    /// Whether it has ended.
    pub ended: bool,
    /// Changes when what its page offers does.
    pub state: String,
    /// What changes on its page.
    pub page: String,
    /// Its line in a list for its owner.
    pub line: String,
    /// Its line in a list for an admin key, with the owner.
    pub admin_line: String,
}

/// The watchers of a process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watchers(Arc<Mutex<Watched>>);

/// What is seen of each batch that somebody looks at.
type Watched = HashMap<BatchSeq, watch::Sender<Option<Arc<Seen>>>>;

impl Watchers {
    fn all(&self) -> MutexGuard<'_, Watched> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is seen of a batch, from now on; and whether nobody watches it yet: whoever asked has to.
    pub fn subscribe(&self, batch: BatchSeq) -> (watch::Receiver<Option<Arc<Seen>>>, bool) {
        let mut all = self.all();
        if let Some(watcher) = all.get(&batch) {
            return (watcher.subscribe(), false);
        }
        let (sender, receiver) = watch::channel(None);
        all.insert(batch, sender);
        (receiver, true)
    }

    /// Shows it to everybody who looks.
    pub fn show(&self, batch: BatchSeq, seen: Seen) {
        if let Some(watcher) = self.all().get(&batch) {
            watcher.send_replace(Some(Arc::new(seen)));
        }
    }

    /// Nobody watches it any more.
    pub fn remove(&self, batch: BatchSeq) {
        self.all().remove(&batch);
    }

    /// The same, if nobody looks at it; whether that was so.
    pub fn remove_if_alone(&self, batch: BatchSeq) -> bool {
        let mut all = self.all();
        let alone = all.get(&batch).is_none_or(|watcher| watcher.receiver_count() == 0);
        if alone {
            all.remove(&batch);
        }
        alone
    }
}

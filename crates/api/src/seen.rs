//! Batches that somebody looks at, as they were seen last: for every page and every listener of the REST API that shows one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use penstock_domain::ids::{BatchSeq, OwnerSeq};
use tokio::sync::watch;

/// Looks after which a batch is rendered anew although it did not change: what it waits for may have.
const RENDER_ANEW: u32 = 10;

/// A batch as it was seen last.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Which one, by its public id.
    pub id: String,
    /// Its revision.
    pub revision: i64,
    /// Whether it has ended.
    pub ended: bool,
    /// Failed rows by code and step, as they were counted last.
    pub groups: Groups,
    /// The event with what changes on its page.
    pub page: Bytes,
    /// The event with its line in a list for its owner.
    pub line: Bytes,
    /// The same for an admin key, with the owner.
    pub admin_line: Bytes,
    /// The batch as the REST API shows it, in JSON.
    pub json: String,
}

/// Failed rows by code and step, most frequent first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Groups {
    /// How many rows had failed when they were counted.
    pub failed: u32,
    /// When they may be counted again; none: now.
    pub again: Option<Instant>,
    /// How many rows each has, by its key on a page.
    pub counts: Arc<[(String, u32)]>,
}

/// What is seen of a batch, from now on. It closes when the batch has ended or is gone.
pub(crate) type Sight = watch::Receiver<Option<Arc<Seen>>>;

/// A batch that is among the newest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Newcomer {
    /// Which one.
    pub seq: BatchSeq,
    /// Whose it is.
    pub owner: OwnerSeq,
    /// The pipeline's name.
    pub pipeline: String,
}

/// The newest batches of everybody, as they were seen last.
pub(crate) type Newcomers = watch::Receiver<Arc<[Newcomer]>>;

/// The batches that somebody looks at in this process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watchers(Arc<Mutex<Watched>>);

#[derive(Debug, Default)]
struct Watched {
    batches: HashMap<BatchSeq, Watcher>,
    /// The newest ones, for open lists; none: nobody has a list open.
    newest: Option<watch::Sender<Arc<[Newcomer]>>>,
    /// Looks at all of them together: those that showed something new, or had nothing new to show.
    looks: u64,
    /// Whether something looks at them.
    looking: bool,
}

impl Watched {
    fn next_look(&mut self) -> u64 {
        self.looks += 1;
        self.looks
    }
}

#[derive(Debug)]
struct Watcher {
    seen: watch::Sender<Option<Arc<Seen>>>,
    /// Looks since it was rendered last.
    looks: u32,
    /// Which look it was had last.
    looked: u64,
}

impl Watchers {
    fn all(&self) -> MutexGuard<'_, Watched> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is seen of a batch, from now on; and whether nothing looks yet: whoever asked has to see to it.
    pub fn subscribe(&self, batch: BatchSeq) -> (Sight, bool) {
        let mut all = self.all();
        let new = || Watcher { seen: watch::channel(None).0, looks: 0, looked: 0 };
        let sight = all.batches.entry(batch).or_insert_with(new).seen.subscribe();
        let begins = !std::mem::replace(&mut all.looking, true);
        (sight, begins)
    }

    /// What comes new, from now on; and whether nothing looks yet: whoever asked has to see to it.
    pub fn newcomers(&self) -> (Newcomers, bool) {
        let mut all = self.all();
        let new = || watch::channel(Arc::from([])).0;
        let newcomers = all.newest.get_or_insert_with(new).subscribe();
        let begins = !std::mem::replace(&mut all.looking, true);
        (newcomers, begins)
    }

    /// Whether somebody wants to know what comes new.
    pub fn wants_newest(&self) -> bool {
        self.all().newest.is_some()
    }

    /// Shows the newest batches to everybody who has a list open.
    pub fn show_newest(&self, newest: Vec<Newcomer>) {
        if let Some(sender) = &self.all().newest {
            sender.send_if_modified(|known| {
                let changed = **known != *newest;
                if changed {
                    *known = newest.into();
                }
                changed
            });
        }
    }

    /// The batches that somebody looks at, those first that were not looked at for longest: a round that is cut short goes on with
    /// them. Nothing: nobody looks any more, not even for new ones, and so nothing does.
    pub fn watched(&self) -> Option<Vec<BatchSeq>> {
        let mut all = self.all();
        all.batches.retain(|_, watcher| watcher.seen.receiver_count() > 0);
        all.newest.take_if(|sender| sender.receiver_count() == 0);
        all.looking = !all.batches.is_empty() || all.newest.is_some();
        if !all.looking {
            return None;
        }
        let mut batches: Vec<_> = all.batches.iter().map(|(seq, watcher)| (watcher.looked, *seq)).collect();
        batches.sort_unstable();
        Some(batches.into_iter().map(|(_, seq)| seq).collect())
    }

    /// Whether a batch of that revision has to be shown: it changed, or was not rendered for a while.
    pub fn is_due(&self, batch: BatchSeq, revision: i64) -> bool {
        let mut all = self.all();
        let look = all.next_look();
        let Some(watcher) = all.batches.get_mut(&batch) else { return false };
        watcher.looks += 1;
        let known = watcher.seen.borrow().as_ref().map(|seen| seen.revision);
        let is_due = known != Some(revision) || watcher.looks >= RENDER_ANEW;
        if !is_due {
            watcher.looked = look;
        }
        is_due
    }

    /// How its failed rows were grouped when it was shown last.
    pub fn groups(&self, batch: BatchSeq) -> Groups {
        let all = self.all();
        let seen = all.batches.get(&batch).and_then(|watcher| watcher.seen.borrow().clone());
        seen.map(|seen| seen.groups.clone()).unwrap_or_default()
    }

    /// Shows it to everybody who looks; one that has ended is not looked at any more.
    pub fn show(&self, batch: BatchSeq, seen: Seen) {
        let mut all = self.all();
        let (ended, look) = (seen.ended, all.next_look());
        if let Some(watcher) = all.batches.get_mut(&batch) {
            watcher.looks = 0;
            watcher.looked = look;
            watcher.seen.send_replace(Some(Arc::new(seen)));
        }
        if ended {
            all.batches.remove(&batch);
        }
    }

    /// A batch that is gone.
    pub fn remove(&self, batch: BatchSeq) {
        self.all().batches.remove(&batch);
    }

    /// Nothing looks any more: who does is let go, and comes again.
    pub fn end(&self) {
        *self.all() = Watched::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(revision: i64, ended: bool) -> Seen {
        let (page, line, admin_line, json) = Default::default();
        Seen { id: "b".into(), revision, ended, groups: Groups::default(), page, line, admin_line, json }
    }

    #[test]
    fn one_looks_for_everybody_until_nobody_is_left() {
        let watchers = Watchers::default();
        let (one, begins) = watchers.subscribe(BatchSeq(1));
        assert!(begins);
        let (another, begins) = watchers.subscribe(BatchSeq(1));
        assert!(!begins);
        assert!(!watchers.subscribe(BatchSeq(2)).1);
        assert_eq!(watchers.watched(), Some(vec![BatchSeq(1)]), "nobody looks at the other one any more");
        drop(one);
        assert_eq!(watchers.watched(), Some(vec![BatchSeq(1)]));
        drop(another);
        assert_eq!(watchers.watched(), None);
        assert!(watchers.subscribe(BatchSeq(1)).1, "who comes now begins anew");
    }

    #[test]
    fn who_was_not_looked_at_for_longest_is_next() {
        let watchers = Watchers::default();
        let sights: Vec<_> = (1..=3).map(|seq| watchers.subscribe(BatchSeq(seq))).collect();
        let [one, two, three] = [1, 2, 3].map(BatchSeq);
        assert_eq!(watchers.watched(), Some(vec![one, two, three]));
        // A round that ended early: there was no room to render the last one.
        watchers.show(one, seen(1, false));
        assert!(watchers.is_due(two, 1));
        assert_eq!(watchers.watched(), Some(vec![two, three, one]));
        watchers.show(two, seen(1, false));
        assert!(!watchers.is_due(one, 1), "it did not change");
        assert_eq!(watchers.watched(), Some(vec![three, two, one]));
        drop(sights);
    }

    #[test]
    fn a_batch_is_rendered_when_it_changed_or_after_a_while() {
        let watchers = Watchers::default();
        let (sight, _) = watchers.subscribe(BatchSeq(1));
        assert!(watchers.is_due(BatchSeq(1), 7));
        watchers.show(BatchSeq(1), seen(7, false));
        let due = (0..RENDER_ANEW).filter(|_| watchers.is_due(BatchSeq(1), 7)).count();
        assert_eq!(due, 1, "the last look of these");
        assert!(watchers.is_due(BatchSeq(1), 8));
        watchers.show(BatchSeq(1), seen(8, true));
        assert!(sight.borrow().as_ref().is_some_and(|seen| seen.ended));
        assert!(sight.has_changed().is_err(), "it has ended, and is let go");
    }

    #[test]
    fn what_comes_new_is_looked_for_while_a_list_is_open() {
        let watchers = Watchers::default();
        assert!(!watchers.wants_newest());
        let (mut list, begins) = watchers.newcomers();
        assert!(begins && watchers.wants_newest());
        assert_eq!(watchers.watched(), Some(vec![]), "no batch is looked at, and still something looks");
        let newcomer = Newcomer { seq: BatchSeq(1), owner: OwnerSeq(1), pipeline: "p".into() };
        for is_new in [true, false] {
            watchers.show_newest(vec![newcomer.clone()]);
            assert_eq!(list.has_changed().is_ok_and(|changed| changed), is_new);
            list.mark_unchanged();
        }
        drop(list);
        assert_eq!(watchers.watched(), None);
        assert!(!watchers.wants_newest());
    }
}

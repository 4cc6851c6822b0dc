//! Rows in flight: known by row and token until each is settled, with the receipts that are not saved yet.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use penstock_domain::ids::{LeaseToken, RowRef};
use penstock_domain::row::Receipt;
use penstock_store::StoreResult;
use penstock_store::work::Held;
use tokio::time::Instant;

use crate::context::services::Services;
use crate::worker::heartbeat::Heartbeat;

/// Receipts of a statement at most.
const GROUP: usize = 500;

/// A claimed row, as its task sees it.
#[derive(Debug)]
pub struct RowLease {
    /// The row.
    pub row: RowRef,
    /// Its secret.
    pub token: LeaseToken,
    /// Of the process that holds it.
    heartbeat: Arc<Heartbeat>,
    lost: AtomicBool,
    unsaved: Mutex<Unsaved>,
}

/// Receipts that are not saved yet.
#[derive(Debug, Default)]
struct Unsaved {
    receipts: Vec<Receipt>,
    /// When they are to be saved; all together, so that no step is missing before one that is saved.
    due: Option<Instant>,
}

impl Unsaved {
    fn push(&mut self, receipt: Receipt, due: Instant) {
        self.receipts.push(receipt);
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }
}

impl RowLease {
    /// Whether a call that may last this long can begin now.
    pub fn covers(&self, call: Duration) -> bool {
        !self.is_lost() && self.heartbeat.covers(call)
    }

    /// Whether somebody else has the row by now: nothing may be called or written for it any more.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits until it covers a call that may last this long: until the database takes a heartbeat. The wait also ends when the
    /// row was lost or the worker is `draining`.
    pub async fn covered(&self, call: Duration, draining: &(dyn Fn() -> bool + Sync)) {
        while !self.covers(call) && !self.is_lost() && !draining() {
            let _ = tokio::time::timeout(LOOK_AGAIN, self.heartbeat.next()).await;
        }
    }

    /// A step is done: its receipt is saved soon, if the row is still in flight then; later where to repeat it leaves no trace.
    pub fn finished_step(&self, receipt: Receipt, leaves_trace: bool) {
        let after = if leaves_trace { SAVE_AFTER } else { SAVE_HARMLESS_AFTER };
        self.unsaved().push(receipt, Instant::now() + after);
    }

    /// A call with a key begins: what it was made of is saved soon, so that it is not made of other answers after a crash, which
    /// the key would not fit.
    pub fn keyed_call(&self) {
        let mut unsaved = self.unsaved();
        let soon = Instant::now() + SAVE_AFTER;
        unsaved.due = unsaved.due.map(|due| due.min(soon));
    }

    fn unsaved(&self) -> std::sync::MutexGuard<'_, Unsaved> {
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A receipt of a step that may have an effect when it is repeated is saved when it is this old.
const SAVE_AFTER: Duration = Duration::from_millis(150);

/// A receipt of a step that is harmless to repeat and has no key: a crash then calls it again, and rows that pass more quickly cost no write.
const SAVE_HARMLESS_AFTER: Duration = Duration::from_secs(2);

/// How often a row that waits for a heartbeat checks whether it may continue.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// All rows in flight in this process.
#[derive(Debug)]
pub struct Leases {
    heartbeat: Arc<Heartbeat>,
    /// By row and token: a row whose lease was lost may be claimed anew before its former task has ended.
    held: Mutex<HashMap<Held, Arc<RowLease>>>,
    /// Claims whose answer has not come yet.
    claiming: Mutex<HashSet<LeaseToken>>,
    /// SQL may record rows as held here that are unknown here, or the reverse.
    unsure: AtomicBool,
}

impl Leases {
    /// None yet.
    pub fn new(heartbeat: Arc<Heartbeat>) -> Self {
        let (held, claiming) = Default::default();
        Self { heartbeat, held, claiming, unsure: AtomicBool::new(false) }
    }

    /// A claim begins. It is [over](Leases::claimed) when its rows are [inserted](Leases::insert), or it failed.
    pub fn claiming(&self, token: LeaseToken) {
        self.claiming.lock().unwrap_or_else(PoisonError::into_inner).insert(token);
    }

    /// A claim is over.
    pub fn claimed(&self, token: LeaseToken) {
        self.claiming.lock().unwrap_or_else(PoisonError::into_inner).remove(&token);
    }

    /// A row was claimed.
    pub fn insert(&self, row: RowRef, token: LeaseToken) -> Arc<RowLease> {
        let (heartbeat, lost, unsaved) = (self.heartbeat.clone(), AtomicBool::new(false), Mutex::default());
        let lease = Arc::new(RowLease { row, token, heartbeat, lost, unsaved });
        self.lock().insert((row, token), lease.clone());
        lease
    }

    /// Rows are settled (or lost).
    pub fn remove(&self, rows: impl IntoIterator<Item = Held>) {
        let mut held = self.lock();
        for row in rows {
            held.remove(&row);
        }
    }

    /// Rows in flight.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether no row is in flight.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Held, Arc<RowLease>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<Arc<RowLease>> {
        self.lock().values().cloned().collect()
    }

    /// Those with receipts that are to be saved now.
    fn due(&self, now: Instant) -> Vec<Arc<RowLease>> {
        let is_due = |lease: &&Arc<RowLease>| lease.unsaved().due.is_some_and(|due| due <= now);
        self.lock().values().filter(is_due).cloned().collect()
    }

    /// The leases have to be compared with SQL: an answer was lost, or this process was taken for dead.
    pub fn doubt(&self) {
        self.unsure.store(true, Ordering::SeqCst);
    }

    /// Compares the leases with SQL, when there is doubt: rows that somebody else has are lost from now on. Returns the rows that
    /// SQL records as held here and that are unknown here: they have to be released.
    ///
    /// # Errors
    /// When the database fails; the doubt remains.
    pub async fn compare(&self, services: &Services) -> StoreResult<Vec<Held>> {
        if !self.unsure.swap(false, Ordering::SeqCst) {
            return Ok(Vec::new());
        }
        let before = self.all();
        let recorded: HashSet<Held> = match services.store.held_by(self.heartbeat.name()).await {
            Ok(recorded) => recorded.into_iter().collect(),
            Err(error) => {
                self.doubt();
                return Err(error);
            }
        };
        for lease in before.iter().filter(|lease| !recorded.contains(&(lease.row, lease.token))) {
            lease.lost.store(true, Ordering::Relaxed);
        }
        // A claim that was still under way inserts its rows first, and is over then.
        let claiming = self.claiming.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let held = self.lock();
        let unknown = |one: &Held| !held.contains_key(one) && !claiming.contains(&one.1);
        Ok(recorded.into_iter().filter(unknown).collect())
    }

    /// Saves the receipts of rows that have been in flight for a while since, so that their finished steps are not called again after
    /// a crash. What cannot be saved now is saved next time.
    pub async fn save_receipts(&self, services: &Services) {
        let mut unsaved = Vec::new();
        let now = Instant::now();
        for lease in self.due(now) {
            let taken = std::mem::take(&mut *lease.unsaved()).receipts;
            unsaved.extend(taken.into_iter().map(|receipt| (lease.clone(), receipt)));
        }
        for group in unsaved.chunks(GROUP) {
            let receipts: Vec<_> =
                group.iter().map(|(lease, receipt)| (lease.row, lease.token, receipt.clone())).collect();
            if let Err(error) = services.store.save_receipts(&receipts).await {
                tracing::warn!(%error, receipts = group.len(), "failed to save receipts; will retry");
                if error.is_transient() {
                    for (lease, receipt) in group {
                        lease.unsaved().push(receipt.clone(), now);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use penstock_domain::ids::BatchSeq;
    use penstock_store::workers::WorkerKind;
    use uuid::Uuid;

    use super::*;

    fn held(number: u32) -> Held {
        (RowRef { batch: BatchSeq(1), number }, LeaseToken(Uuid::from_u128(number.into())))
    }

    #[tokio::test(start_paused = true)]
    async fn a_row_waits_for_the_heartbeat_and_not_after_it_was_lost() {
        let heartbeat = Heartbeat::new("one".into(), WorkerKind::Worker, Duration::from_secs(12));
        let leases = Leases::new(heartbeat);
        let lease = leases.insert(held(1).0, held(1).1);
        let call = Duration::from_secs(5);
        let waits = tokio::time::timeout(Duration::from_secs(60), lease.covered(call, &|| false));
        assert!(waits.await.is_err(), "there was no heartbeat yet");
        lease.covered(call, &|| true).await;
        lease.lost.store(true, Ordering::Relaxed);
        lease.covered(call, &|| false).await;
        assert!(!lease.covers(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_receipt_waits_for_the_rows_end_as_long_as_its_step_allows() {
        let leases = Leases::new(Heartbeat::new("one".into(), WorkerKind::Worker, Duration::from_secs(12)));
        let lease = leases.insert(held(1).0, held(1).1);
        let receipt = |step: u16| Receipt { step, sealed: Vec::new() };
        let due_after = |time: Duration| leases.due(Instant::now() + time).len();
        assert_eq!(due_after(Duration::from_secs(60)), 0);
        lease.keyed_call();
        assert_eq!(due_after(Duration::from_secs(60)), 0, "nothing is there to save");
        lease.finished_step(receipt(0), false);
        assert_eq!((due_after(SAVE_AFTER), due_after(SAVE_HARMLESS_AFTER)), (0, 1));
        lease.finished_step(receipt(1), true);
        assert_eq!(due_after(SAVE_AFTER), 1, "with all that is before it");
        let other = leases.insert(held(2).0, held(2).1);
        other.finished_step(receipt(0), false);
        assert_eq!(due_after(SAVE_AFTER), 1);
        other.keyed_call();
        assert_eq!(due_after(SAVE_AFTER), 2, "what a key belongs to");
        leases.remove([held(2)]);
        leases.remove([held(1)]);
        assert_eq!(due_after(SAVE_AFTER), 0);
    }
}

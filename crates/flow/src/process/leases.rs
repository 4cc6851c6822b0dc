//! Rows in flight and their leases: renewed in groups, receipts saved beside, until each row is settled.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use penstock_domain::ids::{LeaseToken, RowRef};
use penstock_domain::row::Receipt;
use penstock_domain::time::Timestamp;
use penstock_store::settling::Held;

use crate::engines::Engines;

/// Rows are renewed and receipts are saved in statements of so many rows.
const GROUP: usize = 500;

/// A claimed row's lease, as its task sees it.
#[derive(Debug)]
pub struct RowLease {
    /// The row.
    pub row: RowRef,
    /// Its secret.
    pub token: LeaseToken,
    until: AtomicI64,
    lost: AtomicBool,
    unsaved: Mutex<Vec<Receipt>>,
}

impl RowLease {
    /// Whether a call that may last `worst` can begin now and still be answered under the lease.
    pub fn covers(&self, now: Timestamp, worst: Duration) -> bool {
        !self.lost.load(Ordering::Relaxed) && (now + worst).millis() < self.until.load(Ordering::Relaxed)
    }

    /// A step is done: its receipt is saved with the next renewal, if the row is still in flight then.
    pub fn finished_step(&self, receipt: Receipt) {
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner).push(receipt);
    }

    fn take_unsaved(&self) -> Vec<Receipt> {
        std::mem::take(&mut *self.unsaved.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// All rows in flight in this worker.
#[derive(Debug, Default)]
pub struct Leases {
    /// By row and token: a row whose lease was lost may be claimed anew before its former task has ended.
    held: Mutex<HashMap<Held, Arc<RowLease>>>,
}

impl Leases {
    /// A row was claimed.
    pub fn insert(&self, row: RowRef, token: LeaseToken, until: Timestamp) -> Arc<RowLease> {
        let lease = Arc::new(RowLease {
            row,
            token,
            until: AtomicI64::new(until.millis()),
            lost: AtomicBool::new(false),
            unsaved: Mutex::default(),
        });
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

    /// Renews every lease. One that is no longer held marks its row as lost, which ends before its next call.
    pub async fn renew(&self, engines: &Engines, lease: Duration) {
        for group in self.all().chunks(GROUP) {
            let until = engines.clock.now() + lease;
            let rows: Vec<Held> = group.iter().map(|one| (one.row, one.token)).collect();
            match engines.store.renew(&rows, until).await {
                Ok(kept) => {
                    let kept: std::collections::HashSet<Held> = kept.into_iter().collect();
                    for one in group {
                        if kept.contains(&(one.row, one.token)) {
                            one.until.store(until.millis(), Ordering::Relaxed);
                        } else {
                            one.lost.store(true, Ordering::Relaxed);
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, rows = rows.len(), "leases were not renewed"),
            }
        }
    }

    /// Saves the receipts of rows that are still in flight, so that a crash calls their finished steps not again.
    pub async fn save_receipts(&self, engines: &Engines) {
        let mut receipts = Vec::new();
        for lease in self.all() {
            receipts
                .extend(lease.take_unsaved().into_iter().map(|receipt| (lease.row, lease.token, receipt)));
        }
        for group in receipts.chunks(GROUP) {
            if let Err(error) = engines.store.save_receipts(group).await {
                tracing::warn!(%error, receipts = group.len(), "receipts were not saved; they are when the row is settled");
            }
        }
    }
}

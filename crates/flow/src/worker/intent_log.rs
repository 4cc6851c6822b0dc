//! Calls that are made at most once: before each, it is noted in SQL that its row asks for it, so that nobody asks again
//! when this worker dies in the middle.
//!
//! Rows that are about to call at the same time share a write, as settlements do.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use penstock_domain::row::Receipt;
use penstock_store::StoreResult;
use penstock_store::settling::Held;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::services::Services;
use crate::context::tasks::spawn_part;
use crate::worker::leases::RowLease;

/// Notes of a write at most.
const GROUP_ROWS: usize = 500;

/// How long the first note of a group waits for company: a call is about to be made.
const GROUP_WAIT: Duration = Duration::from_millis(2);

/// While the database is away, a write is tried again after at most so long.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// A note that is to be written, and who waits for it.
struct Note {
    held: Held,
    step: u16,
    /// Outputs of the steps before it.
    receipts: Vec<Receipt>,
    written: oneshot::Sender<bool>,
}

/// Takes notes. Clones write to the same intent_log.
#[derive(Clone)]
pub struct IntentLog {
    notes: mpsc::Sender<Note>,
}

impl IntentLog {
    /// A intent_log that is written until its last clone is gone.
    pub fn open(services: Services, stop: &CancellationToken) -> Self {
        let (notes, taken) = mpsc::channel(GROUP_ROWS * 2);
        spawn_part("intent log", write(services, taken), stop);
        Self { notes }
    }

    /// Notes that a row asks for a step, and writes down first what the steps before it gave: a row that ends behind the
    /// note goes on from this step when somebody has it tried again, and calls none before it a second time. False: its
    /// lease was lost, or the database did not take it; the call may not be made.
    pub async fn note(&self, lease: &RowLease, step: u16, receipts: &[Receipt]) -> bool {
        let (written, answer) = oneshot::channel();
        let note = Note { held: (lease.row, lease.token), step, receipts: receipts.to_vec(), written };
        self.notes.send(note).await.is_ok() && answer.await.unwrap_or(false)
    }
}

async fn write(services: Services, mut taken: mpsc::Receiver<Note>) {
    let mut group = Vec::with_capacity(GROUP_ROWS);
    while let Some(first) = taken.recv().await {
        group.push(first);
        let close_at = Instant::now() + GROUP_WAIT;
        while group.len() < GROUP_ROWS {
            match tokio::time::timeout_at(close_at, taken.recv()).await {
                Ok(Some(note)) => group.push(note),
                Ok(None) | Err(_) => break,
            }
        }
        let held: HashSet<Held> = match AssertUnwindSafe(put_down(&services, &group)).catch_unwind().await {
            Ok(Ok(held)) => held.into_iter().collect(),
            Ok(Err(error)) => {
                tracing::warn!(%error, rows = group.len(), "it could not be noted what rows ask for; they go back");
                HashSet::new()
            }
            Err(_) => {
                tracing::error!(
                    rows = group.len(),
                    "noting what rows ask for failed: a defect, please report it"
                );
                HashSet::new()
            }
        };
        for note in group.drain(..) {
            // Whoever asked may be gone.
            let _ = note.written.send(held.contains(&note.held));
        }
    }
}

/// Writes a group down, however long the database is away: no call of it begins before.
async fn put_down(services: &Services, group: &[Note]) -> StoreResult<Vec<Held>> {
    let mut receipts = Vec::new();
    for note in group {
        let (row, token) = note.held;
        receipts.extend(note.receipts.iter().map(|receipt| (row, token, receipt.clone())));
    }
    let asked: Vec<_> = group.iter().map(|note| (note.held.0, note.held.1, note.step)).collect();
    let mut pause = Duration::from_millis(20);
    loop {
        let written = async {
            if !receipts.is_empty() {
                services.store.save_receipts(&receipts).await?;
            }
            services.store.record_intents(&asked).await
        };
        match written.await {
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, rows = group.len(), "notes of calls wait for the database");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            written => return written,
        }
    }
}

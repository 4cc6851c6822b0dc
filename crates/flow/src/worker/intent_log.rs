//! The intent log: before a call that is made at most once, SQL records that its row is about to make it, so that nobody
//! repeats it when this worker dies in the middle.
//!
//! Rows that are about to call at the same time share a write, as settlements do.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use penstock_domain::row::Receipt;
use penstock_store::StoreResult;
use penstock_store::work::Held;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::services::Services;
use crate::context::tasks::spawn_part;
use crate::worker::leases::RowLease;

/// Intents of a write at most.
const GROUP_ROWS: usize = 500;

/// How long the first intent of a group waits for others: a call is about to be made.
const GROUP_WAIT: Duration = Duration::from_millis(2);

/// While the database is unavailable, a write is tried again after at most this time.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// An intent that is to be written, and the task that waits for it.
struct Intent {
    held: Held,
    step: u16,
    /// Outputs of the steps before it.
    receipts: Vec<Receipt>,
    written: oneshot::Sender<bool>,
}

/// Records intents. Clones write to the same log.
#[derive(Clone)]
pub struct IntentLog {
    intents: mpsc::Sender<Intent>,
}

impl IntentLog {
    /// An intent log that is written until its last clone is gone.
    pub fn open(services: Services, stop: &CancellationToken) -> Self {
        let (intents, received) = mpsc::channel(GROUP_ROWS * 2);
        spawn_part("intent log", write(services, received), stop);
        Self { intents }
    }

    /// Records that a row is about to call a step, after the outputs of the steps before it: a row that ends after that
    /// continues at this step when it is retried, and calls none before it a second time. False: its lease was lost, or the
    /// database did not take it; the call may not be made.
    pub async fn record(&self, lease: &RowLease, step: u16, receipts: &[Receipt]) -> bool {
        let (written, answer) = oneshot::channel();
        let intent = Intent { held: (lease.row, lease.token), step, receipts: receipts.to_vec(), written };
        self.intents.send(intent).await.is_ok() && answer.await.unwrap_or(false)
    }
}

async fn write(services: Services, mut received: mpsc::Receiver<Intent>) {
    let mut group = Vec::with_capacity(GROUP_ROWS);
    while let Some(first) = received.recv().await {
        group.push(first);
        let close_at = Instant::now() + GROUP_WAIT;
        while group.len() < GROUP_ROWS {
            match tokio::time::timeout_at(close_at, received.recv()).await {
                Ok(Some(intent)) => group.push(intent),
                Ok(None) | Err(_) => break,
            }
        }
        let held: HashSet<Held> = match AssertUnwindSafe(write_group(&services, &group)).catch_unwind().await
        {
            Ok(Ok(held)) => held.into_iter().collect(),
            Ok(Err(error)) => {
                tracing::warn!(%error, rows = group.len(), "failed to record intents; their rows are requeued");
                HashSet::new()
            }
            Err(_) => {
                tracing::error!(rows = group.len(), "recording intents panicked: please report it");
                HashSet::new()
            }
        };
        for intent in group.drain(..) {
            // The row's task may be gone.
            let _ = intent.written.send(held.contains(&intent.held));
        }
    }
}

/// Writes a group, however long the database is unavailable: no call of it begins before.
async fn write_group(services: &Services, group: &[Intent]) -> StoreResult<Vec<Held>> {
    let mut receipts = Vec::new();
    for intent in group {
        let (row, token) = intent.held;
        receipts.extend(intent.receipts.iter().map(|receipt| (row, token, receipt.clone())));
    }
    let intents: Vec<_> = group.iter().map(|intent| (intent.held.0, intent.held.1, intent.step)).collect();
    let mut pause = Duration::from_millis(20);
    loop {
        match services.store.record_intents(&intents, &receipts).await {
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, rows = group.len(), "failed to record intents; will retry");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            written => return written,
        }
    }
}

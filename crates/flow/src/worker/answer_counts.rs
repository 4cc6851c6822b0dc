//! How many rows of each batch found an answer, and how many asked: written about once a second. What a crash loses is not counted.

use std::collections::BTreeMap;
use std::time::Duration;

use penstock_domain::ids::BatchSeq;
use penstock_store::answers::AnswerCount;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::services::Services;
use crate::context::tasks::spawn_part;

/// How often it is written.
const EVERY: Duration = Duration::from_secs(1);

/// Rows that are counted and not yet added up, at most: further ones are left out.
const ROWS: usize = 4096;

/// A row at a step.
struct Seen {
    batch: BatchSeq,
    step: u16,
    asked: bool,
}

/// Counts. Clones count into the same.
#[derive(Clone)]
pub(crate) struct AnswerCounts(mpsc::Sender<Seen>);

impl AnswerCounts {
    /// Counts until its last clone is gone.
    pub fn open(services: Services, stop: &CancellationToken) -> Self {
        let (seen, received) = mpsc::channel(ROWS);
        spawn_part("answer counts", write(services, received), stop);
        Self(seen)
    }

    /// A row found an answer at a step, or asked for one.
    pub fn seen(&self, batch: BatchSeq, step: u16, asked: bool) {
        // Full: the database is slower than the rows, which do not wait for a count.
        let _ = self.0.try_send(Seen { batch, step, asked });
    }
}

async fn write(services: Services, mut received: mpsc::Receiver<Seen>) {
    while let Some(first) = received.recv().await {
        let mut counts: BTreeMap<(BatchSeq, u16), AnswerCount> = BTreeMap::new();
        let mut next = Some(first);
        let close_at = Instant::now() + EVERY;
        while let Some(Seen { batch, step, asked }) = next {
            let count =
                counts.entry((batch, step)).or_insert(AnswerCount { batch, step, found: 0, asked: 0 });
            if asked {
                count.asked += 1;
            } else {
                count.found += 1;
            }
            next = tokio::time::timeout_at(close_at, received.recv()).await.ok().flatten();
        }
        let counts: Vec<AnswerCount> = counts.into_values().collect();
        if let Err(error) = services.store.count_answers(&counts).await {
            tracing::warn!(%error, "failed to count kept answers; these are not counted");
        }
    }
}

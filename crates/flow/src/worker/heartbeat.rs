//! A process's heartbeat: while the database takes it, the rows that the process holds are its own.
//!
//! Others take rows only from who was silent for [`Heartbeat::silence`] while they could look
//! ([`penstock_store::workers`]). A process whose heartbeat is late therefore begins no call that might still be under way by
//! then: it waits until the database is back. What it has in hand it keeps, and settles.

use std::sync::Arc;
use std::time::Duration;

use penstock_store::StoreResult;
use penstock_store::workers::{NewWorker, WorkerKind, WorkerLoad};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::context::services::Engines;

/// How often it is written.
pub const EVERY: Duration = Duration::from_secs(1);

/// A heartbeat that takes longer is given up, and the next one tried: its connection may have fallen silent.
const PATIENCE: Duration = Duration::from_secs(3);

/// A call may begin for so long after the last heartbeat, however long it lasts.
pub const FRESH: Duration = Duration::from_secs(4);

/// The heartbeat of one process, under one name.
#[derive(Debug)]
pub struct Heartbeat {
    name: String,
    kind: WorkerKind,
    silence: Duration,
    /// When the last one began that was written; none: no one was yet.
    last: watch::Sender<Option<Instant>>,
}

/// What came of a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// It was written.
    Written,
    /// It was written, but the process had been taken for dead: some of its rows may be somebody else's by now.
    Returned,
}

impl Heartbeat {
    /// A process that is not recorded yet. Nobody else ever has its name.
    pub fn new(name: String, kind: WorkerKind, silence: Duration) -> Arc<Self> {
        Arc::new(Self { name, kind, silence, last: watch::Sender::new(None) })
    }

    /// The process's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a call that may last so long can begin now.
    pub fn covers(&self, call: Duration) -> bool {
        let needed = call.min(self.silence.saturating_sub(FRESH));
        self.last.borrow().is_some_and(|last| last.elapsed() + needed < self.silence)
    }

    /// Waits for the next heartbeat that is written.
    pub async fn next(&self) {
        let mut next = self.last.subscribe();
        // An error means that this is gone, and with it whoever waits.
        let _ = next.changed().await;
    }

    /// Records the process: it is alive from now on.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn register(&self, engines: &Engines) -> StoreResult<()> {
        let worker = NewWorker {
            name: &self.name,
            kind: self.kind,
            version: env!("CARGO_PKG_VERSION"),
            silence: self.silence,
        };
        let began = Instant::now();
        engines.store.register_worker(&worker).await?;
        self.last.send_replace(Some(began));
        Ok(())
    }

    /// One heartbeat. A process that was taken for dead is recorded again, under its name: rows that nobody took are its own.
    ///
    /// # Errors
    /// When the database fails, or does not answer.
    pub async fn beat(&self, engines: &Engines, load: WorkerLoad) -> StoreResult<Beat> {
        let began = Instant::now();
        let written = tokio::time::timeout(PATIENCE, engines.store.beat(&self.name, load));
        let written =
            written.await.map_err(|late| penstock_store::StoreError::Unavailable(Box::new(late)))??;
        if written {
            self.last.send_replace(Some(began));
            return Ok(Beat::Written);
        }
        self.register(engines).await?;
        Ok(Beat::Returned)
    }

    /// The process ends and holds nothing any more.
    ///
    /// # Errors
    /// When the database fails; the others find out by themselves.
    pub async fn leave(&self, engines: &Engines) -> StoreResult<()> {
        engines.store.leave(&self.name).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heartbeat(silence: u64) -> Arc<Heartbeat> {
        Heartbeat::new("one".to_owned(), WorkerKind::Worker, Duration::from_secs(silence))
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_begins_only_when_it_ends_before_others_may_take_the_row() {
        let one = heartbeat(14);
        let second = Duration::from_secs(1);
        assert!(!one.covers(second), "nobody knows it yet");
        one.last.send_replace(Some(Instant::now()));
        tokio::time::advance(Duration::from_millis(3900)).await;
        assert!(one.covers(10 * second) && one.covers(60 * second), "the heartbeat is fresh");
        tokio::time::advance(Duration::from_millis(200)).await;
        assert!(!one.covers(10 * second) && !one.covers(60 * second));
        assert!(one.covers(9 * second), "it has ended by then");
        tokio::time::advance(10 * second).await;
        assert!(!one.covers(Duration::ZERO), "somebody else may have the row");
    }
}

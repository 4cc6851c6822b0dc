//! A process's heartbeat: while the database takes it, the rows that the process holds are its own.
//!
//! Others take rows only from a process that was silent for [`Heartbeat::silence`] while they could check
//! ([`penstock_store::workers`]). A process whose heartbeat is late therefore begins no call that might still be running by
//! then: it waits until the database is back. It keeps the rows that it holds, and settles them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use penstock_store::StoreResult;
use penstock_store::workers::{NewWorker, WorkerKind, WorkerLoad};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::context::services::Services;

/// How often it is written.
pub const EVERY: Duration = Duration::from_secs(1);

/// A heartbeat that takes longer is given up, and the next one tried: its connection may have fallen silent.
const PATIENCE: Duration = Duration::from_secs(3);

/// A call may begin for this long after the last heartbeat, however long it lasts.
pub const FRESH: Duration = Duration::from_secs(4);

/// The heartbeat of one process, under one name.
#[derive(Debug)]
pub struct Heartbeat {
    name: String,
    kind: WorkerKind,
    silence: Duration,
    /// When the last one began that was written; none: none was yet.
    last: watch::Sender<Option<Instant>>,
    /// It was taken for dead, and has not compared yet what it holds.
    returned: AtomicBool,
}

/// What came of a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// It was written.
    Written,
    /// It was written, but the process had been taken for dead: some of its rows may be somebody else's by now. No call begins
    /// before it has compared what it holds and [continues](Heartbeat::goes_on).
    Returned(Since),
}

/// When a heartbeat began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since(Instant);

impl Heartbeat {
    /// A process that is not recorded yet. Nobody else ever has its name.
    pub fn new(name: String, kind: WorkerKind, silence: Duration) -> Arc<Self> {
        let (last, returned) = (watch::Sender::new(None), AtomicBool::new(false));
        Arc::new(Self { name, kind, silence, last, returned })
    }

    /// The process's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a call that may last this long can begin now.
    pub fn covers(&self, call: Duration) -> bool {
        let needed = call.min(self.silence.saturating_sub(FRESH));
        self.last.borrow().is_some_and(|last| last.elapsed() + needed < self.silence)
    }

    /// Waits for the next heartbeat after which calls may begin.
    pub async fn next(&self) {
        let mut next = self.last.subscribe();
        // An error means that this is dropped, and with it every task that waits.
        let _ = next.changed().await;
    }

    /// Records the process: it is alive from now on.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn register(&self, services: &Services) -> StoreResult<()> {
        let began = Instant::now();
        self.record(services).await?;
        self.last.send_replace(Some(began));
        Ok(())
    }

    async fn record(&self, services: &Services) -> StoreResult<()> {
        let worker = NewWorker {
            name: &self.name,
            kind: self.kind,
            version: env!("CARGO_PKG_VERSION"),
            silence: self.silence,
        };
        services.store.register_worker(&worker).await
    }

    /// One heartbeat. A process that was taken for dead is recorded again, under its name: rows that nobody took are its own.
    /// [`Beat::Returned`] is the result until it [continues](Heartbeat::goes_on).
    ///
    /// # Errors
    /// When the database fails, or does not answer.
    pub async fn beat(&self, services: &Services, load: WorkerLoad) -> StoreResult<Beat> {
        let began = Instant::now();
        let written = tokio::time::timeout(PATIENCE, services.store.beat(&self.name, load));
        let written =
            written.await.map_err(|late| penstock_store::StoreError::Unavailable(Box::new(late)))??;
        if !written {
            self.was_dead();
            self.record(services).await?;
        }
        Ok(self.written(began))
    }

    /// No call begins from now on: others may take the rows.
    fn was_dead(&self) {
        self.returned.store(true, Ordering::SeqCst);
        self.last.send_replace(None);
    }

    fn written(&self, began: Instant) -> Beat {
        if self.returned.load(Ordering::SeqCst) {
            return Beat::Returned(Since(began));
        }
        self.last.send_replace(Some(began));
        Beat::Written
    }

    /// The process has compared what it holds since that heartbeat: what it did not lose is its own, and calls begin again.
    pub fn goes_on(&self, since: Since) {
        self.returned.store(false, Ordering::SeqCst);
        self.last.send_replace(Some(since.0));
    }

    /// The process ends and holds nothing any more.
    ///
    /// # Errors
    /// When the database fails; the others find out by themselves.
    pub async fn leave(&self, services: &Services) -> StoreResult<()> {
        services.store.leave(&self.name).await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

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

    #[tokio::test(start_paused = true)]
    async fn who_was_taken_for_dead_calls_nothing_before_it_has_compared() {
        let one = heartbeat(14);
        assert_eq!(one.written(Instant::now()), Beat::Written);
        assert!(one.covers(Duration::ZERO));
        one.was_dead();
        assert!(!one.covers(Duration::ZERO), "its record is gone");
        let mut waits = Box::pin(one.next());
        assert!(waits.as_mut().now_or_never().is_none());
        // The comparison fails once: the next heartbeat does not forget it.
        for _ in 0..2 {
            assert!(matches!(one.written(Instant::now()), Beat::Returned(_)));
            assert!(!one.covers(Duration::ZERO), "it has not compared");
            assert!(waits.as_mut().now_or_never().is_none(), "a row that waits goes on waiting");
        }
        let Beat::Returned(since) = one.written(Instant::now()) else { panic!("it has not compared") };
        tokio::time::advance(Duration::from_secs(10)).await;
        one.goes_on(since);
        waits.await;
        assert!(one.covers(3 * Duration::from_secs(1)) && !one.covers(5 * Duration::from_secs(1)));
        assert_eq!(one.written(Instant::now()), Beat::Written);
    }
}

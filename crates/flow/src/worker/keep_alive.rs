//! What runs in the background of a worker: its heartbeat, and saving the receipts of rows that take long.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use penstock_store::workers::{CallWait, ComeBack, Requeued, WorkerLoad};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::context::call_waits;
use crate::context::error::FlowError;
use crate::context::tasks::spawn_part;
use crate::worker::heartbeat;
use crate::worker::heartbeat::Beat;
use crate::worker::state::{DATABASE_PAUSE, Worker};

/// How often receipts are looked for that are old enough to be saved: each is within 200 ms, unless its step is harmless to repeat.
const RECEIPTS_EVERY: Duration = Duration::from_millis(50);

/// What is held is compared with SQL this often, whether or not there is doubt.
const COMPARE_EVERY: Duration = Duration::from_secs(30);

/// What calls wait for is reported up to this number: the record is read by people.
const MOST_WAITS: usize = 200;

/// While the database is unavailable, that is logged at most this often.
const LOG_EVERY: Duration = Duration::from_secs(30);

impl Worker {
    /// Records this worker; false when it was stopped before the database was available.
    pub(super) async fn register(&self, stop: &CancellationToken) -> bool {
        while let Err(error) = self.heartbeat.register(&self.services).await {
            tracing::warn!(%error, "failed to record this worker; will retry");
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(DATABASE_PAUSE) => {}
            }
        }
        true
    }

    /// Starts what runs until the worker has drained, which is when these are dropped.
    pub(super) fn spawn_background(self: &Arc<Self>, stop: &CancellationToken) -> [AbortOnDropHandle<()>; 4] {
        [
            spawn_part("heartbeat", self.clone().beat(), stop),
            spawn_part("receipts", self.clone().keep_receipts(), stop),
            spawn_part("polls", self.clone().queue_due_polls(), stop),
            spawn_part("replacements", self.clone().replace_returned(), stop),
        ]
        .map(AbortOnDropHandle::new)
    }

    async fn beat(self: Arc<Self>) {
        let mut tick = tokio::time::interval(heartbeat::EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut logged: Option<Instant> = None;
        let mut compared = Instant::now();
        loop {
            tick.tick().await;
            if compared.elapsed() >= COMPARE_EVERY {
                self.leases.doubt();
                compared = Instant::now();
            }
            match self.beat_once().await {
                Ok(()) if logged.take().is_some() => tracing::info!("the database takes heartbeats again"),
                Ok(()) => {}
                Err(error) if logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) => {
                    tracing::warn!(%error, "failed to write a heartbeat; no call begins until the database is back");
                    logged = Some(Instant::now());
                }
                Err(_) => {}
            }
        }
    }

    async fn beat_once(&self) -> Result<(), FlowError> {
        let count = |rows: usize| u32::try_from(rows).unwrap_or(u32::MAX);
        let waiting = self.metrics.waiting.load(std::sync::atomic::Ordering::Relaxed);
        let load = WorkerLoad { in_flight: count(self.leases.len()), waiting: count(waiting) };
        let beat = self.heartbeat.beat(&self.services, load).await?;
        if let Beat::Returned(_) = beat {
            self.leases.doubt();
        }
        // Before anything else that can fail: until then no call begins.
        let unknown = self.leases.compare(&self.services).await?;
        if let Beat::Returned(since) = beat {
            self.heartbeat.goes_on(since);
            tracing::warn!(
                rows = self.leases.len(),
                "this worker was taken for dead; it continues with the rows that nobody took from it"
            );
        }
        self.follow_clock().await?;
        self.report_call_waits().await?;
        if unknown.is_empty() {
            return Ok(());
        }
        let now = self.services.clock.now();
        let back = ComeBack::Queued { lost_after: now + self.policy.lost_after };
        let freed =
            self.services.store.let_go(&unknown, back, now).await.inspect_err(|_| self.leases.doubt())?;
        tracing::warn!(rows = freed.rows(), "rows whose claim was not answered are queued again");
        crate::dispatch::dead_workers::log(&freed);
        // A claim of ordinary rows does not take suspects: among them they would wait until they count as lost.
        let (suspects, rows): (Vec<Requeued>, Vec<Requeued>) =
            freed.requeued.into_iter().partition(|one| one.crashes > 0);
        let due = Instant::now();
        let rows: Vec<_> = rows.into_iter().map(|one| (one.row, due)).collect();
        self.take_up(&rows, &None).await?;
        let suspects: Vec<_> = suspects.into_iter().map(|one| (one.row, one.crashes)).collect();
        self.take_up_suspects(&suspects, &None).await
    }

    /// Writes what calls of this process wait for, so that whoever is asked why rows wait can say it. Most of the time there is
    /// nothing to write.
    async fn report_call_waits(&self) -> Result<(), FlowError> {
        let mut reported = self.reported_waits.lock().await;
        let waits: Vec<CallWait> =
            self.caller.waits().into_iter().take(MOST_WAITS).map(call_waits::stored).collect();
        if waits.is_empty() && reported.is_empty() {
            return Ok(());
        }
        // A record that was written anew meanwhile has none of what was reported before.
        self.services.store.set_call_waits(self.heartbeat.name(), &waits).await?;
        *reported = waits;
        Ok(())
    }

    /// A database whose clock was set back: stored deadlines are moved as soon as all processes use the new time.
    async fn follow_clock(&self) -> Result<(), FlowError> {
        let set_back = self.services.store.follow_clock().await?;
        let noticed = {
            let mut noticed = self.set_back_at.lock().unwrap_or_else(PoisonError::into_inner);
            *noticed = set_back.map(|_| noticed.unwrap_or_else(Instant::now));
            *noticed
        };
        if noticed.is_some_and(|at| at.elapsed() >= self.policy.clock_settles)
            && let Some(by) = self.services.store.move_deadlines().await?
        {
            let seconds = by.as_secs();
            tracing::warn!(
                seconds,
                "the database's clock was set back; stored deadlines were moved by as much"
            );
        }
        Ok(())
    }

    async fn keep_receipts(self: Arc<Self>) {
        let mut tick = tokio::time::interval(RECEIPTS_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.leases.save_receipts(&self.services).await;
        }
    }
}

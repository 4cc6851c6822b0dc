//! Finds processes that died, and requeues what they held. Any number of processes do so concurrently, each worker among them:
//! every write has its guard in its own statement.

use std::time::Duration;

use penstock_domain::outcome::code;
use penstock_queue::{Message, PACKET_ROWS};
use penstock_store::workers::{ComeBack, Reclaimed};
use tokio::time::Instant;

use crate::context::error::FlowError;
use crate::context::periodic::{Schedule, Task};
use crate::context::services::Services;

/// Rows that are requeued in one transaction.
const GROUP_ROWS: usize = 500;

/// How often a worker looks. Looks count about once a second, whoever looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often it requeues what another process may have left that died in the middle of this.
const RECLAIM_EVERY: Duration = Duration::from_secs(5);

/// [`linger`] gives up after this: others find the rest.
const LINGER: Duration = Duration::from_secs(25);

/// Looks for dead processes.
pub struct Recovery {
    services: Services,
    /// The name of this process, which is alive.
    own: String,
    lost_after: Duration,
    reclaimed: Option<Instant>,
}

impl Recovery {
    /// For the process of this name.
    pub fn new(services: Services, own: String, lost_after: Duration) -> Self {
        Self { services, own, lost_after, reclaimed: None }
    }
}

impl Task for Recovery {
    const NAME: &'static str = "recovery";
    type Error = FlowError;

    fn schedule(&self) -> Schedule {
        Schedule::from_start(LOOK_EVERY)
    }

    async fn run(&mut self) -> Result<(), FlowError> {
        let due = self.reclaimed.is_none_or(|at| at.elapsed() >= RECLAIM_EVERY);
        if remove_dead_workers(&self.services, Some(&self.own)).await? > 0 || due {
            reclaim(&self.services, self.lost_after).await?;
            self.reclaimed = Some(Instant::now());
        }
        Ok(())
    }
}

/// Looks once, and removes the dead ones except `own`; returns how many. Their messages are enqueued again.
///
/// # Errors
/// When the database fails. A queue that does not answer is no error: it requeues the messages later by itself.
pub async fn remove_dead_workers(services: &Services, own: Option<&str>) -> Result<usize, FlowError> {
    let mut removed = 0;
    for name in services.store.look().await?.iter().filter(|name| own != Some(name.as_str())) {
        if !services.store.bury(name).await? {
            continue;
        }
        removed += 1;
        let messages = match services.queue.put_back(name).await {
            Ok(messages) => messages,
            Err(error) => {
                tracing::warn!(%error, worker = %name, "failed to put back the messages of a dead worker; the queue does it later");
                0
            }
        };
        tracing::warn!(worker = %name, messages, "a worker died; its rows are queued again");
    }
    Ok(removed)
}

/// Queues the rows again that belong to no living process: they run alone, because one of them may have been the cause.
///
/// # Errors
/// When the database fails.
pub async fn reclaim(services: &Services, lost_after: Duration) -> Result<Reclaimed, FlowError> {
    let now = services.clock.now();
    let reclaimed = services.store.reclaim(ComeBack::Queued { lost_after: now + lost_after }, now).await?;
    log(&reclaimed);
    let suspects: Vec<_> = reclaimed.requeued.iter().map(|one| (one.row, one.crashes)).collect();
    enqueue(services, suspect_messages(&suspects)).await;
    Ok(reclaimed)
}

/// Looks until every process that is silent now has a heartbeat again or was removed by anybody. For callers that look only
/// once: a command, or a dispatcher's single run.
///
/// # Errors
/// When the database fails.
pub async fn linger(services: &Services) -> Result<(), FlowError> {
    let began = Instant::now();
    while began.elapsed() < LINGER && services.store.workers().await?.iter().any(|worker| worker.is_silent())
    {
        remove_dead_workers(services, None).await?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// The messages for suspects, each with how many processes died while they held it.
pub fn suspect_messages(rows: &[(penstock_domain::ids::RowRef, u16)]) -> Vec<Message> {
    rows.chunks(PACKET_ROWS).map(|rows| Message::Suspects(rows.iter().copied().collect())).collect()
}

/// Enqueues messages about rows that are queued in SQL. Rows that the queue does not take are pending again, and the next run
/// releases them. Returns how many messages were taken, and how many were not.
pub async fn enqueue(services: &Services, messages: Vec<Message>) -> (usize, usize) {
    if messages.is_empty() {
        return (0, 0);
    }
    let all = messages.len();
    let held_back = match services.queue.enqueue(messages.clone()).await {
        Ok(result) => result.held_back,
        Err(error) => {
            tracing::warn!(%error, messages = all, "failed to enqueue; the rows are pending again");
            messages
        }
    };
    // Some may be in the queue all the same: a claim takes only rows that are queued.
    let rows: Vec<_> = held_back.iter().flat_map(Message::rows).collect();
    for group in rows.chunks(GROUP_ROWS) {
        if let Err(error) = services.store.unqueue(group, services.clock.now()).await {
            tracing::warn!(%error, rows = group.len(), "failed to requeue rows; the sweep requeues them");
        }
    }
    (all - held_back.len(), held_back.len())
}

/// Logs the rows that ended, because no worker does.
pub fn log(reclaimed: &Reclaimed) {
    if reclaimed.unknown > 0 {
        tracing::warn!(
            rows = reclaimed.unknown,
            code = code::OUTCOME_UNKNOWN,
            "rows failed: their worker died in the middle of a call that is made at most once"
        );
    }
    if reclaimed.crashed > 0 {
        tracing::warn!(
            rows = reclaimed.crashed,
            code = code::WORKER_CRASHED,
            "rows failed: their worker died each time it processed them"
        );
    }
}

//! Whether a service is ready: whether the database and the queue take writes.

use std::time::Duration;

use tokio::time::Instant;

use crate::context::last_readiness::{OK, Readiness};
use crate::context::services::Services;

/// How long an answer holds: however many ask, the database is written to no more often.
const HOLDS: Duration = Duration::from_secs(1);

/// How long each is waited for. Less than probes wait for an answer.
const WITHIN: Duration = Duration::from_millis(2500);

/// Asks the database and the queue.
pub async fn readiness(services: &Services) -> Readiness {
    let mut last = services.readiness.0.lock().await;
    if let Some((at, readiness)) = last.as_ref()
        && at.elapsed() < HOLDS
    {
        return readiness.clone();
    }
    let now = services.clock.now();
    let (database, queue) = tokio::join!(
        within(async { services.store.probe_writes(now).await.map_err(|error| error.to_string()) }),
        within(async { services.queue.ready().await.map_err(|error| error.to_string()) })
    );
    let readiness = Readiness { ready: database == OK && queue == OK, database, queue };
    *last = Some((Instant::now(), readiness.clone()));
    readiness
}

async fn within(answer: impl Future<Output = Result<(), String>>) -> String {
    match tokio::time::timeout(WITHIN, answer).await {
        Ok(Ok(())) => OK.to_owned(),
        Ok(Err(error)) => error,
        Err(_) => format!("no answer within {} ms", WITHIN.as_millis()),
    }
}

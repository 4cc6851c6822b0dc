//! Whether a service is ready: whether the database and the queue take writes.

use std::time::Duration;

use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::services::Services;

/// How long an answer holds: however many ask, the database is written to no more often.
const HOLDS: Duration = Duration::from_secs(1);

/// How long each is waited for. Less than probes wait for an answer.
const WITHIN: Duration = Duration::from_millis(2500);

/// What the database and the queue say.
#[derive(Clone, Debug, Serialize)]
pub struct Readiness {
    /// Whether both take writes.
    pub ready: bool,
    /// `ok`, or the database's error.
    pub database: String,
    /// `ok`, or the queue's error.
    pub queue: String,
}

const OK: &str = "ok";

impl Readiness {
    /// Whether the database takes writes.
    pub fn database_answers(&self) -> bool {
        self.database == OK
    }
}

/// The last answer. One asks, for all that wait.
#[derive(Default)]
pub struct LastReadiness(Mutex<Option<(Instant, Readiness)>>);

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

//! What the database and the queue answered when they were last asked whether they take writes.

use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

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

pub(crate) const OK: &str = "ok";

impl Readiness {
    /// Whether the database takes writes.
    pub fn database_answers(&self) -> bool {
        self.database == OK
    }
}

/// The last answer. One asks, for all that wait.
#[derive(Default)]
pub struct LastReadiness(pub(crate) Mutex<Option<(Instant, Readiness)>>);

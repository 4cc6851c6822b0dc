//! What the database, the queue and the object store answered when they were last asked.

use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// What each says.
#[derive(Clone, Debug, Serialize)]
pub struct Readiness {
    /// Whether all can be used.
    pub ready: bool,
    /// `ok`, or the database's error.
    pub database: String,
    /// `ok`, or the queue's error.
    pub queue: String,
    /// `ok`, or the object store's error.
    pub objects: String,
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

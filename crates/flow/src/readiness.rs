//! Whether a service is ready, engine by engine.

use serde::Serialize;

use crate::engines::Engines;

/// What the engines say.
#[derive(Debug, Serialize)]
pub struct Readiness {
    /// Whether all of them answer.
    pub ready: bool,
    /// What the database says.
    pub database: String,
    /// What the queue says.
    pub queue: String,
}

const OK: &str = "ok";

impl Readiness {
    /// Whether the database answers.
    pub fn database_answers(&self) -> bool {
        self.database == OK
    }
}

/// Asks the engines.
pub async fn readiness(engines: &Engines) -> Readiness {
    let (database, queue) = tokio::join!(engines.store.ping(), engines.bell.ready());
    let said = |result: Result<(), String>| result.map_or_else(|error| error, |()| OK.to_owned());
    Readiness {
        ready: database.is_ok() && queue.is_ok(),
        database: said(database.map_err(|error| error.to_string())),
        queue: said(queue.map_err(|error| error.to_string())),
    }
}

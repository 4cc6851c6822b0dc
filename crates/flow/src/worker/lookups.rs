//! What rows' tasks ask the database while they run, in groups.

use penstock_store::duplicates::{CompletedBy, WantedKey};
use tokio_util::sync::CancellationToken;

use crate::context::services::Services;
use crate::worker::grouped::Grouped;

/// Asks for rows' tasks. Clones ask in the same groups.
#[derive(Clone)]
pub struct Lookups {
    /// Whether another batch has completed a row's key.
    pub(crate) completed: Grouped<WantedKey, Option<CompletedBy>>,
}

impl Lookups {
    /// Answers until its last clone is gone.
    pub fn open(services: &Services, stop: &CancellationToken) -> Self {
        let store = services.store.clone();
        let completed = Grouped::open("duplicates", stop, move |wanted: std::sync::Arc<Vec<WantedKey>>| {
            let store = store.clone();
            async move { store.completed_by_others(&wanted).await }
        });
        Self { completed }
    }
}

//! Tickets of one-time links to the console that were used.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use penstock_domain::time::Timestamp;

/// Tickets that were used, until they have ended. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct UsedTickets(Arc<Mutex<HashMap<String, Timestamp>>>);

impl UsedTickets {
    /// Uses a ticket up; false when it was used before. Only who has the keyring makes tickets, so there are few.
    pub fn take(&self, number: &str, ends_at: Timestamp, now: Timestamp) -> bool {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|_, ends_at| *ends_at > now);
        used.insert(number.to_owned(), ends_at).is_none()
    }
}

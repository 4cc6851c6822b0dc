//! Which dependencies are used, as the database knows it: a limiter that has no state of one learns from it whether that was lost, or
//! whether there was nothing to lose. A burst, and the first call of an hour's limit, are there at a cold start then.
//!
//! A use is recorded before the first call, for a little longer than until the next record. The order makes it exact, whatever other
//! workers do and whenever the limiter is emptied: first it is asked when its state was lost, then what was used before is read and the
//! use is recorded, and then the limiter is told, for that loss alone. A worker that reads "never" can only excuse a state that was
//! new before anybody's first call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use penstock_domain::limit::{Denied, MAX_WAIT_US, Reason, duration};
use penstock_domain::time::{Clock, Timestamp};

use super::reserve::{LastUse, Reservations};
use crate::limiter::{CallLimits, Limiter};

/// A use is recorded again after this time. A limiter that lost its state is the more cautious, the longer it is.
const EVERY: Duration = Duration::from_secs(30);

/// A call may leave as long after it was permitted, and the record may take as long as this.
const MARGIN: Duration = Duration::from_secs(5);

/// Where the database or the limiter cannot be asked, a call waits this long.
const UNAVAILABLE: Denied = Denied::new(1e6, Reason::Unavailable);

/// When more dependencies are known here, those that are not used now are forgotten.
const MOST_KNOWN: usize = 10_000;

/// The dependencies that this worker uses.
pub(super) struct Uses {
    reservations: Arc<dyn Reservations>,
    /// Until when a dependency's use need not be recorded again.
    recorded: Mutex<HashMap<String, Timestamp>>,
    /// By dependency: whoever has the lock records it, and the others wait for that.
    recording: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Uses {
    pub(super) fn new(reservations: Arc<dyn Reservations>) -> Self {
        Self { reservations, recorded: Mutex::default(), recording: Mutex::default() }
    }

    /// Has to be asked before a call's permit is: its dependency is used now.
    pub(super) async fn record(
        &self,
        limiter: &dyn Limiter,
        limits: &CallLimits,
        clock: &dyn Clock,
    ) -> Result<(), Denied> {
        if self.is_recorded(&limits.dependency, clock.now()) {
            return Ok(());
        }
        let recording = self.recording(&limits.dependency);
        let _recording = recording.lock().await;
        let now = clock.now();
        if self.is_recorded(&limits.dependency, now) {
            return Ok(());
        }
        let limits = limits.of_dependency();
        let lost_at = limiter.lost_at(&limits).await.ok_or(UNAVAILABLE)?;
        let until = now + EVERY + MARGIN + duration(MAX_WAIT_US);
        let last = self.reservations.use_until(&limits.dependency, until).await.ok_or(UNAVAILABLE)?;
        if clock.now().since(now) > MARGIN {
            // The record may be over before the call is.
            return Err(UNAVAILABLE);
        }
        let unused = match last {
            LastUse::Never => None,
            LastUse::Until(used_until) => Some(now.since(used_until)),
        };
        let says_something = lost_at > 0.0 && unused != Some(Duration::ZERO);
        if says_something && !limiter.recall(&limits, lost_at, unused).await {
            return Err(UNAVAILABLE);
        }
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        if recorded.len() >= MOST_KNOWN {
            recorded.retain(|_, until| *until > now);
        }
        recorded.insert(limits.dependency, now + EVERY);
        Ok(())
    }

    fn recording(&self, dependency: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut recording = self.recording.lock().unwrap_or_else(PoisonError::into_inner);
        if recording.len() >= MOST_KNOWN {
            recording.retain(|_, lock| Arc::strong_count(lock) > 1);
        }
        recording.entry(dependency.to_owned()).or_default().clone()
    }

    fn is_recorded(&self, dependency: &str, now: Timestamp) -> bool {
        let recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        recorded.get(dependency).is_some_and(|until| now < *until && until.since(now) <= EVERY)
    }
}

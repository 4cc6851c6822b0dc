//! What is used of the limits of dependencies: each worker counts its calls, and writes them down by minute.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use penstock_domain::time::Timestamp;
use penstock_downstream::Caller;
use penstock_store::StoreError;
use penstock_store::limits::LimitUse;

use crate::context::periodic::{Schedule, Task};
use crate::context::services::Services;

/// How often calls are written down.
const EVERY: Duration = Duration::from_secs(5);

/// How long they are kept: an hour is shown.
const KEPT: Duration = Duration::from_secs(2 * 3600);

const MINUTE: i64 = 60_000;

/// Writes down what this process called.
pub struct LimitUseTask {
    services: Services,
    caller: Arc<Caller>,
    /// Calls, and refusals of them for being too many, that are written down.
    written: HashMap<String, (u64, u64)>,
    /// When it looked last: what was called since is of the minute that had begun then.
    looked_at: Timestamp,
    /// The minute in which old ones were forgotten last.
    tidied: i64,
}

impl LimitUseTask {
    /// Nothing is written down yet.
    pub fn new(services: Services, caller: Arc<Caller>) -> Self {
        let looked_at = services.clock.now();
        Self { services, caller, written: HashMap::new(), looked_at, tidied: 0 }
    }
}

impl Task for LimitUseTask {
    const NAME: &'static str = "limit-use";
    type Error = StoreError;

    fn schedule(&self) -> Schedule {
        Schedule::after(EVERY)
    }

    /// A minute's last calls are written down as its own.
    async fn due_early(&mut self) {
        tokio::time::sleep(until_next_minute(self.services.clock.now())).await;
    }

    async fn run(&mut self) -> Result<(), StoreError> {
        let store = &self.services.store;
        let now = self.services.clock.now();
        let minute = minute_of(std::mem::replace(&mut self.looked_at, now));
        for (dependency, metrics) in self.caller.metrics() {
            let (calls, throttled) = (metrics.verdicts.iter().sum::<u64>(), metrics.verdicts[1]);
            let (known_calls, known_throttled) = self.written.get(&dependency).copied().unwrap_or_default();
            if calls == known_calls {
                continue;
            }
            let used = LimitUse {
                dependency: dependency.clone(),
                minute,
                calls: calls - known_calls,
                throttled: throttled - known_throttled,
            };
            store.add_limit_use(&used).await?;
            self.written.insert(dependency, (calls, throttled));
        }
        if self.tidied != minute.millis() {
            store.drop_limit_use(now - KEPT).await?;
            self.tidied = minute.millis();
        }
        Ok(())
    }
}

/// The minute in which a time is.
pub(super) fn minute_of(at: Timestamp) -> Timestamp {
    Timestamp::from_millis(at.millis().div_euclid(MINUTE) * MINUTE)
}

fn until_next_minute(now: Timestamp) -> Duration {
    Duration::from_millis((MINUTE - now.millis().rem_euclid(MINUTE)).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_begins_at_its_first_moment() {
        for (at, minute) in [(0, 0), (59_999, 0), (60_000, 60_000), (-1, -60_000)] {
            assert_eq!(minute_of(Timestamp::from_millis(at)).millis(), minute);
        }
    }

    #[test]
    fn the_next_minute_is_never_now() {
        for (at, wait) in [(0, 60_000), (1, 59_999), (59_999, 1), (60_000, 60_000), (-1, 1)] {
            assert_eq!(until_next_minute(Timestamp::from_millis(at)), Duration::from_millis(wait));
        }
    }
}

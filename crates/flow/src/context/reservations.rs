//! Reservations of a calendar's periods and the use of dependencies, in the database.

use std::sync::Arc;

use async_trait::async_trait;
use penstock_domain::time::Timestamp;
use penstock_downstream::{LastUse, PeriodKey, Reservations};
use penstock_store::Store;
use penstock_store::limits::LimitPeriod;

/// Where workers reserve what they use of limits by the calendar.
pub struct StoreReservations(pub Arc<dyn Store>);

#[async_trait]
impl Reservations for StoreReservations {
    async fn reserve(&self, key: &PeriodKey, amount: u32, limit: u32) -> Option<u32> {
        let PeriodKey { limit: id, member, until } = key.clone();
        let period = LimitPeriod { limit: id, member, ends_at: until };
        match self.0.reserve_period(&period, amount, limit).await {
            Ok(reserved) => Some(reserved),
            Err(error) => {
                tracing::warn!(%error, "failed to reserve a part of a limit's period; its calls wait");
                None
            }
        }
    }

    async fn use_until(&self, dependency: &str, until: Timestamp) -> Option<LastUse> {
        match self.0.use_limits(dependency, until).await {
            Ok(Some(used_until)) => Some(LastUse::Until(used_until)),
            Ok(None) => Some(LastUse::Never),
            Err(error) => {
                tracing::warn!(%error, dependency, "failed to record that a dependency is used; its calls wait");
                None
            }
        }
    }
}

//! Reservations of a calendar's periods, in the database.

use std::sync::Arc;

use async_trait::async_trait;
use penstock_downstream::{PeriodKey, Reservations};
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
}

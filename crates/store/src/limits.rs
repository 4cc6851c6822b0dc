//! What of the limits of dependencies has to outlive a limiter.

use async_trait::async_trait;
use penstock_domain::time::Timestamp;
use serde::Serialize;

use crate::StoreResult;

/// A period of a limit by the calendar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitPeriod {
    /// The dependency's identity and the limit's name.
    pub limit: String,
    /// Whose limit it is: an owner's name, a value's hash, or empty.
    pub member: String,
    /// When the period ends.
    pub ends_at: Timestamp,
}

/// What an operator has set of a dependency's limits while services run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LimitSetting {
    /// The dependency's name.
    pub dependency: String,
    /// Calls in a period; none: as the definition says.
    pub limit: Option<u32>,
    /// Calls at once; none: as the definition says.
    pub concurrency: Option<u32>,
    /// Whether nobody calls it.
    pub paused: bool,
    /// When it was changed.
    pub changed_at: Timestamp,
}

/// A change of it; none: what was there stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitChange {
    /// Calls in a period.
    pub limit: Option<u32>,
    /// Calls at once.
    pub concurrency: Option<u32>,
    /// Whether nobody calls it.
    pub paused: Option<bool>,
}

/// Limits.
#[async_trait]
pub trait Limits: Send + Sync {
    /// Reserves `amount` of a period of which `most` may be used in all, or what is left of it. How much was reserved: 0 when nothing
    /// is left.
    async fn reserve_period(&self, period: &LimitPeriod, amount: u32, most: u32) -> StoreResult<u32>;

    /// A dependency (its identity) may be called until a time from now on. Until when it might have been called before; none: it
    /// never was.
    async fn use_limits(&self, dependency: &str, until: Timestamp) -> StoreResult<Option<Timestamp>>;

    /// What is set of all dependencies.
    async fn limit_settings(&self) -> StoreResult<Vec<LimitSetting>>;

    /// Changes what is set of a dependency.
    async fn change_limits(
        &self,
        dependency: &str,
        change: &LimitChange,
        now: Timestamp,
    ) -> StoreResult<LimitSetting>;

    /// Removes what is set of a dependency: whether anything was.
    async fn reset_limits(&self, dependency: &str) -> StoreResult<bool>;

    /// Forgets the periods that ended before a time. How many.
    async fn drop_periods(&self, ended_before: Timestamp) -> StoreResult<u64>;
}

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

/// Calls of a dependency in a minute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitUse {
    /// The dependency's name.
    pub dependency: String,
    /// When the minute began.
    pub minute: Timestamp,
    /// Calls that were made.
    pub calls: u64,
    /// Those of them that were refused for being too many.
    pub throttled: u64,
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

    /// Adds calls to those of a dependency's minute.
    async fn add_limit_use(&self, used: &LimitUse) -> StoreResult<()>;

    /// Calls of every dependency in minutes from a time on, in their order.
    async fn limit_use(&self, since: Timestamp) -> StoreResult<Vec<LimitUse>>;

    /// Forgets the calls of minutes before a time. How many minutes.
    async fn drop_limit_use(&self, before: Timestamp) -> StoreResult<u64>;

    /// Forgets the periods that ended before a time. How many.
    async fn drop_periods(&self, ended_before: Timestamp) -> StoreResult<u64>;
}

//! Blocks of a calendar's period, reserved before their calls are made.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use penstock_domain::limit::{CalendarPolicy, Denied, MeterPolicy, Reason};
use penstock_domain::time::Timestamp;

use crate::limiter::{CallLimits, Limiter};

/// Where the database cannot be asked, a call waits this long.
const UNAVAILABLE: Denied = Denied::new(1e6, Reason::Unavailable);

/// Reservations of one limit are made one after another; of limits that share a place, too.
const PLACES: usize = 64;

/// When more periods are known here, those that have ended are forgotten.
const MOST_KNOWN: usize = 10_000;

/// A part of a limit's period.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeriodKey {
    /// The dependency's identity and the limit's name.
    pub limit: String,
    /// Whose it is; empty: everybody's.
    pub member: String,
    /// When the period ends.
    pub until: Timestamp,
}

/// When a dependency was used last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastUse {
    /// It was never called.
    Never,
    /// It may have been called until then.
    Until(Timestamp),
}

/// Where it is kept how much of each period was reserved and which dependencies are used, whatever happens to a limiter.
#[async_trait]
pub trait Reservations: Send + Sync {
    /// Reserves `amount` of a period of which `limit` may be used, or what is left of it: how much. None: it is not known.
    async fn reserve(&self, key: &PeriodKey, amount: u32, limit: u32) -> Option<u32>;

    /// A dependency (its identity) may be called until a time from now on. When it was used before; none: it is not known.
    async fn use_until(&self, dependency: &str, until: Timestamp) -> Option<LastUse>;
}

/// Reservations in this process: for tests, and for programs without a database.
#[derive(Default)]
pub struct LocalReservations {
    periods: Mutex<HashMap<PeriodKey, u32>>,
    uses: Mutex<HashMap<String, Timestamp>>,
}

#[async_trait]
impl Reservations for LocalReservations {
    async fn reserve(&self, key: &PeriodKey, amount: u32, limit: u32) -> Option<u32> {
        let mut all = self.periods.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() > MOST_KNOWN {
            all.retain(|known, _| known.until >= key.until);
        }
        let reserved = all.entry(key.clone()).or_insert(0);
        let amount = amount.min(limit.saturating_sub(*reserved));
        *reserved += amount;
        Some(amount)
    }

    async fn use_until(&self, dependency: &str, until: Timestamp) -> Option<LastUse> {
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        let before = uses.insert(dependency.to_owned(), until);
        Some(before.map_or(LastUse::Never, LastUse::Until))
    }
}

/// The reservations that this worker makes: of each limit one at a time, for all calls that wait for it.
pub(super) struct Reserver {
    reservations: Arc<dyn Reservations>,
    hasher: RandomState,
    places: [Place; PLACES],
}

#[derive(Default)]
struct Place {
    alone: tokio::sync::Mutex<()>,
    made: AtomicU64,
}

/// How many reservations had been made when a call asked.
#[derive(Clone, Copy)]
pub(super) struct Made([u64; PLACES]);

impl Reserver {
    pub(super) fn new(reservations: Arc<dyn Reservations>) -> Self {
        Self { reservations, hasher: RandomState::new(), places: std::array::from_fn(|_| Place::default()) }
    }

    /// To be asked before the limiter is.
    pub(super) fn made(&self) -> Made {
        Made(std::array::from_fn(|index| self.places[index].made.load(Ordering::Acquire)))
    }

    /// Reserves a block for a call of which the limiter said that it has none, unless another call has done so meanwhile.
    pub(super) async fn reserve(
        &self,
        limiter: &dyn Limiter,
        limits: &CallLimits,
        meter: usize,
        made: Made,
    ) -> Result<(), Denied> {
        let Some((key, calendar)) = period_of(limits, meter) else { return Err(UNAVAILABLE) };
        let index = self.index_of(&key);
        let place = &self.places[index];
        let _alone = place.alone.lock().await;
        if place.made.load(Ordering::Acquire) != made.0[index] {
            return Ok(());
        }
        let amount = calendar.block(limits.meters[meter].cost);
        let amount = self.reservations.reserve(&key, amount, calendar.limit).await.ok_or(UNAVAILABLE)?;
        if !limiter.deposit(limits, meter, amount).await {
            return Err(UNAVAILABLE);
        }
        place.made.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// A call has taken so much more of a calendar's period than it was charged: that is reserved as well, so that it counts after a
    /// loss too. Where it cannot be, the limiter knows of it all the same.
    pub(super) async fn reserve_taken(
        &self,
        limiter: &dyn Limiter,
        limits: &CallLimits,
        meter: usize,
        more: u32,
    ) {
        let Some((key, calendar)) = period_of(limits, meter).filter(|_| more > 0) else { return };
        let _alone = self.places[self.index_of(&key)].alone.lock().await;
        let reserved = self.reservations.reserve(&key, more, calendar.limit).await;
        if let Some(amount) = reserved.filter(|amount| *amount > 0) {
            limiter.deposit(limits, meter, amount).await;
        }
    }

    fn index_of(&self, key: &PeriodKey) -> usize {
        #[allow(clippy::cast_possible_truncation, reason = "a place is small")]
        let index = (self.hasher.hash_one(key) % PLACES as u64) as usize;
        index
    }
}

/// The calendar's period that a meter counts; none: it counts none.
fn period_of(limits: &CallLimits, meter: usize) -> Option<(PeriodKey, CalendarPolicy)> {
    let of_call = limits.meters.get(meter)?;
    let MeterPolicy::Calendar(calendar) = of_call.policy else { return None };
    #[allow(clippy::cast_possible_truncation, reason = "milliseconds since 1970")]
    let until = Timestamp::from_millis((calendar.period / 1e3) as i64);
    let limit = format!("{}:{}", limits.dependency, of_call.id);
    Some((PeriodKey { limit, member: of_call.member.clone(), until }, calendar))
}

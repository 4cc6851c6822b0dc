//! What holds up every call of a batch, as the limits of its pipeline's dependencies stand: an estimate that does not know it
//! promises what cannot come true.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use penstock_domain::limit::{BreakerState, Snapshot, identity};
use penstock_domain::pipeline::{Dependency, Pipeline};
use penstock_domain::time::{Clock, Timestamp};
use penstock_downstream::Caller;
use penstock_store::Store;
use penstock_store::batches::Batch;

use crate::context::call_waits::CallWaits;
use crate::context::definitions::Definitions;

/// What was seen of a limit is taken for true for this long: lists and event streams ask often.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// Limits that are remembered; when there are more, those that are no longer fresh are forgotten.
const MOST_REMEMBERED: usize = 10_000;

/// Whether a batch's calls are held up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standstill {
    /// They are not, as far as is known here.
    #[default]
    None,
    /// Until then: a dependency asked to be left alone.
    Until(Timestamp),
    /// Nobody knows for how long: a breaker is open, or the limiter does not answer.
    Unknown,
}

impl Standstill {
    fn of(seen: Option<Snapshot>, now: Timestamp) -> Self {
        match seen {
            None => Self::Unknown,
            Some(seen) if seen.breaker != BreakerState::Closed => Self::Unknown,
            Some(seen) if !seen.paused_for.max(seen.used_up_for).is_zero() => {
                Self::Until(now + seen.paused_for.max(seen.used_up_for))
            }
            Some(_) => Self::None,
        }
    }

    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::Until(one), Self::Until(another)) => Self::Until(one.max(another)),
            (Self::None, other) | (other, Self::None) => other,
        }
    }
}

/// The limits as they stand, looked at no more than once a second each.
pub struct LimitsView {
    caller: Option<Arc<Caller>>,
    seen: Mutex<HashMap<Key, (Instant, Standstill)>>,
    /// What else holds up calls, and when it was read.
    waits: Mutex<Option<(Instant, Arc<CallWaits>)>>,
    /// When the limiter last gave no answer: who shows many batches waits for it once.
    no_answer: Mutex<Option<Instant>>,
}

/// A dependency's identity and an owner's name.
type Key = (String, String);

impl LimitsView {
    /// The limits of this caller; none where the limits are another process's own and cannot be seen.
    pub fn new(caller: Option<Arc<Caller>>) -> Self {
        Self { caller, seen: Mutex::default(), waits: Mutex::default(), no_answer: Mutex::default() }
    }

    /// What holds up the calls of a batch, by today's limits. A database that does not answer is a standstill of which nobody knows
    /// the end.
    pub async fn standstill(
        &self,
        pipelines: &Definitions,
        store: &dyn Store,
        batch: &Batch,
        clock: &dyn Clock,
    ) -> Standstill {
        let Some(pipeline) = pipelines.get(&batch.pipeline).filter(|_| !batch.ledger.is_finished()) else {
            return Standstill::None;
        };
        let Some(waits) = self.call_waits(store).await else { return Standstill::Unknown };
        let (mut standstill, now) = (Standstill::None, clock.now());
        for dependency in called_by(&pipeline) {
            if waits.is_paused(dependency) {
                return Standstill::Unknown;
            }
            let seen = &*dependency.seen_for(&batch.owner_name);
            let until = waits.of(seen, &batch.owner_name, now).into_iter().map(|wait| wait.until);
            let closed = dependency.hours.as_ref().and_then(|hours| hours.closed_until(now));
            let until = until.chain(closed).max().filter(|until| *until > now);
            standstill = standstill.and(until.map_or(Standstill::None, Standstill::Until));
            if let Some(caller) = &self.caller {
                standstill = standstill.and(self.look(caller, dependency, &batch.owner_name, clock).await);
            }
            if standstill == Standstill::Unknown {
                break;
            }
        }
        standstill
    }

    async fn call_waits(&self, store: &dyn Store) -> Option<Arc<CallWaits>> {
        let lock = || self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, waits)) = lock().as_ref().filter(|(at, _)| at.elapsed() < FRESH_FOR) {
            return Some(waits.clone());
        }
        match CallWaits::read(store).await {
            Ok(waits) => {
                let waits = Arc::new(waits);
                *lock() = Some((Instant::now(), waits.clone()));
                Some(waits)
            }
            Err(error) => {
                tracing::warn!(%error, "failed to read what holds up calls; an estimate is left out");
                None
            }
        }
    }

    async fn look(
        &self,
        caller: &Caller,
        dependency: &Dependency,
        owner: &str,
        clock: &dyn Clock,
    ) -> Standstill {
        let dependency = &*dependency.seen_for(owner);
        let key = (identity(&dependency.name, &dependency.base_url), owner.to_owned());
        let lock = || self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = |at: &Instant| at.elapsed() < FRESH_FOR;
        if let Some((_, seen)) = lock().get(&key).filter(|(at, _)| is_fresh(at)) {
            return *seen;
        }
        let no_answer = || self.no_answer.lock().unwrap_or_else(PoisonError::into_inner);
        if no_answer().is_some_and(|at| is_fresh(&at)) {
            return Standstill::Unknown;
        }
        let seen = caller.peek(dependency, owner).await;
        if seen.is_none() {
            *no_answer() = Some(Instant::now());
        }
        // The limiter's answer counts from when it came: a moment before would be a moment too early.
        let seen = Standstill::of(seen, clock.now());
        let mut remembered = lock();
        if remembered.len() >= MOST_REMEMBERED {
            remembered.retain(|_, (at, _)| is_fresh(at));
        }
        remembered.insert(key, (Instant::now(), seen));
        seen
    }
}

/// The dependencies that a pipeline's steps call.
fn called_by(pipeline: &Pipeline) -> impl Iterator<Item = &Dependency> {
    let is_called = |index: &usize| pipeline.steps.iter().any(|step| step.dependency == *index);
    pipeline.dependencies.iter().enumerate().filter(move |(index, _)| is_called(index)).map(|(_, one)| one)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn seen(breaker: BreakerState, paused_seconds: u64) -> Standstill {
        let seen = Snapshot {
            free_in: Duration::ZERO,
            paused_for: Duration::from_secs(paused_seconds),
            used_up_for: Duration::ZERO,
            refusals: 0,
            factor: 1.0,
            in_flight: 0,
            breaker,
            cause: None,
        };
        Standstill::of(Some(seen), NOW)
    }

    #[test]
    fn the_longest_standstill_counts() {
        let open = seen(BreakerState::Open, 0);
        let short = seen(BreakerState::Closed, 5);
        let long = seen(BreakerState::Closed, 50);
        let none = seen(BreakerState::Closed, 0);
        assert_eq!(open, Standstill::Unknown);
        assert_eq!(seen(BreakerState::HalfOpen, 0), Standstill::Unknown, "its probes may fail");
        assert_eq!(Standstill::of(None, NOW), Standstill::Unknown, "the limiter does not answer");
        assert_eq!(none, Standstill::None);
        assert_eq!(none.and(short), Standstill::Until(NOW + Duration::from_secs(5)));
        assert_eq!(short.and(long), long);
        assert_eq!(long.and(open), Standstill::Unknown);
    }
}

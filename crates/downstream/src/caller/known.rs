//! What this worker knows of limits without asking.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[cfg(doc)]
use penstock_domain::limit::Denied;
use penstock_domain::limit::Reason;
use tokio::time::Instant;

use crate::limiter::CallLimits;

/// When more owners' limits are remembered, those that are free again are forgotten.
const MOST_REMEMBERED: usize = 10_000;

/// For so long it is taken for true that a limit is used up; then one call asks again. The moment may have come sooner: hours and
/// limits are changed while services run, and the monotonic clock stands still while a machine sleeps.
pub const BELIEVED_FOR: Duration = Duration::from_secs(30);

/// The limits that this worker has met, a dependency's or an owner's, by the key of their state.
#[derive(Default)]
pub(super) struct KnownLimits(Mutex<HashMap<String, Known>>);

#[derive(Clone, Copy)]
struct Known {
    /// The latest known moment at which it is free again.
    free_at: Instant,
    /// Until when that is believed.
    believed_until: Instant,
    /// Whether its breaker was not closed when it last answered.
    probing: bool,
    /// For how long everything had been refused, see [`Denied::refused_for`].
    refused_for: Duration,
}

impl Known {
    fn is_doubtful(&self, now: Instant) -> bool {
        self.believed_until <= now && self.free_at > now
    }
}

impl KnownLimits {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a call would wait at least.
    pub(super) fn wait(&self, key: &str) -> Duration {
        let now = Instant::now();
        let free_at = |known: &Known| if known.is_doubtful(now) { now } else { known.free_at };
        self.lock().get(key).map_or(Duration::ZERO, |known| free_at(known).saturating_duration_since(now))
    }

    /// Whether one of these was used up until a later moment when it was last asked, too long ago to believe it.
    pub(super) fn is_doubtful<'k>(&self, keys: impl IntoIterator<Item = &'k String>) -> bool {
        let (known, now) = (self.lock(), Instant::now());
        keys.into_iter().filter_map(|key| known.get(key)).any(|known| known.is_doubtful(now))
    }

    /// Whether all of these were met before.
    pub(super) fn contains<'k>(&self, keys: impl IntoIterator<Item = &'k String>) -> bool {
        let known = self.lock();
        keys.into_iter().all(|key| known.contains_key(key))
    }

    /// For how long one of these has refused everything.
    pub(super) fn refused_for<'k>(&self, keys: impl IntoIterator<Item = &'k String>) -> Duration {
        let known = self.lock();
        let refused = keys.into_iter().filter_map(|key| known.get(key));
        refused.map(|known| known.refused_for).max().unwrap_or_default()
    }

    /// Whether the breaker was not closed when the limiter last answered.
    pub(super) fn is_probing(&self, key: &str) -> bool {
        self.lock().get(key).is_some_and(|known| known.probing)
    }

    /// A permit was given: its limits are known from now on.
    pub(super) fn permitted(&self, limits: &CallLimits, probing: bool) {
        let now = Instant::now();
        let mut all = self.lock();
        for key in limits.keys() {
            let known = entry(&mut all, key, now);
            known.probing = probing;
            if known.is_doubtful(now) {
                known.free_at = now;
            }
            if !probing {
                known.refused_for = Duration::ZERO;
            }
        }
    }

    /// A call was refused for reasons of its own: the dependency's limit was free.
    pub(super) fn found_free(&self, limits: &CallLimits) {
        let now = Instant::now();
        if let Some(known) = self.lock().get_mut(&limits.dependency).filter(|known| known.is_doubtful(now)) {
            known.free_at = now;
        }
    }

    /// When the limit is free again that the reason is about. An owner's own limit shows nothing about others.
    pub(super) fn remember(
        &self,
        limits: &CallLimits,
        reason: Reason,
        at: Instant,
        refused_for: Option<Duration>,
    ) {
        let own = match reason {
            Reason::OwnerRate | Reason::Rate | Reason::Paused => limits.pauses_owner(),
            Reason::ValueRate
            | Reason::Hours
            | Reason::Held
            | Reason::Concurrency
            | Reason::BreakerOpen
            | Reason::Unavailable
            | Reason::Late
            | Reason::Credentials => false,
        };
        let key = limits.owner.as_ref().filter(|_| own).map_or(&limits.dependency, |(key, _)| key);
        let mut all = self.lock();
        let now = Instant::now();
        let known = entry(&mut all, key, now);
        known.free_at = at;
        known.believed_until = now + BELIEVED_FOR;
        known.refused_for = refused_for.unwrap_or(known.refused_for);
        known.probing |= reason == Reason::BreakerOpen;
    }
}

fn entry<'k>(all: &'k mut HashMap<String, Known>, key: &str, now: Instant) -> &'k mut Known {
    if !all.contains_key(key) && all.len() >= MOST_REMEMBERED {
        all.retain(|_, known| known.free_at > now);
    }
    let new = Known { free_at: now, believed_until: now, probing: false, refused_for: Duration::ZERO };
    all.entry(key.to_owned()).or_insert(new)
}

#[cfg(test)]
mod tests {
    use penstock_domain::pipeline::Pipeline;
    use penstock_domain::time::Timestamp;

    use super::*;
    use crate::limiter::Spend;

    #[tokio::test(start_paused = true)]
    async fn what_was_found_long_ago_is_in_doubt() {
        let text = "name: p\ncsv: { columns: [ { name: id } ] }\n\
                    dependencies: { api: { base_url: \"http://h\", rate: { limit: 1, period: 1d, window: calendar } } }\nsteps: []\n";
        let pipeline = Pipeline::load("p.yaml", text, &|_| None).unwrap();
        let (spend, start) = (Spend::of(1), Timestamp::from_millis(0));
        let limits = CallLimits::of_call(&pipeline.dependencies[0], "acme", 0.0, &spend, start);
        let (known, hour) = (KnownLimits::default(), Duration::from_secs(3600));
        let seen = |known: &KnownLimits| (known.wait(&limits.dependency), known.is_doubtful(limits.keys()));
        let midnight = Instant::now() + 10 * hour;
        known.remember(&limits, Reason::Rate, midnight, None);
        assert_eq!(seen(&known), (10 * hour, false));
        tokio::time::advance(BELIEVED_FOR).await;
        assert_eq!(seen(&known), (Duration::ZERO, true));
        // It is used up still.
        known.remember(&limits, Reason::Rate, midnight, None);
        assert_eq!(seen(&known), (10 * hour - BELIEVED_FOR, false));
        tokio::time::advance(BELIEVED_FOR).await;
        known.permitted(&limits, false);
        assert_eq!(seen(&known), (Duration::ZERO, false));
        known.remember(&limits, Reason::Rate, midnight, None);
        known.found_free(&limits);
        assert!(!seen(&known).0.is_zero(), "what was asked just now is believed");
        tokio::time::advance(BELIEVED_FOR).await;
        known.found_free(&limits);
        assert_eq!(seen(&known), (Duration::ZERO, false));
    }
}

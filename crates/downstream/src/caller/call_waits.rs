//! What calls of this process wait for that no limiter knows of: a token endpoint that fails, or what an API said is left of its
//! own limit. Kept for people to read: whoever shows why rows wait finds it here.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use penstock_domain::limit::identity;
use penstock_domain::pipeline::Dependency;
use penstock_domain::time::Timestamp;

use super::Demand;

/// When more are known, those that are over are forgotten, and further ones are not kept.
const MOST: usize = 1000;

/// A wait that is over is kept for this long: the next try may be under way, and may fail again.
const KEPT_AFTER: Duration = Duration::from_secs(30);

/// Shorter waits are not worth a sentence.
const SHORTEST: Duration = Duration::from_millis(500);

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WaitsFor {
    /// The dependency's credentials.
    Credentials,
    /// More of what the API says is left of its limit.
    Budget,
}

impl WaitsFor {
    /// For programs.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Credentials => "credentials_unavailable",
            Self::Budget => "budget_used_up",
        }
    }
}

/// One thing that calls of this process wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallWait {
    /// The dependency's [identity].
    pub identity: String,
    /// Whose calls wait, where the dependency or its limits are each owner's own; none: everybody's.
    pub owner: Option<String>,
    /// The dependency's name.
    pub dependency: String,
    /// What for.
    pub waits_for: WaitsFor,
    /// A sentence without secrets and without anything of a row.
    pub sentence: String,
    /// When the next call is tried.
    pub until: Timestamp,
}

type Key = (String, Option<String>, WaitsFor);

/// All of them.
#[derive(Default)]
pub(super) struct CallWaits(Mutex<BTreeMap<Key, CallWait>>);

/// Whose calls a wait is about.
#[derive(Clone, Copy)]
pub(super) struct Whose<'a> {
    pub(super) dependency: &'a Dependency,
    pub(super) owner: Option<&'a str>,
}

impl<'a> Whose<'a> {
    /// Of a call's credentials: an owner's own have the owner in the address.
    pub(super) fn credentials(demand: &'a Demand<'_>) -> Self {
        let owned = demand.dependency.base_url.fragment().is_some();
        Self { dependency: demand.dependency, owner: owned.then_some(demand.owner) }
    }

    fn key(self, waits_for: WaitsFor) -> Key {
        let identity = identity(&self.dependency.name, &self.dependency.base_url);
        (identity, self.owner.map(str::to_owned), waits_for)
    }
}

impl CallWaits {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, CallWait>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call has to wait.
    pub(super) fn note(
        &self,
        whose: Whose<'_>,
        waits_for: WaitsFor,
        sentence: impl FnOnce() -> String,
        (now, until): (Timestamp, Timestamp),
    ) {
        if until.since(now) < SHORTEST {
            return;
        }
        let key = whose.key(waits_for);
        let mut all = self.lock();
        if all.len() >= MOST && !all.contains_key(&key) {
            all.retain(|_, wait| wait.until + KEPT_AFTER > now);
            if all.len() >= MOST {
                return;
            }
        }
        let (identity, owner, _) = key.clone();
        let dependency = whose.dependency.name.clone();
        all.insert(key, CallWait { identity, owner, dependency, waits_for, sentence: sentence(), until });
    }

    /// A call did not have to wait for this.
    pub(super) fn over(&self, whose: Whose<'_>, waits_for: WaitsFor) {
        let mut all = self.lock();
        if !all.is_empty() {
            all.remove(&whose.key(waits_for));
        }
    }

    /// What is waited for now.
    pub(super) fn seen(&self, now: Timestamp) -> Vec<CallWait> {
        let mut all = self.lock();
        all.retain(|_, wait| wait.until + KEPT_AFTER > now);
        all.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use penstock_domain::pipeline::Pipeline;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    #[test]
    fn a_wait_is_kept_until_a_call_goes_through_or_it_is_long_over() {
        let text = "name: p\ncsv: { columns: [ { name: id } ] }\ndependencies: { api: { base_url: \"http://h\" } }\nsteps: []\n";
        let pipeline = Pipeline::load("p.yaml", text, &|_| None).expect("a definition");
        let all = Whose { dependency: &pipeline.dependencies[0], owner: None };
        let acme = Whose { owner: Some("acme"), ..all };
        let waits = CallWaits::default();
        let until = NOW + Duration::from_secs(4);
        let sentence = || "it fails".to_owned();
        waits.note(all, WaitsFor::Credentials, sentence, (NOW, until));
        waits.note(all, WaitsFor::Credentials, sentence, (NOW, until + Duration::from_secs(1)));
        waits.note(acme, WaitsFor::Budget, sentence, (NOW, until));
        waits.note(acme, WaitsFor::Credentials, sentence, (NOW, NOW + Duration::from_millis(20)));
        let seen = waits.seen(NOW);
        let told: Vec<_> =
            seen.iter().map(|wait| (wait.owner.as_deref(), wait.waits_for, wait.until)).collect();
        assert_eq!(
            told,
            [
                (None, WaitsFor::Credentials, until + Duration::from_secs(1)),
                (Some("acme"), WaitsFor::Budget, until)
            ]
        );
        waits.over(all, WaitsFor::Budget);
        assert_eq!(waits.seen(until).len(), 2, "it was something else");
        waits.over(all, WaitsFor::Credentials);
        assert_eq!(waits.seen(until).len(), 1);
        assert_eq!(waits.seen(until + KEPT_AFTER), []);
    }
}

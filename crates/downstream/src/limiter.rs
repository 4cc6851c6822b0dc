//! Permits for calls, for one worker or for all.

use async_trait::async_trait;
use penstock_domain::limit::{
    self, Ask, Decision, Denied, Feedback, Lead, LimitPolicy, RatePolicy, Snapshot,
};
use penstock_domain::pipeline::Dependency;

/// The limits of a call: its dependency's, and its owner's at that dependency where limits are per owner. Each has a name by
/// which the limiter keeps its state.
#[derive(Clone, Debug)]
pub struct CallLimits {
    /// The dependency's name and address, see [`limit::identity`].
    pub dependency: String,
    /// What the dependency's limits allow.
    pub policy: LimitPolicy,
    /// The name of the owner's limits, and what they allow.
    pub owner: Option<(String, LimitPolicy)>,
}

impl CallLimits {
    /// The limits of a call by `owner`. `cold_wait_us` is how long a state that was lost admits no call.
    pub fn of(dependency: &Dependency, owner: &str, cold_wait_us: f64) -> Self {
        let name = limit::identity(&dependency.name, &dependency.base_url);
        let rate = dependency.rate.as_ref();
        let concurrency = dependency.concurrency.as_ref();
        let own_rate = |per_owner: bool| {
            rate.filter(|rate| rate.per_owner == per_owner)
                .map(|rate| RatePolicy::new(rate.limit, rate.period, rate.burst))
        };
        let own_concurrency = |per_owner: bool| {
            concurrency.filter(|limit| limit.per_owner == per_owner).map(|limit| limit.limit)
        };
        let owned = LimitPolicy {
            rate: own_rate(true),
            concurrency: own_concurrency(true),
            breaker: None,
            cold_wait_us,
        };
        let has_own = owned.rate.is_some() || owned.concurrency.is_some();
        Self {
            policy: LimitPolicy {
                rate: own_rate(false),
                concurrency: own_concurrency(false),
                breaker: Some(dependency.breaker),
                cold_wait_us,
            },
            owner: has_own.then(|| (format!("{name}#{owner}"), owned)),
            dependency: name,
        }
    }

    /// Whether a dependency's answer about too many calls is about this owner only: where all limits are owners' own, or the
    /// rate is.
    pub fn pauses_owner(&self) -> bool {
        self.owner.is_some() && self.policy.rate.is_none()
    }

    /// The name of the state that such an answer is about.
    pub(crate) fn pause_key(&self) -> &str {
        self.owner.as_ref().filter(|_| self.pauses_owner()).map_or(&self.dependency, |(name, _)| name)
    }

    /// The names of the states: the dependency's, then its owner's.
    pub fn keys(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.dependency).chain(self.owner.as_ref().map(|(key, _)| key))
    }

    /// Whether there is a rate, so that a call has its moment.
    pub fn paced(&self) -> bool {
        self.policy.rate.is_some() || self.owner.as_ref().is_some_and(|(_, own)| own.rate.is_some())
    }

    /// The name of the state that counts calls under way, and how many it allows; none when they are not limited.
    pub fn slots(&self) -> Option<(&str, u32)> {
        let own = self.owner.as_ref().map(|(name, policy)| (name.as_str(), policy));
        let policies = own.into_iter().chain([(self.dependency.as_str(), &self.policy)]);
        policies.filter_map(|(name, policy)| Some((name, policy.concurrency?))).next()
    }

    /// What is reported to each state: health to the dependency's, answers about too many calls to the one that has the rate.
    pub(crate) fn feedback(&self, feedback: Feedback) -> [Feedback; 2] {
        if self.pauses_owner() {
            [
                Feedback { pause: None, throttled: false, ..feedback },
                Feedback { probe: false, cause: None, ..feedback },
            ]
        } else {
            [feedback, Feedback::default()]
        }
    }

    /// The name of the innermost state: a call that goes well there goes well at the others.
    #[cfg(feature = "redis")]
    pub(crate) fn innermost(&self) -> &str {
        self.owner.as_ref().map_or(&self.dependency, |(name, _)| name)
    }
}

/// Permission to make one call.
#[derive(Clone, Debug)]
pub struct Permit {
    /// Names the call's slot until it is reported.
    pub token: u64,
    /// The limits that admitted it.
    pub limits: CallLimits,
    /// Whether the call is a probe, see [`Decision::Granted`].
    pub probe: bool,
}

/// Decides when calls may be made. Never lets one pass when in doubt.
#[async_trait]
pub trait Limiter: Send + Sync {
    /// How far away it is: with what lead it has to be asked.
    ///
    /// # Errors
    /// When it cannot be reached.
    async fn lead(&self) -> Result<Lead, Denied>;
    /// Has all limits admit a call, or none. A limiter that cannot be reached denies.
    async fn acquire(&self, limits: &CallLimits, ask: &Ask) -> Decision;
    /// The moment of a granted call that had to wait has nearly come: may it still be made? Asked as long before the moment as
    /// the round trip takes.
    ///
    /// # Errors
    /// When it may not.
    async fn confirm(&self, limits: &CallLimits, ask: &Ask) -> Result<(), Denied>;
    /// A granted call has ended, or (with an empty feedback) was not made. Whether it was throttled for a reason of its row's
    /// own, so that it holds up no other.
    async fn report(&self, permit: Permit, feedback: Feedback) -> bool;
    /// The limits as they stand, taken together; none when the limiter does not answer. A state of which nothing is known (it
    /// was never used, or was lost) holds nothing up.
    async fn peek(&self, limits: &CallLimits) -> Option<Snapshot>;
    /// How long a state that was lost admits no call, microseconds.
    fn cold_wait_us(&self) -> f64;
}

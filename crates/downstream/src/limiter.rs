//! Leave to call, for one worker or for all.

use async_trait::async_trait;
use penstock_domain::limit::{self, Ask, Decision, Denied, Feedback, GatePolicy, Lead, RatePolicy, Snapshot};
use penstock_domain::pipeline::Dependency;

/// The gates that a call has to pass: its dependency's, and its owner's at that dependency where limits are per owner.
#[derive(Clone, Debug)]
pub struct Gates {
    /// The dependency's name and address, see [`limit::identity`].
    pub dependency: String,
    /// What the dependency's gate allows.
    pub policy: GatePolicy,
    /// The owner's gate and what it allows.
    pub owner: Option<(String, GatePolicy)>,
}

impl Gates {
    /// The gates of a call by `owner`. `cold_wait_us` is how long a gate whose state was lost stays shut.
    pub fn of(dependency: &Dependency, owner: &str, cold_wait_us: f64) -> Self {
        let name = limit::identity(&dependency.name, &dependency.base_url);
        let rate = dependency.rate.as_ref();
        let concurrency = dependency.concurrency.as_ref();
        let gate_rate = |per_owner: bool| {
            rate.filter(|rate| rate.per_owner == per_owner)
                .map(|rate| RatePolicy::new(rate.limit, rate.period, rate.burst))
        };
        let gate_concurrency = |per_owner: bool| {
            concurrency.filter(|limit| limit.per_owner == per_owner).map(|limit| limit.limit)
        };
        let owned = GatePolicy {
            rate: gate_rate(true),
            concurrency: gate_concurrency(true),
            breaker: None,
            cold_wait_us,
        };
        let has_own = owned.rate.is_some() || owned.concurrency.is_some();
        Self {
            policy: GatePolicy {
                rate: gate_rate(false),
                concurrency: gate_concurrency(false),
                breaker: Some(dependency.breaker),
                cold_wait_us,
            },
            owner: has_own.then(|| (format!("{name}#{owner}"), owned)),
            dependency: name,
        }
    }

    /// Whether what a dependency says about too many calls is about this owner only: where all limits are owners' own, or
    /// the rate is.
    pub fn pauses_owner(&self) -> bool {
        self.owner.is_some() && self.policy.rate.is_none()
    }

    /// Whether there is a rate, so that a call has its moment.
    pub fn paced(&self) -> bool {
        self.policy.rate.is_some() || self.owner.as_ref().is_some_and(|(_, own)| own.rate.is_some())
    }

    /// The name of the gate that counts calls under way, and how many it allows; none when they are not limited.
    pub fn slots(&self) -> Option<(&str, u32)> {
        let own = self.owner.as_ref().map(|(name, policy)| (name.as_str(), policy));
        let gates = own.into_iter().chain([(self.dependency.as_str(), &self.policy)]);
        gates.filter_map(|(name, policy)| Some((name, policy.concurrency?))).next()
    }

    /// What each gate is told: health goes to the dependency's, what was said about too many calls to the one that has
    /// the rate.
    pub(crate) fn told(&self, feedback: Feedback) -> [Feedback; 2] {
        if self.pauses_owner() {
            [
                Feedback { pause: None, throttled: false, ..feedback },
                Feedback { probe: false, cause: None, ..feedback },
            ]
        } else {
            [feedback, Feedback::default()]
        }
    }

    /// The innermost gate: what goes well there goes well at the others.
    #[cfg(feature = "redis")]
    pub(crate) fn innermost(&self) -> &str {
        self.owner.as_ref().map_or(&self.dependency, |(name, _)| name)
    }
}

/// Leave to make one call.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Names the call's slot until it is reported.
    pub token: u64,
    /// The gates that were passed.
    pub gates: Gates,
}

/// Decides when calls may be made. Never lets one pass when in doubt.
#[async_trait]
pub trait Limiter: Send + Sync {
    /// How far away it is: with what lead it has to be asked.
    ///
    /// # Errors
    /// When it cannot be reached.
    async fn lead(&self) -> Result<Lead, Denied>;
    /// Passes all gates or none. A limiter that cannot be reached denies.
    async fn acquire(&self, gates: &Gates, ask: &Ask) -> Decision;
    /// The moment of a granted call that had to wait has all but come: may it still be made? Asked so long before the moment
    /// as the round trip takes.
    ///
    /// # Errors
    /// When it may not.
    async fn confirm(&self, gates: &Gates, ask: &Ask) -> Result<(), Denied>;
    /// A granted call has ended, or (with a feedback that says nothing) was not made. Whether it was throttled for a reason
    /// of its row's own, so that it holds up no other.
    async fn report(&self, grant: Grant, feedback: Feedback) -> bool;
    /// The gates as they stand, taken together; none when the limiter does not answer. A gate of which nothing is known
    /// (it was never passed, or its state was lost) holds nothing up.
    async fn peek(&self, gates: &Gates) -> Option<Snapshot>;
    /// How long a gate whose state was lost stays shut, microseconds.
    fn cold_wait_us(&self) -> f64;
}

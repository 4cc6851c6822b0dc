//! Permits for calls, for one worker or for all.

use std::time::Duration;

use async_trait::async_trait;
use penstock_domain::limit::calendar::period_at;
use penstock_domain::limit::{
    self, Ask, CalendarPolicy, Decision, Denied, Feedback, Lead, LimitPolicy, MeterPolicy, RatePolicy, Scope,
    Snapshot,
};
use penstock_domain::pipeline::{Dependency, Rate, Window};
use penstock_domain::time::Timestamp;

use crate::reported_windows::{WindowAsk, WindowPart};

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
    /// Further limits.
    pub meters: Vec<CallMeter>,
    /// When they were put together, microseconds since 1970.
    pub at_us: f64,
}

/// A further limit of a call, see [`limit::meter`].
#[derive(Clone, Debug, PartialEq)]
pub struct CallMeter {
    /// The limit's name among those of its dependency.
    pub id: String,
    /// Whose meter it is: an owner's, a value's, or everybody's.
    pub member: String,
    /// Whom the limit concerns.
    pub scope: Scope,
    /// What it allows.
    pub policy: MeterPolicy,
    /// How much of it the call takes.
    pub cost: u32,
    /// Names the call, where that is corrected when its answer is there.
    pub corrected: Option<u64>,
}

/// What a call takes of its dependency's limits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spend {
    /// Of limits without a name.
    pub cost: u32,
    /// Of limits with a name.
    pub named: Vec<(String, u32)>,
    /// The values of limits that are each value's own, hashed; for each of [`Dependency::more`], in its order.
    pub values: Vec<Option<String>>,
    /// Names the call, where its answer says what it has taken of limits with a name; at most 2^53 - 1, which Lua's numbers hold.
    pub corrected: Option<u64>,
}

impl Spend {
    /// A call that costs this much, where no limit has a name or is a value's own.
    pub const fn of(cost: u32) -> Self {
        Self { cost, named: Vec::new(), values: Vec::new(), corrected: None }
    }

    fn cost_of(&self, rate: &Rate) -> Option<u32> {
        let Some(name) = &rate.name else { return Some(self.cost) };
        self.named.iter().find(|(named, _)| named == name).map(|(_, cost)| *cost)
    }
}

impl CallLimits {
    /// The limits of a call by `owner`. `cold_wait_us` is how long a state that was lost admits no call.
    pub fn of(dependency: &Dependency, owner: &str, cold_wait_us: f64) -> Self {
        let name = limit::identity(&dependency.name, &dependency.base_url);
        let rate = dependency.rate.as_ref();
        let concurrency = dependency.concurrency.as_ref();
        let own_rate = |per_owner: bool| rate.filter(|rate| rate.per_owner == per_owner).map(policy_of);
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
            meters: Vec::new(),
            at_us: 0.0,
        }
    }

    /// The rate whose limit an operator can change; none: the dependency has no rate.
    pub fn rate_of_an_operator(dependency: &Dependency) -> Option<&Rate> {
        dependency.rate.as_ref().or_else(|| dependency.more.first())
    }

    /// What an operator has set counts, and not what the definition says.
    pub(crate) fn change(&mut self, dependency: &Dependency, limit: Option<u32>, concurrency: Option<u32>) {
        // A burst that no longer fits would be more than the whole limit.
        let changed = |rate: &Rate, limit: u32| {
            let most = limit.saturating_sub(u32::from(rate.window == Window::Sliding)).max(1);
            policy_of(&Rate { limit, burst: rate.burst.min(most), ..rate.clone() })
        };
        if let (Some(limit), Some(rate)) = (limit, &dependency.rate) {
            let changed = changed(rate, limit);
            match &mut self.owner {
                Some((_, own)) if own.rate.is_some() => own.rate = Some(changed),
                _ => self.policy.rate = Some(changed),
            }
        } else if let (Some(limit), Some(rate)) = (limit, dependency.more.first())
            // A call of which this limit counts nothing has no such meter.
            && let Some(meter) = self.meters.iter_mut().find(|meter| meter.id == rate.id)
        {
            match &mut meter.policy {
                MeterPolicy::Calendar(calendar) => calendar.limit = limit,
                MeterPolicy::Bucket(policy) => *policy = changed(rate, limit),
            }
        }
        if let Some(concurrency) = concurrency {
            match &mut self.owner {
                Some((_, own)) if own.concurrency.is_some() => own.concurrency = Some(concurrency),
                _ => self.policy.concurrency = Some(concurrency),
            }
        }
    }

    /// Those of all calls to the dependency, without the further ones.
    pub(crate) fn of_dependency(&self) -> Self {
        Self { owner: None, meters: Vec::new(), ..self.clone() }
    }

    /// The same with one of the further limits only.
    #[cfg(feature = "redis")]
    pub(crate) fn only(&self, meter: usize) -> Self {
        Self { meters: self.meters.get(meter).cloned().into_iter().collect(), ..self.clone() }
    }

    /// The limits of a call at a time, with what it takes of each.
    pub fn of_call(
        dependency: &Dependency,
        owner: &str,
        cold_wait_us: f64,
        spend: &Spend,
        now: Timestamp,
    ) -> Self {
        let mut limits = Self { at_us: since_1970(now), ..Self::of(dependency, owner, cold_wait_us) };
        for (index, rate) in dependency.more.iter().enumerate() {
            // What a call takes nothing of does not hold it up.
            let Some(cost) = spend.cost_of(rate).filter(|cost| *cost > 0) else { continue };
            let value = spend.values.get(index).and_then(Option::as_deref);
            if rate.per.is_some() && value.is_none() {
                continue;
            }
            limits.meters.push(CallMeter {
                id: rate.id.clone(),
                member: member(rate, owner, value),
                scope: scope(rate),
                policy: meter_of(rate, now),
                cost,
                corrected: spend.corrected.filter(|_| rate.name.is_some()),
            });
        }
        limits
    }

    /// Whether a dependency's answer about too many calls is about this owner only: where all limits are owners' own, or the
    /// rate is.
    pub fn pauses_owner(&self) -> bool {
        let shared = self.policy.rate.is_some() || self.meters.iter().any(|meter| meter.scope == Scope::All);
        self.owner.is_some() && !shared
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
        let own = self.owner.as_ref().is_some_and(|(_, own)| own.rate.is_some());
        self.policy.rate.is_some() || own || !self.meters.is_empty()
    }

    /// The limits that concern only some calls, as a key of the queue in which these wait for each other, and how far apart their
    /// calls are, microseconds. None: there are none.
    pub(crate) fn own(&self) -> Option<(String, f64)> {
        let mut own = self.meters.iter().filter(|meter| meter.scope != Scope::All).peekable();
        own.peek()?;
        let mut key = self.dependency.clone();
        let mut apart = 0.0_f64;
        for meter in own {
            key.extend(["\n", &meter.id, ":", &meter.member]);
            if let MeterPolicy::Bucket(rate) = meter.policy {
                apart = apart.max(f64::from(meter.cost) * rate.interval_us);
            }
        }
        Some((key, apart))
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

fn policy_of(rate: &Rate) -> RatePolicy {
    match rate.window {
        Window::Sliding => RatePolicy::sliding(rate.limit, rate.period, rate.burst),
        Window::Bucket | Window::Calendar { .. } => RatePolicy::new(rate.limit, rate.period, rate.burst),
    }
}

fn meter_of(rate: &Rate, now: Timestamp) -> MeterPolicy {
    let Window::Calendar { zone, spread } = rate.window else { return MeterPolicy::Bucket(policy_of(rate)) };
    let period = period_at(rate.period, zone, now);
    let (from, until) = (since_1970(period.from), since_1970(period.until));
    MeterPolicy::Calendar(CalendarPolicy { limit: rate.limit, period: until, from, until, spread })
}

#[allow(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit exactly")]
fn since_1970(at: Timestamp) -> f64 {
    at.millis() as f64 * 1000.0
}

fn scope(rate: &Rate) -> Scope {
    match rate {
        Rate { per: Some(_), .. } => Scope::Value,
        Rate { per_owner: true, .. } => Scope::Owner,
        Rate { name: Some(_), .. } => Scope::Named,
        _ => Scope::All,
    }
}

fn member(rate: &Rate, owner: &str, value: Option<&str>) -> String {
    match (rate.per_owner, value) {
        (true, Some(value)) => format!("{value}#{owner}"),
        (true, None) => owner.to_owned(),
        (false, value) => value.unwrap_or_default().to_owned(),
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
    /// When what is known of the dependency was lost, by the limiter's own clock; 0: it was not. None: it does not answer.
    async fn lost_at(&self, limits: &CallLimits) -> Option<f64>;
    /// What was lost then had not been used for this long by now; none: it was never used. Whether the limiter knows that now.
    async fn recall(&self, limits: &CallLimits, lost_at: f64, unused: Option<Duration>) -> bool;
    /// So much more of a calendar's period was reserved for the limit at this place; 0: nothing was left of it. Whether that is
    /// known to the limiter now.
    async fn deposit(&self, limits: &CallLimits, meter: usize, amount: u32) -> bool;
    /// A call's answer says that it has taken this much of the limits of `limits`, and not what it was charged.
    async fn correct(&self, limits: &CallLimits, actual: &[u32]);
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
    /// Takes calls of a window that an API told of, for the budget of this name. None: it does not answer. A limiter that shares
    /// nothing gives what is asked for.
    async fn take_of_window(&self, _budget: &str, ask: &WindowAsk) -> Option<WindowPart> {
        Some(WindowPart { amount: ask.amount, ends_in: ask.ends_in })
    }
    /// How long a state that was lost admits no call, microseconds.
    fn cold_wait_us(&self) -> f64;
}

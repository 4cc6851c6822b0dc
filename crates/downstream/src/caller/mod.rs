//! A call, from its permit to the verdict on its answer.

mod budgets;
mod call_waits;
mod demand;
mod known;
mod live;
mod permit;
mod reserve;
mod sending;
mod uses;
mod verdict;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use penstock_domain::limit::{self, Ask, Denied, Feedback, Reason, Snapshot};
use penstock_domain::outcome::{Verdict, code};
use penstock_domain::pipeline::{Dependency, RenderedRequest};
use penstock_domain::time::{Clock, Timestamp};
use tokio::time::Instant;

use self::budgets::Budgets;
use self::call_waits::{CallWaits, Whose};
pub use self::known::BELIEVED_FOR;
use self::known::KnownLimits;
use self::live::Live;
use self::permit::Waiting;
use self::reserve::Reserver;
use self::sending::{Made, Outgoing};
use self::uses::Uses;
use self::verdict::Judged;
use crate::client::{Client, Sent, Unsendable};
use crate::credentials::oauth2::{MemoryVault, TokenVault, Tokens};
use crate::failure::Failure;
use crate::failure_log::FailureLog;
use crate::lateness::Lateness;
use crate::limiter::{CallLimits, Limiter, Permit, Spend};
use crate::metrics::{CallMetrics, Metrics};
use crate::recording_time::RecordingTime;
use crate::wait_queue::WaitQueues;

pub use call_waits::{CallWait, WaitsFor};
pub use demand::{Called, Demand, Note, Rules};
pub use live::LiveLimits;
pub use reserve::{LastUse, LocalReservations, PeriodKey, Reservations};

/// A slot outlasts its call's timeout by this much: a late timer gives no slot away while its call is under way. The slots of a
/// worker that is gone are free after that.
const SLOT_MARGIN: Duration = Duration::from_secs(1);

/// A wait up to this long is waited out; for a longer one the row is requeued.
const PATIENCE: Duration = Duration::from_secs(1);

/// A look at the limits that fails within this time is repeated once: it was not a timeout.
const ASK_AGAIN: Duration = Duration::from_millis(300);

/// A dependency whose credentials cannot be read is tried again after this time.
const CREDENTIALS_AFTER: Duration = Duration::from_secs(1);

/// Calls dependencies through their limits.
pub struct Caller {
    limiter: Arc<dyn Limiter>,
    client: Client,
    clock: Arc<dyn Clock>,
    tokens: AtomicU64,
    known: KnownLimits,
    /// Calls that wait for a slot.
    wait_queues: WaitQueues,
    /// Blocks of a calendar's periods.
    reserver: Reserver,
    /// Which dependencies are recorded as used.
    uses: Uses,
    /// What an operator has set.
    live: Live,
    lateness: Lateness,
    /// How long it takes to record a call.
    recording: RecordingTime,
    metrics: Metrics,
    failures: FailureLog,
    access_tokens: Tokens,
    budgets: Budgets,
    waits: CallWaits,
}

impl Caller {
    /// A caller. `seed` makes its slots' tokens its own among all workers: a random number.
    pub fn new(limiter: Arc<dyn Limiter>, client: Client, clock: Arc<dyn Clock>, seed: u64) -> Self {
        let reservations = Arc::new(LocalReservations::default());
        Self {
            limiter,
            client,
            clock,
            // Lua's numbers hold 53 bits exactly.
            tokens: AtomicU64::new(seed >> 12),
            known: KnownLimits::default(),
            wait_queues: WaitQueues::default(),
            reserver: Reserver::new(reservations.clone()),
            uses: Uses::new(reservations),
            live: Live::default(),
            lateness: Lateness::default(),
            recording: RecordingTime::default(),
            metrics: Metrics::default(),
            failures: FailureLog::default(),
            access_tokens: Tokens::new(Arc::new(MemoryVault::default())),
            budgets: Budgets::default(),
            waits: CallWaits::default(),
        }
    }

    /// The same with a place where refresh tokens are kept for all workers.
    #[must_use]
    pub fn with_vault(self, vault: Arc<dyn TokenVault>) -> Self {
        Self { access_tokens: Tokens::new(vault), ..self }
    }

    /// Keeps what is reserved of a calendar's periods, and which dependencies are used, where no limiter's loss reaches it.
    #[must_use]
    pub fn with_reservations(self, reservations: Arc<dyn Reservations>) -> Self {
        Self { reserver: Reserver::new(reservations.clone()), uses: Uses::new(reservations), ..self }
    }

    /// Makes a call as soon as every limit allows it, or says when that will be. `covered` is asked right before the
    /// call; `waiting` makes a mark that lives as long as the call waits for its moment.
    pub async fn call(
        &self,
        demand: &Demand<'_>,
        request: RenderedRequest,
        covered: &(dyn Fn() -> bool + Sync),
        waiting: Waiting<'_>,
    ) -> Called {
        let dependency = demand.dependency;
        let extra: Vec<_> =
            demand.traceparent.as_deref().map(|parent| ("traceparent", parent)).into_iter().collect();
        // Before any limit is touched: what cannot be sent takes nothing.
        let request = match self.client.prepare(dependency, request, demand.timeout, &extra) {
            Ok(request) => request,
            Err(Unsendable::Values) => return Called::unmade(code::TEMPLATE_ERROR),
            Err(Unsendable::Credentials(reason)) => {
                return self.no_credentials(demand, &reason, CREDENTIALS_AFTER);
            }
        };
        let cold_wait_us = self.limiter.cold_wait_us();
        let now = self.clock.now();
        let mut limits = CallLimits::of_call(dependency, demand.owner, cold_wait_us, &demand.spend, now);
        if let Some(paused) = self.with_live(dependency, &mut limits) {
            return paused;
        }
        let lease_us = limit::micros(demand.timeout + SLOT_MARGIN);
        let cost = demand.spend.cost;
        if let Some(closed) = self.closed(dependency, &limits) {
            return closed;
        }
        let ask = Ask { cost, token: 0, lease_us, lead_us: 0.0, past: demand.past, patience_us: 0.0 };
        let outgoing = Outgoing { limits: &limits, ask, covered, waiting };
        match self.send(demand, request, &outgoing).await {
            Ok(made) => self.judge(demand, made).await,
            Err(called) => called,
        }
    }

    /// What an answer means, for the row and for the limits.
    async fn judge(&self, demand: &Demand<'_>, made: Made<'_>) -> Called {
        let Made { permit, taken, sent, elapsed, .. } = made;
        let (dependency, probe) = (demand.dependency, permit.probe);
        let Judged { verdict, not_before, feedback } = verdict::judge(demand, &sent, self.clock.now()).await;
        let Sent { response, failure, .. } = sent;
        taken.ended(self.end_of(
            demand.dependency,
            response.as_ref(),
            matches!(verdict, Verdict::Throttled { .. }),
        ));
        let cause =
            failure.as_ref().map(|failure| failure.cause).filter(|cause| cause.is_about_the_dependency());
        let feedback =
            Feedback { probe, past: demand.past, elapsed: limit::micros(elapsed), cause, ..feedback };
        let limits = permit.limits.clone();
        let alone = self.report(permit, feedback).await;
        if let Some(pause) = feedback.pause.filter(|_| !alone) {
            self.known.remember(&limits, Reason::Paused, Instant::now() + limit::duration(pause), None);
        }
        let status = response.as_ref().map(|response| response.status);
        self.metrics.count(&dependency.name, |metrics| metrics.called(&verdict, status, elapsed));
        if let Some(failure) = &failure {
            self.failures.log(dependency, failure);
        }
        Called::Answered { verdict, response, failure, not_before, elapsed, probe, alone }
    }

    /// The answer of a call that left at a time says what it has taken of limits with a name, and not what `spend` says.
    pub async fn correct(
        &self,
        dependency: &Dependency,
        owner: &str,
        spend: &Spend,
        actual: &[(String, u32)],
        left_at: Timestamp,
    ) {
        let cold_wait_us = self.limiter.cold_wait_us();
        let limits = CallLimits::of_call(dependency, owner, cold_wait_us, spend, left_at);
        let mut limits = self.changed_by_operator(dependency, limits);
        let taken = |id: &str| {
            let rate = dependency.more.iter().find(|rate| rate.id == id)?;
            actual.iter().find(|(name, _)| Some(name) == rate.name.as_ref()).map(|(_, taken)| *taken)
        };
        limits.meters.retain(|meter| taken(&meter.id).is_some_and(|taken| taken != meter.cost));
        let taken: Vec<u32> = limits.meters.iter().filter_map(|meter| taken(&meter.id)).collect();
        if taken.is_empty() {
            return;
        }
        self.limiter.correct(&limits, &taken).await;
        for (index, taken) in taken.into_iter().enumerate() {
            let more = taken.saturating_sub(limits.meters[index].cost);
            self.reserver.reserve_taken(&*self.limiter, &limits, index, more).await;
        }
    }

    fn limits(&self, dependency: &Dependency, owner: &str) -> CallLimits {
        CallLimits::of(dependency, owner, self.limiter.cold_wait_us())
    }

    /// How long any call to the dependency would wait at least, as far as this worker knows. Owners' own limits are not
    /// considered.
    pub fn predicted_wait(&self, dependency: &Dependency) -> Duration {
        self.known.wait(&limit::identity(&dependency.name, &dependency.base_url))
    }

    /// How long a call to the dependency for this owner would wait at least, as far as this worker knows.
    pub fn predicted_wait_of(&self, dependency: &Dependency, owner: &str) -> Duration {
        let limits = self.limits(dependency, owner);
        limits.keys().map(|key| self.known.wait(key)).max().unwrap_or_default()
    }

    /// Whether this worker has met the limits of a call to the dependency for this owner. Of a limit that it has not met, the
    /// first permit may be a second away, and then another one that is asked for beside it is further.
    pub fn has_met(&self, dependency: &Dependency, owner: Option<&str>) -> bool {
        let limits = self.limits(dependency, owner.unwrap_or_default());
        self.known.contains(limits.keys().take(if owner.is_some() { 2 } else { 1 }))
    }

    /// Whether a limit of a call to the dependency for this owner (none: of all calls) was used up when it was last asked, too long
    /// ago to believe it: one call finds out for all.
    pub fn is_doubtful(&self, dependency: &Dependency, owner: Option<&str>) -> bool {
        let limits = self.limits(dependency, owner.unwrap_or_default());
        self.known.is_doubtful(limits.keys().take(if owner.is_some() { 2 } else { 1 }))
    }

    /// For how long the dependency has refused all calls for this owner (none: all calls), as far as this worker knows.
    pub fn refused_for(&self, dependency: &Dependency, owner: Option<&str>) -> Duration {
        let limits = self.limits(dependency, owner.unwrap_or_default());
        self.known.refused_for(limits.keys().take(if owner.is_some() { 2 } else { 1 }))
    }

    /// Whether the dependency's breaker was not closed when it last answered: the next calls are probes.
    pub fn is_probing(&self, dependency: &Dependency) -> bool {
        self.known.is_probing(&limit::identity(&dependency.name, &dependency.base_url))
    }

    /// Whether so many calls wait for one of the dependency's slots that no further row should be taken up for it.
    pub fn is_crowded(&self, dependency: &Dependency) -> bool {
        let Some(limit) = dependency.concurrency.as_ref().filter(|limit| !limit.per_owner) else {
            return false;
        };
        let key = limit::identity(&dependency.name, &dependency.base_url);
        self.wait_queues.waiting(&key) > limit.limit as usize / 4
    }

    /// A dependency's limits as they stand for an owner; none when the limiter does not answer.
    pub async fn peek(&self, dependency: &Dependency, owner: &str) -> Option<Snapshot> {
        let (cold_wait_us, spend) = (self.limiter.cold_wait_us(), Spend::of(1));
        let limits = CallLimits::of_call(dependency, owner, cold_wait_us, &spend, self.clock.now());
        let limits = self.changed_by_operator(dependency, limits);
        let asked_at = Instant::now();
        let seen = self.limiter.peek(&limits).await;
        // The first question after a restart finds out that the connection broke; the next one has a new connection.
        if seen.is_none() && asked_at.elapsed() < ASK_AGAIN {
            return self.limiter.peek(&limits).await;
        }
        seen
    }

    /// Makes a connection to a dependency, and sends nothing: how long it took.
    ///
    /// # Errors
    /// Why it could not be made.
    pub async fn probe(&self, dependency: &Dependency) -> Result<Duration, Failure> {
        self.client.probe(dependency).await
    }

    /// What calls of this process wait for that the limiter does not know of.
    pub fn waits(&self) -> Vec<CallWait> {
        self.waits.seen(self.clock.now())
    }

    /// What was counted, by dependency.
    pub fn metrics(&self) -> HashMap<String, CallMetrics> {
        self.metrics.read()
    }

    async fn report(&self, permit: Permit, feedback: Feedback) -> bool {
        let slots = permit.limits.slots().map(|(key, _)| key.to_owned());
        let alone = self.limiter.report(permit, feedback).await;
        if let Some(key) = slots {
            self.wait_queues.slot_freed(&key);
        }
        alone
    }

    /// Without its credentials a dependency is not called: rows wait, and no attempt is lost.
    fn no_credentials(&self, demand: &Demand<'_>, reason: &str, after: Duration) -> Called {
        let dependency = demand.dependency;
        self.failures.log_credentials(dependency, reason);
        self.metrics.count(&dependency.name, |metrics| metrics.denied(Reason::Credentials));
        let now = self.clock.now();
        let until = now + after;
        let sentence = || format!("`{}` cannot be called without its credentials: {reason}", dependency.name);
        self.waits.note(Whose::credentials(demand), WaitsFor::Credentials, sentence, (now, until));
        Called::Waits { until, reason: Reason::Credentials, refused_for: Duration::ZERO }
    }

    /// Whether it is none of the hours in which the dependency may be called.
    fn closed(&self, dependency: &Dependency, limits: &CallLimits) -> Option<Called> {
        let now = self.clock.now();
        let until = dependency.hours.as_ref()?.closed_until(now)?;
        self.known.remember(limits, Reason::Hours, Instant::now() + until.since(now), None);
        self.metrics.count(&dependency.name, |metrics| metrics.denied(Reason::Hours));
        Some(Called::Waits { until, reason: Reason::Hours, refused_for: Duration::ZERO })
    }

    fn denied(&self, dependency: &Dependency, limits: &CallLimits, denied: Denied) -> Called {
        let mut pause = limit::duration(denied.retry_after);
        let refused_for = limit::duration(denied.refused_for);
        if denied.reason == Reason::Concurrency {
            // When a slot is free, one of the calls in the wait queue has it.
            pause = pause.max(PATIENCE);
        } else if denied.row_only {
            self.known.found_free(limits);
        } else {
            self.known.remember(limits, denied.reason, Instant::now() + pause, Some(refused_for));
        }
        self.metrics.count(&dependency.name, |metrics| metrics.denied(denied.reason));
        Called::Waits { until: self.clock.now() + pause, reason: denied.reason, refused_for }
    }
}

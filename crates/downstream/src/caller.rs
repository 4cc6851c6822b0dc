//! A call from leave to verdict.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use penstock_domain::limit::{self, Ask, Decision, Denied, Feedback, Past, Reason, Snapshot};
use penstock_domain::outcome::{self, Happened, Repetition, Verdict, code};
use penstock_domain::pipeline::{Dependency, RenderedRequest};
use penstock_domain::time::{Clock, Timestamp};
use tokio::time::Instant;

use crate::client::{Client, Response, Sent};
use crate::failure::Failure;
use crate::failure_log::FailureLog;
use crate::lateness::Lateness;
use crate::limiter::{Gates, Grant, Limiter};
use crate::line::{Lines, Turn};
use crate::metrics::{CallMetrics, Metrics};
use crate::noting::Noting;

/// A slot outlasts its call's timeout by so much: a timer that is late gives no slot away under a call. The slots of a worker
/// that is gone come back after that.
const SLOT_MARGIN: Duration = Duration::from_secs(1);

/// What takes no longer than that is waited out; for longer, the row is given back.
const PATIENCE: Duration = Duration::from_secs(1);

/// What was granted for the last moment of the patience, and was refused then, has so much more to be asked for again.
const LAST_TRY: Duration = Duration::from_millis(500);

/// When more owners' limits are remembered, those that are over are forgotten.
const MOST_REMEMBERED: usize = 10_000;

/// A call that took longer than that to be written down asks for leave once more: its slot may be over before it is.
const NOTED_WITHIN: Duration = Duration::from_millis(500);

/// What failed that soon is asked once more by who only looks: it was not silence.
const ASK_AGAIN: Duration = Duration::from_millis(300);

/// Two questions are at least so far apart.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);

/// Who calls what.
pub struct Demand<'a> {
    /// The dependency.
    pub dependency: &'a Dependency,
    /// The owner's name.
    pub owner: &'a str,
    /// How much of the rate the call takes.
    pub cost: u32,
    /// The `Idempotency-Key`, for steps that carry one.
    pub idempotency_key: Option<String>,
    /// What it is to make the call again when its outcome is unknown.
    pub repetition: Repetition,
    /// Whether an earlier try with the same key had no answer, so that it may still be under way.
    pub unanswered_before: bool,
    /// Whether anything of the answer's body is read: what nobody reads may be anything.
    pub reads_body: bool,
    /// The `traceparent` (W3C Trace Context), when the row is traced.
    pub traceparent: Option<String>,
    /// What the row's own past at the step says.
    pub past: Past,
    /// Of a call that is made at most once: writes down that it is about to be made, when it has leave.
    pub note: Option<&'a dyn Note>,
}

/// Something that is written down before a call.
#[async_trait]
pub trait Note: Sync {
    /// Writes it down. False: it was not, and the call may not be made.
    async fn write(&self) -> bool;
}

/// What came of it.
#[derive(Debug)]
pub enum Called {
    /// It may not be made before a moment.
    Waits {
        /// When.
        until: Timestamp,
        /// Which limit.
        reason: Reason,
        /// For how long the dependency has refused everything, see [`Denied::refused_for`].
        refused_for: Duration,
    },
    /// The row's lease would not have covered the call, or it could not be written down: it was not made.
    NotCovered,
    /// It was made, or cannot be made at all.
    Answered {
        /// What to do about it.
        verdict: Verdict,
        /// The answer, if one came.
        response: Option<Response>,
        /// Why there is none, or why it cannot be used.
        failure: Option<Failure>,
        /// When the call may be repeated at the earliest, where the answer asks for it.
        not_before: Option<Timestamp>,
        /// From sending to the end of the answer.
        elapsed: Duration,
        /// Whether it was a probe, see [`Decision::Granted`].
        probe: bool,
        /// Whether it was throttled for a reason of its row's own, so that it holds up no other.
        alone: bool,
    },
}

/// Leave to make a call now.
struct Leave {
    token: u64,
    /// Whether the call is a probe, see [`Decision::Granted`].
    probe: bool,
}

/// Why a call has no leave.
enum Refusal {
    /// A limit.
    Denied(Denied),
    /// It could not be written down.
    NotNoted,
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

/// What this worker knows of a gate without asking.
#[derive(Clone, Copy)]
struct Known {
    /// The latest known moment at which it is free again.
    free_at: Instant,
    /// Whether its breaker was not closed when it last answered.
    probing: bool,
    /// For how long everything had been refused, see [`Denied::refused_for`].
    refused_for: Duration,
}

/// What a call that waits for leave has with it.
struct LeaveWait<'a> {
    /// What is to be done yet when it has leave.
    note: Option<&'a dyn Note>,
    waiting: Waiting<'a>,
    mark: Option<Box<dyn Send>>,
    turn: Option<Turn>,
}

impl LeaveWait<'_> {
    fn mark(&mut self) {
        self.mark.get_or_insert_with(self.waiting);
    }
}

/// Makes a mark that lives as long as a call waits for a limit.
type Waiting<'a> = &'a (dyn Fn() -> Box<dyn Send> + Sync);

/// Calls dependencies through their limits.
pub struct Caller {
    limiter: Arc<dyn Limiter>,
    client: Client,
    clock: Arc<dyn Clock>,
    tokens: AtomicU64,
    /// What is known of each gate, a dependency's or an owner's: tells, without asking, whether it is exhausted.
    known: Mutex<HashMap<String, Known>>,
    /// Those who wait for a slot.
    lines: Lines,
    lateness: Lateness,
    /// How long it takes to write a call down.
    noting: Noting,
    metrics: Metrics,
    failures: FailureLog,
}

impl Caller {
    /// A caller. `seed` makes its slots' tokens its own among all workers: a random number.
    pub fn new(limiter: Arc<dyn Limiter>, client: Client, clock: Arc<dyn Clock>, seed: u64) -> Self {
        Self {
            limiter,
            client,
            clock,
            // Lua's numbers hold 53 bits exactly.
            tokens: AtomicU64::new(seed >> 12),
            known: Mutex::default(),
            lines: Lines::default(),
            lateness: Lateness::default(),
            noting: Noting::default(),
            metrics: Metrics::default(),
            failures: FailureLog::default(),
        }
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
        let mut extra = Vec::new();
        extra.extend(demand.idempotency_key.as_deref().map(|key| ("idempotency-key", key)));
        extra.extend(demand.traceparent.as_deref().map(|parent| ("traceparent", parent)));
        // Before any limit is touched: what cannot be sent takes nothing.
        let Some(request) = self.client.prepare(dependency, request, &extra) else {
            let verdict = Verdict::Fail { code: code::TEMPLATE_ERROR.to_owned() };
            return Called::Answered {
                verdict,
                response: None,
                failure: None,
                not_before: None,
                elapsed: Duration::ZERO,
                probe: false,
                alone: false,
            };
        };
        let gates = Gates::of(dependency, demand.owner, self.limiter.cold_wait_us());
        let lease_us = limit::micros(dependency.timeout + SLOT_MARGIN);
        // A burst may have been made smaller than what one call of an older definition costs: it takes all of it then.
        let cost = dependency.rate.as_ref().map_or(demand.cost, |rate| demand.cost.min(rate.burst));
        let asked_at = Instant::now();
        let ask = Ask { cost, token: 0, lease_us, lead_us: 0.0, past: demand.past };
        let leave = self.leave(&gates, &ask, demand.note, waiting).await;
        let Leave { token, probe } = match leave {
            Ok(leave) => leave,
            Err(Refusal::Denied(denied)) => return self.sent_away(dependency, &gates, denied),
            Err(Refusal::NotNoted) => return Called::NotCovered,
        };
        self.metrics.count(&dependency.name, |metrics| metrics.waited.took(asked_at.elapsed()));
        let grant = Grant { token, gates };
        if !covered() {
            self.report(grant, Feedback { probe, ..Feedback::default() }).await;
            return Called::NotCovered;
        }
        let sent_at = Instant::now();
        let Sent { happened, response, failure, ended_at } = request.send(self.clock.as_ref()).await;
        let elapsed = ended_at.duration_since(sent_at);
        let happened = if demand.reads_body { happened } else { happened.with_unread_body() };
        let judge = if demand.unanswered_before { outcome::judge_repeat } else { outcome::judge };
        let verdict = judge(happened, demand.repetition);
        let cause =
            failure.as_ref().map(|failure| failure.cause).filter(|cause| cause.is_about_the_dependency());
        let feedback = Feedback {
            probe,
            past: demand.past,
            elapsed: limit::micros(elapsed),
            cause,
            ..feedback(happened, &verdict, self.clock.now())
        };
        let gates = grant.gates.clone();
        let alone = self.report(grant, feedback).await;
        if let Some(pause) = feedback.pause.filter(|_| !alone) {
            self.remember(&gates, Reason::Paused, Instant::now() + limit::duration(pause), None);
        }
        let status = response.as_ref().map(|response| response.status);
        self.metrics.count(&dependency.name, |metrics| metrics.called(&verdict, status, elapsed));
        let not_before = happened.wait_until();
        if let Some(failure) = &failure {
            self.failures.log(dependency, failure);
        }
        Called::Answered { verdict, response, failure, not_before, elapsed, probe, alone }
    }

    /// How long any call to the dependency would wait at least, as far as this worker knows. What an owner's own limit
    /// says is not in it.
    pub fn predicted_wait(&self, dependency: &Dependency) -> Duration {
        self.known_wait(&limit::identity(&dependency.name, &dependency.base_url))
    }

    /// How long a call to the dependency for this owner would wait at least, as far as this worker knows.
    pub fn predicted_wait_of(&self, dependency: &Dependency, owner: &str) -> Duration {
        let gates = Gates::of(dependency, owner, self.limiter.cold_wait_us());
        let own = gates.owner.map_or(Duration::ZERO, |(name, _)| self.known_wait(&name));
        own.max(self.known_wait(&gates.dependency))
    }

    /// Whether this worker has met the limits of a call to the dependency for this owner. Of a gate that nobody has met, what
    /// is granted first may be a second away, and then what is asked for beside it is further.
    pub fn has_met(&self, dependency: &Dependency, owner: Option<&str>) -> bool {
        let gates = Gates::of(dependency, owner.unwrap_or_default(), self.limiter.cold_wait_us());
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let own = gates.owner.as_ref().filter(|_| owner.is_some());
        known.contains_key(&gates.dependency) && own.is_none_or(|(name, _)| known.contains_key(name))
    }

    /// For how long the dependency has refused all calls for this owner (none: all calls), as far as this worker knows.
    pub fn refused_for(&self, dependency: &Dependency, owner: Option<&str>) -> Duration {
        let gates = Gates::of(dependency, owner.unwrap_or_default(), self.limiter.cold_wait_us());
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let own = gates.owner.as_ref().filter(|_| owner.is_some()).map(|(name, _)| name);
        let refused = own.into_iter().chain([&gates.dependency]).filter_map(|gate| known.get(gate));
        refused.map(|known| known.refused_for).max().unwrap_or_default()
    }

    fn known_wait(&self, gate: &str) -> Duration {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(gate)
            .map_or(Duration::ZERO, |known| known.free_at.saturating_duration_since(Instant::now()))
    }

    /// Whether the dependency's breaker was not closed when it last answered: the next calls are probes.
    pub fn is_probing(&self, dependency: &Dependency) -> bool {
        let gate = limit::identity(&dependency.name, &dependency.base_url);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&gate).is_some_and(|known| known.probing)
    }

    /// Whether so many calls wait for one of the dependency's slots that no further row should be taken up for it.
    pub fn is_crowded(&self, dependency: &Dependency) -> bool {
        let Some(limit) = dependency.concurrency.as_ref().filter(|limit| !limit.per_owner) else {
            return false;
        };
        let gate = limit::identity(&dependency.name, &dependency.base_url);
        self.lines.waiting(&gate) > limit.limit as usize / 4
    }

    /// A dependency's limits as they stand for an owner; none when the limiter does not answer.
    pub async fn peek(&self, dependency: &Dependency, owner: &str) -> Option<Snapshot> {
        let gates = Gates::of(dependency, owner, self.limiter.cold_wait_us());
        let asked_at = Instant::now();
        let seen = self.limiter.peek(&gates).await;
        // Whoever asks first after a restart finds out that the connection broke; the next question has another one.
        if seen.is_none() && asked_at.elapsed() < ASK_AGAIN {
            return self.limiter.peek(&gates).await;
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

    /// What was counted, by dependency.
    pub fn metrics(&self) -> HashMap<String, CallMetrics> {
        self.metrics.read()
    }

    /// Leave to call, here and now; waits for it while that is a matter of moments.
    async fn leave(
        &self,
        gates: &Gates,
        ask: &Ask,
        note: Option<&dyn Note>,
        waiting: Waiting<'_>,
    ) -> Result<Leave, Refusal> {
        let mut deadline = Instant::now() + PATIENCE + LAST_TRY;
        let line = gates.slots().map(|slots| self.lines.at(slots));
        let mut wait = LeaveWait { note, waiting, mark: None, turn: None };
        if let Some(line) = line.as_ref().filter(|line| line.waiting() > 0) {
            wait.mark();
            wait.turn = Some(in_time(deadline, line.turn()).await?);
        }
        loop {
            // A token of its own for each try: what is still told of an earlier one does not meet this one.
            let token = self.tokens.fetch_add(1, Ordering::Relaxed) & 0x000F_FFFF_FFFF_FFFF;
            let ask = Ask { token, ..*ask };
            let unnoted = wait.note.is_some();
            let denied = match self.leave_once(gates, ask, &mut wait).await {
                Err(Refusal::Denied(denied)) => denied,
                leave => return leave,
            };
            if unnoted && wait.note.is_none() {
                // However long it took to write it down, it was done for this call.
                deadline = Instant::now() + PATIENCE + LAST_TRY;
            }
            let pause = limit::duration(denied.retry_after).max(SHORTEST_PAUSE);
            if pause > PATIENCE || Instant::now() + pause > deadline {
                return Err(denied.into());
            }
            wait.mark();
            match line.as_ref().filter(|_| denied.reason == Reason::Concurrency) {
                Some(line) if wait.turn.is_none() => wait.turn = Some(in_time(deadline, line.turn()).await?),
                // The pause ends it in any case: most slots are given back elsewhere.
                Some(line) => drop(tokio::time::timeout(pause, line.freed()).await),
                None => tokio::time::sleep(pause).await,
            }
        }
    }

    /// A call that has to be written down asks for a moment that leaves time for that, and is written down when all that
    /// could refuse it has been asked: a worker that dies while a row waits has not called for it. What comes too late all
    /// the same is not made, and asks again; it is written down by then.
    async fn leave_once(&self, gates: &Gates, ask: Ask, wait: &mut LeaveWait<'_>) -> Result<Leave, Refusal> {
        let lead = self.limiter.lead().await?;
        let noting_us = if wait.note.is_some() { self.noting.expected_us() } else { 0.0 };
        let ask = Ask { lead_us: lead.answer_us + noting_us, ..ask };
        let (moment, slack, probe, confirm) = match self.limiter.acquire(gates, &ask).await {
            Decision::Granted { wait, slack, probe, confirm } => (wait, slack, probe, confirm),
            Decision::Denied(denied) => return Err(denied.into()),
        };
        let answered = Instant::now();
        // While this one waits for its moment others in line may ask for later ones.
        wait.turn = None;
        self.meet(gates, probe);
        if moment > 0.0 {
            self.remember(gates, Reason::Rate, answered + limit::duration(moment), None);
            wait.mark();
        }
        let before = |lead_us: f64| tokio::time::sleep_until(answered + limit::duration(moment - lead_us));
        let grant = || Grant { token: ask.token, gates: gates.clone() };
        let unused = Feedback { probe, ..Feedback::default() };
        let mut refused = None;
        if confirm {
            let lead_us = lead.round_trip_us + noting_us;
            before(lead_us).await;
            refused = self.limiter.confirm(gates, &Ask { lead_us, ..ask }).await.err();
        }
        if refused.is_none()
            && let Some(note) = wait.note
        {
            before(noting_us).await;
            let began = Instant::now();
            if !note.write().await {
                self.report(grant(), unused).await;
                return Err(Refusal::NotNoted);
            }
            wait.note = None;
            let took = began.elapsed();
            self.noting.took(took);
            refused = (took > NOTED_WITHIN).then_some(Denied::new(0.0, Reason::Late));
        }
        if refused.is_none() {
            before(0.0).await;
        }
        if refused.is_none() && gates.paced() {
            let by = limit::micros(answered.elapsed()) - moment - slack;
            refused = self.lateness.judge(by, &lead);
        }
        let Some(denied) = refused else { return Ok(Leave { token: ask.token, probe }) };
        self.report(grant(), unused).await;
        Err(denied.into())
    }

    async fn report(&self, grant: Grant, feedback: Feedback) -> bool {
        let slots = grant.gates.slots().map(|(gate, _)| gate.to_owned());
        let alone = self.limiter.report(grant, feedback).await;
        if let Some(gate) = slots {
            self.lines.freed(&gate);
        }
        alone
    }

    fn sent_away(&self, dependency: &Dependency, gates: &Gates, denied: Denied) -> Called {
        let mut pause = limit::duration(denied.retry_after);
        let refused_for = limit::duration(denied.refused_for);
        if denied.reason == Reason::Concurrency {
            // When a slot is free, one of those that wait in line has it.
            pause = pause.max(PATIENCE);
        } else if !denied.row_only {
            self.remember(gates, denied.reason, Instant::now() + pause, Some(refused_for));
        }
        self.metrics.count(&dependency.name, |metrics| metrics.sent_away(denied.reason));
        Called::Waits { until: self.clock.now() + pause, reason: denied.reason, refused_for }
    }

    /// Leave was given: the gates are known from now on.
    fn meet(&self, gates: &Gates, probing: bool) {
        let now = Instant::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for gate in std::iter::once(&gates.dependency).chain(gates.owner.as_ref().map(|(name, _)| name)) {
            let known = Self::known_of(&mut known, gate, now);
            known.probing = probing;
            if !probing {
                known.refused_for = Duration::ZERO;
            }
        }
    }

    /// When the gate is free again of which the reason speaks. What an owner's own limit says tells nothing about others.
    fn remember(&self, gates: &Gates, reason: Reason, at: Instant, refused_for: Option<Duration>) {
        let own = match reason {
            Reason::OwnerRate | Reason::Rate | Reason::Paused => gates.pauses_owner(),
            Reason::Concurrency | Reason::BreakerOpen | Reason::Unavailable | Reason::Late => false,
        };
        let gate = gates.owner.as_ref().filter(|_| own).map_or(&gates.dependency, |(name, _)| name);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = Self::known_of(&mut known, gate, Instant::now());
        known.free_at = at;
        known.refused_for = refused_for.unwrap_or(known.refused_for);
        known.probing |= reason == Reason::BreakerOpen;
    }

    fn known_of<'k>(known: &'k mut HashMap<String, Known>, gate: &str, now: Instant) -> &'k mut Known {
        if !known.contains_key(gate) && known.len() >= MOST_REMEMBERED {
            known.retain(|_, known| known.free_at > now);
        }
        known.entry(gate.to_owned()).or_insert(Known {
            free_at: now,
            probing: false,
            refused_for: Duration::ZERO,
        })
    }
}

async fn in_time<T>(deadline: Instant, line: impl Future<Output = T>) -> Result<T, Denied> {
    let late = Denied::new(0.0, Reason::Concurrency);
    tokio::time::timeout_at(deadline, line).await.map_err(|_| late)
}

fn feedback(happened: Happened, verdict: &Verdict, now: Timestamp) -> Feedback {
    // A 408, 409 or 425 is about this one call.
    let about_all = matches!(happened, Happened::Answer { status: 429 | 500..=599, .. });
    let pause = happened.wait_until().filter(|_| about_all).map(|until| limit::micros(until.since(now)));
    let is_throttled = matches!(verdict, Verdict::Throttled { .. });
    let throttled = is_throttled || matches!(happened, Happened::Answer { status: 503, .. });
    // A refusal speaks neither for the dependency's health nor against it.
    let healthy = outcome::healthy(happened).filter(|_| !is_throttled);
    Feedback { healthy, pause, throttled, ..Feedback::default() }
}

//! A call from leave to verdict.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use penstock_domain::limit::{self, Ask, Decision, Denied, Feedback, Reason, Snapshot};
use penstock_domain::outcome::{self, Happened, Verdict};
use penstock_domain::pipeline::{Dependency, RenderedRequest};
use penstock_domain::time::{Clock, Timestamp};

use crate::client::{Client, Response};
use crate::limiter::{Gates, Grant, Limiter};

/// A slot outlasts its call's timeout by so much, so that it is never given away under a call.
const SLOT_MARGIN: Duration = Duration::from_secs(5);

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
    /// Whether the call may be made again when its outcome is unknown.
    pub safe_to_repeat: bool,
    /// The `traceparent` (W3C Trace Context), when the row is traced.
    pub traceparent: Option<String>,
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
    },
    /// The row's lease would not have covered the call: it was not made.
    NotCovered,
    /// It was made.
    Answered {
        /// What to do about it.
        verdict: Verdict,
        /// The answer, if one came.
        response: Option<Response>,
        /// From sending to the end of the answer.
        elapsed: Duration,
    },
}

/// Figures of one dependency, for metrics.
#[derive(Clone, Debug, Default)]
pub struct CallFigures {
    /// Calls by verdict: success, throttled, retry, unknown, fail.
    pub verdicts: [u64; 5],
    /// Rows that were sent away to wait.
    pub waits: u64,
    /// Microseconds that granted calls waited for their moment.
    pub waited_us: u64,
    /// Microseconds under way.
    pub elapsed_us: u64,
}

/// Calls dependencies through their limits.
pub struct Caller {
    limiter: Arc<dyn Limiter>,
    client: Client,
    clock: Arc<dyn Clock>,
    tokens: AtomicU64,
    /// The latest known moment at which each dependency is free again: tells, without asking, whether it is exhausted.
    free_at: Mutex<HashMap<String, Timestamp>>,
    figures: Mutex<HashMap<String, CallFigures>>,
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
            free_at: Mutex::default(),
            figures: Mutex::default(),
        }
    }

    /// Makes a call as soon as every limit allows it, or says when that will be. `covered` is asked right before the
    /// call; `waiting` makes a mark that lives as long as the call waits for its moment.
    pub async fn call(
        &self,
        demand: &Demand<'_>,
        request: RenderedRequest,
        covered: &(dyn Fn() -> bool + Sync),
        waiting: &(dyn Fn() -> Box<dyn Send> + Sync),
    ) -> Called {
        let dependency = demand.dependency;
        let gates = Gates::of(dependency, demand.owner, self.limiter.cold_wait_us());
        let token = self.tokens.fetch_add(1, Ordering::Relaxed) & 0x000F_FFFF_FFFF_FFFF;
        let ask = Ask { cost: demand.cost, token, lease_us: limit::micros(dependency.timeout + SLOT_MARGIN) };
        let asked_at = self.clock.now();
        let (wait, probe) = match self.limiter.acquire(&gates, &ask).await {
            Decision::Granted { wait, probe } => (wait, probe),
            Decision::Denied(denied) => return self.sent_away(dependency, &gates, denied),
        };
        let grant = Grant { token, gates };
        if wait > 0.0 {
            let pause = Duration::from_secs_f64(wait / 1e6);
            self.remember(&grant.gates, asked_at + pause);
            let mark = waiting();
            tokio::time::sleep(pause).await;
            drop(mark);
            if let Err(denied) = self.limiter.confirm(&grant.gates, &ask).await {
                let called = self.sent_away(dependency, &grant.gates, denied);
                self.limiter.report(grant, Feedback { probe, ..Feedback::default() }).await;
                return called;
            }
        }
        if !covered() {
            self.limiter.report(grant, Feedback { probe, ..Feedback::default() }).await;
            return Called::NotCovered;
        }
        let mut extra = Vec::new();
        if let Some(key) = &demand.idempotency_key {
            extra.push(("idempotency-key", key.clone()));
        }
        if let Some(traceparent) = &demand.traceparent {
            extra.push(("traceparent", traceparent.clone()));
        }
        let began = Instant::now();
        let (happened, response) = self.client.send(dependency, request, &extra, self.clock.now()).await;
        let elapsed = began.elapsed();
        let answered_at = self.clock.now();
        let verdict = outcome::judge(happened, demand.safe_to_repeat);
        let feedback = Feedback { probe, ..feedback(happened, &verdict, answered_at) };
        if let Some(pause) = feedback.pause
            && !grant.gates.pauses_owner()
        {
            self.remember(&grant.gates, answered_at + limit::duration(pause));
        }
        self.limiter.report(grant, feedback).await;
        self.count(&dependency.name, |figures| {
            figures.verdicts[place(&verdict)] += 1;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most a second")]
            let waited = wait as u64;
            figures.waited_us += waited;
            figures.elapsed_us += u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        });
        Called::Answered { verdict, response, elapsed }
    }

    fn sent_away(&self, dependency: &Dependency, gates: &Gates, denied: Denied) -> Called {
        let until = self.clock.now() + limit::duration(denied.retry_after);
        if denied.reason != Reason::Concurrency {
            self.remember(gates, until);
        }
        self.count(&dependency.name, |figures| figures.waits += 1);
        Called::Waits { until, reason: denied.reason }
    }

    /// How long a call to the dependency would wait at least, as far as this worker knows.
    pub fn predicted_wait(&self, dependency: &Dependency) -> Duration {
        let now = self.clock.now();
        let free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let name = Gates::of(dependency, "", 0.0).dependency;
        free_at.get(&name).map_or(Duration::ZERO, |at| at.since(now))
    }

    /// A dependency's limits as they stand.
    pub async fn peek(&self, dependency: &Dependency, owner: &str) -> Option<Snapshot> {
        self.limiter.peek(&Gates::of(dependency, owner, self.limiter.cold_wait_us())).await
    }

    /// What was counted, by dependency.
    pub fn figures(&self) -> HashMap<String, CallFigures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, dependency: &str, count: impl FnOnce(&mut CallFigures)) {
        let mut figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        match figures.get_mut(dependency) {
            Some(known) => count(known),
            None => count(figures.entry(dependency.to_owned()).or_default()),
        }
    }

    /// What an owner's own limit says tells nothing about other owners.
    fn remember(&self, gates: &Gates, at: Timestamp) {
        if gates.owner.is_some() {
            return;
        }
        self.free_at.lock().unwrap_or_else(PoisonError::into_inner).insert(gates.dependency.clone(), at);
    }
}

fn feedback(happened: Happened, verdict: &Verdict, now: Timestamp) -> Feedback {
    let pause = match happened {
        Happened::Answer { wait_until: Some(until), .. } => Some(limit::micros(until.since(now))),
        _ => None,
    };
    let throttled =
        matches!(verdict, Verdict::Throttled { .. }) || matches!(happened, Happened::Answer { status: 503, .. });
    Feedback { healthy: outcome::healthy(happened), pause, throttled, probe: false }
}

fn place(verdict: &Verdict) -> usize {
    match verdict {
        Verdict::Success => 0,
        Verdict::Throttled { .. } => 1,
        Verdict::Retry { .. } => 2,
        Verdict::Unknown { .. } => 3,
        Verdict::Fail { .. } => 4,
    }
}

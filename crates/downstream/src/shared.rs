//! Limits shared by all workers, on Redis (6.2 and later): one script, one round trip a decision.
//!
//! Redis's own clock counts, so workers' clocks do not matter. What Redis forgets (a flush, an eviction, a restart from
//! an older snapshot) starts empty and stays shut for as long as reservations made before may still come. When it
//! cannot be reached, nothing may be called. A failover to a replica that lags behind can forget grants of as long as
//! it lags without anybody noticing: that much, and no more, can then be called twice.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use penstock_domain::limit::{Ask, Decision, Denied, Feedback, MAX_WAIT_US, Reason, Snapshot};
use penstock_domain::time::Clock;
use redis::Script;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};

use crate::LATE;
use crate::limiter::{Gates, Grant, Limiter};
use crate::wire::{self, Asked, Policy, Told};

/// Whoever waits longer than that for Redis asks again later. Longer than a reconnection, shorter than a lease.
const PATIENCE: Duration = Duration::from_secs(1);

/// When to ask again while Redis cannot be reached. An answer that cannot be read is none.
const UNAVAILABLE: Denied = Denied { retry_after: 1e6, reason: Reason::Unavailable };

/// When to ask again after a grant whose answer was under way for too long.
const ANSWERED_LATE: Denied = Denied { retry_after: 50e3, reason: Reason::Unavailable };

/// Limits kept in Redis.
pub struct SharedLimiter {
    connection: ConnectionManager,
    script: Script,
    /// Calls that went well and were not told yet: they travel with the next question.
    good: Mutex<HashMap<String, u32>>,
    /// The quickest answer so far, microseconds: what an answer takes longer, a grant is late.
    quickest: AtomicU64,
    away: AtomicBool,
    clock: Option<Arc<dyn Clock>>,
}

impl SharedLimiter {
    /// Limits in the Redis at `url`. Connects when it is first asked, and again whenever the connection is lost.
    ///
    /// # Errors
    /// When the URL cannot be read.
    pub fn connect(url: &str) -> Result<Self, redis::RedisError> {
        let config = ConnectionManagerConfig::new()
            .set_response_timeout(Some(PATIENCE))
            .set_connection_timeout(Some(PATIENCE))
            .set_max_delay(PATIENCE)
            .set_number_of_retries(1);
        Ok(Self::new(ConnectionManager::new_lazy_with_config(redis::Client::open(url)?, config)?))
    }

    /// Limits in a Redis that is connected already. Its response timeout should be about a second.
    pub fn new(connection: ConnectionManager) -> Self {
        Self {
            connection,
            script: Script::new(include_str!("gate.lua")),
            good: Mutex::default(),
            quickest: AtomicU64::new(u64::MAX),
            away: AtomicBool::new(false),
            clock: None,
        }
    }

    /// Takes the time from `clock` and not from Redis: for tests that compare decisions at given moments.
    #[must_use]
    pub fn timed_by(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock: Some(clock), ..self }
    }

    async fn ask<T: redis::FromRedisValue>(&self, gates: &Gates, mut asked: Asked) -> Option<T> {
        asked.now = self.clock.as_ref().map(|clock| crate::local::micros(clock.as_ref()));
        asked.gates.push(Policy::from(&gates.policy));
        asked.gates.extend(gates.owner.iter().map(|(_, policy)| Policy::from(policy)));
        let mut invocation = self.script.prepare_invoke();
        for name in std::iter::once(&gates.dependency).chain(gates.owner.iter().map(|(name, _)| name)) {
            // One hash slot for all keys of a dependency, as a cluster wants it.
            let owner = name.strip_prefix(gates.dependency.as_str()).unwrap_or(name);
            let key = format!("penstock:lim:{{{}}}{owner}", gates.dependency);
            let slots = format!("{key}:slots");
            invocation.key(key).key(slots);
        }
        let asked = match serde_json::to_string(&asked) {
            Ok(asked) => asked,
            Err(error) => {
                tracing::error!(%error, "a limit cannot be written as JSON");
                return None;
            }
        };
        invocation.arg(asked);
        let mut connection = self.connection.clone();
        let answer = tokio::time::timeout(PATIENCE, invocation.invoke_async(&mut connection)).await;
        let trouble = match answer {
            Ok(Ok(answer)) => {
                if self.away.swap(false, Ordering::Relaxed) {
                    tracing::info!("the shared limiter answers again");
                }
                return Some(answer);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        if !self.away.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                error = trouble,
                "the shared limiter does not answer; nothing is called until it does"
            );
        }
        None
    }

    fn take_good(&self, dependency: &str) -> Option<u32> {
        self.good.lock().unwrap_or_else(PoisonError::into_inner).remove(dependency)
    }

    /// Whether an answer took so much longer than the quickest that its grant's moment has passed.
    fn too_late(&self, took: Duration) -> bool {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let quickest = self.quickest.fetch_min(took, Ordering::Relaxed).min(took);
        took - quickest > u64::try_from(LATE.as_micros()).unwrap_or(u64::MAX)
    }
}

#[async_trait]
impl Limiter for SharedLimiter {
    async fn acquire(&self, gates: &Gates, ask: &Ask) -> Decision {
        let asked_at = Instant::now();
        let asked = Asked { good: self.take_good(&gates.dependency), ..Asked::of("acquire", ask) };
        let Some(answer) = self.ask::<Vec<String>>(gates, asked).await else {
            return Decision::Denied(UNAVAILABLE);
        };
        match wire::granted(&answer) {
            Some(decision @ Decision::Granted { probe, .. }) if self.clock.is_none() => {
                if self.too_late(asked_at.elapsed()) {
                    let grant = Grant { token: ask.token, gates: gates.clone() };
                    self.report(grant, Feedback { probe, ..Feedback::default() }).await;
                    return Decision::Denied(ANSWERED_LATE);
                }
                decision
            }
            Some(decision) => decision,
            None => Decision::Denied(wire::denied(&answer).unwrap_or(UNAVAILABLE)),
        }
    }

    async fn confirm(&self, gates: &Gates, ask: &Ask) -> Result<(), Denied> {
        match self.ask::<Vec<String>>(gates, Asked::of("confirm", ask)).await {
            None => Err(UNAVAILABLE),
            Some(answer) if answer.first().is_some_and(|word| word == "confirmed") => Ok(()),
            Some(answer) => Err(wire::denied(&answer).unwrap_or(UNAVAILABLE)),
        }
    }

    async fn report(&self, grant: Grant, feedback: Feedback) {
        let plain = !feedback.throttled
            && feedback.pause.is_none()
            && !feedback.probe
            && grant.gates.slots().is_none();
        match feedback.healthy {
            None if plain => return,
            Some(true) if plain => {
                let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
                match good.get_mut(&grant.gates.dependency) {
                    Some(count) => *count = count.saturating_add(1),
                    None => {
                        good.insert(grant.gates.dependency, 1);
                    }
                }
                return;
            }
            _ => {}
        }
        let told = grant.gates.told(feedback).map(Told::from).into();
        let ask = Ask { cost: 0, token: grant.token, lease_us: 0.0 };
        // An answer that does not come has been told of; slots run out by themselves.
        let asked =
            Asked { told, good: self.take_good(&grant.gates.dependency), ..Asked::of("report", &ask) };
        let _: Option<Vec<String>> = self.ask(&grant.gates, asked).await;
    }

    async fn peek(&self, gates: &Gates) -> Option<Snapshot> {
        let asked = Asked::of("peek", &Ask { cost: 0, token: 0, lease_us: 0.0 });
        let seen: Vec<Vec<String>> = self.ask(gates, asked).await?;
        seen.iter().filter_map(|gate| wire::snapshot(gate)).reduce(Snapshot::and)
    }

    fn cold_wait_us(&self) -> f64 {
        MAX_WAIT_US
    }
}

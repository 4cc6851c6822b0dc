//! The Redis of the shared limiter: requests to its script, its clock, and whether it is available.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use penstock_domain::limit::{Distance, MeterPolicy, micros};
use penstock_domain::time::Clock;
use penstock_redis::Connection;
use redis::{FromRedisValue, RedisResult, Script};

use crate::limiter::CallLimits;
use crate::wire::{self, MeterRequest, Policy, ScriptRequest};

/// The longest wait for an answer of Redis. Longer than a reconnection, shorter than a lease.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// Questions for the time after which the distance of Redis is known, or cannot be known.
const MOST_MEASUREMENTS: u32 = 6;

/// A Redis and what is known of it.
pub(crate) struct Server {
    pub(crate) connection: Connection,
    script: Script,
    /// In microseconds since `epoch`.
    distance: Mutex<Distance>,
    epoch: Instant,
    /// One measures, for all that wait.
    measuring: tokio::sync::Mutex<()>,
    failures: AtomicU64,
    unavailable: AtomicBool,
    /// A test's own time.
    pub(crate) clock: Option<Arc<dyn Clock>>,
}

impl Server {
    pub(crate) fn new(connection: Connection, clock: Option<Arc<dyn Clock>>) -> Self {
        Self {
            connection,
            script: Script::new(include_str!("limiter.lua")),
            distance: Mutex::default(),
            epoch: Instant::now(),
            measuring: tokio::sync::Mutex::default(),
            failures: AtomicU64::new(0),
            unavailable: AtomicBool::new(false),
            clock,
        }
    }

    /// The server's time and what the script answers; none when it does not answer, or cannot be read.
    pub(crate) async fn ask(
        &self,
        limits: &CallLimits,
        request: ScriptRequest,
    ) -> Option<(f64, Vec<String>)> {
        let asked_at = self.now();
        let answer: Vec<String> = self.invoke(limits, request).await?;
        let (server, answer) = wire::server_time(&answer)?;
        self.observed(asked_at, server);
        Some((server, answer.to_vec()))
    }

    /// What the script answers, of any shape.
    pub(crate) async fn invoke<T: FromRedisValue>(
        &self,
        limits: &CallLimits,
        mut request: ScriptRequest,
    ) -> Option<T> {
        request.now = self.clock.as_ref().map(|clock| crate::local::micros(clock.as_ref()));
        request.policies.push(Policy::from(&limits.policy));
        request.policies.extend(limits.owner.iter().map(|(_, policy)| Policy::from(policy)));
        // What is granted is charged: all else leaves the meters as they are.
        let meters = if matches!(request.op, "acquire" | "peek" | "deposit" | "correct") {
            limits.meters.as_slice()
        } else {
            &[]
        };
        request.meters.extend(meters.iter().map(MeterRequest::from));
        for (meter, actual) in request.meters.iter_mut().zip(&request.actual) {
            meter.actual = Some(*actual);
        }
        let mut invocation = self.script.prepare_invoke();
        for name in limits.keys() {
            // One hash slot for all keys of a dependency, as a cluster wants it.
            let owner = name.strip_prefix(limits.dependency.as_str()).unwrap_or(name);
            let key = format!("penstock:lim:{{{}}}{owner}", limits.dependency);
            let slots = format!("{key}:slots");
            invocation.key(key).key(slots);
        }
        for meter in meters {
            let key = format!("penstock:lim:{{{}}}:meter:{}", limits.dependency, meter.id);
            let (key, turns) = match &meter.policy {
                MeterPolicy::Bucket(_) => (key.clone(), format!("{key}:turns")),
                MeterPolicy::Calendar(calendar) => {
                    let key = format!("{key}:{}", calendar.period);
                    (key.clone(), key)
                }
            };
            invocation.key(key).key(turns);
        }
        let request = match serde_json::to_string(&request) {
            Ok(request) => request,
            Err(error) => {
                tracing::error!(%error, "a limit cannot be written as JSON");
                return None;
            }
        };
        invocation.arg(request);
        let mut connection = self.connection.clone();
        self.answered(invocation.invoke_async(&mut connection)).await
    }

    async fn answered<T>(&self, question: impl Future<Output = RedisResult<T>>) -> Option<T> {
        let error = match question.await {
            Ok(answer) => {
                if self.unavailable.swap(false, Ordering::Relaxed) {
                    tracing::info!("the shared limiter answers again");
                }
                return Some(answer);
            }
            Err(error) => error,
        };
        self.distance.lock().unwrap_or_else(PoisonError::into_inner).forget();
        if !self.unavailable.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %error,
                "the shared limiter does not answer; nothing is called until it does"
            );
        }
        None
    }

    /// How far away it is; measures it when that is not known. None: it does not answer.
    pub(crate) async fn distance(&self) -> Option<Distance> {
        let known = || Some(self.known()).filter(Distance::is_known);
        if known().is_some() {
            return known();
        }
        let failures = self.failures.load(Ordering::Relaxed);
        let _alone = self.measuring.lock().await;
        for _ in 0..MOST_MEASUREMENTS {
            // Who waited here while another one measured in vain does not try as well.
            if known().is_some() || self.failures.load(Ordering::Relaxed) != failures {
                break;
            }
            let asked_at = self.now();
            let mut connection = self.connection.clone();
            let question = redis::cmd("TIME");
            let time: Option<(f64, f64)> = self.answered(question.query_async(&mut connection)).await;
            match time {
                Some((seconds, micros)) => self.observed(asked_at, seconds * 1e6 + micros),
                None => {
                    self.failures.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        known()
    }

    /// The time of [`Distance`].
    pub(crate) fn now(&self) -> f64 {
        micros(self.epoch.elapsed())
    }

    fn observed(&self, asked_at: f64, server: f64) {
        let answered_at = self.now();
        self.distance.lock().unwrap_or_else(PoisonError::into_inner).observed(asked_at, server, answered_at);
    }

    fn known(&self) -> Distance {
        *self.distance.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! The Redis of the shared limiter: asked, timed, and known to be away.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use penstock_domain::limit::{Distance, micros};
use penstock_domain::time::Clock;
use penstock_redis::Connection;
use redis::{FromRedisValue, RedisResult, Script};

use crate::limiter::Gates;
use crate::wire::{self, Asked, Policy};

/// Whoever waits longer than that for Redis asks again later. Longer than a reconnection, shorter than a lease.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// So many questions for the time tell how far away Redis is, or that it cannot be told.
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
    away: AtomicBool,
    /// A test's own time.
    pub(crate) clock: Option<Arc<dyn Clock>>,
}

impl Server {
    pub(crate) fn new(connection: Connection, clock: Option<Arc<dyn Clock>>) -> Self {
        Self {
            connection,
            script: Script::new(include_str!("gate.lua")),
            distance: Mutex::default(),
            epoch: Instant::now(),
            measuring: tokio::sync::Mutex::default(),
            failures: AtomicU64::new(0),
            away: AtomicBool::new(false),
            clock,
        }
    }

    /// What the script answers, behind the server's time; none when it does not, or cannot be read.
    pub(crate) async fn ask(&self, gates: &Gates, asked: Asked) -> Option<(f64, Vec<String>)> {
        let asked_at = self.now();
        let answer: Vec<String> = self.invoke(gates, asked).await?;
        let (server, answer) = wire::timed(&answer)?;
        self.heard(asked_at, server);
        Some((server, answer.to_vec()))
    }

    /// What the script answers, of any shape.
    pub(crate) async fn invoke<T: FromRedisValue>(&self, gates: &Gates, mut asked: Asked) -> Option<T> {
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
        self.answered(invocation.invoke_async(&mut connection)).await
    }

    async fn answered<T>(&self, question: impl Future<Output = RedisResult<T>>) -> Option<T> {
        let error = match question.await {
            Ok(answer) => {
                if self.away.swap(false, Ordering::Relaxed) {
                    tracing::info!("the shared limiter answers again");
                }
                return Some(answer);
            }
            Err(error) => error,
        };
        self.distance.lock().unwrap_or_else(PoisonError::into_inner).forget();
        if !self.away.swap(true, Ordering::Relaxed) {
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
            let time = redis::cmd("TIME");
            let told: Option<(f64, f64)> = self.answered(time.query_async(&mut connection)).await;
            match told {
                Some((seconds, micros)) => self.heard(asked_at, seconds * 1e6 + micros),
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

    fn heard(&self, asked_at: f64, server: f64) {
        let answered_at = self.now();
        self.distance.lock().unwrap_or_else(PoisonError::into_inner).heard(asked_at, server, answered_at);
    }

    fn known(&self) -> Distance {
        *self.distance.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

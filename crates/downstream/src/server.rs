//! The Redis of the shared limiter: requests to its script, its clock, and whether it is available.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use penstock_domain::limit::{Distance, micros};
use penstock_domain::time::Clock;
use penstock_redis::Connection;
use redis::{RedisResult, Script};

use crate::groups::{Group, Groups, Question};
use crate::limiter::CallLimits;
use crate::reported_windows::{WindowAsk, WindowPart};
use crate::wire::{self, ScriptRequest};

/// The longest wait for an answer of Redis. Longer than a reconnection, shorter than a lease.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// Questions for the time after which the distance of Redis is known, or cannot be known.
const MOST_MEASUREMENTS: u32 = 6;

/// A Redis and what is known of it.
pub(crate) struct Server {
    pub(crate) connection: Connection,
    script: Script,
    reported_windows: Script,
    groups: Groups,
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
            reported_windows: Script::new(include_str!("reported_windows.lua")),
            groups: Groups::default(),
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
        self: &Arc<Self>,
        limits: &CallLimits,
        request: ScriptRequest,
    ) -> Option<(f64, Vec<String>)> {
        let question = Question::new(limits, request);
        let answer = if self.clock.is_some() {
            // Each request has its own moment.
            self.invoke(Group::of(question)).await?.pop()?
        } else {
            let (question, answer) = question.answered();
            self.add(question);
            // Without an answer: the script did not run.
            answer.await.ok()?
        };
        let (server, answer) = wire::server_time(&answer)?;
        Some((server, answer.to_vec()))
    }

    /// The same for a request whose answer nobody needs: it travels with the next group, before all that is asked later.
    pub(crate) fn tell(self: &Arc<Self>, limits: &CallLimits, request: ScriptRequest) {
        self.add(Question::new(limits, request));
    }

    /// The limits as they stand: a reply for each.
    pub(crate) async fn peek(&self, limits: &CallLimits) -> Option<Vec<Vec<String>>> {
        self.invoke(Group::of(Question::new(limits, ScriptRequest::for_token("peek", 0)))).await
    }

    fn add(self: &Arc<Self>, question: Question) {
        if let Some(dependency) = self.groups.add(question) {
            tokio::spawn(self.clone().send_groups(dependency));
        }
    }

    /// Sends what is asked about a dependency's limits, until nothing is. It does not wait for answers: from a far Redis they
    /// take long.
    async fn send_groups(self: Arc<Self>, dependency: String) {
        while let Some(group) = self.groups.next(&dependency).await {
            tokio::spawn(self.clone().send(group));
        }
    }

    /// Sends a group and hands out the answers. Whoever waits for one that does not come sees that its sender is gone.
    async fn send(self: Arc<Self>, mut group: Group) {
        let waiting = group.take_waiting();
        let asked_at = self.now();
        let Some(answers) = self.invoke(group).await else { return };
        if let Some((server, _)) = answers.first().and_then(|answer| wire::server_time(answer)) {
            self.observed(asked_at, server);
        }
        for (waiting, answer) in waiting.into_iter().zip(answers) {
            // Who does not wait any more has no use for it.
            let _ = waiting.map(|waiting| waiting.send(answer));
        }
    }

    /// What the script answers to each request.
    async fn invoke(&self, group: Group) -> Option<Vec<Vec<String>>> {
        let now = self.clock.as_ref().map(|clock| crate::local::micros(clock.as_ref()));
        let (keys, group) = group.into_script(now);
        let group = match serde_json::to_string(&group) {
            Ok(group) => group,
            Err(error) => {
                tracing::error!(%error, "limits cannot be written as JSON");
                return None;
            }
        };
        let mut connection = self.connection.clone();
        let answer = async {
            let prefix = self.connection.prefix().await?;
            let mut invocation = self.script.prepare_invoke();
            for key in keys {
                invocation.key(format!("{prefix}{key}"));
            }
            invocation.arg(group).invoke_async(&mut connection).await
        };
        self.answered(answer).await
    }

    /// Takes calls of a window that an API told of; none when it does not answer.
    pub(crate) async fn take_of_window(&self, budget: &str, ask: &WindowAsk) -> Option<WindowPart> {
        let mut connection = self.connection.clone();
        let answer = async {
            let prefix = self.connection.prefix().await?;
            let mut invocation = self.reported_windows.prepare_invoke();
            invocation.key(format!("{prefix}told:{budget}"));
            let millis = |time: Duration| time.as_secs_f64() * 1e3;
            invocation.arg(millis(ask.ends_in)).arg(millis(ask.length)).arg(millis(ask.same));
            invocation.arg(u8::from(ask.is_reported)).arg(ask.left).arg(ask.amount);
            if let Some(clock) = &self.clock {
                invocation.arg(clock.now().millis());
            }
            invocation.invoke_async(&mut connection).await
        };
        let (amount, ends_in): (u32, f64) = self.answered(answer).await?;
        Some(WindowPart { amount, ends_in: Duration::from_secs_f64(ends_in / 1e3) })
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

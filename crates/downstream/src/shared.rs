//! Limits shared by all workers, on Redis (6.2 and later): one script, which decides in groups what calls ask at nearly the
//! same time (`groups.rs`).
//!
//! Redis's own clock counts. A permit names a moment of that clock, and each worker knows from its answers what its own
//! clock shows then ([`Distance`](penstock_domain::limit::Distance)): calls leave at their moments, however far away each
//! worker is. A far one asks with a lead, for a moment that lies after the arrival of its answer.
//!
//! What Redis forgets (a flush, an eviction, a restart from an older snapshot) starts empty and admits no call for as
//! long as reservations made before may still be used, unless the database knows that nothing was used (`caller/uses.rs`); slots of calls under way are reported again meanwhile
//! (`permit_refresher.rs`). When it cannot
//! be reached, nothing may be called. A failover to a replica that lags behind can forget grants of as long as it lags
//! without anybody noticing: that much, and no more, can then be called twice.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use penstock_domain::limit::{
    self, Ask, Decision, Denied, Feedback, Lead, MAX_WAIT_US, Reason, Snapshot, duration,
};
use penstock_domain::time::Clock;
use penstock_redis::{Connection, Limits, Prefix};
use tokio::time::Instant;

use crate::limiter::{CallLimits, Limiter, Permit};
use crate::permit_refresher::PermitRefresher;
use crate::reported_windows::{WindowAsk, WindowPart};
use crate::server::{PATIENCE, Server};
use crate::wire::{self, CallReport, ScriptRequest, SuccessfulCalls};

/// How long connecting may take: three round trips with TLS.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// When to ask again while Redis cannot be reached. An answer that cannot be read is none.
const UNAVAILABLE: Denied = Denied::new(1e6, Reason::Unavailable);

/// When successful calls of more limits wait to be reported, they are forgotten: they only show that all is well.
const MOST_SUCCESSFUL: usize = 10_000;

/// Limits kept in Redis.
pub struct SharedLimiter {
    server: Arc<Server>,
    refresher: Arc<PermitRefresher>,
    /// Calls that went well and were not reported yet, by their innermost limits: they travel with the next request. With the
    /// time at which the newest of them left.
    good: Mutex<HashMap<String, (u32, f64)>>,
}

impl SharedLimiter {
    /// Limits in the Redis at `url` (`redis://`, or `rediss://` for TLS, for which a rustls provider must be installed), under
    /// names that begin with `prefix`. Connects when it is first asked, and again whenever the connection is lost or falls silent.
    ///
    /// # Errors
    /// When the URL cannot be read.
    pub fn connect(url: &str, prefix: Prefix) -> Result<Self, redis::RedisError> {
        let limits = Limits { answer: PATIENCE, connect: CONNECT_WITHIN };
        Ok(Self::on(Server::new(Connection::open(url, prefix, limits)?, None)))
    }

    /// Takes the time from `clock` and not from Redis: for tests that compare decisions at given moments. Slots of calls
    /// under way are not reported again then.
    #[must_use]
    pub fn timed_by(self, clock: Arc<dyn Clock>) -> Self {
        Self::on(Server::new(self.server.connection.clone(), Some(clock)))
    }

    fn on(server: Server) -> Self {
        Self { server: Arc::new(server), refresher: Arc::default(), good: Mutex::default() }
    }

    /// The clock by which it is reported how long ago something was.
    fn now(&self) -> f64 {
        match &self.server.clock {
            Some(clock) => crate::local::micros(clock.as_ref()),
            None => self.server.now(),
        }
    }

    fn take_successful(&self, limits: &CallLimits) -> Option<SuccessfulCalls> {
        let now = self.now();
        let (calls, left_at) =
            self.good.lock().unwrap_or_else(PoisonError::into_inner).remove(limits.innermost())?;
        Some(SuccessfulCalls { calls, elapsed: now - left_at })
    }

    fn keep_successful(&self, limits: &CallLimits, elapsed: f64) {
        let left_at = self.now() - elapsed;
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        if good.len() >= MOST_SUCCESSFUL {
            good.clear();
        }
        let (calls, newest) = good.entry(limits.innermost().to_owned()).or_insert((0, left_at));
        *calls = calls.saturating_add(1);
        *newest = newest.max(left_at);
    }

    /// A report whose answer says nothing. At a test's own time it is made before anything else is asked.
    async fn report_unanswered(&self, limits: &CallLimits, request: ScriptRequest) {
        if self.server.clock.is_none() {
            self.server.tell(limits, request);
        } else {
            let _ = self.server.ask(limits, request).await;
        }
    }

    fn refresh(&self, limits: &CallLimits, ask: &Ask, wait: f64) {
        if self.server.clock.is_none() {
            self.refresher.add(
                &self.server,
                limits,
                ask.token,
                Instant::now() + duration(wait + ask.lease_us),
            );
        }
    }
}

#[async_trait]
impl Limiter for SharedLimiter {
    async fn lead(&self) -> Result<Lead, Denied> {
        if self.server.clock.is_some() {
            return Ok(Lead::default());
        }
        Ok(self.server.distance().await.ok_or(UNAVAILABLE)?.lead())
    }

    async fn acquire(&self, limits: &CallLimits, ask: &Ask) -> Decision {
        let request =
            ScriptRequest { good: self.take_successful(limits), ..ScriptRequest::for_call("acquire", ask) };
        let Some((server_time, answer)) = self.server.ask(limits, request).await else {
            return Decision::Denied(UNAVAILABLE);
        };
        let decision = wire::decision(&answer).unwrap_or(Decision::Denied(UNAVAILABLE));
        let Decision::Granted { wait, slack, probe, confirm } = decision else { return decision };
        if self.server.clock.is_some() {
            return decision;
        }
        let Some(distance) = self.server.distance().await else { return Decision::Denied(UNAVAILABLE) };
        let wait = distance.here(server_time + wait) - self.server.now();
        if !confirm {
            self.refresh(limits, ask, wait);
        }
        Decision::Granted { wait, slack, probe, confirm }
    }

    async fn lost_at(&self, limits: &CallLimits) -> Option<f64> {
        let request = ScriptRequest::for_token("lost_at", 0);
        let (_, answer) = self.server.ask(limits, request).await?;
        answer.get(1)?.parse().ok()
    }

    async fn recall(&self, limits: &CallLimits, lost_at: f64, unused: Option<Duration>) -> bool {
        let request = ScriptRequest {
            lost_at: Some(lost_at.to_string()),
            unused_us: unused.map(limit::micros),
            ..ScriptRequest::for_token("recall", 0)
        };
        self.server.ask(limits, request).await.is_some()
    }

    async fn deposit(&self, limits: &CallLimits, meter: usize, amount: u32) -> bool {
        let limits = limits.only(meter);
        let request = ScriptRequest { amount: Some(amount), ..ScriptRequest::for_token("deposit", 0) };
        self.server.ask(&limits, request).await.is_some()
    }

    async fn correct(&self, limits: &CallLimits, actual: &[u32]) {
        let request = ScriptRequest { actual: actual.to_vec(), ..ScriptRequest::for_token("correct", 0) };
        // Without an answer the estimate stays.
        let _ = self.server.ask(limits, request).await;
    }

    async fn confirm(&self, limits: &CallLimits, ask: &Ask) -> Result<(), Denied> {
        match self.server.ask(limits, ScriptRequest::for_call("confirm", ask)).await {
            None => Err(UNAVAILABLE),
            Some((_, answer)) if answer.first().is_some_and(|word| word == "confirmed") => {
                self.refresh(limits, ask, 0.0);
                Ok(())
            }
            Some((_, answer)) => Err(wire::denied(&answer).unwrap_or(UNAVAILABLE)),
        }
    }

    async fn report(&self, permit: Permit, feedback: Feedback) -> bool {
        self.refresher.remove(&permit.limits, permit.token);
        let plain = !feedback.throttled
            && feedback.pause.is_none()
            && !feedback.probe
            && !feedback.past.is_suspect()
            && feedback.healthy != Some(false);
        if plain {
            if feedback.healthy == Some(true) {
                self.keep_successful(&permit.limits, feedback.elapsed);
            }
            if permit.limits.slots().is_some() {
                let good = self.take_successful(&permit.limits);
                let request = ScriptRequest::for_returned(permit.token, good);
                self.report_unanswered(&permit.limits, request).await;
            }
            return false;
        }
        let reports = permit.limits.feedback(feedback).map(CallReport::from).into();
        // An answer that does not come has been logged; slots run out by themselves.
        let good = self.take_successful(&permit.limits);
        let request = ScriptRequest { reports, good, ..ScriptRequest::for_token("report", permit.token) };
        let can_be_own = feedback.throttled || feedback.pause.is_some();
        if !can_be_own {
            self.report_unanswered(&permit.limits, request).await;
            return false;
        }
        let answer = self.server.ask(&permit.limits, request).await;
        answer.is_some_and(|(_, answer)| answer.get(1).is_some_and(|own| own == "1"))
    }

    async fn peek(&self, limits: &CallLimits) -> Option<Snapshot> {
        let seen = self.server.peek(limits).await?;
        let seen: Option<Vec<Snapshot>> = seen.iter().map(|state| wire::snapshot(state)).collect();
        seen?.into_iter().reduce(Snapshot::and)
    }

    async fn take_of_window(&self, budget: &str, ask: &WindowAsk) -> Option<WindowPart> {
        self.server.take_of_window(budget, ask).await
    }

    fn cold_wait_us(&self) -> f64 {
        MAX_WAIT_US
    }
}

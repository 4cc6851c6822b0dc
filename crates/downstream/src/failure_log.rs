//! Tells the operator why calls fail: each cause at each dependency once, and then at most once a minute.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use penstock_domain::cause::{Cause, Stage};
use penstock_domain::limit;
use penstock_domain::pipeline::Dependency;
use tokio::time::Instant;

use crate::failure::Failure;

/// One cause at one dependency is not logged more often.
const EVERY: Duration = Duration::from_secs(60);

/// When failures were last logged, and (without a cause) missing credentials. There are as many entries as dependencies and
/// causes.
#[derive(Default)]
pub(crate) struct FailureLog(Mutex<HashMap<(String, Option<Cause>), Logged>>);

struct Logged {
    at: Instant,
    /// Calls that failed in this way since then.
    since: u64,
}

impl FailureLog {
    /// Logs a failure, or counts it.
    pub(crate) fn log(&self, dependency: &Dependency, failure: &Failure) {
        let identity = limit::identity(&dependency.name, &dependency.base_url);
        let Some(calls) = self.due(identity, Some(failure.cause)) else { return };
        let url = &dependency.base_url;
        // Without user and password.
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or_default();
        let message = if failure.cause.stage() < Stage::Answer {
            "a dependency cannot be reached"
        } else {
            "a dependency's answer is missing or cannot be used"
        };
        tracing::warn!(
            dependency = dependency.name,
            host,
            port,
            cause = failure.cause.name(),
            detail = failure.detail,
            calls,
            "{message}: {}",
            failure.cause.sentence(),
        );
    }

    /// Logs that a dependency is not called because its credentials are not there; the reason holds none of them.
    pub(crate) fn log_credentials(&self, dependency: &Dependency, reason: &str) {
        let identity = limit::identity(&dependency.name, &dependency.base_url);
        if let Some(calls) = self.due(identity, None) {
            tracing::warn!(
                dependency = dependency.name,
                reason,
                calls,
                "a dependency has no credentials; its rows wait"
            );
        }
    }

    /// How many calls a log line that is due now speaks of.
    fn due(&self, identity: String, cause: Option<Cause>) -> Option<u64> {
        let now = Instant::now();
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match logged.get_mut(&(identity.clone(), cause)) {
            Some(last) if now.duration_since(last.at) < EVERY => {
                last.since += 1;
                None
            }
            Some(last) => {
                let calls = last.since + 1;
                *last = Logged { at: now, since: 0 };
                Some(calls)
            }
            None => {
                logged.insert((identity, cause), Logged { at: now, since: 0 });
                Some(1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_cause_is_logged_once_a_minute_with_the_calls_meanwhile() {
        let log = FailureLog::default();
        let due = |cause| log.due("api".to_owned(), cause);
        assert_eq!(due(Some(Cause::ConnectionRefused)), Some(1));
        for _ in 0..5 {
            assert_eq!(due(Some(Cause::ConnectionRefused)), None);
        }
        assert_eq!(due(Some(Cause::UnknownHost)), Some(1), "another cause is news");
        assert_eq!(log.due("other".to_owned(), Some(Cause::ConnectionRefused)), Some(1));
        tokio::time::advance(EVERY).await;
        assert_eq!(due(Some(Cause::ConnectionRefused)), Some(6));
        assert_eq!(due(Some(Cause::ConnectionRefused)), None);
    }
}

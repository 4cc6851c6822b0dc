//! Alert hooks: every worker evaluates the rules, what they find is written once, and each receiver is notified once when
//! it begins and once when it ends.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use penstock_crypto::webhook;
use penstock_domain::alert::{AlertRules, Condition, Receiver, Rule, Speech};
use penstock_domain::limit::BreakerState;
use penstock_domain::time::Timestamp;
use penstock_downstream::Caller;
use penstock_store::alerts::{Alert, FailingBatch, Notice};
use penstock_store::operations::{Metrics, RECENT};
use serde_json::json;

use crate::context::error::FlowError;
use crate::context::periodic::{Schedule, Task};
use crate::context::services::Services;
use crate::read::standing::{held_batch, stalled_batch};

/// A receiver has this long to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A lease on a notice outlasts the receiver's time.
const LEASE: Duration = Duration::from_secs(30);

/// Notices under way in one worker.
const AT_ONCE: usize = 4;

/// Batches that one rule reports, at most: nobody reads a channel with more of them. Those that it has reported
/// stay until they have recovered, whatever comes after them.
const MOST_BATCHES: usize = 20;

/// Batches that are read for one rule.
const LOOKED_AT: u32 = 5000;

/// Batches none of whose rows is completed that are looked at: some rows are read of each.
pub(super) const MOST_STALLED: u32 = 500;

/// Between two tries: doubled each time, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// Evaluates the rules, and notifies their receivers.
pub struct Watch {
    services: Services,
    caller: Arc<Caller>,
    rules: AlertRules,
    client: reqwest::Client,
}

impl Task for Watch {
    const NAME: &'static str = "alerts";
    type Error = FlowError;

    fn schedule(&self) -> Schedule {
        Schedule::after(self.rules.every)
    }

    async fn run(&mut self) -> Result<(), FlowError> {
        self.round().await
    }
}

impl Watch {
    /// With a client of its own. Receivers are the operator's: private addresses are theirs to name.
    ///
    /// # Errors
    /// When the TLS backend cannot be set up.
    pub fn new(services: Services, caller: Arc<Caller>, rules: AlertRules) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("penstock/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { services, caller, rules, client })
    }

    /// Evaluates every rule, and sends the notices that are due.
    ///
    /// # Errors
    /// When the database fails.
    async fn round(&self) -> Result<(), FlowError> {
        let now = self.services.clock.now();
        let found = self.find(now).await?;
        self.services.store.note_alerts(&found, now).await?;
        let token = self.services.id_generator.lease_token();
        let limit = u32::try_from(AT_ONCE).unwrap_or(u32::MAX);
        loop {
            let now = self.services.clock.now();
            let notices = self.services.store.lease_notices(token, now, now + LEASE, limit).await?;
            if notices.is_empty() {
                return Ok(());
            }
            let settled: Vec<Result<(), FlowError>> = futures::stream::iter(notices)
                .map(|notice| async move {
                    let delivered = self.notify(&notice).await;
                    let pause = FIRST_PAUSE * 2u32.pow(u32::from(notice.attempts.min(10)));
                    let again = (!delivered).then(|| self.services.clock.now() + pause.min(LONGEST_PAUSE));
                    self.services.store.settle_notice(&notice, token, again).await?;
                    Ok(())
                })
                .buffer_unordered(AT_ONCE)
                .collect()
                .await;
            settled.into_iter().collect::<Result<(), FlowError>>()?;
        }
    }

    async fn find(&self, now: Timestamp) -> Result<Vec<Alert>, FlowError> {
        let metrics = self.services.store.metrics(now).await?;
        let firing = self.services.store.firing().await?;
        let mut found = Vec::new();
        for rule in &self.rules.rules {
            let mut seen = self.look(rule, &metrics, now).await?;
            let known = |subject: &str| {
                firing.iter().any(|(name, known)| name == rule.condition.name() && known == subject)
            };
            let mut left =
                MOST_BATCHES.saturating_sub(seen.iter().filter(|(subject, _)| known(subject)).count());
            seen.retain(|(subject, _)| {
                let reported = known(subject) || left > 0;
                left -= usize::from(reported && !known(subject));
                reported
            });
            for (subject, text) in seen {
                found.extend(rule.to.iter().map(|receiver| Alert {
                    rule: rule.condition.name().to_owned(),
                    subject: subject.clone(),
                    receiver: receiver.clone(),
                    text: text.clone(),
                    lasting_ms: i64::try_from(rule.lasting.as_millis()).unwrap_or(i64::MAX),
                }));
            }
        }
        // Two rules of one kind for one receiver report the same only once.
        found.sort_by(|a, b| (&a.rule, &a.subject, &a.receiver).cmp(&(&b.rule, &b.subject, &b.receiver)));
        found.dedup_by(|a, b| (&a.rule, &a.subject, &a.receiver) == (&b.rule, &b.subject, &b.receiver));
        Ok(found)
    }

    /// What one rule finds: subjects, each with a sentence.
    async fn look(
        &self,
        rule: &Rule,
        metrics: &Metrics,
        now: Timestamp,
    ) -> Result<Vec<(String, String)>, FlowError> {
        let store = &self.services.store;
        Ok(match rule.condition {
            Condition::FailureShare { above_bp, min_rows } => store
                .failing_batches(now - RECENT, min_rows.max(1), above_bp, LOOKED_AT)
                .await?
                .into_iter()
                .map(|batch| (batch.id.to_string(), failing_batch(&batch)))
                .collect(),
            Condition::ExtractionFailed => store
                .unextractable_batches(now - RECENT, LOOKED_AT)
                .await?
                .into_iter()
                .map(|batch| {
                    let text =
                        format!("the file of batch {} ({}) could not be extracted", batch.id, batch.pipeline);
                    (batch.id.to_string(), text)
                })
                .collect(),
            Condition::StuckRows => [
                ("lease_expired", metrics.leases_expired, "are processing, but their lease ran out"),
                ("lost", metrics.rows_lost, "are queued, but nobody took them up in time"),
            ]
            .into_iter()
            .filter(|(_, rows, _)| *rows > 0)
            .map(|(subject, rows, why)| (subject.to_owned(), format!("{rows} rows {why}, and no sweep came")))
            .collect(),
            Condition::CallbacksExhausted => match metrics.callbacks_exhausted_recently {
                0 => Vec::new(),
                count => vec![(
                    "callbacks".to_owned(),
                    format!("{count} callbacks of the last days were given up"),
                )],
            },
            Condition::DispatcherLate { after } => self.late_dispatcher(after, metrics, now).await?,
            Condition::BreakerOpen => self.open_breakers().await,
            Condition::BatchHeld => store
                .held_batches(LOOKED_AT)
                .await?
                .into_iter()
                .map(|batch| (batch.id.to_string(), held_batch(&batch)))
                .collect(),
            Condition::BatchStalled { after } => store
                .stalled_batches(None, now - after, MOST_STALLED)
                .await?
                .into_iter()
                .map(|batch| (batch.id.to_string(), stalled_batch(&batch)))
                .collect(),
        })
    }

    async fn late_dispatcher(
        &self,
        after: Duration,
        metrics: &Metrics,
        now: Timestamp,
    ) -> Result<Vec<(String, String)>, FlowError> {
        let last = self.services.store.runs(1).await?.first().map(|run| run.started_at);
        Ok(match last {
            Some(at) if at + after < now => {
                vec![("dispatcher".to_owned(), format!("no dispatcher run since {at}"))]
            }
            // A new installation has no run yet; it is late only when rows wait for one.
            None if metrics.batches_queued > 0 => {
                vec![("dispatcher".to_owned(), "rows wait, and no dispatcher run ever came".to_owned())]
            }
            _ => Vec::new(),
        })
    }

    async fn open_breakers(&self) -> Vec<(String, String)> {
        let mut found: Vec<(String, String)> = Vec::new();
        for pipeline in self.services.pipelines.iter() {
            for dependency in &pipeline.dependencies {
                let open = self
                    .caller
                    .peek(dependency, "")
                    .await
                    .is_some_and(|gate| gate.breaker != BreakerState::Closed);
                if open && !found.iter().any(|(name, _)| *name == dependency.name) {
                    let text = format!(
                        "{} fails: its circuit breaker is open, rows that need it wait",
                        dependency.name
                    );
                    found.push((dependency.name.clone(), text));
                }
            }
        }
        found
    }

    /// Sends a notice; true when it was delivered, or its receiver no longer exists.
    async fn notify(&self, notice: &Notice) -> bool {
        let Some(receiver) = self.rules.receivers.iter().find(|one| one.name == notice.receiver) else {
            return true;
        };
        let request = match self.request(receiver, notice) {
            Ok(request) => request,
            Err(why) => {
                tracing::error!(receiver = %receiver.name, why, "an alert cannot be sent");
                return false;
            }
        };
        match request.send().await {
            Ok(response) if response.status().is_success() => true,
            Ok(response) => {
                tracing::warn!(receiver = %receiver.name, status = response.status().as_u16(), "an alert was refused");
                false
            }
            // The address itself stays out of the text: Slack's are secrets.
            Err(error) => {
                tracing::warn!(receiver = %receiver.name, error = %error.without_url(), "failed to deliver an alert");
                false
            }
        }
    }

    fn request(&self, receiver: &Receiver, notice: &Notice) -> Result<reqwest::RequestBuilder, &'static str> {
        let post = self.client.post(&receiver.url).header("content-type", "application/json");
        let state = if notice.firing { "firing" } else { "resolved" };
        match &receiver.speech {
            Speech::Slack => {
                let mark = if notice.firing { "🔴" } else { "🟢" };
                let text = format!("{mark} Penstock: {} — {state}: {}", notice.rule, notice.text);
                Ok(post.body(json!({ "text": text }).to_string()))
            }
            Speech::Webhook { secret } => {
                let now = self.services.clock.now();
                let body = json!({
                    "type": format!("alert.{state}"),
                    "timestamp": now,
                    "data": { "rule": notice.rule, "subject": notice.subject, "text": notice.text, "since": notice.since },
                })
                .to_string();
                // The same beginning (or end) keeps its id through all tries.
                let id = format!("{}:{}:{}:{state}", notice.rule, notice.subject, notice.since.millis());
                let post =
                    post.header("webhook-id", &id).header("webhook-timestamp", now.seconds().to_string());
                let post = match secret {
                    None => post,
                    Some(secret) => {
                        let secret = webhook::parse_secret(secret).ok_or("its secret is not a whsec_…")?;
                        post.header(
                            "webhook-signature",
                            webhook::sign(&secret, &id, now.seconds(), body.as_bytes()),
                        )
                    }
                };
                Ok(post.body(body))
            }
        }
    }
}

fn failing_batch(batch: &FailingBatch) -> String {
    let ended = batch.completed + batch.failed;
    let share = f64::from(batch.failed) / f64::from(ended.max(1)) * 100.0;
    format!(
        "{share:.0} % of the rows of batch {} ({}) failed: {} of {ended}",
        batch.id, batch.pipeline, batch.failed
    )
}

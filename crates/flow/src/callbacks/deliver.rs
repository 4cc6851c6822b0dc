//! Callbacks: delivered from the outbox by workers, signed after Standard Webhooks
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).
//!
//! A callback that fails changes nothing about its batch and holds up no row.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use penstock_crypto::webhook;
use penstock_domain::ids::LeaseToken;
use penstock_domain::time::Timestamp;
use penstock_downstream::asked_pause;
use penstock_store::callbacks::{Callback, CallbackLease, CallbackStatus, Delivery};
use reqwest::header::{HeaderName, HeaderValue};
use serde_json::json;
use tokio::task::JoinSet;
use tracing::{Instrument as _, Span};

use crate::callbacks::address::{PublicOnly, check_address};
use crate::callbacks::secrets::{first_secret, open_secret};
use crate::callbacks::snapshot::{CallbackData, Snapshot};
use crate::context::error::{FlowError, with_causes};
use crate::context::pace::Pace;
use crate::context::periodic::{Schedule, Task};
use crate::context::services::Services;
use crate::read::view;
use crate::telemetry::traces;
use crate::telemetry::worker_counters;
use crate::telemetry::worker_counters::WorkerMetrics;

/// Retries after the first attempt; the schedule that the specification recommends, over about three days.
const SCHEDULE: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 3600),
    Duration::from_secs(5 * 3600),
    Duration::from_secs(10 * 3600),
    Duration::from_secs(14 * 3600),
    Duration::from_secs(20 * 3600),
    Duration::from_secs(24 * 3600),
];

/// A receiver has this long to answer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A lease on a callback outlasts the receiver's time.
const LEASE: Duration = Duration::from_secs(60);

/// Deliveries in flight in one worker.
const AT_ONCE: usize = 128;

/// Deliveries to one owner's receiver in flight in all workers: one that hangs delays its own callbacks and nobody else's.
const PER_RECEIVER: u32 = 4;

/// An owner holds at most this share of the slots that are free, so that the next owner always finds some of the rest
/// (dynamic thresholds, as for rows in `worker/admission.rs`).
const OWNERS_SHARE_OF_FREE: u32 = 2;

/// How often the outbox is read.
const READ_EVERY: Duration = Duration::from_secs(1);

/// Deliveries in flight may take this long after the worker was stopped; then they are sent again, under the same id.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// A receiver that asks for a longer pause does not get it.
const LONGEST_PAUSE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Delivers callbacks. A slot that is free again is filled at once, whatever the others wait for.
pub struct Deliverer {
    sender: Arc<Sender>,
    in_flight: JoinSet<()>,
}

impl Task for Deliverer {
    const NAME: &'static str = "callbacks";
    type Error = FlowError;

    fn schedule(&self) -> Schedule {
        Schedule::from_start(READ_EVERY)
    }

    async fn run(&mut self) -> Result<(), FlowError> {
        let free = AT_ONCE.saturating_sub(self.in_flight.len());
        let (token, due) = self.sender.lease(free).await?;
        for callback in due {
            self.in_flight.spawn(self.sender.clone().traced(callback, token));
        }
        Ok(())
    }

    async fn due_early(&mut self) {
        match self.in_flight.join_next().await {
            Some(ended) => report_panic(ended),
            None => std::future::pending().await,
        }
    }

    async fn finish(&mut self) {
        let ended = async {
            while let Some(ended) = self.in_flight.join_next().await {
                report_panic(ended)
            }
        };
        let _ = tokio::time::timeout(STOP_WITHIN, ended).await;
    }
}

/// Sends one callback, and settles it.
struct Sender {
    services: Services,
    client: reqwest::Client,
    rows_per_owner: u32,
    allow_private: bool,
    metrics: Arc<WorkerMetrics>,
}

impl Deliverer {
    /// A deliverer with a client of its own: redirects are not followed, proxies not used.
    ///
    /// # Errors
    /// When the TLS backend cannot be set up.
    pub fn new(
        services: Services,
        rows_per_owner: u32,
        allow_private: bool,
        metrics: Arc<WorkerMetrics>,
    ) -> Result<Self, reqwest::Error> {
        let mut builder = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("penstock/", env!("CARGO_PKG_VERSION")));
        if !allow_private {
            builder = builder.dns_resolver(Arc::new(PublicOnly));
        }
        let client = builder.build()?;
        let sender = Arc::new(Sender { services, client, rows_per_owner, allow_private, metrics });
        Ok(Self { sender, in_flight: JoinSet::new() })
    }
}

impl Sender {
    async fn lease(&self, free: usize) -> Result<(LeaseToken, Vec<Callback>), FlowError> {
        let now = self.services.clock.now();
        let token = self.services.id_generator.lease_token();
        let limit = u32::try_from(free).unwrap_or(u32::MAX);
        let lease = CallbackLease {
            token,
            now,
            until: now + LEASE,
            limit,
            per_receiver: PER_RECEIVER,
            per_owner: (limit / OWNERS_SHARE_OF_FREE).max(1),
        };
        let due = if limit == 0 { Vec::new() } else { self.services.store.lease_callbacks(&lease).await? };
        Ok((token, due))
    }

    /// One delivery, and its result. A delivery whose result cannot be stored is sent again when its lease has expired.
    async fn traced(self: Arc<Self>, callback: Callback, token: LeaseToken) {
        let span = traces::callback(self.services.traces.as_ref(), callback.batch.0, &callback.event);
        self.send_and_settle(callback, token).instrument(span).await;
    }

    async fn send_and_settle(&self, callback: Callback, token: LeaseToken) {
        let answer = self.deliver(&callback, token).await;
        if let Some(status) = answer.status {
            Span::current().record("http.response.status_code", i64::from(status));
        }
        let delivery = self.judge(&callback, token, answer);
        if let Err(error) = self.services.store.settle_callback(&delivery).await {
            tracing::warn!(%error, callback = %callback.id, "failed to store the result of a delivery; it is sent again");
            return;
        }
        self.metrics.deliveries[worker_counters::delivery(delivery.status)].fetch_add(1, Relaxed);
        let (callback, http_status, attempts) = (callback.id, delivery.http_status, callback.attempts + 1);
        let error = delivery.error;
        match delivery.status {
            CallbackStatus::Delivered => {
                tracing::debug!(%callback, http_status, attempts, "a callback was delivered");
            }
            CallbackStatus::Pending => {
                tracing::info!(%callback, http_status, error, attempts, "a callback was refused; will retry");
            }
            CallbackStatus::Exhausted => {
                tracing::warn!(%callback, http_status, error, attempts, "a callback was given up");
            }
            CallbackStatus::Disabled => {
                tracing::warn!(%callback, http_status, attempts, "a callback's address is gone (410); it gets no more");
            }
        }
    }

    async fn deliver(&self, callback: &Callback, token: LeaseToken) -> Answer {
        let now = self.services.clock.now();
        let url = match check_address(&callback.url, self.allow_private) {
            Ok(url) => url,
            Err(error) => return Answer::failed(error.to_string()),
        };
        let body = match self.body(callback, token).await {
            Ok(body) => body,
            Err(error) => return Answer::failed(error.to_string()),
        };
        let signatures = match self.signatures(callback, now, &body).await {
            Ok(signatures) => signatures,
            Err(error) => return Answer::failed(error.to_string()),
        };
        let sent = self
            .client
            .post(url)
            .header("content-type", "application/json")
            .header("webhook-id", callback.id.to_string())
            .header("webhook-timestamp", now.seconds().to_string())
            .header("webhook-signature", signatures)
            .body(body)
            .send()
            .await;
        match sent {
            Ok(response) => Answer {
                status: Some(response.status().as_u16()),
                retry_after: asked_pause(&headers_of(&response), now).map(|pause| pause.min(LONGEST_PAUSE)),
                error: None,
            },
            // The address itself stays out of the text.
            Err(error) => Answer::failed(with_causes(&error.without_url())),
        }
    }

    async fn body(&self, callback: &Callback, token: LeaseToken) -> Result<String, FlowError> {
        let snapshot = Snapshot::complete(&self.services, callback, token).await?;
        // As it was then, whenever it is delivered: every attempt of a callback has the same body.
        let failure = view::clear_failure(&snapshot.batch);
        let pace = Pace::usual(self.rows_per_owner);
        let view = view::describe(&self.services, &snapshot.batch, &pace, failure, callback.created_at);
        let data = CallbackData { view, details: snapshot.details };
        let body = json!({ "type": callback.event, "timestamp": callback.created_at, "data": data });
        Ok(body.to_string())
    }

    async fn signatures(&self, callback: &Callback, now: Timestamp, body: &str) -> Result<String, FlowError> {
        let secrets = self.services.store.callback_secrets(callback.owner).await?;
        let mut current = secrets.current.clone();
        if current.is_none() {
            current = Some(first_secret(&self.services, callback.owner, &secrets).await?);
        }
        let previous = secrets.previous.filter(|_| secrets.previous_until.is_some_and(|until| until > now));
        let id = callback.id.to_string();
        let mut signatures = Vec::new();
        for sealed in current.iter().chain(previous.iter()) {
            let secret = open_secret(&self.services, callback.owner, sealed)?;
            signatures.push(webhook::sign(&secret, &id, now.seconds(), body.as_bytes()));
        }
        Ok(signatures.join(" "))
    }

    fn judge(&self, callback: &Callback, token: LeaseToken, answer: Answer) -> Delivery {
        let now = self.services.clock.now();
        let next = SCHEDULE.get(usize::from(callback.attempts)).map(|pause| {
            let jittered = pause.mul_f64(0.8 + 0.4 * self.services.id_generator.unit());
            now + jittered.max(answer.retry_after.unwrap_or_default())
        });
        let (status, next_at) = match answer.status {
            Some(200..=299) => (CallbackStatus::Delivered, None),
            Some(410) => (CallbackStatus::Disabled, None),
            _ => match next {
                Some(at) => (CallbackStatus::Pending, Some(at)),
                None => (CallbackStatus::Exhausted, None),
            },
        };
        Delivery {
            id: callback.id,
            token,
            at: now,
            status,
            next_at,
            http_status: answer.status,
            error: answer.error,
        }
    }
}

struct Answer {
    status: Option<u16>,
    retry_after: Option<Duration>,
    error: Option<String>,
}

impl Answer {
    fn failed(error: String) -> Self {
        Self { status: None, retry_after: None, error: Some(error) }
    }
}

/// The callback is sent again when its lease has expired.
fn report_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a delivery panicked: please report it; will retry");
    }
}
/// Headers by name, as far as they are text.
fn headers_of(response: &reqwest::Response) -> BTreeMap<String, String> {
    let text = |(name, value): (&HeaderName, &HeaderValue)| {
        Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
    };
    response.headers().iter().filter_map(text).collect()
}

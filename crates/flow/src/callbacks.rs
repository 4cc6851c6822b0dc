//! Callbacks: delivered from the outbox by workers, signed after Standard Webhooks
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).
//!
//! A callback that fails changes nothing about its batch and holds up no row.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use penstock_crypto::webhook;
use penstock_domain::ids::{BatchId, OwnerSeq};
use penstock_domain::time::Timestamp;
use penstock_store::batches::Batch;
use penstock_store::callbacks::{Callback, CallbackStatus, Delivery};
use penstock_store::owners::CallbackSecrets;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use tracing::field::Empty;
use url::{Host, Url};

use crate::engines::Engines;
use crate::error::FlowError;
use crate::view;

/// Tries after the first one; the schedule that the specification recommends, over about three days.
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

/// A receiver has so long to answer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A lease on a callback outlasts the receiver's time.
const LEASE: Duration = Duration::from_secs(60);

/// Deliveries under way in one worker.
const AT_ONCE: usize = 8;

/// How often the outbox is looked at while it is empty.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// After a rotation the previous secret signs beside the new one for so long.
pub const ROTATION_OVERLAP: Duration = Duration::from_secs(24 * 3600);

/// Why a callback address is not taken.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// Not an http or https URL.
    #[error("a callback address is an absolute http or https URL")]
    NotHttp,
    /// User and password in it.
    #[error("a callback address carries no user name or password")]
    Credentials,
    /// It names a private address.
    #[error("a callback address is not in a private or local range")]
    Private,
}

/// Checks a callback address as far as that goes without DNS; names are checked again whenever they are resolved.
///
/// # Errors
/// When it is not http(s), carries credentials, or is a private address while those are refused.
pub fn check_address(address: &str, allow_private: bool) -> Result<Url, AddressError> {
    let url = Url::parse(address).map_err(|_| AddressError::NotHttp)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(AddressError::NotHttp);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(AddressError::Credentials);
    }
    let private = match url.host() {
        None => return Err(AddressError::NotHttp),
        Some(Host::Ipv4(ip)) => is_private(IpAddr::V4(ip)),
        Some(Host::Ipv6(ip)) => is_private(IpAddr::V6(ip)),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
    };
    if private && !allow_private { Err(AddressError::Private) } else { Ok(url) }
}

/// Whether an address is not one of the public internet: RFC 6890's special-purpose ranges.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_unspecified()
                || ip.is_broadcast()
                || ip.is_multicast()
                || ip.is_documentation()
                || a == 0
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && (18..20).contains(&b))
                || a >= 240
        }
        IpAddr::V6(ip) => {
            if let Some(mapped) = ip.to_ipv4_mapped() {
                return is_private(IpAddr::V4(mapped));
            }
            let first = ip.segments()[0];
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || (first & 0xfe00) == 0xfc00
                || (first & 0xffc0) == 0xfe80
                || first == 0x0064
                || (first == 0x2001 && ip.segments()[1] == 0x0db8)
                || first == 0x2002
        }
    }
}

/// Resolves names as the system does and leaves private addresses out, so that no name leads into the cluster.
struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|address| !is_private(address.ip())).collect();
            if public.is_empty() {
                return Err("the name leads to a private address".into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// Delivers callbacks.
pub struct Deliverer {
    engines: Engines,
    client: reqwest::Client,
    rows_per_owner: u32,
    allow_private: bool,
}

impl Deliverer {
    /// A deliverer with a client of its own: redirects are not followed, proxies not used.
    ///
    /// # Errors
    /// When the TLS backend cannot be set up.
    pub fn new(engines: Engines, rows_per_owner: u32, allow_private: bool) -> Result<Self, reqwest::Error> {
        let mut builder = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("penstock/", env!("CARGO_PKG_VERSION")));
        if !allow_private {
            builder = builder.dns_resolver(Arc::new(PublicOnly));
        }
        Ok(Self { engines, client: builder.build()?, rows_per_owner, allow_private })
    }

    /// Delivers until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let delivered = match self.deliver_due().await {
                Ok(delivered) => delivered,
                Err(error) => {
                    tracing::warn!(%error, "callbacks wait for the database");
                    0
                }
            };
            if delivered == 0 {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
            }
        }
    }

    /// Delivers what is due, and tells how many were tried.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn deliver_due(&self) -> Result<usize, FlowError> {
        let now = self.engines.clock.now();
        let token = self.engines.chance.lease_token();
        let limit = u32::try_from(AT_ONCE).unwrap_or(u32::MAX);
        let due = self.engines.store.lease_callbacks(token, now, now + LEASE, limit).await?;
        let tried = due.len();
        let deliveries: Vec<Result<(), FlowError>> = futures::stream::iter(due)
            .map(|callback| async move {
                let outcome = self.deliver(&callback).await;
                let delivery = self.judge(&callback, token, outcome);
                self.engines.store.settle_callback(&delivery).await?;
                Ok(())
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        deliveries.into_iter().collect::<Result<(), FlowError>>()?;
        Ok(tried)
    }

    async fn deliver(&self, callback: &Callback) -> Answer {
        let now = self.engines.clock.now();
        let url = match check_address(&callback.url, self.allow_private) {
            Ok(url) => url,
            Err(error) => return Answer::failed(error.to_string()),
        };
        let (batch, body) = match self.body(callback) {
            Ok(told) => told,
            Err(error) => return Answer::failed(error.to_string()),
        };
        let span = tracing::info_span!(
            parent: None, "callback", otel.kind = "client", batch = %batch, event = callback.event, trace_id = Empty
        );
        self.engines.traces.of_batch(&span, batch.0);
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
            .instrument(span)
            .await;
        match sent {
            Ok(response) => Answer {
                status: Some(response.status().as_u16()),
                retry_after: response
                    .headers()
                    .get("retry-after")
                    .and_then(|value| value.to_str().ok())
                    .and_then(|value| penstock_downstream::retry_after(value, now)),
                error: None,
            },
            // The address itself stays out of the text.
            Err(error) => Answer::failed(error.without_url().to_string()),
        }
    }

    fn body(&self, callback: &Callback) -> Result<(BatchId, String), FlowError> {
        let batch: Batch = serde_json::from_str(&callback.snapshot).map_err(|_| {
            FlowError::Inconsistent(format!("callback {} has no batch that can be read", callback.id))
        })?;
        let data = view::describe(&self.engines, &batch, self.rows_per_owner, view::clear_failure(&batch));
        let body = json!({ "type": callback.event, "timestamp": callback.created_at, "data": data });
        Ok((batch.id, body.to_string()))
    }

    async fn signatures(&self, callback: &Callback, now: Timestamp, body: &str) -> Result<String, FlowError> {
        let secrets = self.engines.store.callback_secrets(callback.owner).await?;
        let mut current = secrets.current.clone();
        if current.is_none() {
            current = Some(self.first_secret(callback.owner, &secrets).await?);
        }
        let previous = secrets.previous.filter(|_| secrets.previous_until.is_some_and(|until| until > now));
        let id = callback.id.to_string();
        let mut signatures = Vec::new();
        for sealed in current.iter().chain(previous.iter()) {
            let secret = open_secret(&self.engines, callback.owner, sealed)?;
            signatures.push(webhook::sign(&secret, &id, now.seconds(), body.as_bytes()));
        }
        Ok(signatures.join(" "))
    }

    /// An owner gets its secret when the first callback needs one.
    async fn first_secret(&self, owner: OwnerSeq, none: &CallbackSecrets) -> Result<Vec<u8>, FlowError> {
        let secret = webhook::generate_secret(self.engines.random.as_ref())
            .map_err(|source| FlowError::Sealed { what: "a new callback secret", source })?;
        let sealed = seal_secret(&self.engines, owner, &secret)?;
        let secrets = CallbackSecrets { current: Some(sealed.clone()), ..none.clone() };
        if self.engines.store.set_callback_secrets(owner, None, &secrets).await? {
            return Ok(sealed);
        }
        let theirs = self.engines.store.callback_secrets(owner).await?.current;
        theirs.ok_or_else(|| FlowError::Inconsistent("an owner's callback secret vanished".into()))
    }

    fn judge(
        &self,
        callback: &Callback,
        token: penstock_domain::ids::LeaseToken,
        answer: Answer,
    ) -> Delivery {
        let now = self.engines.clock.now();
        let next = SCHEDULE.get(usize::from(callback.attempts)).map(|pause| {
            let jittered = pause.mul_f64(0.8 + 0.4 * self.engines.chance.unit());
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
        if status == CallbackStatus::Exhausted {
            tracing::warn!(callback = %callback.id, "a callback's schedule is exhausted");
        }
        Delivery { id: callback.id, token, status, next_at, http_status: answer.status, error: answer.error }
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

/// Gives an owner a new callback secret and returns it as `whsec_…`, to be shown once. The one before signs as well
/// for [`ROTATION_OVERLAP`].
///
/// # Errors
/// When the database fails or somebody else rotates at the same moment.
pub async fn rotate_secret(engines: &Engines, owner: OwnerSeq) -> Result<String, FlowError> {
    let now = engines.clock.now();
    let before = engines.store.callback_secrets(owner).await?;
    let secret = webhook::generate_secret(engines.random.as_ref())
        .map_err(|source| FlowError::Sealed { what: "a new callback secret", source })?;
    let secrets = CallbackSecrets {
        current: Some(seal_secret(engines, owner, &secret)?),
        previous: before.current.clone(),
        previous_until: before.current.as_ref().map(|_| now + ROTATION_OVERLAP),
    };
    if engines.store.set_callback_secrets(owner, before.current.as_deref(), &secrets).await? {
        Ok(webhook::format_secret(&secret))
    } else {
        Err(FlowError::Inconsistent(
            "the secret was rotated by somebody else at this moment; ask again".into(),
        ))
    }
}

fn seal_secret(engines: &Engines, owner: OwnerSeq, secret: &[u8]) -> Result<Vec<u8>, FlowError> {
    engines
        .keyring
        .seal_small("owners", &owner.0.to_string(), "secret", secret, engines.random.as_ref())
        .map_err(|source| FlowError::Sealed { what: "a callback secret", source })
}

fn open_secret(engines: &Engines, owner: OwnerSeq, sealed: &[u8]) -> Result<Vec<u8>, FlowError> {
    engines
        .keyring
        .open_small("owners", &owner.0.to_string(), "secret", sealed)
        .map_err(|source| FlowError::Sealed { what: "a callback secret", source })
}

/// Seals an owner's callback secrets under the keyring's active key; true when they were under another.
///
/// # Errors
/// When the database fails or the keyring lacks their key.
pub async fn reseal_secrets(engines: &Engines, owner: OwnerSeq) -> Result<bool, FlowError> {
    let before = engines.store.callback_secrets(owner).await?;
    let active = engines.keyring.active_id();
    let stale = [&before.current, &before.previous]
        .into_iter()
        .flatten()
        .any(|sealed| penstock_crypto::Keyring::small_key_id(sealed).is_ok_and(|id| id != active));
    if !stale {
        return Ok(false);
    }
    let reseal = |sealed: &Option<Vec<u8>>| match sealed {
        None => Ok(None),
        Some(sealed) => seal_secret(engines, owner, &open_secret(engines, owner, sealed)?).map(Some),
    };
    let secrets = CallbackSecrets {
        current: reseal(&before.current)?,
        previous: reseal(&before.previous)?,
        previous_until: before.previous_until,
    };
    Ok(engines.store.set_callback_secrets(owner, before.current.as_deref(), &secrets).await?)
}

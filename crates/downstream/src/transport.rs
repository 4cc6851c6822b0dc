//! What carries calls: one HTTP client for each way of connecting, with its pool. A dependency without `tls` and `proxy` shares
//! the general one.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use penstock_domain::pipeline::{Dependency, Files, LiveText, Proxy, Tls};
use rustls::ClientConfig;
use tokio::time::Instant;

use crate::connect::Connector;
use crate::credentials::NoCredentials;
use crate::proxy::Route;
use crate::tls;

/// Idle connections kept for a dependency.
const IDLE_CONNECTIONS: usize = 256;

/// Idle connections are closed before common servers close them (Node.js and actix after 5 s): a request that meets a
/// connection just being closed has an unknown outcome.
const IDLE_FOR: Duration = Duration::from_secs(4);

/// How long connecting may take at most, and no longer than half of a call's timeout: when it is connecting that takes
/// too long, it has to be known before the call's time is up that nothing was sent, and the call is safe to repeat.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// Lines that an answer's header may have.
pub(crate) const MOST_HEADERS: usize = 512;

/// Bytes that an answer's header may have. In HTTP/1 a connection reads no more than this ahead, either.
const MOST_HEADER_BYTES: u32 = 128 * 1024;

/// A client of a dependency's own that nobody has used for this time is dropped when another one is made: its certificate was
/// replaced, for example.
const UNUSED_FOR: Duration = Duration::from_secs(600);

pub(crate) type HttpClient = legacy::Client<Connector, Full<Bytes>>;

/// What a client differs by from others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    /// The time within which it connects: a client has one such time for all its calls.
    within: Duration,
    tls: Option<TlsTexts>,
    proxy: Option<Proxy>,
}

/// A dependency's authorities, certificate and key as they are now.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct TlsTexts {
    pub(crate) ca: Option<String>,
    pub(crate) certificate: Option<String>,
    pub(crate) key: Option<String>,
}

impl std::fmt::Debug for TlsTexts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsTexts")
    }
}

impl TlsTexts {
    fn of(tls: &Tls, files: &dyn Files) -> Result<Self, NoCredentials> {
        let text = |text: &Option<LiveText>| {
            text.as_ref().map(|text| text.text(files).map(std::borrow::Cow::into_owned)).transpose()
        };
        Ok(Self { ca: text(&tls.ca)?, certificate: text(&tls.certificate)?, key: text(&tls.key)? })
    }
}

struct Kept {
    client: HttpClient,
    route: Route,
    used: Instant,
}

/// All clients.
pub(crate) struct Transports {
    tls: ClientConfig,
    clients: Mutex<HashMap<Key, Kept>>,
}

impl Transports {
    /// Clients that trust what `tls` trusts, unless a dependency names its own authorities.
    pub(crate) fn new(tls: ClientConfig) -> Self {
        Self { tls, clients: Mutex::default() }
    }

    /// The client for a dependency's calls with this timeout, and the way that they take.
    ///
    /// # Errors
    /// When the dependency's certificates cannot be read or used.
    pub(crate) fn of(
        &self,
        dependency: &Dependency,
        timeout: Duration,
        files: &dyn Files,
    ) -> Result<(HttpClient, Route), NoCredentials> {
        let tls = dependency.tls.as_ref().map(|tls| TlsTexts::of(tls, files)).transpose()?;
        let within = CONNECT_WITHIN.min(timeout / 2);
        let key = Key { within, tls, proxy: dependency.proxy.clone() };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = clients.get_mut(&key) {
            if key.tls.is_some() {
                kept.used = Instant::now();
            }
            return Ok((kept.client.clone(), kept.route.clone()));
        }
        let route = Route::of(key.proxy.as_ref());
        let connector = Connector::new(self.config(key.tls.as_ref())?, route.clone(), within);
        let client = client(connector);
        let now = Instant::now();
        clients.retain(|key, kept| key.tls.is_none() || now.duration_since(kept.used) < UNUSED_FOR);
        clients.insert(key, Kept { client: client.clone(), route: route.clone(), used: now });
        Ok((client, route))
    }

    /// Makes a dependency's connections, without a pool.
    ///
    /// # Errors
    /// When the dependency's certificates cannot be read or used.
    pub(crate) fn connector(
        &self,
        dependency: &Dependency,
        files: &dyn Files,
    ) -> Result<Connector, NoCredentials> {
        let tls = dependency.tls.as_ref().map(|tls| TlsTexts::of(tls, files)).transpose()?;
        let route = Route::of(dependency.proxy.as_ref());
        Ok(Connector::new(self.config(tls.as_ref())?, route, CONNECT_WITHIN))
    }

    fn config(&self, own: Option<&TlsTexts>) -> Result<ClientConfig, NoCredentials> {
        own.map_or_else(|| Ok(self.tls.clone()), |own| tls::own_config(own, &self.tls))
    }
}

fn client(connector: Connector) -> HttpClient {
    legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_FOR)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .http1_max_headers(MOST_HEADERS)
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_max_buf_size(MOST_HEADER_BYTES as usize)
        .http2_max_header_list_size(MOST_HEADER_BYTES)
        .build(connector)
}

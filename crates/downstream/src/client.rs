//! One HTTP call. Redirects are not followed, proxies not used, nothing is retried; the answer's body is bounded.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use penstock_domain::outcome::Happened;
use penstock_domain::pipeline::definition::Method;
use penstock_domain::pipeline::{Dependency, RenderedRequest};
use penstock_domain::time::Clock;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use url::Url;

use crate::retry_after::wait_until;

/// Bytes of an answer's body that are read at the most; a longer one is not JSON that a step could use.
const MOST_BODY: usize = 1024 * 1024;

/// Idle connections kept for a dependency.
const IDLE_CONNECTIONS: usize = 256;

/// Idle connections are closed before common servers close them (Node.js and actix after 5 s): a request that meets a
/// connection just being closed has an unknown outcome.
const IDLE_FOR: Duration = Duration::from_secs(4);

/// How long connecting may take at the most, and no longer than half of a call's timeout: when it is connecting that takes
/// too long, it has to be known before the call's time is up that nothing was sent, and the call is safe to repeat.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its headers, names in lower case; the last of several, and of `RateLimit` all.
    pub headers: BTreeMap<String, String>,
    /// Its body: JSON, a string when it is none, null when it is empty.
    pub body: Value,
}

/// A request that can be sent.
#[derive(Debug)]
pub struct Prepared {
    request: reqwest::Request,
    by: reqwest::Client,
}

/// Makes calls. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    /// Those that connect within less than [`CONNECT_WITHIN`]: a client has one such time for all its calls.
    quicker: Arc<Mutex<HashMap<Duration, reqwest::Client>>>,
}

impl Client {
    /// A client. A rustls provider must be installed before.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new() -> Result<Self, reqwest::Error> {
        Ok(Self { http: connecting_within(CONNECT_WITHIN)?, quicker: Arc::default() })
    }

    /// The client for calls with this timeout.
    fn with_timeout(&self, timeout: Duration) -> reqwest::Client {
        let within = timeout / 2;
        if within >= CONNECT_WITHIN {
            return self.http.clone();
        }
        let mut quicker = self.quicker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = quicker.get(&within) {
            return client.clone();
        }
        match connecting_within(within) {
            Ok(client) => quicker.entry(within).or_insert(client).clone(),
            Err(error) => {
                tracing::error!(%error, "an HTTP client cannot be made a second time");
                self.http.clone()
            }
        }
    }

    /// The request as it will be sent; none when its values cannot stand in a URL or a header. Of headers with one
    /// name the last one counts: the dependency's, the step's, `extra`.
    pub fn prepare(
        &self,
        dependency: &Dependency,
        request: RenderedRequest,
        extra: &[(&str, &str)],
    ) -> Option<Prepared> {
        let method = match request.method {
            Method::Get => reqwest::Method::GET,
            Method::Head => reqwest::Method::HEAD,
            Method::Post => reqwest::Method::POST,
            Method::Put => reqwest::Method::PUT,
            Method::Patch => reqwest::Method::PATCH,
            Method::Delete => reqwest::Method::DELETE,
        };
        let url = target(&dependency.base_url, &request.path)?;
        let mut headers = HeaderMap::new();
        let own = dependency.headers.iter().chain(&request.headers);
        for (name, value) in
            own.map(|(name, value)| (name.as_str(), value.as_str())).chain(extra.iter().copied())
        {
            headers.insert(HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?);
        }
        let by = self.with_timeout(dependency.timeout);
        let mut builder = by.request(method, url).timeout(dependency.timeout);
        if !request.query.is_empty() {
            builder = builder.query(&request.query);
        }
        if let Some(json) = &request.json {
            builder = builder.json(json);
        }
        let request = builder.headers(headers).build().ok()?;
        Some(Prepared { request, by })
    }
}

impl Prepared {
    /// Sends the request and reads its answer, within the dependency's timeout.
    pub async fn send(self, clock: &dyn Clock) -> (Happened, Option<Response>) {
        let answer = match self.by.execute(self.request).await {
            Ok(answer) => answer,
            Err(error) => return (failure(&error), None),
        };
        let status = answer.status().as_u16();
        let mut headers: BTreeMap<String, String> = answer
            .headers()
            .iter()
            .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
            .collect();
        // A list may come in several lines (RFC 9110, 5.3): each may be the policy that is used up.
        if let Some(limits) = headers.get_mut("ratelimit") {
            let lines = answer.headers().get_all("ratelimit");
            *limits = lines.iter().filter_map(|line| line.to_str().ok()).collect::<Vec<_>>().join(", ");
        }
        let until = wait_until(status, &headers, clock.now());
        match body(answer).await {
            Ok((body, json)) => (
                Happened::Answer { status, json, wait_until: until },
                Some(Response { status, headers, body }),
            ),
            // The status is known and settles most of it; only a success without its body is an open question.
            Err(_) if !(200..300).contains(&status) => {
                let response = Response { status, headers, body: Value::Null };
                (Happened::Answer { status, json: true, wait_until: until }, Some(response))
            }
            Err(error) => (failure(&error), None),
        }
    }
}

fn connecting_within(time: Duration) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .tcp_nodelay(true)
        .connect_timeout(time)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .pool_idle_timeout(IDLE_FOR)
        .user_agent(concat!("penstock/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// The address of a path behind a base. The path is encoded already; what cannot stand in one is encoded here. None
/// when reading it as a URL would give it other segments: a value that is `..`, for one, must not lead elsewhere.
fn target(base: &Url, path: &str) -> Option<Url> {
    let mut url = base.clone();
    let whole = format!("{}{path}", base.path().trim_end_matches('/'));
    url.set_path(&whole);
    url.set_fragment(None);
    let segments = |path: &str| path.matches('/').count();
    (segments(url.path()) == segments(&whole)).then_some(url)
}

fn failure(error: &reqwest::Error) -> Happened {
    if error.is_connect() || error.is_builder() {
        Happened::ConnectFailed
    } else if error.is_timeout() {
        Happened::TimedOut
    } else {
        Happened::ConnectionLost
    }
}

async fn body(mut answer: reqwest::Response) -> Result<(Value, bool), reqwest::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if bytes.len() + chunk.len() > MOST_BODY {
            return Ok((Value::String(format!("more than {MOST_BODY} bytes")), false));
        }
        bytes.extend_from_slice(&chunk);
    }
    if bytes.is_empty() {
        return Ok((Value::Null, true));
    }
    Ok(match serde_json::from_slice(&bytes) {
        Ok(value) => (value, true),
        Err(_) => (Value::String(String::from_utf8_lossy(&bytes).into_owned()), false),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_where_it_says_or_nowhere() {
        let base = Url::parse("https://api.example/v1/").unwrap();
        let target = |path: &str| target(&base, path).map(|url| url.to_string());
        assert_eq!(target("/links/a%2Fb%3Fc").as_deref(), Some("https://api.example/v1/links/a%2Fb%3Fc"));
        assert_eq!(target("/links").as_deref(), Some("https://api.example/v1/links"));
        assert_eq!(target("/straße?x#y").as_deref(), Some("https://api.example/v1/stra%C3%9Fe%3Fx%23y"));
        for elsewhere in ["/links/../secret", "/links/%2e%2E/secret", "/links/./x", "/links/a\\b"] {
            assert_eq!(target(elsewhere), None, "{elsewhere}");
        }
    }
}

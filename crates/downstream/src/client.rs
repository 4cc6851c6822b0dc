//! One HTTP call. Redirects are not followed, proxies not used; the answer's body is bounded.

use std::collections::BTreeMap;
use std::time::Duration;

use penstock_domain::outcome::Happened;
use penstock_domain::pipeline::definition::Method;
use penstock_domain::pipeline::{Dependency, RenderedRequest};
use penstock_domain::time::Timestamp;
use serde_json::Value;

use crate::retry_after::wait_until;

/// Bytes of an answer's body that are read at the most; a longer one is not JSON that a step could use.
const MOST_BODY: usize = 1024 * 1024;

/// Idle connections kept for a dependency.
const IDLE_CONNECTIONS: usize = 256;

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its headers, names in lower case; the last of several.
    pub headers: BTreeMap<String, String>,
    /// Its body: JSON, a string when it is none, null when it is empty.
    pub body: Value,
}

/// Makes calls. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
}

impl Client {
    /// A client. A rustls provider must be installed before.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new() -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .tcp_nodelay(true)
            .connect_timeout(Duration::from_secs(5))
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .pool_idle_timeout(Duration::from_secs(15))
            .user_agent(concat!("penstock/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { http })
    }

    /// Sends a request and reads its answer, within the dependency's timeout.
    pub async fn send(
        &self,
        dependency: &Dependency,
        request: RenderedRequest,
        extra: &[(&str, String)],
        now: Timestamp,
    ) -> (Happened, Option<Response>) {
        let mut url = dependency.base_url.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path("");
        // The path is encoded already; `set_path` would take `%2F` as it stands and encode nothing twice.
        url.set_path(&format!("{base}{}", request.path));
        let method = match request.method {
            Method::Get => reqwest::Method::GET,
            Method::Head => reqwest::Method::HEAD,
            Method::Post => reqwest::Method::POST,
            Method::Put => reqwest::Method::PUT,
            Method::Patch => reqwest::Method::PATCH,
            Method::Delete => reqwest::Method::DELETE,
        };
        let mut builder = self.http.request(method, url).timeout(dependency.timeout);
        if !request.query.is_empty() {
            builder = builder.query(&request.query);
        }
        for (name, value) in dependency.headers.iter().chain(&request.headers) {
            builder = builder.header(name, value);
        }
        for (name, value) in extra {
            builder = builder.header(*name, value);
        }
        if let Some(json) = &request.json {
            builder = builder.json(json);
        }
        let answer = match builder.send().await {
            Ok(answer) => answer,
            Err(error) => return (failure(&error), None),
        };
        let status = answer.status().as_u16();
        let headers: BTreeMap<String, String> = answer
            .headers()
            .iter()
            .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
            .collect();
        let until = wait_until(status, &headers, now);
        match body(answer).await {
            Ok((body, json)) => {
                (Happened::Answer { status, json, wait_until: until }, Some(Response { status, headers, body }))
            }
            // The status is known and settles most of it; only a success without its body is an open question.
            Err(_) if !(200..300).contains(&status) => {
                let response = Response { status, headers, body: Value::Null };
                (Happened::Answer { status, json: true, wait_until: until }, Some(response))
            }
            Err(error) => (failure(&error), None),
        }
    }
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

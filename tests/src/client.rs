//! A client of the API.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{PATIENCE, Service};

/// The beginning of an HTTP client that uses no proxy, with the process's provider of TLS: reqwest panics without one.
pub fn http() -> reqwest::ClientBuilder {
    // An error means that another test was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy()
}

/// A client with a key.
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: String,
}

impl Client {
    /// A client of a service.
    pub fn new(service: &Service, key: &str) -> Self {
        // Less than the API keeps a connection: while a test waits for a command, nobody here sees that it was closed.
        let idle = Duration::from_secs(2);
        let http = http().pool_idle_timeout(idle).build().expect("a client");
        Self { http, base: service.base.clone(), key: key.to_owned() }
    }

    /// A request with the key.
    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = method.parse().expect("a method");
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.key)
    }

    /// GETs JSON.
    pub async fn get(&self, path: &str) -> Value {
        let response = self.request("GET", path).send().await.expect("an answer");
        let status = response.status();
        let text = response.text().await.expect("a body");
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).expect("JSON")
    }

    /// GETs text.
    pub async fn text(&self, path: &str) -> String {
        let response = self.request("GET", path).send().await.expect("an answer");
        assert!(response.status().is_success(), "{path}: {}", response.status());
        response.text().await.expect("a body")
    }

    /// POSTs JSON; status and answer.
    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let response = self.request("POST", path).json(body).send().await.expect("an answer");
        let status = response.status().as_u16();
        (status, response.json().await.unwrap_or_default())
    }

    /// Uploads a CSV as the body; status and answer. None: the connection broke.
    pub async fn upload(&self, path: &str, csv: impl Into<reqwest::Body>) -> Option<(u16, Value)> {
        let sent =
            self.request("POST", path).header("content-type", "text/csv").body(csv).send().await.ok()?;
        let status = sent.status().as_u16();
        Some((status, sent.json().await.ok()?))
    }

    /// Waits until a batch has ended, and sees at every look that its counts add up.
    pub async fn finished(&self, id: &str) -> Value {
        let began = Instant::now();
        loop {
            let batch = self.get(&format!("/v2/batches/{id}")).await;
            let counts = &batch["counts"];
            let sum: u64 = ["pending", "queued", "processing", "completed", "failed", "cancelled"]
                .iter()
                .map(|name| counts[name].as_u64().expect("a count"))
                .sum();
            assert_eq!(counts["total"].as_u64(), Some(sum), "{batch}");
            assert_eq!(batch["progress"] == 100, !batch["finished_at"].is_null(), "{batch}");
            if !batch["finished_at"].is_null() {
                return batch;
            }
            assert!(began.elapsed() < PATIENCE, "not finished: {batch}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

//! What stands between a client and the network where a definition is tried: it sees each request as it would be sent, and may
//! answer it in place of the network.

use std::collections::BTreeMap;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use penstock_domain::outcome::Happened;
use penstock_domain::pipeline::AnswerFormat;
use penstock_domain::time::Timestamp;
use tokio::time::Instant;

use crate::body;
use crate::client::Sent;
use crate::memory::Reserved;
use crate::response::Response;
use crate::retry_after::wait_until;

/// A header of a request as it would be sent.
#[derive(Clone, Debug)]
pub struct OutgoingHeader {
    /// Its name, in lower case.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Whether the value is a credential: a token, a key or a signature.
    pub is_secret: bool,
}

/// A request as it would be sent.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The method.
    pub method: String,
    /// The whole URL.
    pub url: String,
    /// Headers in the order in which they are sent.
    pub headers: Vec<OutgoingHeader>,
    /// The body; empty without one.
    pub body: Bytes,
}

/// An answer that was recorded.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

/// Sees requests, and answers them where it has an answer.
pub trait Stage: Send + Sync {
    /// The answer to a request; none: it is sent.
    fn request(&self, request: Outgoing) -> Option<Recorded>;

    /// Whether it answers everything, so that nothing reaches the network: no token endpoint is called either.
    fn is_offline(&self) -> bool;
}

impl Outgoing {
    pub(crate) fn of(request: &Request<Full<Bytes>>, body: Bytes) -> Self {
        let header = |(name, value): (&HeaderName, &HeaderValue)| OutgoingHeader {
            name: name.as_str().to_owned(),
            value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
            is_secret: value.is_sensitive(),
        };
        Self {
            method: request.method().as_str().to_owned(),
            url: request.uri().to_string(),
            headers: request.headers().iter().map(header).collect(),
            body,
        }
    }
}

impl Recorded {
    /// The answer, read as one that came.
    pub(crate) fn sent(self, format: AnswerFormat, now: Timestamp) -> Sent {
        let Self { status, headers, body } = self;
        let mut map = HeaderMap::new();
        for (name, value) in &headers {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                map.insert(name, value);
            }
        }
        let headers: BTreeMap<String, String> =
            headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
        let wait_until = wait_until(status, &headers, now);
        let body = body::parse(&map, &body, format.kind, status);
        let response = Response {
            status,
            headers,
            body: body.value.into(),
            bytes: body.bytes,
            memory: Reserved::default(),
            signature: Vec::new(),
        };
        Sent {
            happened: Happened::Answer { status, json: body.failure.is_none(), wait_until },
            response: Some(response),
            failure: body.failure,
            ended_at: Instant::now(),
        }
    }
}

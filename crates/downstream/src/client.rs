//! One HTTP call. Redirects are not followed, nothing is sent twice; the answer's body is bounded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::Extensions;
use hyper::{Request, Uri};
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use penstock_domain::cause::Cause;
use penstock_domain::outcome::Happened;
use penstock_domain::pipeline::{AnswerFormat, Dependency, Files, NoFiles, RenderedRequest, Target};
use penstock_domain::time::Clock;
use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::aside::aside;
use crate::body;
use crate::credentials;
use crate::failure::{self, Failure};
use crate::memory::{self, AnswerMemory, Reserved};
use crate::query;
use crate::response::{Response, header_text};
use crate::retry_after::wait_until;
use crate::stage::{Outgoing, Stage};
use crate::status_line::Beginning;
use crate::tls;
use crate::transport::{HttpClient, Transports};

/// What is sent unless a definition says otherwise. Without `Accept-Encoding` a server may compress as it likes (RFC 9110,
/// 12.5.3).
const DEFAULT_HEADERS: [(HeaderName, &str); 3] = [
    (header::ACCEPT, "*/*"),
    (header::ACCEPT_ENCODING, "identity"),
    (header::USER_AGENT, concat!("penstock/", env!("CARGO_PKG_VERSION"))),
];

/// What came of a request.
#[derive(Debug)]
pub struct Sent {
    /// For the verdict.
    pub happened: Happened,
    /// The answer, as far as it could be read.
    pub response: Option<Response>,
    /// Why there is none, or why it cannot be used.
    pub failure: Option<Failure>,
    /// When the last of it came.
    pub ended_at: Instant,
}

/// Why a request cannot be sent.
#[derive(Debug)]
pub enum Unsendable {
    /// A row's values cannot stand in a URL or a header.
    Values,
    /// The dependency's credentials are not there: a sentence that holds none of them.
    Credentials(String),
}

/// Whatever the reason is: it may hold values.
impl<E: std::error::Error> From<E> for Unsendable {
    fn from(_: E) -> Self {
        Self::Values
    }
}

/// A request that can be sent.
#[derive(Clone)]
pub struct Prepared {
    pub(crate) request: Request<Full<Bytes>>,
    pub(crate) body: Bytes,
    by: HttpClient,
    timeout: Duration,
    dependency: String,
    memory: AnswerMemory,
    stage: Option<Arc<dyn Stage>>,
}

/// Makes calls. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pub(crate) files: Arc<dyn Files>,
    pub(crate) transports: Arc<Transports>,
    memory: AnswerMemory,
    pub(crate) stage: Option<Arc<dyn Stage>>,
}

impl Client {
    /// A client. A rustls provider must be installed before.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new() -> Result<Self, rustls::Error> {
        Self::trusting([])
    }

    /// A client that trusts these authorities besides the system's.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn trusting(
        authorities: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, rustls::Error> {
        Ok(Self {
            files: Arc::new(NoFiles),
            transports: Arc::new(Transports::new(tls::config(authorities)?)),
            memory: AnswerMemory::new(memory::DEFAULT_BYTES),
            stage: None,
        })
    }

    /// The same with that many bytes for long answers.
    #[must_use]
    pub fn with_memory(self, bytes: usize) -> Self {
        Self { memory: AnswerMemory::new(bytes), ..self }
    }

    /// The same for definitions that are tried: the stage sees each request, and answers those that it has an answer for.
    #[must_use]
    pub fn with_stage(self, stage: Arc<dyn Stage>) -> Self {
        Self { stage: Some(stage), ..self }
    }

    /// The same with files that definitions name.
    #[must_use]
    pub fn with_files(self, files: Arc<dyn Files>) -> Self {
        Self { files, ..self }
    }

    /// Makes a connection to a dependency, and sends nothing: how long it took.
    ///
    /// # Errors
    /// Why it could not be made.
    pub async fn probe(&self, dependency: &Dependency) -> Result<Duration, Failure> {
        let url = &dependency.base_url;
        // Without user, password and path.
        let origin = url.origin().ascii_serialization();
        let invalid = |error| Failure::new(Cause::ConnectFailed, format!("{origin}: {error}"));
        let origin = Uri::try_from(origin.as_str()).map_err(invalid)?;
        let connector = self.transports.connector(dependency, &*self.files);
        let mut connector = connector.map_err(|reason| Failure::new(Cause::ConnectFailed, reason))?;
        connector.probe(origin).await
    }

    /// The request as it will be sent. Of headers with one name the last one counts: the dependency's, the step's, `extra`.
    ///
    /// # Errors
    /// When a row's values cannot stand in a URL or a header, or the dependency's credentials are not there.
    pub fn prepare(
        &self,
        dependency: &Dependency,
        rendered: RenderedRequest,
        timeout: Duration,
        extra: &[(&str, &str)],
    ) -> Result<Prepared, Unsendable> {
        let mut url = url_of(dependency, &rendered.target).ok_or(Unsendable::Values)?;
        if !rendered.query.is_empty() {
            query::append(&mut url, rendered.query.iter().map(|(name, value)| (name, value)));
        }
        let mut headers = HeaderMap::new();
        for (name, value) in DEFAULT_HEADERS {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if let Some(basic) = user_of(&mut url) {
            headers.insert(header::AUTHORIZATION, basic);
        }
        let body = match rendered.body {
            Some(body) => {
                headers.insert(header::CONTENT_TYPE, HeaderValue::try_from(body.content_type)?);
                Bytes::from(body.bytes)
            }
            None => Bytes::new(),
        };
        for (name, value) in &dependency.headers {
            credentials::add_header(name, value, &*self.files, &mut headers)
                .map_err(Unsendable::Credentials)?;
        }
        let own = rendered.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in own.chain(extra.iter().copied()) {
            headers.insert(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
        }
        if let Some(auth) = &dependency.auth {
            credentials::add(auth, &*self.files, &mut headers, &mut url).map_err(Unsendable::Credentials)?;
        }
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = hyper::Method::from_bytes(rendered.method.as_str().as_bytes())?;
        *request.uri_mut() = Uri::try_from(url.as_str())?;
        *request.headers_mut() = headers;
        let (by, route) =
            self.transports.of(dependency, timeout, &*self.files).map_err(Unsendable::Credentials)?;
        if let Some(Some(proxy)) = route.forwarded(request.uri()) {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, proxy);
        }
        Ok(Prepared {
            request,
            body,
            by,
            timeout,
            dependency: dependency.name.clone(),
            memory: self.memory.clone(),
            stage: self.stage.clone(),
        })
    }
}

impl Prepared {
    /// Sends the request and reads its answer, within its timeout. A long answer may wait for memory as long again.
    pub async fn send(mut self, clock: &dyn Clock, format: AnswerFormat) -> Sent {
        if let Some(stage) = &self.stage
            && let Some(recorded) = stage.request(Outgoing::of(&self.request, self.body.clone()))
        {
            return recorded.sent(format, clock.now());
        }
        let deadline = Instant::now() + self.timeout;
        let connection = capture_connection(&mut self.request);
        match timeout_at(deadline, self.by.request(self.request)).await {
            Ok(Ok(answer)) => {
                let room =
                    Room { memory: &self.memory, dependency: &self.dependency, patience: self.timeout };
                read(answer, clock, deadline, room, format).await
            }
            Ok(Err(error)) => match begun(&connection) {
                Some(status) => unreadable(status, failure::header(&error)),
                None => {
                    let (happened, failure) = failure::sending(&error);
                    Sent { happened, response: None, failure: Some(failure), ended_at: Instant::now() }
                }
            },
            Err(_) => match begun(&connection) {
                Some(status) => unreadable(status, "its header did not come in time".to_owned()),
                None => {
                    let failure =
                        Failure::new(Cause::Timeout, format!("no answer within {:?}", self.timeout));
                    Sent {
                        happened: Happened::TimedOut,
                        response: None,
                        failure: Some(failure),
                        ended_at: Instant::now(),
                    }
                }
            },
        }
    }
}

/// The status of an answer of which no more than the status could be read.
fn begun(connection: &CaptureConnection) -> Option<u16> {
    let mut extras = Extensions::new();
    connection.connection_metadata().as_ref()?.get_extras(&mut extras);
    extras.get::<Beginning>()?.status()
}

fn unreadable(status: u16, sentence: String) -> Sent {
    let response = Response { status, ..Response::default() };
    Sent {
        happened: Happened::Answer { status, json: false, wait_until: None },
        response: Some(response),
        failure: Some(Failure::with_sentence(Cause::BadHeader, sentence)),
        ended_at: Instant::now(),
    }
}

/// Where a long body finds room.
pub(crate) struct Room<'a> {
    pub(crate) memory: &'a AnswerMemory,
    pub(crate) dependency: &'a str,
    /// How long it may wait.
    pub(crate) patience: Duration,
}

async fn read(
    answer: hyper::Response<Incoming>,
    clock: &dyn Clock,
    deadline: Instant,
    room: Room<'_>,
    format: AnswerFormat,
) -> Sent {
    let (head, incoming) = answer.into_parts();
    let status = head.status.as_u16();
    let mut headers: BTreeMap<String, String> =
        head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), header_text(value))).collect();
    // A list may come in several lines (RFC 9110, 5.3): each may be the policy that is used up.
    if let Some(limits) = headers.get_mut("ratelimit") {
        let lines = head.headers.get_all("ratelimit");
        *limits = lines.iter().filter_map(|line| line.to_str().ok()).collect::<Vec<_>>().join(", ");
    }
    let wait_until = wait_until(status, &headers, clock.now());
    let bytes = body::read(&head.headers, incoming, deadline, &room, format.max_bytes).await;
    let ended_at = Instant::now();
    let (body, memory) = match bytes {
        Ok(body::Read { bytes, reserved }) => {
            let memory = room.memory.values(body::weight(format.kind, &bytes)).await;
            let body = aside(bytes.len(), || body::parse(&head.headers, &bytes, format.kind, status)).await;
            // What the bytes held is free before the values are read.
            drop((bytes, reserved));
            (body, memory)
        }
        Err(unusable) => (unusable, Reserved::default()),
    };
    let (bytes, value, signature) = (body.bytes, Arc::new(body.value), Vec::new());
    Sent {
        happened: Happened::Answer { status, json: body.failure.is_none(), wait_until },
        response: Some(Response { status, headers, body: value, bytes, memory, signature }),
        failure: body.failure,
        ended_at,
    }
}

/// The URL that a step's `path` or `url` leads to. None when the dependency does not admit it.
fn url_of(dependency: &Dependency, target: &Target) -> Option<Url> {
    match target {
        Target::Path(path) => path_at(&dependency.base_url, path),
        Target::AtOrigin(path) => at_origin(&dependency.base_url, path),
        Target::Url(url) => dependency.admits(url).then(|| with_user(url, &dependency.base_url)),
        Target::Forbidden(_) => None,
    }
}

/// The URL with the user of another one: an address that an answer gave has none of its own.
fn with_user(url: &Url, base: &Url) -> Url {
    let mut url = url.clone();
    // Neither fails for a URL that has a host.
    let _ = url.set_username(base.username());
    let _ = url.set_password(base.password());
    url
}

/// The user of a URL as HTTP's basic authentication, taken out of it.
fn user_of(url: &mut Url) -> Option<HeaderValue> {
    let decoded = |text: &str| percent_encoding::percent_decode_str(text).collect::<Vec<u8>>();
    let (name, password) = (decoded(url.username()), url.password().map(decoded));
    if name.is_empty() && password.is_none() {
        return None;
    }
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    credentials::secret("base_url", &credentials::basic(name, password.unwrap_or_default())).ok()
}

/// The address of a path after a base. The path is encoded already; what cannot stand in one is encoded here. None
/// when reading it as a URL would give it other segments: a value that is `..`, for one, must not lead elsewhere.
fn path_at(base: &Url, path: &str) -> Option<Url> {
    let mut url = base.clone();
    let whole = format!("{}{path}", base.path().trim_end_matches('/'));
    url.set_path(&whole);
    url.set_fragment(None);
    let segments = |path: &str| path.matches('/').count();
    (segments(url.path()) == segments(&whole)).then_some(url)
}

/// A path, perhaps with a query, at the origin of a base URL.
fn at_origin(base: &Url, path: &str) -> Option<Url> {
    let url = base.join(path).ok()?;
    (url.origin() == base.origin()).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_an_answer_is_at_the_origin_and_has_the_user_of_its_dependency() {
        let base = Url::parse("https://user:pass@api.example:8443/v1/").unwrap();
        let at = |path: &str| at_origin(&base, path).map(|url| url.to_string());
        assert_eq!(at("/jobs/7?a=b").as_deref(), Some("https://user:pass@api.example:8443/jobs/7?a=b"));
        assert_eq!(at("//evil.example/x"), None);
    }

    #[test]
    fn a_url_of_an_answer_has_the_user_of_its_dependency() {
        let base = Url::parse("https://us%65r:p%40ss@api.example/v1").unwrap();
        let url = with_user(&Url::parse("https://files.example/x?y").unwrap(), &base);
        assert_eq!(url.as_str(), "https://us%65r:p%40ss@files.example/x?y");
        let plain = Url::parse("https://api.example/").unwrap();
        assert_eq!(with_user(&url, &plain).as_str(), "https://files.example/x?y");
    }

    #[test]
    fn a_path_leads_where_it_says_or_nowhere() {
        let base = Url::parse("https://api.example/v1/").unwrap();
        let target = |path: &str| path_at(&base, path).map(|url| url.to_string());
        assert_eq!(target("/links/a%2Fb%3Fc").as_deref(), Some("https://api.example/v1/links/a%2Fb%3Fc"));
        assert_eq!(target("/links").as_deref(), Some("https://api.example/v1/links"));
        assert_eq!(target("/straße?x#y").as_deref(), Some("https://api.example/v1/stra%C3%9Fe%3Fx%23y"));
        for elsewhere in ["/links/../secret", "/links/%2e%2E/secret", "/links/./x", "/links/a\\b"] {
            assert_eq!(target(elsewhere), None, "{elsewhere}");
        }
    }
}

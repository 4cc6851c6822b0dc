//! Makes connections: DNS, TCP, TLS, all within one time. Says which of them failed, and why.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioIo;
use penstock_domain::cause::Cause;
use rustls::ClientConfig;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tower::Service;

use crate::failure::{self, Failure, LookupFailed, NotConnected};
use crate::proxy::{Dialler, Route};
use crate::status_line::Recording;
use crate::tls;

/// A server that asked for a client certificate has judged it within this time, as far as a probe waits for it.
const JUDGED_WITHIN: Duration = Duration::from_millis(500);

/// A connection, as the HTTP client uses it.
pub(crate) type Connection = Recording<MaybeHttpsStream<TokioIo<TcpStream>>>;

/// Makes connections within a time.
#[derive(Clone)]
pub(crate) struct Connector {
    https: HttpsConnector<Dialler>,
    route: Route,
    within: Duration,
}

impl Connector {
    pub(crate) fn new(tls: ClientConfig, route: Route, within: Duration) -> Self {
        let mut http = HttpConnector::new_with_resolver(Resolver);
        http.enforce_http(false);
        http.set_nodelay(true);
        // Shared among the addresses of a host, so that one that is silent does not take all of it.
        http.set_connect_timeout(Some(within));
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(Dialler { http, route: route.clone() });
        Self { https, route, within }
    }
}

impl Connector {
    /// Makes a connection and closes it again: what it took, or why there is none.
    pub(crate) async fn probe(&mut self, to: Uri) -> Result<Duration, Failure> {
        let began = Instant::now();
        let connecting = tls::noting_certificate_requests(self.https.call(to));
        let (connected, asked) = tokio::time::timeout(self.within, connecting).await.map_err(|_| {
            Failure::new(Cause::ConnectTimeout, format!("no connection within {:?}", self.within))
        })?;
        let stream = connected.map_err(|error| failure::connecting(error.as_ref(), asked))?;
        let took = began.elapsed();
        // In TLS 1.3 the server judges the client's certificate after the client's part of the handshake.
        if let MaybeHttpsStream::Https(mut stream) = stream
            && asked
            && let Ok(Err(error)) = tokio::time::timeout(JUDGED_WITHIN, stream.inner_mut().read_u8()).await
        {
            return Err(failure::connecting(&error, asked));
        }
        Ok(took)
    }
}

impl Service<Uri> for Connector {
    type Response = Connection;
    type Error = NotConnected;
    type Future = Pin<Box<dyn Future<Output = Result<Connection, NotConnected>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NotConnected>> {
        // The connectors behind it are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let forwarded = self.route.forwarded(&to).is_some();
        let connecting = tls::noting_certificate_requests(self.https.call(to));
        let within = self.within;
        Box::pin(async move {
            match tokio::time::timeout(within, connecting).await {
                Ok((Ok(stream), _)) => Ok(Recording::new(stream, forwarded)),
                Ok((Err(error), asked)) => Err(NotConnected(failure::connecting(error.as_ref(), asked))),
                Err(_) => {
                    let detail = format!("no connection within {within:?}");
                    Err(NotConnected(Failure::new(Cause::ConnectTimeout, detail)))
                }
            }
        })
    }
}

/// Looks names up as the system does, and says of an error that it is one of DNS.
#[derive(Clone)]
pub(crate) struct Resolver;

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = LookupFailed;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, LookupFailed>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LookupFailed>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await.map_err(LookupFailed)?;
            let found: Vec<SocketAddr> = found.collect();
            if found.is_empty() {
                let error = io::Error::new(io::ErrorKind::NotFound, "No address associated with hostname");
                return Err(LookupFailed(error));
            }
            Ok(found.into_iter())
        })
    }
}

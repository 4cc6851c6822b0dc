//! The way to a dependency: directly, or through a proxy. For https the proxy opens a tunnel (`CONNECT`, RFC 9110, 9.3.6); for
//! http it is asked for the whole URL (RFC 9112, 3.2.2).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::Uri;
use hyper::header::HeaderValue;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use penstock_domain::pipeline::Proxy;
use tokio::net::TcpStream;
use tower::Service;

use crate::connect::Resolver;

/// Which proxy connections take, if any.
#[derive(Clone, Debug, Default)]
pub(crate) struct Route(Option<Arc<Matcher>>);

impl Route {
    pub(crate) fn of(proxy: Option<&Proxy>) -> Self {
        let matcher = proxy.map(|proxy| match proxy {
            // Heeds HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, as curl does.
            Proxy::Environment => Matcher::from_env(),
            Proxy::Server(url) => Matcher::builder().all(url.as_str()).build(),
        });
        Self(matcher.map(Arc::new))
    }

    fn intercept(&self, to: &Uri) -> Option<Intercept> {
        self.0.as_ref()?.intercept(to)
    }

    /// Whether a proxy is asked for the whole URL, and what shows it who asks.
    pub(crate) fn forwarded(&self, to: &Uri) -> Option<Option<HeaderValue>> {
        if to.scheme_str() != Some("http") {
            return None;
        }
        self.intercept(to).map(|proxy| {
            proxy.basic_auth().cloned().map(|mut value| {
                value.set_sensitive(true);
                value
            })
        })
    }
}

/// Opens a TCP connection to a server, or through the proxy.
#[derive(Clone)]
pub(crate) struct Dialler {
    pub(crate) http: HttpConnector<Resolver>,
    pub(crate) route: Route,
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for Dialler {
    type Response = TokioIo<TcpStream>;
    type Error = AnyError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<TcpStream>, AnyError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), AnyError>> {
        // The connector behind it is always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let mut http = self.http.clone();
        let Some(proxy) = self.route.intercept(&to) else {
            return Box::pin(async move { Ok(http.call(to).await?) });
        };
        let server = proxy.uri().clone();
        if to.scheme_str() == Some("http") {
            return Box::pin(async move { Ok(http.call(server).await?) });
        }
        let mut tunnel = Tunnel::new(server, http);
        if let Some(auth) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(auth.clone());
        }
        Box::pin(async move { Ok(tunnel.call(to).await?) })
    }
}

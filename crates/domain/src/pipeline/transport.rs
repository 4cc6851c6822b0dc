//! `tls` and `proxy`: how a dependency is connected to.
#![allow(missing_docs, reason = "private to the loader, but for what calls need")]

use serde::Deserialize;
use serde_saphyr::Spanned;
use url::Url;

use super::check::Source;
use super::definition::DependencyDefinition;
use super::live::LiveText;

/// `dependencies.<name>.tls`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsDefinition {
    pub ca: Option<Spanned<String>>,
    pub certificate: Option<Spanned<String>>,
    pub key: Option<Spanned<String>>,
}

/// What a dependency's connections trust, and what they show. All of it is PEM (RFC 7468).
#[derive(Clone, Debug)]
pub struct Tls {
    /// The authorities that are trusted, and no others; none: the system's.
    pub ca: Option<LiveText>,
    /// The client certificate, with its chain.
    pub certificate: Option<LiveText>,
    /// Its key.
    pub key: Option<LiveText>,
}

/// The proxy that connections take.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Proxy {
    /// What `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` say.
    Environment,
    /// This one; it may have a user and a password.
    Server(Url),
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proxy")
    }
}

pub fn tls(
    name: &str,
    definition: &DependencyDefinition,
    base_url: Option<&Url>,
    source: &mut Source<'_>,
) -> Option<Tls> {
    let written = definition.tls.as_ref()?;
    let line = written.referenced.line();
    let tls = &written.value;
    let mut wrong = |message: &str| source.error(line, format!("dependency `{name}`: {message}"));
    if tls.certificate.is_some() != tls.key.is_some() {
        wrong("tls.certificate and tls.key belong together; add the other one");
    }
    if tls.ca.is_none() && tls.certificate.is_none() && tls.key.is_none() {
        wrong("tls has `ca`, or `certificate` and `key`, or all three");
    }
    if base_url.is_some_and(|url| url.scheme() == "http") {
        wrong("tls is only used for https, and base_url is http");
    }
    let mut pem = |key: &str, value: &Option<Spanned<String>>, label: &str| {
        let value = value.as_ref()?;
        let at = value.referenced.line();
        let whose = format!("dependency `{name}`: tls.{key}");
        let now = source.fill(&value.value, at);
        let open = source.take_left_open();
        let begins = now.is_some_and(|now| now.contains("-----BEGIN ") && now.contains(label));
        let text = source.live(&whose, &value.value, at)?;
        if !begins && !open {
            source.error(at, format!("{whose} is not in PEM: there is no `-----BEGIN … {label}-----` in it"));
        }
        Some(text)
    };
    Some(Tls {
        ca: pem("ca", &tls.ca, "CERTIFICATE"),
        certificate: pem("certificate", &tls.certificate, "CERTIFICATE"),
        key: pem("key", &tls.key, "PRIVATE KEY"),
    })
}

pub fn proxy(name: &str, definition: &DependencyDefinition, source: &mut Source<'_>) -> Option<Proxy> {
    let written = definition.proxy.as_ref()?;
    if written.value == "environment" {
        return Some(Proxy::Environment);
    }
    let line = written.referenced.line();
    let filled = source.fill(&written.value, line)?;
    if source.take_left_open() {
        return None;
    }
    let url = Url::parse(&filled).ok().filter(|url| {
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        url.scheme() == "http" && url.has_host() && bare
    });
    if url.is_none() {
        let message = "proxy is `environment`, or the URL of an http proxy, such as http://proxy:3128";
        source.error(line, format!("dependency `{name}`: {message}"));
    }
    url.map(Proxy::Server)
}

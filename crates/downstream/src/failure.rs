//! What an error of the HTTP stack means: whether the request was sent, and what the cause is.

use std::error::Error;
use std::io;

use hyper_util::client::legacy;
use penstock_domain::cause::Cause;
use penstock_domain::outcome::Happened;
use rustls::{AlertDescription, CertificateError};

use crate::tls::SelfSigned;

/// Why a call came to nothing, or why its answer is of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The cause.
    pub cause: Cause,
    /// For the row's owner: it names no host and no address.
    pub sentence: String,
    /// For the operator: the errors as they were reported.
    pub detail: String,
}

impl Failure {
    /// A failure with the cause's own sentence.
    pub fn new(cause: Cause, detail: impl Into<String>) -> Self {
        Self { cause, sentence: cause.sentence().to_owned(), detail: detail.into() }
    }

    /// A failure of which more is known than its cause says.
    pub fn with_sentence(cause: Cause, sentence: impl Into<String>) -> Self {
        let sentence = sentence.into();
        Self { cause, detail: sentence.clone(), sentence }
    }
}

/// A connection that could not be made. Nothing was sent.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.detail)]
pub(crate) struct NotConnected(pub(crate) Failure);

/// A host's name that could not be looked up.
#[derive(Debug, thiserror::Error)]
#[error("DNS: {0}")]
pub(crate) struct LookupFailed(#[source] pub(crate) io::Error);

type AnyError = dyn Error + 'static;

/// An error and its causes. `io::Error::source` passes over the error that it wraps.
fn chain(error: &AnyError) -> impl Iterator<Item = &AnyError> {
    std::iter::successors(Some(error), |error| cause_of(*error))
}

fn cause_of(error: &AnyError) -> Option<&AnyError> {
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    wrapped.map(|inner| inner as &AnyError).or_else(|| error.source())
}

fn find<T: Error + 'static>(error: &AnyError) -> Option<&T> {
    chain(error).find_map(|error| error.downcast_ref())
}

/// All that the errors say, from the outermost to the innermost, each once.
fn detail(error: &AnyError) -> String {
    let mut parts: Vec<String> = Vec::new();
    for error in chain(error) {
        let text = error.to_string();
        if parts.last().is_none_or(|last| !last.contains(&text)) {
            parts.push(text);
        }
    }
    parts.join(": ")
}

/// Why no connection was made. `certificate_asked`: whether the server asked for a client certificate.
pub(crate) fn connecting(error: &AnyError, certificate_asked: bool) -> Failure {
    let cause = if let Some(LookupFailed(error)) = find(error) {
        lookup(error)
    } else if let Some(error) = find::<rustls::Error>(error) {
        tls(error, certificate_asked)
    } else {
        innermost_io(error).map_or(Cause::ConnectFailed, tcp)
    };
    Failure::new(cause, detail(error))
}

fn innermost_io(error: &AnyError) -> Option<&io::Error> {
    chain(error).filter_map(|error| error.downcast_ref::<io::Error>()).last()
}

/// The standard library gives the resolver's words only. glibc and musl have the same for a name that does not exist.
fn lookup(error: &io::Error) -> Cause {
    let text = error.to_string();
    let unknown = [
        "Name or service not known",
        "No address associated",
        "nodename nor servname",
        "does not resolve",
        "Name does not resolve",
    ];
    if unknown.iter().any(|words| text.contains(words)) { Cause::UnknownHost } else { Cause::DnsUnavailable }
}

fn tcp(error: &io::Error) -> Cause {
    const TOO_MANY_FILES: [i32; 2] = [23, 24];
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Cause::ConnectionRefused,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => {
            Cause::Unreachable
        }
        io::ErrorKind::TimedOut => Cause::ConnectTimeout,
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => Cause::ConnectionClosed,
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::PermissionDenied | io::ErrorKind::OutOfMemory => {
            Cause::LocalLimit
        }
        _ if error.raw_os_error().is_some_and(|code| TOO_MANY_FILES.contains(&code)) => Cause::LocalLimit,
        _ => Cause::ConnectFailed,
    }
}

fn tls(error: &rustls::Error, certificate_asked: bool) -> Cause {
    match error {
        rustls::Error::InvalidCertificate(error) => certificate(error),
        rustls::Error::AlertReceived(alert) if is_about_our_certificate(*alert) => {
            Cause::ClientCertificateWanted
        }
        // What OpenSSL says in TLS 1.2 to whoever has no certificate, and to whoever has no cipher in common.
        rustls::Error::AlertReceived(AlertDescription::HandshakeFailure | AlertDescription::AccessDenied)
            if certificate_asked =>
        {
            Cause::ClientCertificateWanted
        }
        rustls::Error::InvalidMessage(_) => Cause::NotTls,
        _ => Cause::TlsFailed,
    }
}

fn certificate(error: &CertificateError) -> Cause {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Cause::CertificateExpired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            Cause::CertificateNotYetValid
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Cause::CertificateWrongHost
        }
        CertificateError::Revoked => Cause::CertificateRevoked,
        CertificateError::UnknownIssuer => Cause::CertificateUntrusted,
        CertificateError::Other(other) if other.0.is::<SelfSigned>() => Cause::CertificateSelfSigned,
        _ => Cause::CertificateInvalid,
    }
}

/// Alerts about a certificate of ours, of which there is none.
fn is_about_our_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
    )
}

/// What happened to a request whose answer's header never came.
pub(crate) fn sending(error: &legacy::Error) -> (Happened, Failure) {
    if let Some(NotConnected(failure)) = find(error) {
        return (Happened::ConnectFailed, failure.clone());
    }
    // In TLS 1.3 the server judges the client's certificate when the client thinks that the handshake is over. A handshake
    // that fails brings nothing of what was sent to the application.
    if let Some(rustls::Error::AlertReceived(alert)) = find(error)
        && is_about_our_certificate(*alert)
    {
        return (Happened::ConnectFailed, Failure::new(Cause::ClientCertificateWanted, detail(error)));
    }
    if error.is_connect() {
        return (Happened::ConnectFailed, Failure::new(Cause::ConnectFailed, detail(error)));
    }
    if find::<h2::Error>(error).is_some_and(was_not_processed) {
        return (Happened::NotProcessed, Failure::new(Cause::NotProcessed, detail(error)));
    }
    let not_http = find::<hyper::Error>(error).is_some_and(hyper::Error::is_parse);
    let cause = if not_http { Cause::NotHttp } else { Cause::ConnectionLost };
    (Happened::ConnectionLost, Failure::new(cause, detail(error)))
}

/// A stream that was refused, or one above the last that a connection which is going away has taken up: RFC 9113, 8.7.
fn was_not_processed(error: &h2::Error) -> bool {
    // h2 gives a peer's GOAWAY only to streams above its last one; the others end with the connection.
    let above_the_last = error.is_go_away() && error.is_remote();
    let refused = error.is_reset() && error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    above_the_last || refused
}

/// Why a header could not be read although its status line could.
pub(crate) fn header(error: &legacy::Error) -> String {
    match find::<hyper::Error>(error) {
        // hyper has a method for it, for servers only.
        Some(error) if error.to_string().contains("too large") => {
            format!("its header has more than {} lines, or is too long", crate::transport::MOST_HEADERS)
        }
        Some(error) if error.is_parse() => format!("its header cannot be read ({error})"),
        _ => "its header broke off".to_owned(),
    }
}

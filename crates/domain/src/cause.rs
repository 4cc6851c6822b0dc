//! Why a call came to nothing, as far as its connection or the form of its answer shows it.

/// The cause. The numbers are what limiters keep of a dependency's last failure; they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cause {
    /// DNS knows no such name.
    UnknownHost = 1,
    /// DNS does not answer.
    DnsUnavailable = 2,
    /// Nothing listens at the address.
    ConnectionRefused = 3,
    /// No route to the host or its network.
    Unreachable = 4,
    /// The connection was not made in time.
    ConnectTimeout = 5,
    /// The other side closed the connection while it was being made.
    ConnectionClosed = 6,
    /// This machine lacks file descriptors, ports or rights for a connection.
    LocalLimit = 7,
    /// The other side does not speak TLS.
    NotTls = 8,
    /// The certificate is self-signed.
    CertificateSelfSigned = 9,
    /// The certificate's issuer is not trusted.
    CertificateUntrusted = 10,
    /// The certificate has expired.
    CertificateExpired = 11,
    /// The certificate is not valid yet.
    CertificateNotYetValid = 12,
    /// The certificate is for other hosts.
    CertificateWrongHost = 13,
    /// The certificate was revoked.
    CertificateRevoked = 14,
    /// The certificate is wrong in another way.
    CertificateInvalid = 15,
    /// The other side wants a client certificate.
    ClientCertificateWanted = 16,
    /// The TLS handshake failed in another way.
    TlsFailed = 17,
    /// The connection failed in another way.
    ConnectFailed = 18,
    /// There was no answer in time.
    Timeout = 19,
    /// The connection broke before the answer.
    ConnectionLost = 20,
    /// What came back is not HTTP.
    NotHttp = 21,
    /// The request was refused before anything was done (HTTP/2).
    NotProcessed = 22,
    /// The answer's header cannot be read.
    BadHeader = 23,
    /// The answer's body broke off.
    BodyCut = 24,
    /// The answer's body did not come in time.
    BodyLate = 25,
    /// The answer's body is too long.
    BodyTooLong = 26,
    /// The answer's body is compressed or encoded otherwise.
    BodyEncoded = 27,
    /// The answer's body is not JSON.
    NotJson = 28,
}

/// What failed, in the order in which a call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The host's name was looked up.
    Dns,
    /// A TCP connection was made.
    Tcp,
    /// The TLS handshake.
    Tls,
    /// The request was sent; its answer was waited for.
    Answer,
}

impl Cause {
    /// All of them, by number.
    pub const ALL: [Self; 28] = [
        Self::UnknownHost,
        Self::DnsUnavailable,
        Self::ConnectionRefused,
        Self::Unreachable,
        Self::ConnectTimeout,
        Self::ConnectionClosed,
        Self::LocalLimit,
        Self::NotTls,
        Self::CertificateSelfSigned,
        Self::CertificateUntrusted,
        Self::CertificateExpired,
        Self::CertificateNotYetValid,
        Self::CertificateWrongHost,
        Self::CertificateRevoked,
        Self::CertificateInvalid,
        Self::ClientCertificateWanted,
        Self::TlsFailed,
        Self::ConnectFailed,
        Self::Timeout,
        Self::ConnectionLost,
        Self::NotHttp,
        Self::NotProcessed,
        Self::BadHeader,
        Self::BodyCut,
        Self::BodyLate,
        Self::BodyTooLong,
        Self::BodyEncoded,
        Self::NotJson,
    ];

    /// Its number.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The cause with this number.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.code() == code)
    }

    /// For programs and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnknownHost => "unknown_host",
            Self::DnsUnavailable => "dns_unavailable",
            Self::ConnectionRefused => "connection_refused",
            Self::Unreachable => "unreachable",
            Self::ConnectTimeout => "connect_timeout",
            Self::ConnectionClosed => "connection_closed",
            Self::LocalLimit => "local_limit",
            Self::NotTls => "not_tls",
            Self::CertificateSelfSigned => "certificate_self_signed",
            Self::CertificateUntrusted => "certificate_untrusted",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateNotYetValid => "certificate_not_yet_valid",
            Self::CertificateWrongHost => "certificate_wrong_host",
            Self::CertificateRevoked => "certificate_revoked",
            Self::CertificateInvalid => "certificate_invalid",
            Self::ClientCertificateWanted => "client_certificate_wanted",
            Self::TlsFailed => "tls_failed",
            Self::ConnectFailed => "connect_failed",
            Self::Timeout => "timeout",
            Self::ConnectionLost => "connection_lost",
            Self::NotHttp => "not_http",
            Self::NotProcessed => "not_processed",
            Self::BadHeader => "bad_header",
            Self::BodyCut => "body_cut",
            Self::BodyLate => "body_late",
            Self::BodyTooLong => "body_too_long",
            Self::BodyEncoded => "body_encoded",
            Self::NotJson => "not_json",
        }
    }

    /// For people: it names no host and no address, since clients read it.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::UnknownHost => "the host is unknown: DNS has no such name",
            Self::DnsUnavailable => "the host's name could not be looked up: DNS does not answer",
            Self::ConnectionRefused => "connection refused: nothing listens at the address",
            Self::Unreachable => "the host or its network is unreachable",
            Self::ConnectTimeout => "connecting took too long",
            Self::ConnectionClosed => "the connection was closed while it was being made",
            Self::LocalLimit => {
                "this machine cannot open a connection (file descriptors, ports or permissions)"
            }
            Self::NotTls => "the server does not speak TLS (https) at that port",
            Self::CertificateSelfSigned => "the server's certificate is self-signed and not trusted",
            Self::CertificateUntrusted => "the server's certificate is signed by an unknown authority",
            Self::CertificateExpired => "the server's certificate has expired",
            Self::CertificateNotYetValid => "the server's certificate is not valid yet",
            Self::CertificateWrongHost => "the server's certificate is for another host",
            Self::CertificateRevoked => "the server's certificate was revoked",
            Self::CertificateInvalid => "the server's certificate is invalid",
            Self::ClientCertificateWanted => "the server wants a client certificate",
            Self::TlsFailed => "the TLS handshake failed",
            Self::ConnectFailed => "connecting failed",
            Self::Timeout => "no answer came in time",
            Self::ConnectionLost => "the connection broke before the answer",
            Self::NotHttp => "what the server sent is not HTTP",
            Self::NotProcessed => "the server refused the request before it did anything",
            Self::BadHeader => "the answer's header cannot be read",
            Self::BodyCut => "the answer's body broke off",
            Self::BodyLate => "the answer's body did not come in time",
            Self::BodyTooLong => "the answer's body is too long",
            Self::BodyEncoded => "the answer's body is encoded in a way that was not asked for",
            Self::NotJson => "the answer's body is not JSON",
        }
    }

    /// Where the call failed.
    #[must_use]
    pub const fn stage(self) -> Stage {
        match self {
            Self::UnknownHost | Self::DnsUnavailable => Stage::Dns,
            Self::ConnectionRefused
            | Self::Unreachable
            | Self::ConnectTimeout
            | Self::ConnectionClosed
            | Self::LocalLimit
            | Self::ConnectFailed => Stage::Tcp,
            Self::NotTls
            | Self::CertificateSelfSigned
            | Self::CertificateUntrusted
            | Self::CertificateExpired
            | Self::CertificateNotYetValid
            | Self::CertificateWrongHost
            | Self::CertificateRevoked
            | Self::CertificateInvalid
            | Self::ClientCertificateWanted
            | Self::TlsFailed => Stage::Tls,
            Self::Timeout
            | Self::ConnectionLost
            | Self::NotHttp
            | Self::NotProcessed
            | Self::BadHeader
            | Self::BodyCut
            | Self::BodyLate
            | Self::BodyTooLong
            | Self::BodyEncoded
            | Self::NotJson => Stage::Answer,
        }
    }
}

impl Cause {
    /// Whether it says something about the dependency, and not only about one answer.
    #[must_use]
    pub fn is_about_the_dependency(self) -> bool {
        let unanswered =
            matches!(self, Self::Timeout | Self::ConnectionLost | Self::NotHttp | Self::NotProcessed);
        unanswered || self.stage() < Stage::Answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_is_found_by_its_number() {
        for (index, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(cause.code()), index + 1, "{}", cause.name());
            assert_eq!(Cause::from_code(cause.code()), Some(cause));
        }
        assert_eq!(Cause::from_code(0), None);
        assert_eq!(Cause::from_code(29), None);
    }
}

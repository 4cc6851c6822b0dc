//! The console's cookies. A browser sends those of a host to each of its ports (RFC 6265, 8.5), so that the port is in the name: two
//! installations on one host, as behind `kubectl port-forward`, do not sign each other's people out.

use actix_web::HttpRequest;
use actix_web::http::header::{self, HeaderValue};

use crate::state::ApiState;

/// The cookie of a session.
pub(super) const SESSION: &str = "session";

/// The cookie of who looks at the form to sign in.
pub(super) const VISIT: &str = "visit";

/// What a request has of cookies, and how they are set in its answer.
pub(super) struct Cookies<'a> {
    request: &'a HttpRequest,
    secure: bool,
    /// What the name of each of them begins with.
    start: String,
}

impl<'a> Cookies<'a> {
    /// Those of a request.
    pub fn of(request: &'a HttpRequest, state: &ApiState) -> Self {
        Self::new(request, is_secure(request, state))
    }

    fn new(request: &'a HttpRequest, secure: bool) -> Self {
        // Browsers make sure that one with this beginning came by https.
        let mut start = if secure { "__Secure-penstock_" } else { "penstock_" }.to_owned();
        if let Some(port) = port(request) {
            start.push_str(&format!("{port}_"));
        }
        Self { request, secure, start }
    }

    fn all(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let lines = self.request.headers().get_all(header::COOKIE).filter_map(|value| value.to_str().ok());
        let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.filter_map(|(name, value)| Some((name.strip_prefix(&*self.start)?, value)))
    }

    /// A cookie's value.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.all().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// The names of those that begin so.
    pub fn names(&self, start: &str) -> Vec<&'a str> {
        self.all().map(|(name, _)| name).filter(|name| name.starts_with(start)).collect()
    }

    /// The header that sets one for the console alone; with 0 seconds it is deleted.
    pub fn set(&self, name: &str, value: &str, seconds: u64) -> Option<HeaderValue> {
        let (start, secure) = (&self.start, if self.secure { "; Secure" } else { "" });
        let text = format!(
            "{start}{name}={value}; Path=/console; HttpOnly; SameSite=Lax; Max-Age={seconds}{secure}"
        );
        HeaderValue::from_str(&text).ok()
    }
}

/// The port at which the browser asks, where its address has one.
fn port(request: &HttpRequest) -> Option<u16> {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| request.uri().authority().map(|authority| authority.as_str()))?;
    // An IPv6 address has colons of its own, in brackets.
    host.rsplit_once(':').and_then(|(_, port)| port.parse().ok())
}

/// Whether the reader's browser came by https: the address that clients use says so, or a trusted proxy does.
fn is_secure(request: &HttpRequest, state: &ApiState) -> bool {
    if state.base.starts_with("https://") {
        return true;
    }
    let trusted = request.peer_addr().is_some_and(|peer| state.connections.limits().trusts(peer.ip()));
    let proto = request.headers().get("x-forwarded-proto");
    trusted && proto.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"https"))
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn asked(host: &str, cookies: &str) -> HttpRequest {
        TestRequest::get().insert_header(("host", host)).insert_header(("cookie", cookies)).to_http_request()
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        let request = asked("penstock.example", "a=1; penstock_session=x.y-z; penstock_sessions=2");
        let cookies = Cookies::new(&request, true);
        assert_eq!(cookies.get(SESSION), None, "it did not come by https");
        let set = cookies.set(SESSION, "x", 43_200).unwrap();
        assert_eq!(
            set,
            "__Secure-penstock_session=x; Path=/console; HttpOnly; SameSite=Lax; Max-Age=43200; Secure"
        );
        let cookies = Cookies::new(&request, false);
        assert_eq!(cookies.get(SESSION), Some("x.y-z"));
        assert_eq!(cookies.get("b"), None);
        assert_eq!(cookies.names(SESSION), ["session", "sessions"]);
        assert!(!cookies.set(SESSION, "x", 0).unwrap().to_str().unwrap().contains("Secure"));
    }

    #[test]
    fn installations_at_two_ports_have_cookies_of_their_own() {
        let both = "penstock_session=0; penstock_8080_session=1; penstock_8081_session=2";
        for (host, expected) in [
            ("localhost", "0"),
            ("localhost:8080", "1"),
            ("[::1]:8081", "2"),
            ("[::1]", "0"),
            ("[fe80::8080]", "0"),
        ] {
            let request = asked(host, both);
            assert_eq!(Cookies::new(&request, false).get(SESSION), Some(expected), "{host}");
        }
    }
}

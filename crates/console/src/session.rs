//! Who looks: a cookie that only this service can read and make. Nothing of a session is stored here, and every request asks
//! for its key again: a session ends with its key, whichever process answers.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use penstock_crypto::{Keyring, OpenError};
use penstock_domain::time::Timestamp;
use ring::digest::{SHA256, digest};
use ring::rand::SecureRandom;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// How long a session lasts, in seconds: 12 hours.
pub const SESSION_SECONDS: u64 = 12 * 60 * 60;

/// How long a form to sign in with can be filled in, in seconds.
pub const VISIT_SECONDS: u64 = 60 * 60;

/// How long somebody may take to sign in at an OpenID Connect provider, in seconds.
pub const ELSEWHERE_SECONDS: u64 = 15 * 60;

/// How long a ticket is good for, in seconds.
pub const TICKET_SECONDS: u64 = 60 * 60;

/// Bytes of a token against forged forms.
const TOKEN_BYTES: usize = 24;

/// Somebody who signed in, with an API key or elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The public part of the key.
    pub key_id: String,
    /// What the key was when it signed in (`penstock_flow::context::api_keys::word`).
    pub key_word: String,
    /// What every form of the session carries.
    pub csrf: String,
    /// Until when.
    pub ends_at: Timestamp,
    /// What let somebody in who signed in elsewhere; none: an API key did.
    #[serde(default)]
    pub by: Option<Elsewhere>,
}

/// What let somebody in who signed in at an OpenID Connect provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elsewhere {
    /// The provider's issuer.
    pub issuer: String,
    /// The entry of the setting that grants something to a group.
    pub entry: String,
}

/// Somebody who signs in at an OpenID Connect provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VisitElsewhere {
    /// What the provider sends back.
    pub state: String,
    /// What the provider writes into its token.
    pub nonce: String,
    /// Proves that who comes back began the sign-in (PKCE).
    pub verifier: String,
    /// Where to go afterwards.
    pub to: String,
    /// Until when.
    pub ends_at: Timestamp,
}

/// Somebody who is about to sign in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Visit {
    /// What the form to sign in carries.
    pub csrf: String,
    /// Until when.
    pub ends_at: Timestamp,
}

/// Lets whoever has it sign in once, for a short time: what the demo prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The public part of the key.
    pub key_id: String,
    /// What the key was when the ticket was made.
    pub key_word: String,
    /// Tells it from every other ticket.
    pub number: String,
    /// Until when.
    pub ends_at: Timestamp,
}

/// What a cookie or a link can hold.
pub trait Sealed: Serialize + DeserializeOwned {
    /// Tells one kind of cookie from another: a cookie of one kind is none of another.
    const KIND: &'static str;

    /// Until when it is good.
    fn ends_at(&self) -> Timestamp;

    /// The cookie's value.
    ///
    /// # Errors
    /// When there is no key, or the system gives no random numbers.
    fn seal(&self, keyring: &Keyring, random: &dyn SecureRandom) -> Result<String, OpenError> {
        let plain = serde_json::to_vec(self).map_err(|_| OpenError::Malformed)?;
        let sealed = keyring.seal_small("console", Self::KIND, "cookie", &plain, random)?;
        Ok(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// What a cookie holds; none when it was not made here, was changed or has ended.
    fn open(keyring: &Keyring, cookie: &str, now: Timestamp) -> Option<Self> {
        let sealed = URL_SAFE_NO_PAD.decode(cookie).ok()?;
        let plain = keyring.open_small("console", Self::KIND, "cookie", &sealed).ok()?;
        serde_json::from_slice::<Self>(&plain).ok().filter(|opened| opened.ends_at() > now)
    }
}

impl Sealed for Session {
    const KIND: &'static str = "session";
    fn ends_at(&self) -> Timestamp {
        self.ends_at
    }
}

impl Sealed for VisitElsewhere {
    const KIND: &'static str = "elsewhere";
    fn ends_at(&self) -> Timestamp {
        self.ends_at
    }
}

impl Sealed for Visit {
    const KIND: &'static str = "visit";
    fn ends_at(&self) -> Timestamp {
        self.ends_at
    }
}

impl Sealed for Ticket {
    const KIND: &'static str = "ticket";
    fn ends_at(&self) -> Timestamp {
        self.ends_at
    }
}

/// A new token for forms.
///
/// # Errors
/// When the system gives no random numbers.
pub fn new_token(random: &dyn SecureRandom) -> Result<String, OpenError> {
    let mut bytes = [0; TOKEN_BYTES];
    random.fill(&mut bytes).map_err(|_| OpenError::Malformed)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// Whether a form carries the token of its session. Hashes are compared: the time that it takes says nothing of the token.
pub fn is_token(expected: &str, sent: &str) -> bool {
    digest(&SHA256, expected.as_bytes()).as_ref() == digest(&SHA256, sent.as_bytes()).as_ref()
}

/// Where to go after somebody signed in: an address of the console, and nowhere else.
pub fn return_to(wanted: Option<&str>) -> &str {
    const HOME: &str = "/console/batches";
    let Some(wanted) = wanted else { return HOME };
    // A browser reads `\` as `/`, and leaves out tabs and line ends.
    let strange = wanted.chars().any(|c| c == '\\' || !c.is_ascii() || c.is_control() || c.is_whitespace());
    let dots = wanted.split(['/', '?', '#']).any(|part| {
        let part = part.to_ascii_lowercase().replace("%2e", ".");
        part == "." || part == ".."
    });
    let own = wanted.starts_with("/console/") && !wanted.starts_with("/console/sign-");
    if own && !strange && !dots && wanted.len() <= 2000 { wanted } else { HOME }
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;

    use super::*;

    fn keyring() -> Keyring {
        Keyring::parse("a:WX9EIDV99ywIg2xC6vzpTAJnAdGLt132YsRseUckGJk=").unwrap()
    }

    fn session() -> Session {
        let ends_at = Timestamp::from_millis(2000);
        Session { key_id: "0123".into(), key_word: "cdef".into(), csrf: "token".into(), ends_at, by: None }
    }

    #[test]
    fn a_cookie_is_good_until_its_end_and_only_as_it_was_made() {
        let (ring, random) = (keyring(), SystemRandom::new());
        let cookie = session().seal(&ring, &random).unwrap();
        let open = |cookie: &str, now: i64| Session::open(&ring, cookie, Timestamp::from_millis(now));
        assert_eq!(open(&cookie, 1999), Some(session()));
        assert_eq!(open(&cookie, 2000), None, "it has ended");
        assert!(!cookie.contains("0123"));
        for at in 0..cookie.len() {
            let other = if &cookie[at..=at] == "A" { "B" } else { "A" };
            let changed = format!("{}{other}{}", &cookie[..at], &cookie[at + 1..]);
            assert_eq!(open(&changed, 0), None, "byte {at} was changed");
        }
        let visit = Visit { csrf: "token".into(), ends_at: Timestamp::from_millis(2000) };
        let visit = visit.seal(&ring, &random).unwrap();
        assert_eq!(open(&visit, 0), None, "another kind of cookie");
        let other = Keyring::parse("a:/uCJxTJpisAeedm7CqonBAj9fmoHPHj9Lr0ixtwWPvU=").unwrap();
        assert_eq!(Session::open(&other, &cookie, Timestamp::from_millis(0)), None, "another keyring");
    }

    #[test]
    fn tokens_differ_and_are_compared_as_a_whole() {
        let random = SystemRandom::new();
        let (one, another) = (new_token(&random).unwrap(), new_token(&random).unwrap());
        assert!(is_token(&one, &one));
        assert!(!is_token(&one, &another));
        assert!(!is_token(&one, ""));
        assert!(!is_token(&one, &one[..10]));
    }

    #[test]
    fn nobody_is_led_elsewhere_after_signing_in() {
        for good in ["/console/batches", "/console/batches/7?done=paused", "/console/upload?pipeline=a%20b"] {
            assert_eq!(return_to(Some(good)), good);
        }
        for bad in [
            "",
            "/",
            "/console",
            "https://evil.example/",
            "//evil.example/console/",
            "/\\evil.example",
            "/console/\\evil.example",
            "/console/../v2/batches",
            "/console/%2e%2E/docs",
            "/console/.%2e/docs",
            "/console/\t/evil",
            "/console/ x",
            "/console/sign-in",
            "/console/sign-out",
            "javascript:alert(1)",
            "/consolex/",
        ] {
            assert_eq!(return_to(Some(bad)), "/console/batches", "{bad}");
        }
        assert_eq!(return_to(None), "/console/batches");
    }
}

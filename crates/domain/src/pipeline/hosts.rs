//! `hosts`: where a dependency may be called besides its own address.

use url::{Host, Url};

/// A host's name, or all names under one (`*.example.com`). No port: any is admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    host: String,
    /// Whether names under it are meant, and not the name itself.
    under: bool,
}

impl HostPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (name, under) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        if name.contains('*') {
            return Err("`*` stands only for the first part of a name, such as `*.example.com`");
        }
        if name.contains(['/', '@', '?', '#', '\\'])
            || name.rsplit_once(':').is_some_and(|_| !name.starts_with('['))
        {
            return Err("it is the name of a host without a scheme, a user, a port and a path");
        }
        if under && !name.contains('.') {
            return Err("it would admit a whole top-level domain");
        }
        let host = Host::parse(name).map_err(|_| "it is not the name of a host")?;
        if under && !matches!(host, Host::Domain(_)) {
            return Err("`*.` stands before a name, and not before an address");
        }
        Ok(Self { host: host.to_string(), under })
    }

    /// Whether a URL's host is meant.
    pub fn admits(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else { return false };
        if !self.under {
            return host == self.host;
        }
        // There is something before the dot.
        host.strip_suffix(&self.host).is_some_and(|before| before.len() > 1 && before.ends_with('.'))
    }
}

/// Whether a call to `url` leads to the origin of `base` (RFC 6454, 4) or to one of the `hosts`. What goes out encrypted to
/// `base` goes out in the clear to nobody.
pub fn leads_home(base: &Url, hosts: &[HostPattern], url: &Url) -> bool {
    if url.origin() == base.origin() {
        return true;
    }
    let is_downgrade = base.scheme() == "https" && url.scheme() != "https";
    !is_downgrade && hosts.iter().any(|pattern| pattern.admits(url))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_leads_to_the_own_origin_or_to_a_named_host() {
        let base = Url::parse("https://api.example.com/v1").unwrap();
        let hosts: Vec<_> = ["*.files.example.com", "Other.example", "[::1]", "10.0.0.7", "münchen.example"]
            .iter()
            .map(|pattern| HostPattern::parse(pattern).unwrap())
            .collect();
        for (url, leads) in [
            ("https://api.example.com/jobs/1", true),
            ("https://API.example.com:443/jobs/1", true),
            ("https://api.example.com:8443/jobs/1", false),
            ("http://api.example.com/jobs/1", false),
            ("https://api.example.com./jobs/1", false),
            ("https://api.example.com.evil.example/", false),
            ("https://evilapi.example.com/", false),
            ("https://a.files.example.com/x", true),
            ("https://a.b.files.example.com:9999/x", true),
            ("https://files.example.com/x", false),
            ("https://.files.example.com/x", false),
            ("https://evilfiles.example.com/x", false),
            ("https://files.example.com.evil.example/x", false),
            ("https://a.files.example.com./x", false),
            ("http://a.files.example.com/x", false),
            ("https://other.example:1/x", true),
            ("https://sub.other.example/x", false),
            ("https://[::1]:9/x", true),
            ("https://10.0.0.7/x", true),
            ("https://0x0a000007/x", true),
            ("https://xn--mnchen-3ya.example/", true),
        ] {
            let url = Url::parse(url).unwrap();
            assert_eq!(leads_home(&base, &hosts, &url), leads, "{url}");
        }
        let plain = Url::parse("http://127.0.0.1:8080").unwrap();
        let local = [HostPattern::parse("127.0.0.1").unwrap()];
        assert!(leads_home(&plain, &local, &Url::parse("http://127.0.0.1:9090/x").unwrap()));
        assert!(!leads_home(&plain, &[], &Url::parse("http://127.0.0.1:9090/x").unwrap()));
        assert!(!leads_home(&plain, &local, &Url::parse("http://localhost:8080/x").unwrap()));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in [
            "",
            "*",
            "*.",
            "*.com",
            "a.*.com",
            "https://a.example",
            "a.example:443",
            "a.example/x",
            "u@a.example",
            "*.10.0.0.7",
        ] {
            assert!(HostPattern::parse(text).is_err(), "{text:?}");
        }
    }
}

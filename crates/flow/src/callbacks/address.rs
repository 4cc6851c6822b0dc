//! Where callbacks may go: addresses of the public internet, unless a setting allows others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::LazyLock;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// Bytes of an address, as it is sent.
pub const MOST_BYTES: usize = 2048;

/// Characters of a host's name (RFC 1035, section 2.3.4), and of each of its labels.
const NAME_CHARS: usize = 253;
const LABEL_CHARS: usize = 63;

/// Why a callback address is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not an http or https URL.
    #[error("a callback address is an absolute http or https URL")]
    NotHttp,
    /// Longer than is sent.
    #[error("a callback address has at most {MOST_BYTES} bytes")]
    TooLong,
    /// User and password in it.
    #[error("a callback address carries no user name or password")]
    Credentials,
    /// No request can be made of it.
    #[error("a callback address names a host and a port that can exist")]
    Undeliverable,
    /// It names a private address.
    #[error("a callback address is not in a private, local or other special-purpose range")]
    Private,
}

/// Checks a callback address as far as that goes without DNS; names are checked again whenever they are resolved.
///
/// # Errors
/// When it is too long, is not http(s), carries credentials, cannot be delivered to by its form, or is a special-purpose
/// address while those are refused.
pub fn check_address(address: &str, allow_private: bool) -> Result<Url, AddressError> {
    if address.len() > MOST_BYTES {
        return Err(AddressError::TooLong);
    }
    let url = Url::parse(address).map_err(|_| AddressError::NotHttp)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(AddressError::NotHttp);
    }
    if url.as_str().len() > MOST_BYTES {
        return Err(AddressError::TooLong);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(AddressError::Credentials);
    }
    let private = match url.host() {
        None => return Err(AddressError::NotHttp),
        Some(Host::Ipv4(ip)) => is_special(IpAddr::V4(ip)),
        Some(Host::Ipv6(ip)) => is_special(IpAddr::V6(ip)),
        Some(Host::Domain(name)) if !is_name(name) => return Err(AddressError::Undeliverable),
        Some(Host::Domain(name)) => is_local_name(name),
    };
    if url.port() == Some(0) || url.as_str().parse::<http::Uri>().is_err() {
        return Err(AddressError::Undeliverable);
    }
    if private && !allow_private { Err(AddressError::Private) } else { Ok(url) }
}

/// Checks the address of a hook, which the operator names: private networks and this machine are theirs to name, other
/// special-purpose addresses (multicast, documentation, discard, reserved) are nobody's.
///
/// # Errors
/// As [`check_address`]; credentials are the operator's to send.
pub fn check_hook(address: &str) -> Result<(), AddressError> {
    let url = match check_address(address, true) {
        Err(AddressError::Credentials) => Url::parse(address).map_err(|_| AddressError::NotHttp)?,
        checked => checked?,
    };
    let inside = |net: &str, ip: IpAddr| net.parse().is_ok_and(|net: IpNet| net.contains(&ip));
    let ip = match url.host() {
        Some(Host::Ipv4(ip)) => IpAddr::V4(ip),
        Some(Host::Ipv6(ip)) => ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4),
        _ => return Ok(()),
    };
    let private = HOOKS.iter().any(|net| inside(net, ip));
    if is_special(ip) && !private { Err(AddressError::Private) } else { Ok(()) }
}

/// Special-purpose networks in which an operator has machines.
const HOOKS: [&str; 7] =
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "::1/128", "fc00::/7"];

/// Whether a name can be looked up: labels of letters, digits, hyphens and underscores.
fn is_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let label = |label: &str| {
        (1..=LABEL_CHARS).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    name.len() <= NAME_CHARS && name.split('.').all(label)
}

/// `localhost` is this machine, whatever DNS says (RFC 6761, section 6.3).
fn is_local_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name == "localhost" || name.ends_with(".localhost")
}

/// IPv4 that is not the public internet's: the IANA registry of special-purpose addresses, whole, those that are reachable
/// from everywhere included (<https://www.iana.org/assignments/iana-ipv4-special-registry>), and multicast.
static SPECIAL_V4: LazyLock<Vec<Ipv4Net>> = LazyLock::new(|| {
    networks(&[
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    ])
});

/// The one range of IPv6 that is allocated for the public internet
/// (<https://www.iana.org/assignments/ipv6-address-space>); what is outside is local, reserved, or embeds IPv4.
static GLOBAL_V6: LazyLock<Vec<Ipv6Net>> = LazyLock::new(|| networks(&["2000::/3"]));

/// What is special inside that range (<https://www.iana.org/assignments/iana-ipv6-special-registry>).
static SPECIAL_V6: LazyLock<Vec<Ipv6Net>> = LazyLock::new(|| {
    networks(&["2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20"])
});

fn networks<N: std::str::FromStr>(texts: &[&str]) -> Vec<N> {
    // A test holds that each of them is a network.
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// Whether an address has a special purpose and is not one of the public internet.
pub fn is_special(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_special_v4(ip),
        IpAddr::V6(ip) => ip.to_ipv4_mapped().map_or_else(|| is_special_v6(ip), is_special_v4),
    }
}

fn is_special_v4(ip: Ipv4Addr) -> bool {
    SPECIAL_V4.iter().any(|network| network.contains(&ip))
}

fn is_special_v6(ip: Ipv6Addr) -> bool {
    !GLOBAL_V6.iter().any(|network| network.contains(&ip))
        || SPECIAL_V6.iter().any(|network| network.contains(&ip))
}

/// Resolves names as the system does and leaves special-purpose addresses out, so that no name leads into the cluster. A
/// name that is unknown and one that leads inside fail alike: an owner learns nothing of names inside.
pub(crate) struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> = match tokio::net::lookup_host((name.as_str(), 0)).await {
                Ok(found) => found.filter(|address| !is_special(address.ip())).collect(),
                Err(_) => Vec::new(),
            };
            if found.is_empty() {
                return Err("the name has no public address".into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_purpose_addresses_are_refused_however_they_are_written() {
        for private in [
            "http://localhost/x",
            "http://a.localhost",
            "http://127.0.0.1",
            "http://127.1",
            "http://0x7f000001",
            "http://2130706433",
            "http://10.1.2.3",
            "http://172.16.0.1",
            "http://192.168.1.1",
            "http://169.254.169.254/latest",
            "http://100.64.0.1",
            "http://0.0.0.0",
            "http://192.0.0.8",
            "http://192.88.99.1",
            "http://198.18.0.1",
            "http://203.0.113.9",
            "http://224.0.0.1",
            "http://240.0.0.1",
            "http://255.255.255.255",
            "http://[::1]",
            "http://[::]",
            "http://[::127.0.0.1]",
            "http://[::ffff:10.0.0.1]",
            "http://[64:ff9b::a00:1]",
            "http://[fc00::1]",
            "http://[fd00:ec2::254]",
            "http://[fe80::1]",
            "http://[ff02::1]",
            "http://[2001:0::1]",
            "http://[2001:db8::1]",
            "http://[2002:a00:1::]",
            "http://[fec0::1]",
            "http://[feff::1]",
            "http://[100::1]",
            "http://[100:0:0:1::1]",
            "http://[64:ff9b:1::1]",
            "http://[2001:1ff::1]",
            "http://[2001:20::1]",
            "http://[2620:4f:8000::1]",
            "http://[3fff:fff::1]",
            "http://[5f00::1]",
            "http://[4000::1]",
            "http://[::ffff:0:7f00:1]",
            "http://192.31.196.1",
            "http://192.52.193.1",
            "http://192.175.48.1",
            "http://198.51.100.1",
            "http://localhost.",
        ] {
            assert!(matches!(check_address(private, false), Err(AddressError::Private)), "{private}");
            assert!(check_address(private, true).is_ok(), "{private}: a setting allows it");
        }
        for public in ["https://hooks.example/x", "http://93.184.216.34:8080", "https://[2606:2800:220::1]/"]
        {
            check_address(public, false).expect(public);
        }
        for neither in ["ftp://a.example", "hooks.example/x", "", "https://"] {
            assert!(matches!(check_address(neither, false), Err(AddressError::NotHttp)), "{neither}");
        }
        assert!(matches!(check_address("https://me:pw@a.example", false), Err(AddressError::Credentials)));
    }

    #[test]
    fn every_network_is_one() {
        assert_eq!((SPECIAL_V4.len(), GLOBAL_V6.len(), SPECIAL_V6.len()), (18, 1, 5));
    }

    #[test]
    fn an_address_is_short_and_deliverable_by_its_form() {
        let long = |bytes: usize| format!("https://a.example/{}", "x".repeat(bytes - 18));
        assert!(check_address(&long(2048), false).is_ok());
        assert_eq!(check_address(&long(2049), false), Err(AddressError::TooLong));
        let grows = format!("https://a.example/{}", "é".repeat(1000));
        assert_eq!(
            check_address(&grows, false),
            Err(AddressError::TooLong),
            "as it is sent it has 6,018 bytes"
        );
        let label = "a".repeat(64);
        let name = vec!["a".repeat(60); 5].join(".");
        for address in [
            "https://a.example:0/x",
            "https://a..example/x",
            "https://.example/x",
            "https://a.example../x",
            &format!("https://{label}.example/x"),
            &format!("https://{name}/x"),
            "https://a!b.example/x",
            "https://a~b/x",
        ] {
            assert_eq!(check_address(address, true), Err(AddressError::Undeliverable), "{address}");
        }
        for address in
            ["https://a.example./x", "https://a_b.example:8443/x?y=%20#z", "https://bücher.example/"]
        {
            assert!(check_address(address, false).is_ok(), "{address}");
        }
    }

    #[test]
    fn a_hook_may_be_inside_and_not_at_an_address_that_nobody_has() {
        for inside in [
            "http://127.0.0.1:9",
            "http://10.0.0.9/x",
            "http://[fd00::1]/",
            "http://[::1]/",
            "http://alerts/x",
        ] {
            assert_eq!(check_hook(inside), Ok(()), "{inside}");
        }
        for nobody in
            ["http://[fec0::1]", "http://[100::1]", "http://224.0.0.1", "http://192.0.2.1", "http://[::]/"]
        {
            assert_eq!(check_hook(nobody), Err(AddressError::Private), "{nobody}");
        }
        assert_eq!(check_hook("https://me:pw@hooks.example"), Ok(()));
        assert_eq!(check_hook("ftp://hooks.example"), Err(AddressError::NotHttp));
    }

    /// What an owner reads of a delivery that failed is the same for a name inside and for one that nobody knows.
    #[tokio::test]
    async fn a_name_inside_fails_as_an_unknown_one_does() {
        let mut said = Vec::new();
        for name in ["localhost", "no-such-name.invalid"] {
            let found = PublicOnly.resolve(name.parse().expect("a name")).await;
            said.push(found.map(|_| ()).expect_err(name).to_string());
        }
        assert_eq!(said[0], said[1]);
    }
}

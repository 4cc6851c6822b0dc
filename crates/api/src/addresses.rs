//! Whose address a request comes from.

use std::net::{IpAddr, Ipv6Addr};

use actix_web::HttpRequest;

use crate::connections::connection::Limits;

/// Who is connected; behind trusted proxies, the last address that is none of theirs. IPv6 by networks of 64 bits.
pub fn client_address(request: &HttpRequest, limits: &Limits) -> Option<IpAddr> {
    let peer = request.peer_addr()?.ip();
    let forwarded: Vec<&str> = request
        .headers()
        .get_all("x-forwarded-for")
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    Some(network(behind_proxies(peer, &forwarded, limits)))
}

fn behind_proxies(peer: IpAddr, forwarded: &[&str], limits: &Limits) -> IpAddr {
    let mut client = peer;
    for hop in forwarded.iter().rev() {
        if !limits.trusts(client) {
            break;
        }
        let Ok(address) = hop.parse() else { break };
        client = address;
    }
    client
}

/// What counts as one address: a household has a whole IPv6 network of 64 bits.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_proxy_is_believed_only_when_it_is_trusted() {
        let limits = Limits {
            most: 1,
            per_address: 1,
            head: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            stalled: Duration::from_secs(60),
            trusted: vec!["10.0.0.0/8".parse().unwrap()],
        };
        let client = |peer: &str, forwarded: &[&str]| {
            behind_proxies(peer.parse().unwrap(), forwarded, &limits).to_string()
        };
        assert_eq!(client("192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(client("10.0.0.1", &["203.0.113.9", "198.51.100.7"]), "198.51.100.7");
        assert_eq!(client("10.0.0.1", &["198.51.100.7", "10.0.0.2"]), "198.51.100.7");
        assert_eq!(client("10.0.0.1", &["nonsense"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(network("2001:db8:1:2:3::4".parse().unwrap()).to_string(), "2001:db8:1:2::");
        assert_eq!(network("::ffff:192.0.2.1".parse().unwrap()).to_string(), "192.0.2.1");
    }
}

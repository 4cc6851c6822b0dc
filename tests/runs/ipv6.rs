//! IPv6 alone: the service listens there, and calls an API there.

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::relay::Relay;
use penstock_tests::{Client, Place};

/// Everything is reached at `[::1]`: clients and the downstream.
#[tokio::test]
async fn a_batch_runs_over_ipv6() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let relay = Relay::before(sandbox.url().trim_start_matches("http://"), "[::1]:0").await;
    let mut place = Place::new(&[("invite.yaml", &crate::invite())]);
    let key = place.key(&sandbox, "acme");
    place.set("PENSTOCK_BIND", "[::]:0".to_owned());
    for name in ["ADDRESS_API_URL", "INVITE_API_URL"] {
        place.set(name, format!("http://{}", relay.address()));
    }
    let mut service = place.start(&sandbox, None);
    assert!(service.base.starts_with("http://[::]:"), "{}", service.base);
    service.base = service.base.replace("[::]", "[::1]");
    let client = Client::new(&service, &key);
    let (status, batch) = client.upload(crate::PEOPLE, crate::people(20)).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let ended = client.finished(batch["id"].as_str().expect("an id")).await;
    assert_eq!(ended["counts"]["completed"], 20, "{ended}");
    assert_eq!(sandbox.stats().effects, 20);
}

//! IPv6 alone: the service listens there, and calls an API there.

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::{Client, Place};
use tokio::net::{TcpListener, TcpStream};

/// Everything is reached at `[::1]`: clients and the downstream.
#[tokio::test]
async fn a_batch_runs_over_ipv6() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let behind = sandbox.url().trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("[::1]:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut caller, _)) = listener.accept().await {
            let behind = behind.clone();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(behind).await.expect("the sandbox");
                let _ = tokio::io::copy_bidirectional(&mut caller, &mut server).await;
            });
        }
    });
    let mut place = Place::new(&[("invite.yaml", &crate::invite())]);
    let key = place.key(&sandbox, "acme");
    place.set("PENSTOCK_BIND", "[::]:0".to_owned());
    for name in ["ADDRESS_API_URL", "INVITE_API_URL"] {
        place.set(name, format!("http://[::1]:{port}"));
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

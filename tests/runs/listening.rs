//! Server-sent events: when a stream ends, and what a listener that comes again is told.

use std::process::Command;
use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::{Client, Place};
use serde_json::{Value, json};

/// Nothing that is waited for here takes so long.
const SOON: Duration = Duration::from_secs(10);

/// A batch that does not end: it is paused.
async fn standing(client: &Client) -> String {
    let (status, batch) = client.upload(crate::PEOPLE, crate::people(50)).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id").to_owned();
    loop {
        let (status, said) = client.post(&format!("/v2/batches/{id}/pause"), &json!({})).await;
        if status == 200 {
            assert_eq!(said["paused"], true);
            return id;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn slow() -> String {
    crate::invite().replace("rows_per_owner: 500", "rows_per_owner: 1")
}

#[tokio::test]
async fn a_listener_holds_nobody_up() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("invite.yaml", &slow())]);
    let key = place.key(&sandbox, "acme");
    let mut service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let id = standing(&client).await;
    let events = format!("/v2/batches/{id}/events");
    let mut listening = client.request("GET", &events).send().await.expect("an answer");
    assert_eq!(listening.headers()["content-type"], "text/event-stream");
    let first = listening.chunk().await.expect("it goes on").expect("an event");
    let first = String::from_utf8_lossy(&first).into_owned();
    let last = first.lines().find_map(|line| line.strip_prefix("id: ")).expect("an id").to_owned();
    // A request without a body is answered without one, and at once.
    let head = client.request("HEAD", &events).timeout(SOON).send().await.expect("an answer");
    assert_eq!(head.status(), 200);
    assert!(head.bytes().await.expect("nothing").is_empty());
    // Nor does its connection wait for the batch to end.
    let next = client.request("GET", &format!("/v2/batches/{id}")).timeout(SOON).send().await;
    assert_eq!(next.expect("an answer").status(), 200);
    let asked = Instant::now();
    let pid = service.pid().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
    while listening.chunk().await.expect("it ends in order").is_some() {}
    while service.lives() {
        assert!(asked.elapsed() < SOON, "a listener holds the service");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // It comes again, and goes on behind what it has seen.
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let mut again =
        client.request("GET", &events).header("last-event-id", &last).send().await.expect("an answer");
    client.post(&format!("/v2/batches/{id}/cancel"), &json!({})).await;
    let mut told = String::new();
    while let Some(part) = again.chunk().await.expect("it goes on") {
        told.push_str(&String::from_utf8_lossy(&part));
    }
    assert!(!told.contains(&format!("id: {last}\n")), "{told}");
    assert!(told.contains("\"status\":\"cancelled\""), "{told}");
    // Who has seen the end is not called back for it.
    let end = told.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().expect("an id");
    let over = client.request("GET", &events).header("last-event-id", end).send().await.expect("an answer");
    assert_eq!(over.status(), 204);
    let behind =
        client.request("GET", &events).header("last-event-id", &last).send().await.expect("an answer");
    assert_eq!(behind.status(), 200);
    let behind = behind.text().await.expect("it ends");
    assert_eq!(behind.matches("event: batch").count(), 1, "{behind}");
}

#[tokio::test]
async fn a_revoked_keys_stream_ends() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("invite.yaml", &slow())]);
    let (made, good) = place.operate(&sandbox, &["keys", "create", "--owner", "acme"]);
    assert!(good, "{made}");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, made["key"].as_str().expect("a key"));
    let id = standing(&client).await;
    let events = format!("/v2/batches/{id}/events");
    let mut listening = client.request("GET", &events).send().await.expect("an answer");
    listening.chunk().await.expect("it goes on").expect("an event");
    let (said, good): (Value, bool) =
        place.operate(&sandbox, &["keys", "revoke", made["id"].as_str().expect("an id")]);
    assert!(good, "{said}");
    let revoked = Instant::now();
    while listening.chunk().await.expect("it ends in order").is_some() {
        assert!(revoked.elapsed() < SOON, "it still hears");
    }
    assert!(revoked.elapsed() < SOON, "it heard for {:?}", revoked.elapsed());
    let refused = client.request("GET", &events).send().await.expect("an answer");
    assert_eq!(refused.status(), 401);
}

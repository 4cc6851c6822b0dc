//! The keyring is rotated under a batch that runs.

use penstock_sandbox::{Config, Faults, Sandbox};
use penstock_tests::{Client, Place};
use serde_json::json;

use crate::{PEOPLE, invite, people};

const OLD: &str = "old:WX9EIDV99ywIg2xC6vzpTAJnAdGLt132YsRseUckGJk=";
const NEW: &str = "new:/uCJxTJpisAeedm7CqonBAj9fmoHPHj9Lr0ixtwWPvU=";
const ROWS: u32 = 2000;

/// No error, everything can be read, and the old key is dropped when `doctor` says so.
#[tokio::test]
async fn keys_are_rotated_in_the_middle_of_a_batch() {
    let sandbox = Sandbox::start(Config {
        faults: Faults { latency_ms: 10, ..Faults::default() },
        ..Config::default()
    })
    .expect("a sandbox");
    let mut place = Place::new(&[("invite.yaml", &invite())]);
    place.set("PENSTOCK_ENCRYPTION_KEYS", OLD.into());
    let key = place.key(&sandbox, "acme");
    let (secret, _) = place.operate(&sandbox, &["owners", "rotate-secret", "acme"]);
    let service = place.start(&sandbox, None);
    let (_, batch) = Client::new(&service, &key).upload(PEOPLE, people(ROWS)).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    while sandbox.stats().effects < u64::from(ROWS) / 10 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    // The new key seals, the old one still opens.
    service.terminate();
    place.set("PENSTOCK_ENCRYPTION_KEYS", format!("{NEW},{OLD}"));
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (_, later) = client.upload(PEOPLE, people(50).replace("person", "later")).await.expect("an answer");
    let keys = |said: &serde_json::Value| {
        let lines = said.as_array().expect("lines").clone();
        lines.iter().find(|line| line["what"] == "keys").expect("keys")["found"].to_string()
    };
    let (before, _) = place.operate(&sandbox, &["doctor"]);
    assert!(!keys(&before).contains("nothing needs"), "{before}");
    let (done, good) = place.operate(&sandbox, &["crypto", "rewrap"]);
    assert!(good, "{done}");
    let (running, _) = place.operate(&sandbox, &["batches", "show", &id]);
    assert!(running["finished_at"].is_null(), "it was to be in the middle: {running}");
    let (after, _) = place.operate(&sandbox, &["doctor"]);
    assert!(keys(&after).contains("nothing needs old any more"), "{after}");
    // The old key is dropped, in the middle still.
    service.terminate();
    place.set("PENSTOCK_ENCRYPTION_KEYS", NEW.into());
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    for (id, rows) in [(id.as_str(), ROWS), (later["id"].as_str().expect("an id"), 50)] {
        let ended = client.finished(id).await;
        assert_eq!(
            (&ended["counts"]["completed"], &ended["outcome"]),
            (&json!(rows), &json!("success")),
            "{ended}"
        );
        let results = client.text(&format!("/v2/batches/{id}/results.csv")).await;
        assert_eq!(results.lines().count(), rows as usize + 1);
    }
    assert_eq!((sandbox.stats().effects, sandbox.stats().doubled), (u64::from(ROWS) + 50, 0));
    let again = client.request("GET", "/v2/batches").send().await.expect("an answer");
    assert!(again.status().is_success());
    let log = std::fs::read_to_string(place.log()).expect("a log");
    assert!(!log.contains("\"ERROR\"") && !log.contains("cannot be opened"), "{log}");
    assert!(secret["secret"].as_str().is_some_and(|secret| secret.starts_with("whsec_")), "{secret}");
}

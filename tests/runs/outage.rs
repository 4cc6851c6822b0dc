//! A dependency that is away for a long time costs rows their time and nothing else.

use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Faults, Sandbox};
use penstock_tests::{Client, Place};
use serde_json::json;

const ROWS: u32 = 25;

/// Few rows, so that the same ones are the breaker's probes again and again: far more often than a row has attempts.
async fn through(faults: Faults, code: &str) {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let pipeline = crate::invite()
        .replace(
            "concurrency: 12, timeout: 10s",
            "concurrency: 50, timeout: 400ms, breaker: { min_calls: 20, window: 30s, open_for: 500ms, probes: 3 }",
        )
        // A search: nobody minds if it is asked for again.
        .replace("path: /address-links,", "path: /address-links, idempotent: true,")
        .replace("initial: 50ms, factor: 1, max: 50ms", "initial: 400ms, factor: 2, max: 800ms");
    assert!(pipeline.contains("timeout: 400ms") && pipeline.contains("idempotent: true"), "{pipeline}");
    let place = Place::new(&[("invite.yaml", &pipeline)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    // A good past, which is no reason to go on.
    let (_, before) = client.upload(crate::PEOPLE, crate::people(60)).await.expect("an answer");
    client.finished(before["id"].as_str().expect("an id")).await;
    sandbox.set_faults(faults);
    let some = crate::people(ROWS).replace("person", "later");
    let (_, batch) = client.upload(crate::PEOPLE, some).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    let began = Instant::now();
    let mut waits = serde_json::Value::Null;
    while began.elapsed() < Duration::from_secs(15) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let batch = client.get(&format!("/v2/batches/{id}")).await;
        assert_eq!(batch["counts"]["failed"], 0, "{batch}");
        let now = client.get(&format!("/v2/batches/{id}/waiting")).await;
        if now.to_string().contains("breaker_open") {
            waits = now;
        }
    }
    assert!(!waits.is_null(), "it is told why the batch waits");
    let rows = client.get(&format!("/v2/batches/{id}/rows?limit=100")).await;
    let told = rows["data"].as_array().expect("rows").iter();
    let tried: Vec<_> = told.map(|row| row["attempts"].as_u64().expect("a number")).collect();
    assert!(tried.iter().all(|attempts| *attempts < 5), "{tried:?}");
    sandbox.set_faults(Faults::default());
    let done = client.finished(&id).await;
    assert_eq!((&done["outcome"], &done["counts"]["completed"]), (&json!("success"), &json!(ROWS)), "{done}");
    let stats = sandbox.stats();
    assert_eq!((stats.effects, stats.doubled), (60 + u64::from(ROWS), 0), "{code} {stats:?}");
}

/// It hangs.
#[tokio::test]
async fn a_dependency_that_hangs_fails_no_row() {
    through(Faults { hang: 1.0, hang_ms: 5000, ..Faults::default() }, "timeout").await;
}

/// It answers 500 at once, for which attempts would last a second.
#[tokio::test]
async fn a_dependency_that_is_broken_fails_no_row() {
    through(Faults { error: 1.0, ..Faults::default() }, "http_500").await;
}

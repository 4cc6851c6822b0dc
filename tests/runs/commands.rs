//! Commands to a batch: pause, resume, cancel, retry.

use std::time::Duration;

use penstock_sandbox::{Config, Faults, Sandbox};
use penstock_tests::database::Database;
use penstock_tests::{Client, Place};
use serde_json::{Value, json};

use crate::{PEOPLE, invite, people};

#[tokio::test]
async fn pause_resume_cancel_and_the_retry_of_what_was_cancelled() {
    let sandbox = Sandbox::start(Config {
        faults: Faults { latency_ms: 20, ..Faults::default() },
        ..Config::default()
    })
    .expect("a sandbox");
    let place =
        Place::new(&[("invite.yaml", &invite().replace("rows_per_owner: 500", "rows_per_owner: 50"))]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let rows = 400_u64;
    let (_, batch) = client.upload(PEOPLE, people(400)).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id");
    while sandbox.stats().effects < 10 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (status, batch) = client.post(&format!("/v2/batches/{id}/pause"), &json!({})).await;
    assert_eq!((status, &batch["paused"]), (200, &true.into()));
    // Rows in flight end; then nothing moves.
    let still = loop {
        let batch = client.get(&format!("/v2/batches/{id}")).await;
        if batch["counts"]["processing"] == 0 && batch["counts"]["queued"] == 0 {
            break batch;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let effects = sandbox.stats().effects;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(sandbox.stats().effects, effects, "{still}");
    client.post(&format!("/v2/batches/{id}/resume"), &json!({})).await;
    while sandbox.stats().effects == effects {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (status, _) = client.post(&format!("/v2/batches/{id}/cancel"), &json!({})).await;
    assert_eq!(status, 200);
    let batch = client.finished(id).await;
    assert_eq!(batch["status"], "cancelled", "{batch}");
    let completed = batch["counts"]["completed"].as_u64().expect("a count");
    assert_eq!(batch["counts"]["cancelled"].as_u64(), Some(rows - completed), "{batch}");
    assert_eq!(sandbox.stats().effects, completed);
    let unprocessed = client.text(&format!("/v2/batches/{id}/unprocessed.csv")).await;
    assert_eq!(
        unprocessed.split("\r\n").filter(|line| !line.is_empty()).count() as u64,
        1 + rows - completed
    );
    let (status, again) = client.post(&format!("/v2/batches/{id}/cancel"), &json!({})).await;
    assert_eq!((status, &again["counts"]), (200, &batch["counts"]), "cancelling twice changes nothing");
    let (status, _) =
        client.post(&format!("/v2/batches/{id}/retry"), &json!({ "include": ["failed", "cancelled"] })).await;
    assert_eq!(status, 200);
    let batch = client.finished(id).await;
    assert_eq!(
        (&batch["status"], &batch["outcome"], &batch["run"]),
        (&"completed".into(), &"success".into(), &2.into())
    );
    assert_eq!((sandbox.stats().effects, sandbox.stats().doubled), (rows, 0));
}

/// A batch of a million rows (fewer where nothing is optimised) with 5 % done: cancelling is one statement, and no row
/// starts behind those in flight.
#[tokio::test]
async fn a_large_batch_is_cancelled_at_once() {
    let rows: u32 = if cfg!(debug_assertions) { 200_000 } else { 1_000_000 };
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let pipeline = crate::NOOP.replace("max_rows: 1000", "max_rows: 1000000");
    let mut place = Place::new(&[("noop.yaml", &pipeline)]);
    place.set("ROWS_PER_OWNER", (rows / 100).to_string());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let file: String =
        std::iter::once("id\n".to_owned()).chain((0..rows).map(|number| format!("{number}\n"))).collect();
    let (status, batch) = client.upload("/v2/pipelines/noop/batches", file).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id").to_owned();
    let done = |batch: &Value| batch["counts"]["completed"].as_u64().expect("a count");
    let path = format!("/v2/batches/{id}");
    while done(&client.get(&path).await) < u64::from(rows) / 20 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let began = std::time::Instant::now();
    let (status, cancelled) = client.post(&format!("{path}/cancel"), &json!({})).await;
    let took = began.elapsed();
    assert_eq!(status, 200, "{cancelled}");
    println!("a batch of {rows} rows was cancelled in {took:?}");
    let allowed = if cfg!(debug_assertions) { 3000 } else { 200 };
    assert!(took < Duration::from_millis(allowed), "{took:?}");
    let ended = client.finished(&id).await;
    assert_eq!(ended["status"], "cancelled");
    let in_flight = cancelled["counts"]["processing"].as_u64().expect("a count");
    assert!(done(&ended) <= done(&cancelled) + in_flight, "{cancelled} {ended}");
    assert_eq!(ended["counts"]["cancelled"].as_u64(), Some(u64::from(rows) - done(&ended)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(client.get(&path).await["counts"], ended["counts"], "and nothing moves any more");
    // Whatever the machine's pace: it wrote to no row that had not begun.
    let begun = Database::of(&place).await.number("SELECT count(*) FROM row_state").await;
    assert!(begun < i64::from(rows) / 4, "{begun}");
}

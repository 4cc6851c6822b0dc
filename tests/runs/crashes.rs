//! Killed at named places, and at any: every row ends, once.

use std::time::Duration;

use penstock_sandbox::{Config, Faults, Sandbox};
use penstock_tests::{Client, Place};

use crate::{PEOPLE, invite, people};

const ROWS: u32 = 300;

async fn survives(crash_at: &str, accepted_before: bool) {
    let sandbox =
        Sandbox::start(Config { faults: Faults { latency_ms: 2, ..Faults::default() }, ..Config::default() })
            .expect("a sandbox");
    let place = Place::new(&[("invite.yaml", &invite())]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, Some(crash_at));
    let answer = Client::new(&service, &key).upload(PEOPLE, people(ROWS)).await;
    service.await_death();
    // The answer itself may have been cut off by the death.
    let accepted = place.accepted(&sandbox);
    assert_eq!(accepted.is_some(), accepted_before, "{crash_at}: {answer:?}");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let id = match accepted {
        Some(id) => {
            assert!(answer.is_none_or(|(status, batch)| status == 202 && batch["id"] == *id));
            id
        }
        None => {
            assert!(answer.is_none(), "{answer:?}");
            // The file was stored and nobody knew of it: the client asks again, as it was never answered.
            assert_eq!(client.get("/v2/batches").await["data"], serde_json::json!([]));
            let (status, batch) = client.upload(PEOPLE, people(ROWS)).await.expect("an answer");
            assert_eq!(status, 202, "{batch}");
            batch["id"].as_str().expect("an id").to_owned()
        }
    };
    let batch = client.finished(&id).await;
    assert_eq!(batch["counts"]["completed"], ROWS, "{crash_at}: {batch}");
    let stats = sandbox.stats();
    assert_eq!((stats.effects, stats.doubled, stats.unkeyed), (u64::from(ROWS), 0, 0), "{crash_at}");
    let (mismatches, _) = place.operate(&sandbox, &["reconcile"]);
    let stuck: u64 = mismatches["findings"]
        .as_array()
        .expect("findings")
        .iter()
        .filter(|finding| finding["what"] != "objects without a batch")
        .map(|finding| finding["count"].as_u64().expect("a count"))
        .sum();
    assert_eq!(stuck, 0, "{crash_at}: {mismatches}");
}

#[tokio::test]
async fn after_the_file_is_stored() {
    survives("file-stored", false).await;
}

#[tokio::test]
async fn inside_extraction() {
    survives("inside-extraction", true).await;
}

/// Records of a fixed length: the file ends where a sealed block ends, and the worker dies before it has said so.
#[tokio::test]
async fn at_the_end_of_a_file_of_whole_blocks() {
    let text = "name: blocks\ncsv: { columns: [ { name: comment, required: true } ] }\nsteps: []\ndispatch: { spread: 0s }\n";
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    for blocks in [1, 2] {
        let place = Place::new(&[("blocks.yaml", text)]);
        let key = place.key(&sandbox, "acme");
        // A header of 8 bytes, and records of 64; the first one is shorter.
        let rows = blocks * 65_536 / 64;
        let mut csv = format!("comment\n{:0>55}\n", 1);
        csv.extend((2..=rows).map(|row| format!("{row:0>63}\n")));
        assert_eq!(csv.len(), blocks * 65_536);
        let service = place.start(&sandbox, Some("inside-extraction"));
        let _answered_before_death =
            Client::new(&service, &key).upload("/v2/pipelines/blocks/batches", csv).await;
        service.await_death();
        let id = place.accepted(&sandbox).expect("a batch");
        let service = place.start(&sandbox, None);
        let batch = Client::new(&service, &key).finished(&id).await;
        assert_eq!(
            (&batch["outcome"], &batch["counts"]["completed"]),
            (&"success".into(), &rows.into()),
            "{batch}"
        );
    }
}

/// A task that reads a file and panics does not end the file early: the batch fails and names the reason, and an operator
/// can have it read again.
#[tokio::test]
async fn a_reader_that_panics_ends_no_file_early() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("invite.yaml", &invite())]);
    let key = place.key(&sandbox, "acme");
    place.set("PENSTOCK_PANIC_AT", "reading".into());
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (_, batch) = client.upload(PEOPLE, people(5)).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    let batch = client.finished(&id).await;
    assert_eq!((&batch["status"], &batch["failure"]["code"]), (&"failed".into(), &"internal_error".into()));
    assert_eq!(sandbox.stats().effects, 0);
    service.terminate();
    place.set("PENSTOCK_PANIC_AT", String::new());
    let (again, good) = place.operate(&sandbox, &["extract", &id, "--manual-run"]);
    assert!(good, "{again}");
    let service = place.start(&sandbox, None);
    let batch = Client::new(&service, &key).finished(&id).await;
    assert_eq!(batch["counts"]["completed"], 5, "{batch}");
}

#[tokio::test]
async fn after_queued_before_rung() {
    survives("before-enqueue", true).await;
}

#[tokio::test]
async fn between_two_steps() {
    survives("between-steps:40", true).await;
}

#[tokio::test]
async fn after_the_last_call_before_settlement() {
    survives("before-settlement:2", true).await;
}

#[tokio::test]
async fn inside_settlement() {
    survives("inside-settlement:2", true).await;
}

#[tokio::test]
async fn after_settlement() {
    survives("after-settlement:2", true).await;
}

#[tokio::test]
async fn killed_again_and_again_with_a_downstream_that_fails() {
    let faults = Faults { latency_ms: 3, jitter_ms: 5, error: 0.05, throttle: 0.002, ..Faults::default() };
    let sandbox = Sandbox::start(Config { faults, ..Config::default() }).expect("a sandbox");
    let definition = invite().replace("attempts: 5", "attempts: 50");
    let place = Place::new(&[("invite.yaml", &definition)]);
    let key = place.key(&sandbox, "acme");
    let mut service = place.start(&sandbox, None);
    let rows = 1500;
    let (status, batch) = Client::new(&service, &key).upload(PEOPLE, people(rows)).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id").to_owned();
    for _ in 0..4 {
        // A moment of work between two deaths; which one does not matter, as long as they differ.
        tokio::time::sleep(Duration::from_millis(700)).await;
        service.kill();
        service = place.start(&sandbox, None);
    }
    let batch = Client::new(&service, &key).finished(&id).await;
    assert_eq!(batch["counts"]["completed"], rows, "{batch}");
    let stats = sandbox.stats();
    assert_eq!((stats.effects, stats.doubled), (u64::from(rows), 0));
}

#[tokio::test]
async fn sigterm_gives_back_what_has_not_started_and_ends_in_order() {
    let sandbox = Sandbox::start(Config {
        faults: Faults { latency_ms: 20, ..Faults::default() },
        ..Config::default()
    })
    .expect("a sandbox");
    let place = Place::new(&[("invite.yaml", &invite())]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (_, batch) = client.upload(PEOPLE, people(ROWS)).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    while sandbox.stats().effects == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    service.terminate();
    let (batch, _) = place.operate(&sandbox, &["batches", "show", &id]);
    assert_eq!(batch["counts"]["processing"], 0, "{batch}");
    // All that this worker had; rows of a message that was on its way to it are still queued, and the next one receives it.
    let counted = |name: &str| batch["counts"][name].as_u64().expect("a count");
    assert!(counted("pending") > counted("queued"), "{batch}");
    let service = place.start(&sandbox, None);
    let batch = Client::new(&service, &key).finished(&id).await;
    assert_eq!(batch["counts"]["completed"], ROWS, "{batch}");
    assert_eq!((sandbox.stats().effects, sandbox.stats().doubled), (u64::from(ROWS), 0));
}

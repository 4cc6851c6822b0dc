//! What a dispatcher's run may release: never more than its owner's rows, whoever runs at the same time.

use std::time::Instant;

use penstock_sandbox::{Config, Faults, Sandbox};
use penstock_tests::database::Database;
use penstock_tests::{Client, PATIENCE, Place};
use serde_json::Value;

use crate::{PEOPLE, invite, people};

/// The pipeline calls slowly enough for quotas to be full.
fn sandbox() -> Sandbox {
    let faults = Faults { latency_ms: 60, ..Faults::default() };
    Sandbox::start(Config { faults, ..Config::default() }).expect("a sandbox")
}

/// Rows of an owner in flight, as one list shows them.
async fn in_flight(client: &Client) -> u64 {
    let list = client.get("/v2/batches?status=queued").await;
    let of = |batch: &Value, state: &str| batch["counts"][state].as_u64().expect("a count");
    list["data"]
        .as_array()
        .expect("batches")
        .iter()
        .map(|batch| of(batch, "queued") + of(batch, "processing"))
        .sum()
}

/// Three owners, five batches, runs three times a second, on a cluster more of them at the same time: no owner ever has more
/// than its rows in flight, its batches take turns, and a batch that waits says for what.
#[tokio::test]
async fn no_owner_ever_has_more_than_its_rows() {
    const ROWS: u32 = 60;
    let sandbox = sandbox();
    let mut place = Place::new(&[("invite.yaml", &invite())]);
    place.set("ROWS_PER_OWNER", "12".into());
    let quotas = [("acme", 12, 2), ("rival", 12, 1), ("big", 20, 2)];
    let keys: Vec<String> = quotas.iter().map(|(owner, ..)| place.key(&sandbox, owner)).collect();
    let (said, good) = place.operate(&sandbox, &["owners", "set", "big", "--rows", "20"]);
    assert!(good, "{said}");
    let service = place.start(&sandbox, None);
    let mut batches = Vec::new();
    for ((owner, quota, count), key) in quotas.iter().zip(&keys) {
        for number in 0..*count {
            let client = Client::new(&service, key);
            let csv = people(ROWS).replace("person", &format!("{owner}{number}x"));
            let (status, batch) = client.upload(PEOPLE, csv).await.expect("an answer");
            assert_eq!(status, 202, "{batch}");
            batches.push((client, *quota, batch["id"].as_str().expect("an id").to_owned()));
        }
    }
    let began = Instant::now();
    let (mut full, mut explained, mut turns, mut more_runs) = (0, 0, 0, 0);
    loop {
        if place.is_cluster() && more_runs < 8 {
            more_runs += 1;
            let reports: Vec<Value> = std::thread::scope(|scope| {
                let runs: Vec<_> = (0..2).map(|_| scope.spawn(|| place.dispatch_once(&sandbox))).collect();
                runs.into_iter().map(|run| run.join().expect("it ends well")).collect()
            });
            for owner in reports.iter().flat_map(|report| report["owners"].as_array().expect("owners")) {
                let quota = if owner["owner"] == "big" { 20 } else { 12 };
                assert!(owner["rows"].as_u64().is_some_and(|rows| rows <= quota), "{reports:?}");
            }
        }
        let mut left = false;
        for (client, quota, id) in &batches {
            let rows = in_flight(client).await;
            assert!(rows <= *quota, "{rows} rows of {quota} are in flight");
            full += usize::from(rows == *quota);
            let waiting = client.get(&format!("/v2/batches/{id}/waiting")).await;
            let quota_wait = waiting["data"]
                .as_array()
                .expect("waits")
                .iter()
                .find(|wait| wait["reason"] == "owner_quota");
            if let Some(wait) = quota_wait {
                let sentence = wait["sentence"].as_str().expect("a sentence");
                assert!(
                    sentence.contains(&format!("quota of {quota} rows")) && !wait["until"].is_null(),
                    "{wait}"
                );
                explained += 1;
            }
            left |= client.get(&format!("/v2/batches/{id}")).await["finished_at"].is_null();
        }
        // Of the first owner's batches none ends before the other one has begun.
        let of = async |index: usize| {
            let (client, _, id) = &batches[index];
            client.get(&format!("/v2/batches/{id}")).await["counts"]["completed"].as_u64().expect("a count")
        };
        let (first, second) = (of(0).await, of(1).await);
        turns += usize::from(first > 0 && second > 0 && first < u64::from(ROWS));
        if !left {
            break;
        }
        assert!(began.elapsed() < PATIENCE);
    }
    assert!(full > 0 && explained > 0 && turns > 0, "{full} {explained} {turns}");
    for (client, _, id) in &batches {
        assert_eq!(client.finished(id).await["outcome"], "success");
    }
    assert_eq!((sandbox.stats().effects, sandbox.stats().doubled), (u64::from(ROWS) * 5, 0));
    let runs = Database::of(&place).await.texts("SELECT body FROM runs").await;
    let released =
        |run: &String| serde_json::from_str::<Value>(run).expect("JSON")["rows"].as_u64().expect("rows");
    assert!(runs.len() > 3 && runs.iter().map(released).all(|rows| rows <= 12 + 12 + 20), "{runs:?}");
    assert!(runs.iter().map(released).sum::<u64>() >= u64::from(ROWS) * 5);
}

/// A cap for a whole run holds, and is shared by weight.
#[tokio::test]
async fn a_run_releases_no_more_than_its_cap() {
    let sandbox = sandbox();
    let mut place = Place::new(&[("invite.yaml", &invite())]);
    place.set("ROWS_PER_RUN", "8".into());
    let keys = ["acme", "rival"].map(|owner| place.key(&sandbox, owner));
    let (said, good) = place.operate(&sandbox, &["owners", "set", "rival", "--weight", "3"]);
    assert!(good, "{said}");
    let service = place.start(&sandbox, None);
    let mut batches = Vec::new();
    for (key, word) in keys.iter().zip(["a", "b"]) {
        let client = Client::new(&service, key);
        let (_, batch) = client.upload(PEOPLE, people(120).replace("person", word)).await.expect("an answer");
        batches.push((client, batch["id"].as_str().expect("an id").to_owned()));
    }
    let mut ends = Vec::new();
    for (client, id) in &batches {
        let ended = client.finished(id).await;
        assert_eq!(ended["outcome"], "success");
        ends.push(ended["finished_at"].as_str().expect("a moment").to_owned());
    }
    assert!(ends[1] < ends[0], "three times the weight, and uploaded later: {ends:?}");
    let runs = Database::of(&place).await.texts("SELECT body FROM runs").await;
    let rows: Vec<u64> = runs
        .iter()
        .map(|run| serde_json::from_str::<Value>(run).expect("JSON")["rows"].as_u64().expect("rows"))
        .collect();
    assert!(rows.iter().all(|rows| *rows <= 8) && rows.contains(&8), "{rows:?}");
    assert!(rows.iter().sum::<u64>() >= 240, "{rows:?}");
}

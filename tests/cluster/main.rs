//! What only a cluster has: several of each service, servers that come and go, a bucket to which clients PUT.

#![allow(clippy::unwrap_used, reason = "tests")]

mod bucket;
mod clouds;
mod outages;
mod pooler;
mod postgres;
mod redis;
mod servers;
mod together;

use std::time::{Duration, Instant, SystemTime};

use penstock_domain::time::Timestamp;
use penstock_sandbox::{Config, Faults, Sandbox};
use penstock_tests::database::Database;
use penstock_tests::invite::{people, quick_invite as invite};
use penstock_tests::receiver::{Heard, Receiver};
use penstock_tests::{Client, PATIENCE, Place, Service};
use serde_json::Value;

const ROUTE: &str = "/v2/client/users/batch/invite?context=%7B%22campaign%22%3A%22cluster%22%7D";

async fn ready(service: &Service) -> (u16, String) {
    let http = penstock_tests::http().build().expect("a client");
    let answer = http.get(format!("{}/readyz", service.base)).send().await.expect("it answers");
    (answer.status().as_u16(), answer.text().await.expect("a body"))
}

async fn until_ready(service: &Service, wanted: u16) -> String {
    let began = Instant::now();
    loop {
        let (status, body) = ready(service).await;
        if status == wanted {
            return body;
        }
        assert!(began.elapsed() < PATIENCE, "{status} {body}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Owners with a rate of their own, of whose rows a single run releases more than a rate lets through in a second: they wait in
/// the worker, and do not come back unserved again and again. Nobody waits for another.
#[tokio::test]
async fn rows_of_an_owner_whose_rate_is_used_up_wait_in_the_worker() {
    const PIPELINE: &str = "name: own\ncsv: { columns: [ { name: id, required: true } ] }\n\
        dependencies: { address: { base_url: \"${ADDRESS_API_URL}\", timeout: 5s, rate: { limit: 20, period: 1s, burst: 5, per_owner: true } } }\n\
        steps: [ { name: a, dependency: address, request: { method: GET, path: \"/addresses/lnk_{{ row.id }}\" } } ]\n\
        dispatch: { spread: 0s, rows_per_owner: 1000 }\n";
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("own.yaml", PIPELINE)]);
    let keys = ["much", "little"].map(|owner| place.key(&sandbox, owner));
    let (api, worker) = (place.api(&sandbox), place.worker(&sandbox));
    let mut batches = Vec::new();
    for (key, rows) in keys.iter().zip([160, 20]) {
        let client = Client::new(&api, key);
        let ids: String = (0..rows).map(|number| format!("{number}\n")).collect();
        let (_, batch) =
            client.upload("/v2/pipelines/own/batches", format!("id\n{ids}")).await.expect("an answer");
        batches.push((client, batch["id"].as_str().expect("an id").to_owned()));
    }
    let _dispatcher = place.dispatcher(&sandbox, "1s");
    let [(much, all), (little, few)] = &batches[..] else { panic!("two") };
    little.finished(few).await;
    let left = much.get(&format!("/v2/batches/{all}")).await;
    assert!(left["counts"]["completed"].as_i64() < Some(120), "both at once: {left}");
    much.finished(all).await;
    let http = penstock_tests::http().build().expect("a client");
    let told = http.get(format!("{}/metrics", worker.base)).send().await.expect("an answer");
    let told = told.text().await.expect("a text");
    let away = told
        .lines()
        .filter(|line| line.starts_with("penstock_limiter_decisions_total") && line.contains("owner_rate"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u32>().ok());
    assert!(away.sum::<u32>() < 60, "{told}");
    assert!(told.contains("penstock_limiter_decisions_total"), "{told}");
}

/// Machines whose clocks are a minute apart judge each other's leases by the clock of the database that they share: no row
/// that is being carried is taken for an abandoned one.
#[tokio::test]
async fn clocks_that_disagree_take_no_row_away() {
    const ROWS: u32 = 120;
    let sandbox = Sandbox::start(Config {
        faults: Faults { latency_ms: 400, ..Faults::default() },
        ..Config::default()
    })
    .expect("a sandbox");
    let mut place = Place::new(&[("invite.yaml", &invite())]);
    let key = place.key(&sandbox, "acme");
    place.set("LD_PRELOAD", std::env::var("PENSTOCK_TEST_FAKETIME").expect("`cargo xtask test` sets it"));
    place.set("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned());
    place.set("FAKETIME", "+25s".to_owned());
    let (api, _ahead) = (place.api(&sandbox), place.worker(&sandbox));
    place.set("FAKETIME", "-25s".to_owned());
    let _behind = place.worker(&sandbox);
    place.set("FAKETIME", "+90s".to_owned());
    let _dispatcher = place.dispatcher(&sandbox, "200ms");
    let client = Client::new(&api, &key);
    let (_, batch) = client.upload(ROUTE, people(ROWS, "clock")).await.expect("an answer");
    let batch = client.finished(batch["id"].as_str().expect("an id")).await;
    assert_eq!(batch["counts"]["completed"], ROWS, "{batch}");
    let stats = sandbox.stats();
    assert_eq!(
        (stats.invites, stats.effects, stats.doubled),
        (u64::from(ROWS), u64::from(ROWS), 0),
        "{stats:?}"
    );
    let finished: Timestamp = serde_json::from_value(batch["finished_at"].clone()).expect("a time");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time").as_secs();
    let apart = finished.seconds().abs_diff(i64::try_from(now).expect("seconds"));
    assert!(apart < 20, "the times of a batch are the database's: {batch}");
    let said = std::fs::read_to_string(place.log()).expect("a log");
    assert_eq!(
        said.matches("this machine's clock is apart from the database's").count(),
        4,
        "each says so once"
    );
}

/// Two dispatchers at once, runs back to back, a run after a long pause: an owner never has more than its rows in flight.
#[tokio::test]
async fn runs_at_once_and_back_to_back_keep_the_quota() {
    let sandbox = Sandbox::start(Config {
        faults: Faults { latency_ms: 300, ..Faults::default() },
        ..Config::default()
    })
    .expect("a sandbox");
    let mut place = Place::new(&[("invite.yaml", &invite())]);
    place.set("ROWS_PER_OWNER", "40".into());
    let (api, _worker) = (place.api(&sandbox), place.worker(&sandbox));
    let client = Client::new(&api, &place.key(&sandbox, "acme"));
    let (_, batch) = client.upload(ROUTE, people(400, "p")).await.expect("an answer");
    let path = format!("/v2/batches/{}", batch["id"].as_str().expect("an id"));
    while client.get(&path).await["status"] != "queued" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut released = 0;
    for _ in 0..6 {
        let runs: Vec<Value> = std::thread::scope(|scope| {
            let started: Vec<_> = (0..3).map(|_| scope.spawn(|| place.dispatch_once(&sandbox))).collect();
            started.into_iter().map(|run| run.join().expect("it ends well")).collect()
        });
        released += runs.iter().filter_map(|run| run["record"]["rows"].as_u64()).sum::<u64>();
        let counts = client.get(&path).await["counts"].clone();
        let flight = counts["queued"].as_u64().unwrap() + counts["processing"].as_u64().unwrap();
        assert!(flight <= 40, "{counts}");
    }
    assert!(released >= 40, "{released}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    // Missed runs are not made up for at once.
    let late = place.dispatch_once(&sandbox);
    assert!(late["record"]["rows"].as_u64().is_some_and(|rows| rows <= 40), "{late}");
}

/// What only a dispatcher fixes is told of while none comes, and is over with its next run: runs that are late, rows whose
/// worker died, rows whose message was lost.
#[tokio::test]
async fn alerts_of_what_no_dispatcher_mends() {
    let receiver = Receiver::start().await;
    let sandbox = Sandbox::start(Config {
        faults: Faults { latency_ms: 60_000, ..Faults::default() },
        ..Config::default()
    })
    .expect("a sandbox");
    let mut place = Place::new(&[("invite.yaml", &invite())]);
    place.set("ROWS_PER_OWNER", "10".into());
    let rules = format!(
        "every: 300ms\nreceivers: [ {{ name: pager, kind: webhook, url: \"{}\" }} ]\nrules:\n\
         \x20 - {{ rule: dispatcher_late, after: 30s, to: [pager] }}\n\x20 - {{ rule: stuck_rows, to: [pager] }}\n",
        receiver.url
    );
    let file = place.write("alerts.yaml", &rules);
    place.set("PENSTOCK_ALERTS", file);
    let (api, worker) = (place.api(&sandbox), place.worker(&sandbox));
    let client = Client::new(&api, &place.key(&sandbox, "acme"));
    let told = |kind: &'static str, subject: &'static str| {
        move |heard: &Heard| heard.json()["type"] == kind && heard.json()["data"]["subject"] == subject
    };
    let (_, batch) = client.upload(ROUTE, people(40, "p")).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    let path = format!("/v2/batches/{id}");
    // No run ever came, and rows wait for one.
    receiver.until(told("alert.firing", "dispatcher")).await;
    place.dispatch_once(&sandbox);
    receiver.until(told("alert.resolved", "dispatcher")).await;
    let began = Instant::now();
    loop {
        let counts = client.get(&path).await["counts"].clone();
        if counts["processing"].as_u64().is_some_and(|rows| rows > 4) {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{counts}");
        // What a busy machine gave back waits for another run.
        if counts["queued"] == 0 && counts["processing"] == 0 {
            place.dispatch_once(&sandbox);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The messages of two rows are lost, and minutes go by: only a dispatcher finds that out. What a dead worker had is found by
    // the living one.
    worker.kill();
    let mut database = Database::of(&place).await;
    let lost = "UPDATE row_state SET status = 1, queued_until = 1, lease_token = NULL, lease_holder = NULL \
                WHERE ctid IN (SELECT ctid FROM row_state WHERE status = 2 LIMIT 2)";
    assert_eq!(database.run(lost).await, 2);
    assert_eq!(database.run("UPDATE batches SET queued = queued + 2, processing = processing - 2").await, 1);
    sandbox.set_faults(Faults::default());
    let _worker = place.worker(&sandbox);
    let firing = receiver.until(told("alert.firing", "lost")).await.json();
    assert!(firing["data"]["text"].as_str().expect("a sentence").starts_with("2 rows"), "{firing}");
    let report = place.dispatch_once(&sandbox);
    assert_eq!(report["record"]["swept"]["lost_rows"], 2, "{report}");
    receiver.until(told("alert.resolved", "lost")).await;
    let firing = receiver.heard().iter().filter(|heard| heard.json()["type"] == "alert.firing").count();
    assert_eq!(firing, 2, "{:?}", receiver.heard());
}

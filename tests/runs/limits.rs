//! Several limits at once, by what an API records: no window of any of them is passed, and nobody waits for another one's value.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::receiver::{Heard, Receiver};
use penstock_tests::{Client, Place};

const ROUTE: &str = "/v2/pipelines/sending/batches";

/// A pipeline that calls once for each row, with these keys of its dependency.
fn sending(limits: &str) -> String {
    format!(
        "name: sending\ncsv: {{ columns: [ {{ name: id, required: true }}, {{ name: sender }} ] }}\n\
        dependencies:\n  api:\n    base_url: \"${{INVITE_API_URL}}\"\n    timeout: 5s\n{limits}steps:\n\
        \x20 - {{ name: send, dependency: api, request: {{ method: POST, path: /send, json: {{ sender: \"{{{{ row.sender }}}}\" }}, idempotent: true }} }}\n\
        dispatch: {{ spread: 0s }}\n"
    )
}

fn csv(rows: impl Iterator<Item = String>) -> String {
    rows.enumerate().fold("id,sender\n".to_owned(), |csv, (id, sender)| csv + &format!("a{id},{sender}\n"))
}

/// A service for this pipeline, and what it calls.
async fn scene(limits: &str) -> (Sandbox, Receiver, Place, Client, penstock_tests::Service) {
    let receiver = Receiver::start().await;
    receiver.answer(204);
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("sending.yaml", &sending(limits))]);
    place.set("INVITE_API_URL", receiver.url.clone());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    (sandbox, receiver, place, client, service)
}

async fn uploaded(client: &Client, csv: String) -> String {
    let (status, batch) = client.upload(ROUTE, csv).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    batch["id"].as_str().expect("an id").to_owned()
}

/// The most calls in any window of this length.
fn most_in_any(calls: &[&Heard], window: Duration) -> usize {
    let mut times: Vec<Instant> = calls.iter().map(|call| call.at).collect();
    times.sort_unstable();
    let after = |first: &Instant| {
        times.iter().filter(|at| *at >= first && at.duration_since(*first) < window).count()
    };
    times.iter().map(after).max().unwrap_or_default()
}

#[tokio::test]
async fn no_window_of_several_limits_is_passed() {
    let limits = "    rate:\n      - { limit: 20, period: 2s, burst: 5, window: sliding }\n\
        \x20     - { limit: 5, period: 1s, per: \"{{ row.sender }}\" }\n\
        \x20     - { limit: 1000, period: 1h, window: calendar }\n    concurrency: 3\n";
    let (_sandbox, receiver, _place, client, service) = scene(limits).await;
    let id = uploaded(&client, csv((0..60).map(|row| format!("s{}", row % 4)))).await;
    let ended = client.finished(&id).await;
    assert_eq!(ended["counts"]["completed"], 60, "{ended}");
    let heard = receiver.heard();
    let all: Vec<&Heard> = heard.iter().collect();
    assert_eq!(all.len(), 60);
    assert!(most_in_any(&all, Duration::from_secs(2)) <= 20, "{}", most_in_any(&all, Duration::from_secs(2)));
    let mut by_sender: HashMap<String, Vec<&Heard>> = HashMap::new();
    for call in &heard {
        by_sender.entry(call.json()["sender"].to_string()).or_default().push(call);
    }
    for (sender, calls) in by_sender {
        // A burst of one: what leaves a fifth of a second apart arrives so, give or take what a call is on its way.
        assert!(most_in_any(&calls, Duration::from_millis(900)) <= 5, "{sender}");
    }
    service.terminate();
}

/// Half of the rows have one value, and they come first: the others are done long before them.
#[tokio::test]
async fn a_value_that_is_used_up_holds_up_no_other() {
    let limits = "    rate: { limit: 1, period: 1s, per: \"{{ row.sender }}\" }\n";
    let (_sandbox, receiver, _place, client, service) = scene(limits).await;
    let others = (150 * crate::large::size()).min(10_000) as usize;
    let senders = (0..others).map(|_| "same".to_owned()).chain((0..others).map(|row| format!("s{row}")));
    uploaded(&client, csv(senders)).await;
    let values = RefCell::new(HashSet::new());
    let every_value = |call: &Heard| {
        let mut values = values.borrow_mut();
        values.insert(call.json()["sender"].to_string());
        values.len() == others + 1
    };
    let began = Instant::now();
    receiver.until(every_value).await;
    let same = receiver.heard().iter().filter(|call| call.json()["sender"] == "same").count();
    println!("{others} values in {:?}, beside {same} calls of one that {others} rows have", began.elapsed());
    assert!(same < others / 2, "{same} of {others} had been called by then");
    service.terminate();
}

#[tokio::test]
async fn a_limit_that_would_change_nothing_is_refused() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("sending.yaml", &sending("    concurrency: 3\n"))]);
    place.set("INVITE_API_URL", "http://127.0.0.1:9".into());
    place.key(&sandbox, "acme");
    let (refused, done) = place.say(&sandbox, &["limits", "set", "api", "--limit", "5"]);
    assert!(!done && refused.contains("no pipeline gives `api` a `rate`"), "{refused}");
    let (set, done) = place.operate(&sandbox, &["limits", "set", "api", "--concurrency", "2"]);
    assert!(done && set["concurrency"] == 2 && set["limit"].is_null(), "{set}");
}

/// The first quota of rows has one value. Rows that wait for it make room for others at once, not with the dispatcher's next run.
#[tokio::test]
async fn a_file_that_is_sorted_by_a_value_needs_no_run_for_each_quota() {
    let receiver = Receiver::start().await;
    receiver.answer(204);
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let limits = "    rate: { limit: 1, period: 1s, per: \"{{ row.sender }}\" }\n";
    let mut place = Place::new(&[("sending.yaml", &sending(limits))]);
    place.set("INVITE_API_URL", receiver.url.clone());
    place.set("ROWS_PER_OWNER", "60".into());
    let key = place.key(&sandbox, "acme");
    let service = place.start_every(&sandbox, "1h");
    let client = Client::new(&service, &key);
    let senders = (0..600).map(|_| "same".to_owned()).chain((0..15).map(|row| format!("s{row}")));
    let id = uploaded(&client, csv(senders)).await;
    crate::storage::until("the file is extracted", || async {
        client.get(&format!("/v2/batches/{id}")).await["status"] == "queued"
    })
    .await;
    service.terminate();
    // Each run releases at most sixty rows, and the first six hundred have one value: with runs alone the others come with the eleventh,
    // after 200 seconds.
    let service = place.start_every(&sandbox, "20s");
    let began = Instant::now();
    let values = RefCell::new(HashSet::new());
    let every_value = |call: &Heard| {
        let mut values = values.borrow_mut();
        values.insert(call.json()["sender"].to_string());
        values.len() == 16
    };
    receiver.until(every_value).await;
    assert!(began.elapsed() < Duration::from_secs(190), "{:?}", began.elapsed());
    let client = Client::new(&service, &key);
    let counts = client.get(&format!("/v2/batches/{id}")).await["counts"].clone();
    let in_flight = counts["queued"].as_u64().zip(counts["processing"].as_u64());
    assert!(in_flight.is_some_and(|(queued, processing)| queued + processing <= 60), "{counts}");
    service.terminate();
}

/// An operator stops the calls to a dependency, and starts them again.
#[tokio::test]
async fn a_dependency_is_paused_and_resumed_while_services_run() {
    let (sandbox, receiver, place, client, service) =
        scene("    rate: { limit: 20, period: 1s, burst: 2 }\n").await;
    let id = uploaded(&client, csv((0..100).map(|_| String::new()))).await;
    receiver.until(|_| true).await;
    let (paused, done) = place.operate(&sandbox, &["limits", "pause", "api"]);
    assert!(done && paused["paused"] == true, "{paused}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let then = receiver.heard().len();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(receiver.heard().len(), then, "calls went on");
    assert!(then < 100, "{then}");
    let (set, _) = place.operate(&sandbox, &["limits", "set", "api", "--limit", "200"]);
    assert!(set["concurrency"].is_null(), "{set}");
    let (set, _) = place.operate(&sandbox, &["limits", "set", "api", "--concurrency", "7"]);
    assert_eq!((&set["limit"], &set["concurrency"]), (&200.into(), &7.into()), "{set}");
    let (resumed, done) = place.operate(&sandbox, &["limits", "resume", "api"]);
    assert!(done && resumed["limit"] == 200 && resumed["paused"] == false, "{resumed}");
    let ended = client.finished(&id).await;
    assert_eq!(ended["counts"]["completed"], 100, "{ended}");
    let (refused, _) = place.say(&sandbox, &["limits", "pause", "apj"]);
    assert!(refused.contains("no pipeline has a dependency `apj`"), "{refused}");
    service.terminate();
}

/// A new installation has a limit's burst at once.
#[tokio::test]
async fn a_burst_of_hours_is_there_at_a_cold_start_and_once() {
    let (_sandbox, receiver, _place, client, service) =
        scene("    rate: { limit: 2, period: 1h, burst: 2 }\n").await;
    let id = uploaded(&client, csv((0..4).map(|_| String::new()))).await;
    let waits = async || {
        let rows = client.get(&format!("/v2/batches/{id}/rows")).await;
        let rows = rows["data"].as_array().expect("rows").clone();
        rows.iter().filter(|row| row["status"] == "completed").count() == 2
            && rows.iter().all(|row| row["status"] != "processing" && row["status"] != "queued")
    };
    crate::storage::until("two rows are done and two wait", waits).await;
    assert_eq!(receiver.heard().len(), 2, "the burst was there twice");
    service.terminate();
}

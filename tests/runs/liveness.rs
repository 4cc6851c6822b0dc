//! Who lives keeps its rows, whatever happens to the database, to the machine and to its clock; and a row that kills its
//! workers ends.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::clock::{CLOCK, fake_clock};
use penstock_tests::database::Database;
use penstock_tests::postgres::Postgres;
use penstock_tests::receiver::Receiver;
use penstock_tests::{Client, PATIENCE, Place, Service};
use serde_json::{Value, json};

const ROUTE: &str = "/v2/pipelines/once/batches";

/// A worker that was silent for so long is dead here.
const LEASE: Duration = Duration::from_secs(6);

/// A POST of which nobody has said that it may be repeated, and what else is said.
fn pipeline(more: &str) -> String {
    format!(
        "name: once\ncsv: {{ columns: [ {{ name: id, required: true }} ] }}\n\
         dependencies: {{ api: {{ base_url: \"${{INVITE_API_URL}}\", timeout: 5s, {more} }} }}\n\
         steps: [ {{ name: post, dependency: api, request: {{ method: POST, path: /post, json: {{ id: \"{{{{ row.id }}}}\" }} }} }} ]\n\
         retry: {{ attempts: 3, backoff: {{ initial: 1s, factor: 1, max: 1s }} }}\ndispatch: {{ spread: 0s }}\n"
    )
}

struct Scene {
    sandbox: Sandbox,
    place: Place,
    receiver: Receiver,
}

impl Scene {
    async fn new(more: &str) -> Self {
        let receiver = Receiver::start().await;
        let mut place = Place::new(&[("once.yaml", &pipeline(more))]);
        place.set("INVITE_API_URL", receiver.url.clone());
        place.set("PENSTOCK_LEASE_SECONDS", LEASE.as_secs().to_string());
        let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
        Self { sandbox, place, receiver }
    }

    fn key(&self) -> String {
        self.place.key(&self.sandbox, "acme")
    }

    fn start(&self) -> Service {
        self.place.start(&self.sandbox, None)
    }

    /// How often each row was called.
    fn calls(&self) -> BTreeMap<String, usize> {
        let mut calls = BTreeMap::new();
        for heard in self.receiver.heard() {
            *calls.entry(heard.json()["id"].as_str().expect("an id").to_owned()).or_default() += 1;
        }
        calls
    }

    /// Waits until so many calls were made.
    async fn called(&self, calls: usize) {
        let began = Instant::now();
        while self.receiver.heard().len() < calls {
            assert!(began.elapsed() < PATIENCE, "{} calls", self.receiver.heard().len());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Nothing stands still for longer than this: waits until all rows are done, and sees that calls go on meanwhile.
    async fn goes_on(&self, client: &Client, id: &str, within: Duration) -> Value {
        let (mut calls, mut moved) = (0, Instant::now());
        loop {
            let batch = client.get(&format!("/v2/batches/{id}")).await;
            let heard = self.receiver.heard().len();
            if heard > calls {
                (calls, moved) = (heard, Instant::now());
            }
            if !batch["finished_at"].is_null() {
                return batch;
            }
            assert!(moved.elapsed() < within, "no call for {within:?}: {batch}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn ids(rows: std::ops::Range<u32>) -> String {
    std::iter::once("id\n".to_owned()).chain(rows.map(|row| format!("r{row}\n"))).collect()
}

async fn upload(client: &Client, rows: u32) -> String {
    let (status, batch) = client.upload(ROUTE, ids(0..rows)).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    batch["id"].as_str().expect("an id").to_owned()
}

fn once(calls: &BTreeMap<String, usize>, rows: usize) {
    let doubled: Vec<_> = calls.iter().filter(|(_, times)| **times > 1).collect();
    assert!(doubled.is_empty(), "called twice: {doubled:?}");
    assert_eq!(calls.len(), rows);
}

/// Each call of the row kills the worker. It ends after three deaths; no other row is called more than twice, and most are
/// called once.
#[tokio::test]
async fn a_row_that_kills_its_worker_ends() {
    const ROWS: u32 = 40;
    let scene = Scene::new("concurrency: 10").await;
    let worker = Arc::new(AtomicU32::new(0));
    scene.receiver.answer_after(Duration::from_millis(50));
    scene.receiver.answer_by({
        let worker = worker.clone();
        move |heard| {
            if heard.body.contains("\"r17\"") {
                let pid = worker.load(Ordering::SeqCst).to_string();
                assert!(Command::new("kill").args(["-9", &pid]).status().expect("kill runs").success());
            }
            (204, String::new())
        }
    });
    let key = scene.key();
    let mut deaths = 0;
    let mut service = scene.start();
    worker.store(service.pid(), Ordering::SeqCst);
    let id = upload(&Client::new(&service, &key), ROWS).await;
    let began = Instant::now();
    loop {
        if !service.lives() {
            deaths += 1;
            service = scene.start();
            worker.store(service.pid(), Ordering::SeqCst);
        }
        let answer = Client::new(&service, &key).request("GET", &format!("/v2/batches/{id}")).send().await;
        if let Ok(answer) = answer
            && let Ok(batch) = answer.json::<Value>().await
            && !batch["finished_at"].is_null()
        {
            assert_eq!(
                (&batch["counts"]["completed"], &batch["counts"]["failed"]),
                (&json!(ROWS - 1), &json!(1))
            );
            break;
        }
        assert!(began.elapsed() < PATIENCE, "it never ends; {deaths} deaths, {:?}", scene.calls());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let calls = scene.calls();
    assert_eq!((deaths, calls["r17"]), (3, 3), "{calls:?}");
    assert!(calls.values().filter(|times| **times > 2).count() == 1, "{calls:?}");
    // Those that were in flight at the first death, or answered a moment before and not settled yet. Later ones died alone.
    assert!(calls.values().filter(|times| **times == 2).count() <= 30, "only the first crowd: {calls:?}");
    let client = Client::new(&service, &key);
    let row = client.get(&format!("/v2/batches/{id}/rows/18")).await;
    assert_eq!(
        (&row["status"], &row["error"]["code"]),
        (&json!("failed"), &json!("worker_crashed")),
        "{row}"
    );
    assert!(row["error"]["message"].as_str().expect("a message").contains("its worker died"), "{row}");
    let (said, _) = scene.place.say(&scene.sandbox, &["why", &id, "18"]);
    assert!(said.contains("worker_crashed"), "{said}");
    assert!(scene.place.operate(&scene.sandbox, &["reconcile"]).1);
}

/// The worker that holds a dependency's only slot is killed: the next call comes when the call's own timeout is over, and the
/// killed row is called again when its worker counts as dead.
#[tokio::test]
async fn the_only_slot_of_a_dead_worker_comes_back() {
    const ROWS: u32 = 6;
    const TIMEOUT: Duration = Duration::from_secs(5);
    let mut scene = Scene::new("concurrency: 1").await;
    scene.place.unset("PENSTOCK_LEASE_SECONDS");
    scene.place.set("PENSTOCK_LEASE_SECONDS", "20".into());
    scene.receiver.answer(0);
    let key = scene.key();
    let service = scene.start();
    let id = upload(&Client::new(&service, &key), ROWS).await;
    scene.called(1).await;
    // In a cluster another one lives already.
    let other = scene.place.is_cluster().then(|| scene.start());
    scene.receiver.answer(204);
    service.kill();
    let killed = Instant::now();
    let service = other.unwrap_or_else(|| scene.start());
    let client = Client::new(&service, &key);
    // What the dead worker had heard of comes back with its rows; this batch has the slot to wait for, and nothing else.
    let fresh = upload(&client, ROWS).await;
    scene.called(2).await;
    let next = killed.elapsed();
    assert!(next < TIMEOUT + Duration::from_secs(4), "the slot came back after {next:?}");
    for id in [&id, &fresh] {
        let batch = client.finished(id).await;
        assert_eq!(batch["counts"]["completed"], ROWS, "{batch}");
    }
    let heard = scene.receiver.heard();
    assert_eq!(heard.len(), 2 * ROWS as usize + 1, "no other row was called twice");
    // Both batches have a row like the killed one.
    let again = heard.iter().rfind(|one| one.body == heard[0].body).expect("the row was called again");
    let after = again.at.duration_since(killed);
    assert!(after < Duration::from_secs(25), "the killed row was called again after {after:?}");
}

/// The database is locked, or stopped, for three times as long as it takes for a silent worker to count as dead, while calls
/// that must not be repeated are under way: they are answered meanwhile, and no row is called twice. Everything goes on by itself.
#[tokio::test]
async fn a_database_that_is_away_costs_no_living_worker_a_row() {
    const ROWS: u32 = 60;
    let mut scene = Scene::new("concurrency: 13").await;
    scene.receiver.answer_after(Duration::from_secs(2));
    let server = if scene.place.is_cluster() { Some(Postgres::start().await) } else { None };
    if let Some(server) = &server {
        scene.place.set("DATABASE_URL", server.url("penstock"));
        assert!(scene.place.operate(&scene.sandbox, &["migrate"]).1);
    }
    let key = scene.key();
    let service = scene.start();
    let client = Client::new(&service, &key);
    let id = upload(&client, ROWS).await;
    scene.called(13).await;
    match &server {
        Some(server) => {
            server.stop();
            tokio::time::sleep(3 * LEASE).await;
            server.again();
        }
        None => {
            let mut database = Database::of(&scene.place).await;
            database.run("BEGIN EXCLUSIVE").await;
            tokio::time::sleep(3 * LEASE).await;
            database.run("COMMIT").await;
        }
    }
    let back = Instant::now();
    let before = scene.receiver.heard().len();
    while scene.receiver.heard().len() == before {
        assert!(back.elapsed() < Duration::from_secs(10), "no call after the database is back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let batch = client.finished(&id).await;
    assert!(back.elapsed() < Duration::from_secs(30), "{:?}", back.elapsed());
    assert_eq!(batch["counts"]["completed"], ROWS, "{batch}");
    once(&scene.calls(), ROWS as usize);
}

/// Every process is suspended for longer than a silent worker may be, and goes on: no row is called twice, and nothing stands
/// still.
#[tokio::test]
async fn a_suspended_machine_goes_on_where_it_was() {
    const ROWS: u32 = 60;
    let scene = Scene::new("concurrency: 13").await;
    scene.receiver.answer_after(Duration::from_secs(1));
    let key = scene.key();
    let service = scene.start();
    let client = Client::new(&service, &key);
    let id = upload(&client, ROWS).await;
    scene.called(13).await;
    // What is under way is answered before: a call that is answered behind its timeout has no answer, suspended or not.
    service.suspend(true);
    tokio::time::sleep(suspended_for()).await;
    service.suspend(false);
    let batch = scene.goes_on(&client, &id, Duration::from_secs(10)).await;
    let counts = &batch["counts"];
    let count = |name: &str| counts[name].as_u64().expect("a count");
    assert_eq!(count("completed") + count("failed"), u64::from(ROWS), "{batch}");
    once(&scene.calls(), ROWS as usize);
}

/// Twice as long as a silent worker may be; `PENSTOCK_TEST_SUSPEND_SECONDS` says how long once by hand.
fn suspended_for() -> Duration {
    std::env::var("PENSTOCK_TEST_SUSPEND_SECONDS")
        .map_or(2 * LEASE, |seconds| Duration::from_secs(seconds.parse().expect("a number")))
}

/// The clock jumps an hour forward, and back again and further: no row is called twice, and nothing stands still.
#[tokio::test]
async fn a_clock_that_jumps_stops_nothing() {
    const ROWS: u32 = 150;
    let mut scene = Scene::new("concurrency: 10, breaker: { min_calls: 500 }").await;
    scene.receiver.answer_after(Duration::from_secs(1));
    let _servers = fake_clock(&mut scene.place, &scene.sandbox).await;
    // Some rows fail for the first time, and wait for their next try when the clock jumps.
    scene.receiver.answer_by(|heard| {
        let again = heard.body.contains("3\"");
        (if again { 503 } else { 204 }, String::new())
    });
    let key = scene.key();
    let service = scene.start();
    let client = Client::new(&service, &key);
    let id = upload(&client, ROWS).await;
    for (calls, jump) in [(20, "+1h"), (60, "-1h"), (110, "+0")] {
        scene.called(calls).await;
        scene.place.write(CLOCK, jump);
    }
    let batch = scene.goes_on(&client, &id, Duration::from_secs(10)).await;
    assert_eq!(batch["counts"]["completed"], ROWS - 15, "{batch}");
    let mut calls = scene.calls();
    let refused: Vec<usize> = (0..ROWS)
        .filter(|row| row % 10 == 3)
        .map(|row| calls.remove(&format!("r{row}")).expect("it was called"))
        .collect();
    assert!(refused.iter().all(|times| *times == 3), "each of their attempts, and no more: {refused:?}");
    once(&calls, ROWS as usize - refused.len());
}

//! Everything fails at once, on a cluster's services: workers and dispatchers are killed every two seconds, Redis forgets
//! everything, PostgreSQL restarts without a shutdown, S3 refuses, and the downstream hangs, breaks off, and answers
//! 500, 429 and garbage. No row is lost, none has two effects, counts add up at every look.
//!
//! A storm has its time, so that a slow machine, on which a killed worker has hardly begun, ends as well; what it left
//! behind has to end in the calm that follows.
//!
//! `PENSTOCK_CHAOS_ROWS` sets the number of rows. It needs servers of its own: they are broken on purpose.

#![allow(clippy::unwrap_used, reason = "tests")]

mod bulk;

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bulk::Kind;
use penstock_sandbox::{Config, Faults, Sandbox};
use penstock_tests::{Client, PATIENCE, Place, Service};
use serde_json::Value;

const PIPELINE: &str = include_str!("../../pipelines/invite.yaml");
const ROUTE: &str = "/v2/client/users/batch/invite?context=%7B%22campaign%22%3A%22chaos%22%7D";
const BATCHES: u32 = 4;
/// A row in so many more goes in bulk calls: rows of dead workers run alone, those of a whole call at once.
const IN_BULK: u32 = 40;
/// Seconds of a storm for up to 20,000 rows; it is as much longer for more.
const STORM: u64 = 80;
const FAULTS: Faults = Faults {
    latency_ms: 2,
    jitter_ms: 5,
    error: 0.01,
    drop_before: 0.002,
    drop_after: 0.002,
    garbage: 0.001,
    throttle: 0.0005,
    hang: 0.0005,
    hang_ms: 4000,
    wait: penstock_sandbox::faults::Wait::Seconds,
    wait_seconds: 1,
};

fn definition() -> String {
    PIPELINE
        .replace("limit: 50, period: 1s, burst: 10", "limit: 4000, period: 1s, burst: 400")
        .replace("limit: 20, period: 1s, burst: 5", "limit: 4000, period: 1s, burst: 400")
        .replace("concurrency: 20, timeout: 10s", "concurrency: 64, timeout: 2s")
        .replace("rows_per_owner: 100", "rows_per_owner: 50000, spread: 0s")
        .replace("attempts: 5", "attempts: 50")
        .replace("initial: 1s, factor: 2, max: 5m", "initial: 50ms, factor: 1, max: 50ms")
}

fn people(batch: u32, rows: u32) -> String {
    let mut csv = "email,first_name,last_name,phone,postcode\n".to_owned();
    for number in 0..rows {
        csv.push_str(&format!(
            "p{number}b{batch}@example.com,First,Last{number},,AB{:04}\n",
            number % 10_000
        ));
    }
    csv
}

fn run(command: &mut Command) {
    let done = command.output().expect("it runs");
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// What happens to the cluster, second by second, until the rows have ended or the storm is over. Then the services that
/// are left have calm to end in.
fn havoc(place: &Place, sandbox: &Sandbox, storm: u64, over: &AtomicBool) -> u32 {
    let restart = std::env::var("PENSTOCK_TEST_RESTART_POSTGRES").expect("`cargo xtask test` sets it");
    let redis = place.variable("REDIS_URL").expect("a cluster").to_owned();
    let mut workers: Vec<Service> = (0..2).map(|_| place.worker(sandbox)).collect();
    let mut dispatchers: Vec<Service> = (0..2).map(|_| place.dispatcher(sandbox, "1s")).collect();
    let mut kills = 0;
    let mut rng = 0x2545_F491_4F6C_DD1D_u64;
    for second in 1..=storm {
        if ended_within(Duration::from_secs(1), over) {
            return kills;
        }
        if second % 2 == 0 {
            rng ^= rng << 13;
            rng ^= rng >> 7;
            rng ^= rng << 17;
            kills += 1;
            if rng.is_multiple_of(3) {
                dispatchers.remove(0).kill();
                dispatchers.push(place.dispatcher(sandbox, "1s"));
            } else {
                workers.remove(0).kill();
                workers.push(place.worker(sandbox));
            }
        }
        match second % 40 {
            5 => run(Command::new("redis-cli").args(["-u", &redis, "FLUSHALL"])),
            11 => run(&mut Command::new(&restart)),
            17 => place.s3().expect("S3").refuse(true),
            27 => place.s3().expect("S3").refuse(false),
            _ => {}
        }
    }
    place.s3().expect("S3").refuse(false);
    while !ended_within(Duration::from_secs(1), over) {}
    kills
}

fn ended_within(time: Duration, over: &AtomicBool) -> bool {
    let until = Instant::now() + time;
    while Instant::now() < until && !over.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(20));
    }
    over.load(Ordering::SeqCst)
}

/// Ends the havoc when it is dropped.
struct Calm<'a>(&'a AtomicBool);

impl Drop for Calm<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The batch, unless the API cannot reach the database just now; its counts add up whenever it can.
async fn look(client: &Client, id: &str) -> Option<Value> {
    let answer = client.request("GET", &format!("/v2/batches/{id}")).send().await.ok()?;
    if !answer.status().is_success() {
        assert_eq!(answer.status(), 503, "{}", answer.text().await.unwrap_or_default());
        return None;
    }
    let batch: Value = answer.json().await.ok()?;
    let count = |name: &str| batch["counts"][name].as_u64().expect("a count");
    let parts = ["pending", "queued", "processing", "completed", "failed", "cancelled"];
    assert_eq!(count("total"), parts.iter().map(|name| count(name)).sum::<u64>(), "{batch}");
    Some(batch)
}

async fn upload(client: &Client, route: &str, file: impl Fn() -> String) -> String {
    let began = Instant::now();
    loop {
        let answer = client.upload(route, file()).await;
        if let Some((202, accepted)) = &answer {
            return accepted["id"].as_str().expect("an id").to_owned();
        }
        assert!(began.elapsed() < PATIENCE, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_fails_at_once_and_nothing_is_lost_or_doubled() {
    let rows: u32 =
        std::env::var("PENSTOCK_CHAOS_ROWS").map_or(12_000, |rows| rows.parse().expect("a number"));
    let sandbox = Sandbox::start(Config { faults: FAULTS, ..Config::default() }).expect("a sandbox");
    let downstream = bulk::Downstream::start().await;
    let mut definitions = vec![("invite.yaml".to_owned(), definition())];
    definitions.extend(Kind::ALL.map(Kind::definition));
    let definitions: Vec<(&str, &str)> =
        definitions.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let mut place = Place::new(&definitions);
    place.set(bulk::URL, downstream.url.clone());
    // What a killed worker held counts for the owner until its lease runs out: a quota near that would stop it.
    place.set("ROWS_PER_OWNER", "50000".to_owned());
    // One process has its own kind of chaos: see `crashes` among the whole runs.
    assert!(place.is_cluster(), "PENSTOCK_TEST_ENGINES=cluster; `cargo xtask test` sets it");
    let key = place.key(&sandbox, "acme");
    let api = place.api(&sandbox);
    let client = Client::new(&api, &key);
    let over = AtomicBool::new(false);
    let began = Instant::now();
    let ((ended, in_bulk), kills) = std::thread::scope(|scope| {
        let havoc = scope.spawn(|| havoc(&place, &sandbox, STORM * u64::from(1 + rows / 20_000), &over));
        // Also when a look panics: the scope waits for its threads.
        let calm = Calm(&over);
        let done = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                let mut ids = Vec::new();
                let mut in_bulk = Vec::new();
                for kind in Kind::ALL {
                    let id = upload(&client, &kind.route(), || bulk::file(rows / IN_BULK)).await;
                    in_bulk.push((kind, id));
                }
                for batch in 0..BATCHES {
                    ids.push(upload(&client, ROUTE, || people(batch, rows / BATCHES)).await);
                    // The last ones arrive while S3 refuses, or are being extracted then.
                    tokio::time::sleep(Duration::from_secs(5)).await;
                }
                let ended = watch(&client, &ids, rows, began).await;
                let mut bulk_ended = Vec::new();
                for (kind, id) in in_bulk {
                    bulk_ended.push((kind, watch(&client, &[id], rows / IN_BULK * BATCHES, began).await));
                }
                (ended, bulk_ended)
            })
        });
        drop(calm);
        let kills = havoc.join().expect("havoc ends well");
        (done, kills)
    });
    let stats = sandbox.stats();
    println!("{rows} rows, {kills} kills, {} s: {ended:?}; {stats:?}", began.elapsed().as_secs());
    assert_eq!(ended.completed + ended.failed, u64::from(rows));
    for (kind, ended) in in_bulk {
        assert_eq!(ended.completed + ended.failed, u64::from(rows / IN_BULK), "{kind:?}");
        downstream.check(kind, rows / IN_BULK, ended.completed, ended.unknown);
    }
    assert!(ended.failed * 50 < u64::from(rows), "{ended:?}");
    assert_eq!((stats.doubled, stats.unkeyed), (0, 0));
    // One effect for each completed row. A row that failed may have one too: its worker died behind its last call, and on its
    // way anew its first step, which has no key, was not answered.
    let most = ended.completed + ended.failed;
    assert!((ended.completed..=most).contains(&stats.effects), "{} effects, {ended:?}", stats.effects);
}

#[derive(Debug, Default)]
struct Ended {
    completed: u64,
    failed: u64,
    /// Those whose effect nobody knows, by their own codes.
    unknown: u64,
}

/// Looks on until every batch has ended, and reads every line of the results then.
async fn watch(client: &Client, ids: &[String], rows: u32, began: Instant) -> Ended {
    let mut ended = Ended::default();
    for id in ids {
        let batch = loop {
            if let Some(batch) = look(client, id).await
                && !batch["finished_at"].is_null()
            {
                break batch;
            }
            assert!(began.elapsed() < PATIENCE * (1 + rows / 20_000), "{:?}", look(client, id).await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        ended.completed += batch["counts"]["completed"].as_u64().expect("a count");
        ended.failed += batch["counts"]["failed"].as_u64().expect("a count");
        let report = loop {
            // PostgreSQL may be away once more.
            let answer = client.request("GET", &format!("/v2/batches/{id}/results.csv")).send().await;
            if let Ok(answer) = answer
                && answer.status().is_success()
                && let Ok(text) = answer.text().await
            {
                break text;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        };
        let lines = u64::try_from(report.lines().count()).expect("a number") - 1;
        assert_eq!(lines, u64::from(rows / BATCHES), "a result or an error for every line");
        let codes = [",outcome_unknown,", ",bad_response,"];
        let unknown = report.lines().filter(|line| codes.iter().any(|code| line.contains(code))).count();
        ended.unknown += u64::try_from(unknown).expect("a number");
    }
    ended
}

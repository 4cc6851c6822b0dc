//! The same on PostgreSQL, Redis and S3, with the three programs.

use std::process::Command;
use std::time::{Duration, Instant};

use penstock_domain::ids::{BatchSeq, LeaseToken, RowRef};
use penstock_domain::time::Timestamp;
use penstock_sandbox::{Config, Sandbox};
use penstock_store::dispatch::{Dispatch as _, Take};
use penstock_store::work::{Claim, Settled, Settlement, Work as _};
use penstock_store::workers::{NewWorker, WorkerKind, Workers as _};
use penstock_store_postgres::{Options, PostgresStore};
use penstock_tests::{Client, Place};
use sqlx::PgPool;
use uuid::Uuid;

use crate::cpu::{self, Meter};
use crate::fixed::Fixed;
use crate::{NOOP, Promises, ROUTE, body, plain, say, three_calls_definition, usage};

/// Resident memory that the API and a worker may need for any file, MiB.
const MOST_MIB: f64 = 64.0;

/// Measures, prints; whether every ratio that is promised was reached.
pub async fn run(rows: u32, part: Option<&str>) -> bool {
    let mut kept = Promises::default();
    let wanted = |name: &str| part.is_none_or(|part| part == name);
    if wanted("extraction") {
        extraction(rows, &mut kept).await;
    }
    if wanted("no-op") {
        no_op(rows.min(200_000), &mut kept).await;
    }
    if wanted("three-calls") {
        three_calls(rows.min(20_000), &Calls { latency_ms: 50, concurrency: 64, share: 0.7 }, &mut kept)
            .await;
    }
    // The processor is the limit, and not the downstream.
    if wanted("fast-calls") {
        three_calls(rows.min(20_000), &Calls { latency_ms: 0, concurrency: 64, share: 0.0 }, &mut kept).await;
    }
    if wanted("few-slots") {
        three_calls(rows.min(20_000), &Calls { latency_ms: 10, concurrency: 20, share: 0.9 }, &mut kept)
            .await;
    }
    if wanted("dispatcher") {
        dispatcher(&mut kept).await;
    }
    kept.all()
}

pub fn psql(database: &str, commands: &[&str]) -> String {
    let mut psql = Command::new("psql");
    psql.args([database, "-qAt", "-v", "ON_ERROR_STOP=1"]);
    commands.iter().for_each(|command| {
        psql.args(["-c", command]);
    });
    let done = psql.output().expect("psql runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

fn number(text: &str) -> f64 {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is not a number"))
}

fn redis_info(url: &str, name: &str) -> f64 {
    let done = Command::new("redis-cli").args(["-u", url, "INFO"]).output().expect("redis-cli runs");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    number(value.expect("a figure").trim())
}

fn redis_memory(url: &str) -> f64 {
    redis_info(url, "used_memory")
}

/// The processes of PostgreSQL and Redis.
pub fn servers(database: &str, redis: &str) -> (Option<u32>, Option<u32>) {
    let backend = psql(database, &["SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'"]);
    let postmaster = backend.parse().ok().and_then(cpu::parent);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a process")]
    let redis = redis_info(redis, "process_id") as u32;
    (postmaster, Some(redis))
}

fn place(definition: &str) -> (Sandbox, Place) {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    (sandbox, Place::new(&[("pipeline.yaml", definition)]))
}

/// A million sealed rows into PostgreSQL, and the same rows again by `\copy`.
async fn extraction(rows: u32, kept: &mut Promises) {
    // Rows are held back by a tiny quota.
    let (sandbox, place) = place(&NOOP.replace("rows_per_owner: 50000", "rows_per_owner: 1"));
    let database = place.variable("DATABASE_URL").expect("a cluster").to_owned();
    let redis = place.variable("REDIS_URL").expect("a cluster").to_owned();
    let key = place.key(&sandbox, "bench");
    let (api, worker) = (place.api(&sandbox), place.worker(&sandbox));
    let client = Client::new(&api, &key);
    let size = || number(&psql(&database, &["SELECT pg_database_size(current_database())"]));
    let (size_before, redis_before) = (size(), redis_memory(&redis));
    let began = Instant::now();
    let (status, batch) = client.upload(ROUTE, body(rows)).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let uploaded = began.elapsed();
    let id = batch["id"].as_str().expect("an id").to_owned();
    let began = Instant::now();
    while client.get(&format!("/v2/batches/{id}")).await["status"] != "queued" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let extracted = began.elapsed();
    let grown = size() - size_before;
    let file = place.data().with_extension("copy");
    let columns = "batch, number, line, payload";
    let out =
        format!("\\copy (SELECT {columns} FROM row_data ORDER BY batch, number) TO '{}'", file.display());
    psql(&database, &[&out, "CREATE TABLE plain_rows (LIKE row_data INCLUDING ALL)"]);
    let began = Instant::now();
    psql(&database, &[&format!("\\copy plain_rows ({columns}) FROM '{}'", file.display())]);
    let copied = began.elapsed();
    say("upload (HTTP, validate, seal, S3)", rows, uploaded);
    let copy = say("peer: psql \\copy of the same sealed rows", rows, copied);
    let ours = say("extraction (read, open, parse, seal, COPY BINARY)", rows, extracted);
    kept.at_least("extraction / \\copy", ours / copy, 0.9);
    println!("{:<60} {:>12.0} bytes a row", "PostgreSQL's growth by the upload", grown / f64::from(rows));
    println!("{:<60} {:>12.0} bytes", "Redis's growth by the upload", redis_memory(&redis) - redis_before);
    kept.at_most("peak memory of the API, MiB", usage(&api).0, MOST_MIB);
    kept.at_most("peak memory of the worker, MiB", usage(&worker).0, MOST_MIB);
    drop((api, worker));
    groups(&database, rows.min(200_000)).await;
}

/// Claims and settlements alone, in the groups that workers use, on the rows that were extracted.
async fn groups(database: &str, rows: u32) {
    let options =
        Options { max_connections: 4, application_name: "bench".into(), sessions: None, password: None };
    let store = PostgresStore::connect(database, options).expect("a URL");
    let batch = BatchSeq(number(&psql(database, &["SELECT seq FROM batches"])) as i64);
    let now = Timestamp::from_millis(
        i64::try_from(std::time::UNIX_EPOCH.elapsed().expect("a clock").as_millis()).expect("a time"),
    );
    let late = now + Duration::from_secs(3600);
    let began = Instant::now();
    let released = store.release(&[Take { batch, rows }], now, late).await.expect("a release");
    let numbers: Vec<RowRef> = released
        .iter()
        .flat_map(|one| one.numbers.iter())
        .map(|number| RowRef { batch, number: *number })
        .collect();
    let count = u32::try_from(numbers.len()).expect("a number");
    say("release (mark queued), one statement", count, began.elapsed());
    let token = LeaseToken(Uuid::from_u128(7));
    let silence = Duration::from_secs(3600);
    let worker = NewWorker { name: "bench", kind: WorkerKind::Worker, version: "", silence };
    store.register_worker(&worker).await.expect("a record");
    let began = Instant::now();
    for group in numbers.chunks(200) {
        let claim = Claim { rows: group, token, holder: "bench", also_pending: false, suspects: false };
        assert_eq!(store.claim(&claim, now).await.expect("a claim").len(), group.len());
    }
    say("claims, groups of 200, one connection", count, began.elapsed());
    let began = Instant::now();
    for group in numbers.chunks(500) {
        let settled: Vec<Settlement> = group
            .iter()
            .map(|row| Settlement {
                row: *row,
                token,
                outcome: Settled::Completed { result: None, key: None },
            })
            .collect();
        assert!(store.settle(&settled, now).await.expect("a settlement").lost.is_empty());
    }
    say("settlements, groups of 500, one connection", count, began.elapsed());
}

/// What claiming, processing and settling cost when there is nothing to call.
pub async fn no_op(rows: u32, kept: &mut Promises) {
    let (sandbox, place) = place(NOOP);
    let database = place.variable("DATABASE_URL").expect("a cluster").to_owned();
    let redis = place.variable("REDIS_URL").expect("a cluster").to_owned();
    let key = place.key(&sandbox, "bench");
    let api = place.api(&sandbox);
    let client = Client::new(&api, &key);
    let pool = PgPool::connect(&database).await.expect("a pool");
    let one = plain::one_row_per_transaction(&pool, 10_000, 1).await;
    let sixteen = plain::one_row_per_transaction(&pool, 40_000, 16).await;
    pool.close().await;
    println!();
    let one = say("peer: one row a transaction, one worker", 10_000, one);
    say("peer: one row a transaction, 16 connections", 40_000, sixteen);
    let worker = place.worker(&sandbox);
    let (status, batch) = client.upload(ROUTE, body(rows)).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id").to_owned();
    while client.get(&format!("/v2/batches/{id}")).await["status"] != "queued" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = redis_memory(&redis);
    let dispatcher = place.dispatcher(&sandbox, "200ms");
    let (postgres, redis_pid) = servers(&database, &redis);
    let services = [("worker", &worker), ("dispatcher", &dispatcher), ("api", &api)];
    let meter = Meter::start(&services, postgres, redis_pid);
    let began = Instant::now();
    client.finished(&id).await;
    let ours = say("processing, no-op steps, one worker process", rows, began.elapsed());
    meter.say(rows);
    kept.at_least("no-op / one row a transaction", ours / one, 10.0);
    println!("{:<60} {:>12.0} bytes", "Redis's growth by the batch", redis_memory(&redis) - before);
    println!("{:<60} {:>12.1} MiB", "peak memory of the worker", usage(&worker).0);
    drop(dispatcher);
}

/// Calls that a downstream answers in this time, so many of them at once at each of two dependencies.
pub struct Calls {
    /// How long an answer takes, ms; 0: fixed answers at once, by a server that costs next to nothing.
    pub latency_ms: u64,
    /// How many calls at once.
    pub concurrency: u32,
    /// The least part of the bare client's rate.
    pub share: f64,
}

/// Three calls a row, beside what a bare client gets out of the same downstream. Rows a second.
pub async fn three_calls(rows: u32, calls: &Calls, kept: &mut Promises) -> f64 {
    let Calls { latency_ms, concurrency, share } = *calls;
    let definition = three_calls_definition(concurrency);
    let (sandbox, mut place) = place(&definition);
    sandbox.set_faults(penstock_sandbox::Faults { latency_ms, ..penstock_sandbox::Faults::default() });
    let downstream = if latency_ms == 0 { Fixed::called_in(&mut place).url } else { sandbox.url() };
    let key = place.key(&sandbox, "bench");
    let (api, worker) = (place.api(&sandbox), place.worker(&sandbox));
    let client = Client::new(&api, &key);
    println!();
    let ceiling = plain::three_calls(&downstream, rows / 2, concurrency).await;
    let named = format!("ceiling: a bare client, {concurrency} calls at once of {latency_ms} ms");
    let ceiling = say(&named, rows / 2, ceiling);
    let route = "/v2/client/users/batch/invite?context=%7B%22campaign%22%3A%22bench%22%7D";
    let (status, batch) = client.upload(route, body(rows)).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id").to_owned();
    while client.get(&format!("/v2/batches/{id}")).await["status"] != "queued" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let dispatcher = place.dispatcher(&sandbox, "1s");
    let variable = |name| place.variable(name).expect("a cluster").to_owned();
    let (postgres, redis) = servers(&variable("DATABASE_URL"), &variable("REDIS_URL"));
    let services = [("worker", &worker), ("dispatcher", &dispatcher), ("api", &api)];
    let (began, meter) = (Instant::now(), Meter::start(&services, postgres, redis));
    let batch = client.finished(&id).await;
    let named = format!("three calls a row, concurrency {concurrency}, one worker process");
    let ours = say(&named, rows, began.elapsed());
    assert_eq!(batch["counts"]["completed"], rows, "{batch}");
    meter.say(rows);
    println!("{:<60} {:>12.1} MiB", "peak memory of the worker", usage(&worker).0);
    kept.at_least("three calls / the downstream's ceiling", ours / ceiling, share);
    ours
}

/// A run over 10,000 owners, with little and with much waiting.
async fn dispatcher(kept: &mut Promises) {
    println!();
    let mut took = Vec::new();
    // The same rows are released each time: 10 of each owner.
    for backlog in [100_000_u32, 3_000_000] {
        let (sandbox, place) = place(NOOP);
        let database = place.variable("DATABASE_URL").expect("a cluster").to_owned();
        let key = place.key(&sandbox, "template");
        let (api, worker) = (place.api(&sandbox), place.worker(&sandbox));
        let client = Client::new(&api, &key);
        let (_, batch) = client.upload(ROUTE, body(10)).await.expect("an answer");
        let id = batch["id"].as_str().expect("an id").to_owned();
        while client.get(&format!("/v2/batches/{id}")).await["status"] != "queued" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop((api, worker));
        let each = backlog / 10_000;
        // Copies of a real batch: the dispatcher looks at owners and batches, and at rows only when it takes them.
        let batches = format!(
            "INSERT INTO batches OVERRIDING SYSTEM VALUE SELECT (jsonb_populate_record(b, jsonb_build_object('seq', \
             1000000 + o.seq, 'id', gen_random_uuid(), 'owner', o.seq, 'total', {each}, 'pending', {each}, \
             'release_end', {each} + 1))).* FROM batches b CROSS JOIN owners o WHERE o.name LIKE 'owner%'"
        );
        psql(
            &database,
            &[
                "INSERT INTO owners (name, rows, created_at) SELECT 'owner' || o, 10, 0 FROM generate_series(1, 10000) AS o",
                &batches,
                "ANALYZE",
            ],
        );
        let mut best = Duration::MAX;
        for _ in 0..3 {
            let began = Instant::now();
            let run = place.dispatch_once(&sandbox);
            assert!(run["record"]["rows"].as_u64().is_some_and(|rows| rows >= 100_000), "{run}");
            best = best.min(began.elapsed());
            psql(
                &database,
                &[
                    "TRUNCATE row_state",
                    "UPDATE batches SET pending = total, queued = 0, next_number = 1",
                    "VACUUM ANALYZE",
                ],
            );
        }
        println!(
            "{:<60} {:>12.0} ms",
            format!("a run over 10,000 owners, {backlog} rows waiting, 100,000 released"),
            best.as_secs_f64() * 1000.0
        );
        took.push(best);
    }
    kept.at_most("3,000,000 waiting / 100,000 waiting", took[1].as_secs_f64() / took[0].as_secs_f64(), 1.3);
}

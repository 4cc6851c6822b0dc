//! Upload, extraction and processing on SQLite and files, each beside what the machine does at most.

use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_crypto::{Ad, DataKey};
use penstock_domain::csv::{Column, Limits, NoReferences, Schema, Validator};
use penstock_sandbox::{Config, Sandbox};
use penstock_tests::{Client, Place};
use ring::rand::SystemRandom;
use uuid::Uuid;

use crate::cpu::Meter;
use crate::fixed::Fixed;
use crate::{NOOP, ROUTE, body, head, line, rate, say, three_calls_definition, usage};

/// Resident memory that a service may need for any file, MiB.
const MOST_MIB: f64 = 96.0;

/// How much of it may depend on the file's size, MiB.
const MOST_APART_MIB: f64 = 16.0;

/// Measures, prints; whether memory stayed within its bounds.
pub async fn run(rows: u32, part: Option<&str>) -> bool {
    if part == Some("calls") {
        three_calls(rows.min(20_000)).await;
        return true;
    }
    println!("{rows} rows of {} bytes\n", line(1).len());
    let parsing = parse(rows);
    let sealing = seal(rows);
    let inserting = insert(rows).await;
    println!();
    let small = whole(10_000, false).await;
    let large = whole(rows, true).await;
    println!();
    println!("upload / parse alone                {:>6.2}", large.upload / parsing);
    println!("extraction / plain bulk insert      {:>6.2}", large.extraction / inserting);
    println!("extraction / seal alone             {:>6.2}", large.extraction / sealing);
    println!("peak memory, 10,000 rows            {:>6.1} MiB", small.peak);
    println!("peak memory, {rows} rows {:>10} {:>6.1} MiB", "", large.peak);
    let noop_rows = rows.min(100_000);
    process(noop_rows).await;
    three_calls(rows.min(20_000)).await;
    if large.peak > MOST_MIB || large.peak - small.peak > MOST_APART_MIB {
        eprintln!("memory: at most {MOST_MIB} MiB, and {MOST_APART_MIB} MiB above what 10,000 rows need");
        return false;
    }
    true
}

/// Parsing and validating alone.
fn parse(rows: u32) -> f64 {
    let mut columns: Vec<Column> = head().trim().split(',').map(Column::named).collect();
    columns[0].required = true;
    let limits = Limits { max_rows: u64::MAX, ..Limits::default() };
    let mut validator =
        Validator::new(Arc::new(Schema { columns, limits, ..Schema::default() }), Arc::new(NoReferences));
    let mut took = Duration::ZERO;
    let mut block = head().to_owned();
    for number in 0..rows {
        block.push_str(&line(number));
        if block.len() > 64 * 1024 || number + 1 == rows {
            let began = Instant::now();
            validator.push(block.as_bytes()).expect("within limits");
            took += began.elapsed();
            block.clear();
        }
    }
    validator.finish().expect("a good file");
    say("ceiling: parse and validate alone", rows, took)
}

fn seal(rows: u32) -> f64 {
    let batch = Uuid::from_u128(1);
    let key = DataKey::generate(&SystemRandom::new()).expect("random numbers");
    let plain = line(1);
    let mut out = Vec::new();
    let began = Instant::now();
    for row in 0..rows {
        out.clear();
        key.seal_into(Ad { table: "row_data", batch, row, column: "payload" }, plain.as_bytes(), &mut out);
    }
    say("ceiling: seal alone", rows, began.elapsed())
}

/// Plain rows of the same size into an SQLite table of the same shape, 5,000 a transaction.
async fn insert(rows: u32) -> f64 {
    use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
    let folder = tempfile::tempdir().expect("a folder");
    let options = SqliteConnectOptions::new()
        .filename(folder.path().join("plain.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal);
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.expect("a database");
    sqlx::query("CREATE TABLE plain (batch INTEGER, number INTEGER, line INTEGER, payload BLOB, PRIMARY KEY (batch, number)) STRICT, WITHOUT ROWID")
        .execute(&pool)
        .await
        .expect("a table");
    let payload = vec![b'x'; line(1).len() + 29];
    let began = Instant::now();
    let mut number = 0;
    while number < rows {
        let mut tx = pool.begin().await.expect("a transaction");
        let end = rows.min(number + 5000);
        while number < end {
            let until = end.min(number + 500);
            let mut query = sqlx::QueryBuilder::new("INSERT INTO plain (batch, number, line, payload) ");
            query.push_values(number..until, |mut values, number| {
                values.push_bind(1_i64).push_bind(number).push_bind(number).push_bind(payload.as_slice());
            });
            query.build().execute(&mut *tx).await.expect("rows");
            number = until;
        }
        tx.commit().await.expect("a commit");
    }
    say("ceiling: plain bulk insert into SQLite", rows, began.elapsed())
}

struct Whole {
    upload: f64,
    extraction: f64,
    peak: f64,
}

/// A file through the API and the extraction; then every row is read.
async fn whole(rows: u32, shown: bool) -> Whole {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    // Rows are held back by a tiny quota: this is about upload, extraction and reading.
    let place = Place::new(&[("noop.yaml", &NOOP.replace("rows_per_owner: 50000", "rows_per_owner: 1"))]);
    let key = place.key(&sandbox, "bench");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let began = Instant::now();
    let (status, batch) = client.upload(ROUTE, body(rows)).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let uploaded = began.elapsed();
    let id = batch["id"].as_str().expect("an id").to_owned();
    let began = Instant::now();
    loop {
        let batch = client.get(&format!("/v2/batches/{id}")).await;
        if batch["status"] == "queued" || !batch["finished_at"].is_null() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let extracted = began.elapsed();
    let began = Instant::now();
    let mut report =
        client.request("GET", &format!("/v2/batches/{id}/results.csv")).send().await.expect("an answer");
    let mut lines = 0;
    while let Some(chunk) = report.chunk().await.expect("a whole report") {
        lines += chunk.iter().filter(|byte| **byte == b'\n').count();
    }
    assert_eq!(lines, rows as usize + 1);
    let read = began.elapsed();
    let (peak, _) = usage(&service);
    if shown {
        say("upload (HTTP, validate, seal, store)", rows, uploaded);
        say("extraction (read, open, parse, seal, insert)", rows, extracted);
        say("results.csv (read, open, write)", rows, read);
    }
    Whole { upload: rate(rows, uploaded), extraction: rate(rows, extracted), peak }
}

/// Rows without a call: what claims and settlements cost.
async fn process(rows: u32) {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let key = place.key(&sandbox, "bench");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (status, batch) = client.upload(ROUTE, body(rows)).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id").to_owned();
    while client.get(&format!("/v2/batches/{id}")).await["status"] == "processing" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (_, cpu_before) = usage(&service);
    let began = Instant::now();
    client.finished(&id).await;
    let took = began.elapsed();
    let (peak, cpu) = usage(&service);
    println!();
    say("processing, no-op steps (claim, settle, finish)", rows, took);
    println!("CPU per 1,000 rows                  {:>6.1} ms", (cpu - cpu_before) / f64::from(rows) * 1e6);
    println!("peak memory                         {:>6.1} MiB", peak);
}

/// Three calls a row, each answered at once.
async fn three_calls(rows: u32) {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("pipeline.yaml", &three_calls_definition(64))]);
    Fixed::called_in(&mut place);
    let key = place.key(&sandbox, "bench");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let route = "/v2/client/users/batch/invite?context=%7B%22campaign%22%3A%22bench%22%7D";
    let (status, batch) = client.upload(route, body(rows)).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id").to_owned();
    while client.get(&format!("/v2/batches/{id}")).await["status"] == "processing" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (began, meter) = (Instant::now(), Meter::start(&[("penstock", &service)], None, None));
    let batch = client.finished(&id).await;
    println!();
    say("three calls a row, 64 at once, each answered at once", rows, began.elapsed());
    assert_eq!(batch["counts"]["completed"], rows, "{batch}");
    meter.say(rows);
    println!("{:<60} {:>12.1} MiB", "peak memory of the process", usage(&service).0);
}

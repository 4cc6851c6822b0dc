//! Flow control, by the sandbox's own record of every call: as fast as is allowed, never faster, and fair.

use std::time::{Duration, Instant};

use penstock_sandbox::limits::worst_excess;
use penstock_sandbox::{Config, Faults, Limit, Sandbox};
use penstock_tests::redis::Redis;
use penstock_tests::{Client, Place};
use sqlx::Connection as _;

use crate::Promises;

/// Everything that is promised here, each part for so many seconds.
pub async fn run(seconds: u32, part: Option<&str>, kept: &mut Promises) {
    let time = Duration::from_secs(u64::from(seconds));
    let wanted = |name: &str| part.is_none_or(|part| part == name);
    if wanted("exact") {
        exact(time, false, kept).await;
    }
    if wanted("unrest") {
        exact(time, true, kept).await;
    }
    if wanted("lower") {
        lower(time, kept).await;
    }
    if wanted("hang") {
        hang(Hang::FromTheFirstCall, kept).await;
        hang(Hang::Later, kept).await;
    }
    if wanted("fair") {
        fair(kept).await;
        weights(kept).await;
        two_batches(kept).await;
    }
}

const ALLOWED: Limit = Limit { rate: 200.0, burst: 20.0 };

/// One call a row, at the rate that is allowed.
const ONE_CALL: &str = "name: one\ncsv: { columns: [ { name: id, required: true } ] }\n\
    dependencies: { address: { base_url: \"${ADDRESS_API_URL}\", timeout: 5s, rate: { limit: 200, period: 1s, burst: 20 } } }\n\
    steps: [ { name: a, dependency: address, request: { method: GET, path: \"/addresses/lnk_{{ row.id }}\" } } ]\n\
    dispatch: { spread: 0s, rows_per_owner: 5000 }\n";

fn numbers(rows: u32) -> String {
    std::iter::once("id\n".to_owned()).chain((0..rows).map(|number| format!("{number}\n"))).collect()
}

/// When calls were answered well, and when they were refused, in seconds.
fn record(sandbox: &Sandbox) -> (Vec<f64>, Vec<f64>) {
    #[allow(clippy::cast_precision_loss, reason = "seconds")]
    let at = |call: &penstock_sandbox::Call| call.at_us as f64 / 1e6;
    let calls = sandbox.calls();
    let good = calls.iter().filter(|call| call.status == 200).map(at).collect();
    (good, calls.iter().filter(|call| call.status == 429).map(at).collect())
}

/// Four workers, an endless backlog, a sandbox that enforces exactly what is allowed. With `unrest`, one worker is killed,
/// one is started, and the limiter's Redis is restarted empty.
async fn exact(time: Duration, unrest: bool, kept: &mut Promises) {
    let sandbox = Sandbox::start(Config { address: Some(ALLOWED), ..Config::default() }).expect("a sandbox");
    let mut redis = Redis::reserve();
    redis.start(&[]);
    let mut place = Place::new(&[("one.yaml", ONE_CALL)]);
    place.set("REDIS_URL", redis.url());
    let key = place.key(&sandbox, "bench");
    let api = place.api(&sandbox);
    let client = Client::new(&api, &key);
    let _dispatcher = place.dispatcher(&sandbox, "1s");
    let mut workers: Vec<_> = (0..4).map(|_| place.worker(&sandbox)).collect();
    let rows = u32::try_from(time.as_secs()).unwrap_or(600) * 230 + 2000;
    client.upload("/v2/pipelines/one/batches", numbers(rows)).await.expect("an answer");
    while record(&sandbox).0.len() < 50 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let began = Instant::now();
    let first = record(&sandbox).0.len();
    if unrest {
        tokio::time::sleep(time / 4).await;
        workers.remove(0).kill();
        tokio::time::sleep(time / 4).await;
        workers.push(place.worker(&sandbox));
        tokio::time::sleep(time / 4).await;
        redis.stop();
        redis.start(&[]);
        tokio::time::sleep(time / 4).await;
    } else {
        tokio::time::sleep(time).await;
    }
    let took = began.elapsed().as_secs_f64();
    let (good, refused) = record(&sandbox);
    drop(workers);
    #[allow(clippy::cast_precision_loss, reason = "some thousands")]
    let used = (good.len() - first) as f64 / (took * ALLOWED.rate);
    let what = if unrest { "a worker killed, one started, Redis restarted" } else { "four workers" };
    println!("\n200 calls/s, burst 20, {took:.0} s, {what}: {} calls", good.len());
    tenths(&good, first, took);
    kept.at_least("share of the allowed calls that was used", used, 0.98);
    let every: Vec<f64> = sandbox
        .calls()
        .iter()
        .map(|call| {
            #[allow(clippy::cast_precision_loss, reason = "seconds")]
            let at = call.at_us as f64 / 1e6;
            at
        })
        .collect();
    kept.at_most("calls above burst + rate·t in the worst window", worst_excess(&every, &ALLOWED), 0.001);
    #[allow(clippy::cast_precision_loss, reason = "few")]
    kept.at_most("answers 429", refused.len() as f64, 0.0);
}

/// Calls a second in each tenth of the time.
fn tenths(good: &[f64], first: usize, took: f64) {
    let Some(began) = good.get(first) else { return };
    let mut counts = [0.0_f64; 10];
    for at in &good[first..] {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "one of ten")]
        let tenth = ((at - began) / took * 10.0) as usize;
        counts[tenth.min(9)] += 10.0 / took;
    }
    let rates: Vec<String> = counts.iter().map(|rate| format!("{rate:.0}")).collect();
    println!("calls/s in each tenth of the time: {}", rates.join(" "));
}

/// The sandbox allows half of what is configured, and says so by 429 with Retry-After.
async fn lower(time: Duration, kept: &mut Promises) {
    let truth = Limit { rate: 100.0, burst: 20.0 };
    let workers = 3;
    let sandbox = Sandbox::start(Config { address: Some(truth), ..Config::default() }).expect("a sandbox");
    let place = Place::new(&[("one.yaml", ONE_CALL)]);
    let key = place.key(&sandbox, "bench");
    let api = place.api(&sandbox);
    let client = Client::new(&api, &key);
    let _dispatcher = place.dispatcher(&sandbox, "1s");
    let running: Vec<_> = (0..workers).map(|_| place.worker(&sandbox)).collect();
    let rows = u32::try_from(time.as_secs()).unwrap_or(600) * 120 + 2000;
    client.upload("/v2/pipelines/one/batches", numbers(rows)).await.expect("an answer");
    while record(&sandbox).0.len() < 50 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let began = Instant::now();
    let first = record(&sandbox).0.len();
    tokio::time::sleep(time).await;
    let took = began.elapsed().as_secs_f64();
    let (good, refused) = record(&sandbox);
    drop(running);
    // A pause begins with a 429 and lasts a second; what is refused within it was on its way.
    let (mut pauses, mut most, mut within, mut until) = (0_u32, 0_u32, 0_u32, f64::NEG_INFINITY);
    for at in &refused {
        if *at >= until {
            (pauses, within, until) = (pauses + 1, 0, at + 1.0);
        } else {
            within += 1;
        }
        most = most.max(within);
    }
    #[allow(clippy::cast_precision_loss, reason = "some thousands")]
    let used = (good.len() - first) as f64 / (took * truth.rate);
    println!("\n200 calls/s configured, 100 allowed, {took:.0} s: {} calls, {pauses} pauses", good.len());
    tenths(&good, first, took);
    kept.at_least("share of the true limit that was used", used, 0.9);
    kept.at_most("calls that landed in one pause, with 3 workers", f64::from(most), f64::from(workers));
    let lost = scalar(&place, "SELECT count(*) FROM row_state WHERE attempts > 1 OR status = 4").await;
    #[allow(clippy::cast_precision_loss, reason = "few")]
    kept.at_most("rows that lost an attempt", lost as f64, 0.0);
}

async fn scalar(place: &Place, query: &'static str) -> i64 {
    let url = place.variable("DATABASE_URL").expect("a cluster");
    let mut connection = sqlx::PgConnection::connect(url).await.expect("a database");
    sqlx::query_scalar(query).fetch_one(&mut connection).await.expect("a number")
}

/// When a dependency begins to hang.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hang {
    FromTheFirstCall,
    /// While rows go through it at the rate that is allowed.
    Later,
}

/// One dependency hangs for two minutes; another pipeline of the same worker goes on.
async fn hang(when: Hang, kept: &mut Promises) {
    let well = "name: well\ncsv: { columns: [ { name: id, required: true } ] }\n\
        dependencies: { invite: { base_url: \"${INVITE_API_URL}\", timeout: 5s, rate: { limit: 300, period: 1s, burst: 30 } } }\n\
        steps: [ { name: a, dependency: invite, request: { method: GET, path: \"/addresses/lnk_{{ row.id }}\" } } ]\n\
        dispatch: { spread: 0s, rows_per_owner: 5000 }\n";
    let (ill, rows) = match when {
        Hang::FromTheFirstCall => (
            ONE_CALL.replace("limit: 200, period: 1s, burst: 20", "limit: 1000, period: 1s, burst: 100"),
            3000,
        ),
        Hang::Later => (ONE_CALL.to_owned(), 20_000),
    };
    let (hanging, healthy) = (
        Sandbox::start(Config::default()).expect("a sandbox"),
        Sandbox::start(Config::default()).expect("a sandbox"),
    );
    hanging.set_faults(Faults { latency_ms: 20, ..Faults::default() });
    healthy.set_faults(Faults { latency_ms: 20, ..Faults::default() });
    let mut place = Place::new(&[("one.yaml", &ill), ("well.yaml", well)]);
    place.set("INVITE_API_URL", healthy.url());
    let key = place.key(&hanging, "bench");
    let api = place.api(&hanging);
    let client = Client::new(&api, &key);
    let _dispatcher = place.dispatcher(&hanging, "1s");
    let _worker = place.worker(&hanging);
    client.upload("/v2/pipelines/well/batches", numbers(80_000)).await.expect("an answer");
    let mut batch = None;
    if when == Hang::Later {
        batch = client.upload("/v2/pipelines/one/batches", numbers(rows)).await;
    }
    while healthy.stats().addresses < 500 || (batch.is_some() && hanging.stats().addresses < 500) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("\na dependency hangs, {when:?}");
    let rate = || async {
        let (began, first) = (Instant::now(), healthy.stats().addresses);
        tokio::time::sleep(Duration::from_secs(40)).await;
        #[allow(clippy::cast_precision_loss, reason = "some thousands")]
        let calls = (healthy.stats().addresses - first) as f64;
        let took = began.elapsed().as_secs_f64();
        tenths(&record(&healthy).0, usize::try_from(first).unwrap_or(usize::MAX), took);
        calls / took
    };
    let before = rate().await;
    hanging.set_faults(Faults { hang: 1.0, hang_ms: 120_000, ..Faults::default() });
    if batch.is_none() {
        batch = client.upload("/v2/pipelines/one/batches", numbers(rows)).await;
    }
    let during = rate().await;
    let later = rate().await;
    println!("another pipeline made {before:.0} calls/s before, {during:.0} and {later:.0} meanwhile");
    kept.at_least("throughput while it hangs / before", during.min(later) / before, 0.95);
    tokio::time::sleep(Duration::from_secs(40)).await;
    hanging.set_faults(Faults { latency_ms: 5, ..Faults::default() });
    let batch = client.finished(batch.expect("an answer").1["id"].as_str().expect("an id")).await;
    let completed = batch["counts"]["completed"].as_f64().unwrap_or_default();
    kept.at_least("of the rows of the one that hung, completed afterwards", completed, f64::from(rows));
}

/// Ten owners with much, one with ten rows, uploaded last.
async fn fair(kept: &mut Promises) {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let noop = crate::NOOP.replace("rows_per_owner: 50000", "rows_per_owner: 100");
    let mut place = Place::new(&[("noop.yaml", &noop)]);
    place.set("ROWS_PER_OWNER", "100".into());
    let api = place.api(&sandbox);
    let mut batches = Vec::new();
    for owner in 0..10 {
        let client = Client::new(&api, &place.key(&sandbox, &format!("large{owner}")));
        let (_, batch) = client.upload(crate::ROUTE, crate::body(10_000)).await.expect("an answer");
        batches.push((client, batch["id"].as_str().expect("an id").to_owned()));
    }
    let _worker = place.worker(&sandbox);
    for (client, id) in &batches {
        while client.get(&format!("/v2/batches/{id}")).await["status"] != "queued" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let small = Client::new(&api, &place.key(&sandbox, "small"));
    for _ in 0..5 {
        turn(&place, &sandbox).await;
    }
    let (_, batch) = small.upload(crate::ROUTE, crate::body(10)).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    while small.get(&format!("/v2/batches/{id}")).await["status"] != "queued" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut runs = 0;
    while small.get(&format!("/v2/batches/{id}")).await["progress"] != 100 {
        turn(&place, &sandbox).await;
        runs += 1;
    }
    for _ in 0..10 {
        turn(&place, &sandbox).await;
    }
    let mut done = Vec::new();
    for (client, id) in &batches {
        done.push(
            client.get(&format!("/v2/batches/{id}")).await["counts"]["completed"].as_f64().unwrap_or(0.0),
        );
    }
    println!("\nten owners with 10,000 rows each, one with 10 uploaded last: {done:?}");
    kept.at_most("runs until the ten rows were done", f64::from(runs), 2.0);
    kept.at_least("Jain's index of the ten owners", jain(&done), 0.99);
}

/// One dispatcher run, and time for what it released.
async fn turn(place: &Place, sandbox: &Sandbox) {
    place.dispatch_once(sandbox);
    tokio::time::sleep(Duration::from_millis(700)).await;
}

/// (Σx)² ÷ n·Σx²: 1 when all are equal (Jain, Chiu, Hawe, 1984).
pub fn jain(values: &[f64]) -> f64 {
    let (sum, squares): (f64, f64) = (values.iter().sum(), values.iter().map(|value| value * value).sum());
    #[allow(clippy::cast_precision_loss, reason = "ten")]
    let count = values.len() as f64;
    sum * sum / (count * squares)
}

/// Three owners of weight 1, 2 and 4 share a run's cap.
async fn weights(kept: &mut Promises) {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("noop.yaml", crate::NOOP)]);
    place.set("ROWS_PER_RUN", "700".into());
    let api = place.api(&sandbox);
    let mut batches = Vec::new();
    for weight in ["1", "2", "4"] {
        let owner = format!("weight{weight}");
        let client = Client::new(&api, &place.key(&sandbox, &owner));
        place.operate(&sandbox, &["owners", "set", &owner, "--weight", weight]);
        let (_, batch) = client.upload(crate::ROUTE, crate::body(20_000)).await.expect("an answer");
        batches.push((client, batch["id"].as_str().expect("an id").to_owned()));
    }
    let _worker = place.worker(&sandbox);
    for (client, id) in &batches {
        while client.get(&format!("/v2/batches/{id}")).await["status"] != "queued" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    for _ in 0..15 {
        turn(&place, &sandbox).await;
    }
    let mut done = Vec::new();
    for (client, id) in &batches {
        done.push(
            client.get(&format!("/v2/batches/{id}")).await["counts"]["completed"].as_f64().unwrap_or(0.0),
        );
    }
    println!("\nweights 1, 2 and 4: {done:?}");
    let sum: f64 = done.iter().sum();
    let off = done.iter().zip([1.0, 2.0, 4.0]).map(|(rows, weight)| (rows / sum * 7.0 / weight - 1.0).abs());
    kept.at_most("furthest from its weight's share", off.fold(0.0, f64::max), 0.03);
}

/// A million rows and ten of one owner.
async fn two_batches(kept: &mut Promises) {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("noop.yaml", crate::NOOP)]);
    place.set("ROWS_PER_OWNER", "100".into());
    let api = place.api(&sandbox);
    let client = Client::new(&api, &place.key(&sandbox, "acme"));
    let _worker = place.worker(&sandbox);
    let mut ids = Vec::new();
    for rows in [1_000_000, 10] {
        let (_, batch) = client.upload(crate::ROUTE, crate::body(rows)).await.expect("an answer");
        ids.push(batch["id"].as_str().expect("an id").to_owned());
    }
    for id in &ids {
        while client.get(&format!("/v2/batches/{id}")).await["status"] != "queued" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let mut runs = 0;
    while client.get(&format!("/v2/batches/{}", ids[1])).await["progress"] != 100 {
        turn(&place, &sandbox).await;
        runs += 1;
    }
    println!("\na million and ten rows of one owner");
    kept.at_most("runs until the ten rows were done", f64::from(runs), 2.0);
}

//! What only a cluster has: services that come and go, several of each service, a bucket to which clients PUT.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use penstock_domain::time::Timestamp;
use penstock_sandbox::{Config, Faults, Sandbox};
use penstock_tests::database::Database;
use penstock_tests::receiver::{Heard, Receiver};
use penstock_tests::redis::Redis;
use penstock_tests::{Client, PATIENCE, Place, Service};
use serde_json::{Value, json};

const INVITE: &str = include_str!("../../pipelines/invite.yaml");
const ROUTE: &str = "/v2/client/users/batch/invite?context=%7B%22campaign%22%3A%22cluster%22%7D";

fn invite() -> String {
    INVITE
        .replace("limit: 50, period: 1s, burst: 10", "limit: 5000, period: 1s, burst: 500")
        .replace("limit: 20, period: 1s, burst: 5", "limit: 5000, period: 1s, burst: 500")
        .replace("rows_per_owner: 100", "rows_per_owner: 500, spread: 0s")
        .replace("initial: 1s, factor: 2, max: 5m", "initial: 50ms, factor: 1, max: 50ms")
}

fn people(count: u32, word: &str) -> String {
    let mut csv = "email,first_name,last_name,phone,postcode\n".to_owned();
    for number in 0..count {
        csv.push_str(&format!("{word}{number}@example.com,{word},Last,,AB{:04}\n", number % 10_000));
    }
    csv
}

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

/// No crash loop because Redis starts later; not ready while it is away, and the probe names it; ready again by itself;
/// and a batch that was on its way when all of Redis was lost ends.
#[tokio::test]
async fn services_wait_for_redis_and_come_back_by_themselves() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut redis = Redis::reserve();
    let mut place = Place::new(&[("invite.yaml", &invite())]);
    place.set("REDIS_URL", redis.url());
    let (mut api, mut worker) = (place.api(&sandbox), place.worker(&sandbox));
    let said = until_ready(&worker, 503).await;
    assert!(said.contains("\"queue\"") && said.contains("\"database\":\"ok\""), "{said}");
    until_ready(&api, 503).await;
    assert!(api.lives() && worker.lives(), "they wait");
    redis.start(&[]);
    until_ready(&api, 200).await;
    until_ready(&worker, 200).await;
    let key = place.key(&sandbox, "acme");
    let client = Client::new(&api, &key);
    let _dispatcher = place.dispatcher(&sandbox, "1s");
    let (_, batch) = client.upload(ROUTE, people(3000, "p")).await.expect("an answer");
    while sandbox.stats().effects < 200 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    redis.stop();
    until_ready(&worker, 503).await;
    until_ready(&api, 503).await;
    // The queue is away, and nothing else: the API goes on.
    let status = client.request("GET", "/readyz?only=database").send().await.expect("an answer").status();
    assert_eq!(status, 200);
    let (status, meanwhile) = client.upload(ROUTE, people(50, "meanwhile")).await.expect("an answer");
    assert_eq!((status, &meanwhile["counts"]["total"]), (202, &json!(50)), "{meanwhile}");
    // Nobody knows when it will be back, so nothing promises a time.
    assert_eq!(meanwhile["eta"], json!(null), "{meanwhile}");
    let id = meanwhile["id"].as_str().expect("an id");
    let waits = client.get(&format!("/v2/batches/{id}/waiting?row=1")).await["data"].clone();
    let waits = waits.as_array().expect("entries");
    assert!(waits.iter().any(|wait| wait["reason"] == "queue_away"), "{waits:?}");
    assert!(waits.iter().all(|wait| wait["until"].is_null()), "{waits:?}");
    let status = client.request("GET", "/readyz?only=queue").send().await.expect("an answer").status();
    assert_eq!(status, 400);
    redis.start(&[]);
    let meanwhile = client.finished(meanwhile["id"].as_str().expect("an id")).await;
    assert_eq!(meanwhile["counts"]["completed"], 50, "{meanwhile}");
    let batch = client.finished(batch["id"].as_str().expect("an id")).await;
    assert_eq!(batch["counts"]["completed"], 3000, "{batch}");
    assert_eq!((sandbox.stats().effects, sandbox.stats().doubled), (3050, 0));
    assert!(api.lives() && worker.lives());
    until_ready(&worker, 200).await;
}

/// A service that waits for its database's schema lives, so that nobody restarts it, and is not ready until it is there.
#[tokio::test]
async fn services_live_while_they_wait_for_a_schema() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("invite.yaml", &invite())]);
    let migrated = place.variable("DATABASE_URL").expect("a cluster").to_owned();
    let empty = format!("{migrated}_empty");
    let name = empty.rsplit('/').next().expect("a name");
    let made = Command::new("psql").args([&migrated, "-qc", &format!("CREATE DATABASE {name}")]).status();
    assert!(made.expect("psql runs").success());
    place.set("DATABASE_URL", empty);
    let (api, worker) = (place.api(&sandbox), place.worker(&sandbox));
    let http = penstock_tests::http().build().expect("a client");
    for service in [&api, &worker] {
        let status = |path: &str| http.get(format!("{}{path}", service.base)).send();
        assert_eq!(status("/livez").await.expect("an answer").status(), 200);
        assert_eq!(status("/readyz").await.expect("an answer").status(), 503);
    }
    // However long it takes until somebody migrates.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(place.operate(&sandbox, &["migrate"]).1);
    for service in [&api, &worker] {
        let began = Instant::now();
        while !http
            .get(format!("{}/readyz", service.base))
            .send()
            .await
            .is_ok_and(|answer| answer.status() == 200)
        {
            assert!(began.elapsed() < PATIENCE, "it is never ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
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

/// The next release's migration expands the schema while this release's programs work, and every one of them is started anew
/// beside it: no row is lost, none is done twice.
#[tokio::test]
async fn a_next_schema_comes_while_programs_work() {
    const ROWS: u32 = 6000;
    let sandbox =
        Sandbox::start(Config { faults: Faults { latency_ms: 5, ..Faults::default() }, ..Config::default() })
            .expect("a sandbox");
    let place = Place::new(&[("invite.yaml", &invite())]);
    let key = place.key(&sandbox, "acme");
    let api = place.api(&sandbox);
    let dispatcher = place.dispatcher(&sandbox, "200ms");
    let workers = [place.worker(&sandbox), place.worker(&sandbox)];
    let client = Client::new(&api, &key);
    let (_, batch) = client.upload(ROUTE, people(ROWS, "before")).await.expect("an answer");
    let so_many = async |effects: u64| {
        let began = Instant::now();
        while sandbox.stats().effects < effects {
            assert!(began.elapsed() < PATIENCE, "{:?}", sandbox.stats());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    so_many(500).await;
    let mut database = Database::of(&place).await;
    for statement in penstock_store_conformance::upgrade::expansion() {
        database.run_owned(statement).await;
    }
    database
        .run(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
             SELECT max(version) + 1, 'next', true, ''::bytea, 0 FROM _sqlx_migrations",
        )
        .await;
    database
        .run("INSERT INTO schema_serves (version, oldest) SELECT max(version) + 1, max(version) FROM schema_serves")
        .await;
    so_many(1000).await;
    // One after the other, as a rollout does it, and one that dies of it.
    let mut after = Vec::new();
    for (place_of, worker) in workers.into_iter().enumerate() {
        after.push(place.worker(&sandbox));
        if place_of == 0 { worker.terminate() } else { worker.kill() }
    }
    dispatcher.terminate();
    let _dispatcher = place.dispatcher(&sandbox, "200ms");
    let second = place.api(&sandbox);
    let client = Client::new(&second, &key);
    api.terminate();
    assert!(sandbox.stats().effects < u64::from(ROWS), "it was in the middle of it");
    let batch = client.finished(batch["id"].as_str().expect("an id")).await;
    assert_eq!(batch["counts"]["completed"], ROWS, "{batch}");
    let (_, new) = client.upload(ROUTE, people(500, "after")).await.expect("an answer");
    let new = client.finished(new["id"].as_str().expect("an id")).await;
    assert_eq!(new["counts"]["completed"], 500, "{new}");
    assert_eq!((sandbox.stats().effects, sandbox.stats().doubled), (u64::from(ROWS) + 500, 0));
    for service in after.iter().chain([&second]) {
        until_ready(service, 200).await;
    }
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

/// A Redis that takes no more writes stops no row for good.
#[tokio::test]
async fn a_full_redis_is_survived() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut redis = Redis::reserve();
    redis.start(&["--maxmemory-policy", "noeviction"]);
    let mut place = Place::new(&[("invite.yaml", &invite())]);
    place.set("REDIS_URL", redis.url());
    let (api, _worker) = (place.api(&sandbox), place.worker(&sandbox));
    let _dispatcher = place.dispatcher(&sandbox, "1s");
    let client = Client::new(&api, &place.key(&sandbox, "acme"));
    let (_, batch) = client.upload(ROUTE, people(2000, "p")).await.expect("an answer");
    while sandbox.stats().effects < 200 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    redis.ask(&["config", "set", "maxmemory", "1"]);
    tokio::time::sleep(Duration::from_secs(6)).await;
    let (status, refused) = client.upload(ROUTE, people(10, "q")).await.expect("an answer");
    assert_eq!(status, 202, "the sweep enqueues it again: {refused}");
    redis.ask(&["config", "set", "maxmemory", "0"]);
    for one in [&batch, &refused] {
        let ended = client.finished(one["id"].as_str().expect("an id")).await;
        assert_eq!(ended["outcome"], "success", "{ended}");
    }
    assert_eq!((sandbox.stats().effects, sandbox.stats().doubled), (2010, 0));
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

/// A client PUTs its file to the bucket, not to the API; what is good becomes a batch, what is bad ends with the list of
/// errors, and in the end only sealed objects are there.
#[tokio::test]
async fn a_file_is_put_to_the_bucket_itself() {
    const MARKER: &str = "Zq7presigned";
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("invite.yaml", &invite())]);
    let s3 = place.variable("AWS_ENDPOINT").expect("a cluster").to_owned();
    let (api, _worker) = (place.api(&sandbox), place.worker(&sandbox));
    let _dispatcher = place.dispatcher(&sandbox, "1s");
    let client = Client::new(&api, &place.key(&sandbox, "acme"));
    let http = penstock_tests::http().build().expect("a client");
    let good = people(300, MARKER);
    let bad = good.replacen("@example.com", "", 2);
    for (file, outcome) in [(good, "success"), (bad, "failure")] {
        let (status, upload) = client.post("/v2/uploads", &json!({})).await;
        assert_eq!(status, 201, "{upload}");
        let url = upload["url"].as_str().expect("a URL");
        assert!(url.starts_with(&s3) && upload["authorization"] == false, "{upload}");
        let tampered = url.replace("owners", "owner5");
        let refused = http.put(tampered).body("x").send().await.expect("an answer");
        assert_eq!(refused.status(), 403, "a signature is for one object");
        let put = http.put(url).body(file).send().await.expect("an answer");
        assert!(put.status().is_success(), "{}", put.status());
        let body = json!({ "upload_id": upload["upload_id"], "context": { "campaign": "put" } });
        let (status, batch) = client.post("/v2/pipelines/invite/batches", &body).await;
        assert_eq!(status, 202, "{batch}");
        let batch = client.finished(batch["id"].as_str().expect("an id")).await;
        assert_eq!(batch["outcome"], outcome, "{batch}");
        if outcome == "failure" {
            assert_eq!(batch["status"], "failed");
            assert_eq!(batch["failure"]["error_count"], 2, "{batch}");
            assert_eq!(batch["failure"]["errors"][0]["line"], 2, "{batch}");
        }
    }
    let began = Instant::now();
    while place.files_with(MARKER.as_bytes()).iter().any(|path| path.to_string_lossy().contains("s3")) {
        assert!(began.elapsed() < PATIENCE, "{:?}", place.files_with(MARKER.as_bytes()));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// An upload that is refused, or that breaks off, leaves no part of it in the bucket: its multipart upload is aborted.
#[tokio::test]
async fn a_refused_upload_leaves_no_part_in_the_bucket() {
    use tokio::io::AsyncWriteExt as _;
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("invite.yaml", &invite())]);
    let api = place.api(&sandbox);
    let key = place.key(&sandbox, "acme");
    let client = Client::new(&api, &key);
    // Some parts are in the bucket when the last line turns out to be wrong.
    let file = format!("{}nobody,First,Last,,AB1234\n", people(300_000, "somebody-with-a-long-name"));
    assert!(file.len() > 12 << 20);
    let (status, problem) = client.upload(ROUTE, file.clone()).await.expect("an answer");
    assert_eq!((status, &problem["error_count"]), (422, &1.into()), "{problem}");
    // The client goes away in the middle.
    let address = api.base.strip_prefix("http://").expect("an address");
    let mut half = tokio::net::TcpStream::connect(address).await.expect("a connection");
    let head = format!(
        "POST {ROUTE} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: text/csv\r\ncontent-length: {}\r\n\r\n",
        file.len()
    );
    half.write_all(head.as_bytes()).await.expect("it is sent");
    half.write_all(&file.as_bytes()[..file.len() / 2]).await.expect("it is sent");
    drop(half);
    let began = Instant::now();
    while !place.objects().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", place.objects());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(client.get("/v2/batches").await["data"], json!([]));
}

/// A marker in every field of a row is in no file of PostgreSQL's, in no dump of Redis, in no object and in no log.
#[tokio::test]
async fn a_marker_is_in_no_file_of_any_server() {
    const MARKER: &str = "Zq7everywhere";
    let sandbox = Sandbox::start(Config {
        faults: Faults { latency_ms: 20, error: 0.05, ..Faults::default() },
        ..Config::default()
    })
    .expect("a sandbox");
    let mut redis = Redis::reserve();
    redis.start(&[]);
    let definition = invite().replace("^[A-Z0-9 ]{5,8}$", "^[A-Za-z0-9 ]{5,30}$");
    let mut place = Place::new(&[("invite.yaml", &definition)]);
    place.set("REDIS_URL", redis.url());
    let (api, _worker) = (place.api(&sandbox), place.worker(&sandbox));
    let _dispatcher = place.dispatcher(&sandbox, "1s");
    let client = Client::new(&api, &place.key(&sandbox, "acme"));
    let mut csv = "email,first_name,last_name,phone,postcode\n".to_owned();
    for number in 0..600 {
        let taken = if number % 3 == 0 { "taken" } else { "" };
        csv.push_str(&format!(
            "{taken}{MARKER}{number}@{MARKER}.example,{MARKER},{MARKER}{number},,ZA{MARKER}{number}\n"
        ));
    }
    let path = format!("/v2/client/users/batch/invite?context=%7B%22campaign%22%3A%22{MARKER}%22%7D");
    let (_, batch) = client.upload(&path, csv).await.expect("an answer");
    let found = |bytes: &[u8]| bytes.windows(MARKER.len()).any(|part| part == MARKER.as_bytes());
    while sandbox.stats().effects < 100 {
        assert!(!found(&redis.dump()), "while it runs");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let ended = client.finished(batch["id"].as_str().expect("an id")).await;
    assert_eq!(ended["outcome"], "partial_success", "{ended}");
    assert!(!found(&redis.dump()), "afterwards");
    let psql = |command: &str| {
        let url = place.variable("DATABASE_URL").expect("a cluster");
        let done = Command::new("psql").args([url, "-Atqc", command]).output().expect("psql");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    };
    // Tables, write-ahead log and server log, as they are on disk.
    psql("CHECKPOINT");
    let data = psql("SHOW data_directory");
    let database = psql("SELECT oid FROM pg_database WHERE datname = current_database()");
    let mut looked = 0;
    for folder in [format!("{data}/base/{database}"), format!("{data}/pg_wal"), data.clone()] {
        for entry in std::fs::read_dir(&folder).expect("the test may read it").flatten() {
            if entry.path().is_file() {
                let bytes = std::fs::read(entry.path()).unwrap_or_default();
                looked += bytes.len();
                assert!(!found(&bytes), "{}", entry.path().display());
            }
        }
    }
    assert!(looked > 1 << 20, "only {looked} bytes were looked at");
    assert!(place.files_with(MARKER.as_bytes()).is_empty(), "{:?}", place.files_with(MARKER.as_bytes()));
}

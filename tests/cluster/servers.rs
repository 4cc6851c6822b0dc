//! Servers that come later, go, are full, or get a new schema while services run.

use std::process::Command;
use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Faults, Sandbox};
use penstock_tests::database::Database;
use penstock_tests::redis::Redis;
use penstock_tests::{Client, PATIENCE, Place};
use serde_json::json;

use crate::{ROUTE, invite, people, until_ready};

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

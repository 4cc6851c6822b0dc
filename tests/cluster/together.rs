//! The ways to reach PostgreSQL, Redis and an object store, together: each pair of them is in one of these installations.

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::azurite::Azurite;
use penstock_tests::gcs::Gcs;
use penstock_tests::pgbouncer::PgBouncer;
use penstock_tests::postgres::Postgres;
use penstock_tests::redis::Redis;
use penstock_tests::{Client, Place};

use crate::postgres::run;
use crate::redis::{Sentinels, cluster};
use crate::{ROUTE, invite, people, until_ready};

/// Rows of each batch.
const ROWS: u32 = 60;

/// How PostgreSQL is reached.
const MODES: [Option<&str>; 3] = [None, Some("session"), Some("transaction")];

/// Settings of an installation.
type Settings = Vec<(&'static str, String)>;

/// Uploads, calls, reports and what operators see of an installation with these settings.
async fn runs(what: &str, settings: Settings) {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::bare(&[("invite.yaml", &invite())]);
    for (name, value) in settings {
        place.unset(name);
        place.set(name, value);
    }
    let (said, good) = place.say(&sandbox, &["migrate"]);
    assert!(good, "{what}: {said}");
    let key = place.key(&sandbox, "acme");
    let (api, worker) = (place.api(&sandbox), place.worker(&sandbox));
    let _dispatcher = place.dispatcher(&sandbox, "200ms");
    until_ready(&api, 200).await;
    until_ready(&worker, 200).await;
    let client = Client::new(&api, &key);
    let (status, batch) = client.upload(ROUTE, people(ROWS, "p")).await.expect("an answer");
    assert_eq!(status, 202, "{what}: {batch}");
    let id = batch["id"].as_str().expect("an id");
    let ended = client.finished(id).await;
    assert_eq!(ended["counts"]["completed"], ROWS, "{what}: {ended}");
    assert_eq!((sandbox.stats().effects, sandbox.stats().doubled), (u64::from(ROWS), 0), "{what}");
    let results = client.text(&format!("/v2/batches/{id}/results.csv")).await;
    assert_eq!(results.lines().count(), ROWS as usize + 1, "{what}");
    let (doctor, _) = place.operate(&sandbox, &["doctor"]);
    let failed = doctor.as_array().expect("lines").iter().any(|line| line["verdict"] == "fail");
    assert!(!failed, "{what}: {doctor}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_works_beside_every_other() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().expect("a folder");
    let primary = Postgres::start().await;
    let standby = primary.standby();
    let mut redis = Redis::reserve();
    redis.start(&[]);
    let sentinels = Sentinels::start(&folder).await;
    let nodes = cluster(&folder, 0).await;
    let node = format!("redis+cluster://127.0.0.1:{}", nodes[0].0);
    let queues = [("Redis", redis.url()), ("Sentinel", sentinels.url()), ("Cluster", node)];
    let (gcs, azurite) = (Gcs::start(&folder.path().join("gcs")), Azurite::start().await);
    let files = format!("file://{}", folder.path().join("files").display());
    let stores: [(&str, Settings); 4] = [
        ("S3", Vec::new()),
        ("Google", gcs.environment()),
        ("Azure", azurite.environment()),
        ("files", vec![("OBJECT_STORE_URL", files)]),
    ];
    for (row, mode) in MODES.into_iter().enumerate() {
        let poolers = mode
            .map(|mode| [&standby, &primary].map(|server| PgBouncer::before(&server.url("penstock"), mode)));
        let [second, first] = match &poolers {
            Some(poolers) => poolers.each_ref().map(PgBouncer::address),
            None => [standby.address(), primary.address()],
        };
        for (column, (store, settings)) in stores.iter().enumerate() {
            // Each mode, queue and store meets each other one, and one host as well as several.
            let (queue, url) = &queues[(row + column) % queues.len()];
            let several = (row + column) % 2 == 1;
            let hosts = if several { format!("{second},{first}") } else { first.clone() };
            let name = format!("together_{row}_{column}");
            run(&primary.url("postgres"), &format!("CREATE DATABASE {name}")).await;
            let what = format!("{mode:?}, several hosts: {several}, {queue}, {store}");
            println!("{what}");
            let database = format!("postgres://postgres@{hosts}/{name}?target_session_attrs=read-write");
            let mut all = vec![
                ("DATABASE_URL", database),
                ("PENSTOCK_DATABASE_CONNECTIONS", "2".to_owned()),
                ("REDIS_URL", url.clone()),
            ];
            all.extend(settings.iter().cloned());
            runs(&what, all).await;
        }
    }
}

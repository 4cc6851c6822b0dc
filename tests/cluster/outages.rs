//! A service goes away for a while under load: everything goes on soon after it is back, nothing happens twice, and nobody's log
//! is flooded meanwhile.

use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Faults, Sandbox};
use penstock_tests::azurite::Azurite;
use penstock_tests::gcs::Gcs;
use penstock_tests::postgres::Postgres;
use penstock_tests::redis::Redis;
use penstock_tests::relay::Relay;
use penstock_tests::{Client, PATIENCE, Place, Service};

use crate::{ROUTE, invite, people};

/// Rows of the batch. Programs that are not optimized get through fewer.
const ROWS: u32 = if cfg!(debug_assertions) { 2500 } else { 20_000 };

/// How long a service is away.
const AWAY: Duration = Duration::from_secs(20);

/// Everything goes on within this time of its return; a machine that runs other tests beside it may need longer.
const BACK: Duration = Duration::from_secs(if cfg!(debug_assertions) { 30 } else { 5 });

/// Lines that a process logs in a minute, at most.
const LINES: usize = 10;

struct Scene {
    postgres: Postgres,
    redis: Redis,
    sandbox: Sandbox,
    place: Place,
    fleet: Vec<Service>,
    client: Client,
    batch: String,
}

impl Scene {
    /// An API, two workers and a dispatcher are in the middle of a batch.
    async fn begin() -> Self {
        Self::begin_with(&[]).await
    }

    /// The same, with settings of its own.
    async fn begin_with(settings: &[(&'static str, String)]) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let faults = Faults { latency_ms: 5, ..Faults::default() };
        let sandbox = Sandbox::start(Config { faults, ..Config::default() }).expect("a sandbox");
        let (postgres, mut redis) = (Postgres::start().await, Redis::reserve());
        redis.start(&[]);
        let mut place = Place::bare(&[("invite.yaml", &invite())]);
        place.unset("DATABASE_URL");
        place.set("DATABASE_URL", postgres.url("penstock"));
        place.unset("REDIS_URL");
        place.set("REDIS_URL", redis.url());
        place.set("RUST_LOG", "info".to_owned());
        for (name, value) in settings {
            place.unset(name);
            place.set(name, value.clone());
        }
        let (said, good) = place.say(&sandbox, &["migrate"]);
        assert!(good, "{said}");
        let api = place.api(&sandbox);
        let fleet = vec![place.worker(&sandbox), place.worker(&sandbox), place.dispatcher(&sandbox, "1s")];
        let client = Client::new(&api, &place.key(&sandbox, "acme"));
        let (status, batch) = client.upload(ROUTE, people(ROWS, "p")).await.expect("an answer");
        assert_eq!(status, 202, "{batch}");
        let batch = batch["id"].as_str().expect("an id").to_owned();
        let mut scene = Self { postgres, redis, sandbox, place, fleet, client, batch };
        scene.fleet.push(api);
        scene.more(500, PATIENCE).await;
        scene
    }

    /// Waits until some further rows had their effect; how long that took.
    async fn more(&self, rows: u64, within: Duration) -> Duration {
        let (began, before) = (Instant::now(), self.sandbox.stats().effects);
        while self.sandbox.stats().effects < before + rows {
            assert!(began.elapsed() < within, "nothing goes on: {:?}", self.sandbox.stats());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        began.elapsed()
    }

    /// Warnings in all logs so far.
    fn warnings(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.place.log()).expect("a log");
        let loud = |line: &&str| line.contains("\"level\":\"WARN\"") || line.contains("\"level\":\"ERROR\"");
        log.lines().filter(loud).map(str::to_owned).collect()
    }

    /// It is back: what happened since it went away is looked at.
    async fn goes_on(&self, what: &str, warnings: usize) {
        let took = self.more(50, BACK).await;
        let since = self.warnings().split_off(warnings);
        eprintln!(
            "{what}: goes on after {took:?}, {} warnings of {} processes",
            since.len(),
            self.fleet.len()
        );
        assert!(since.len() <= LINES * self.fleet.len(), "{}", since.join("\n"));
    }

    async fn ends_well(self, effects: u64) {
        let ended = self.client.finished(&self.batch).await;
        assert_eq!(ended["counts"]["completed"], ROWS, "{ended}");
        assert_eq!((self.sandbox.stats().effects, self.sandbox.stats().doubled), (effects, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_goes_away_under_load() {
    let scene = Scene::begin().await;
    let before = scene.warnings().len();
    scene.postgres.stop();
    tokio::time::sleep(AWAY).await;
    scene.postgres.again();
    scene.goes_on("PostgreSQL", before).await;
    scene.ends_well(u64::from(ROWS)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_goes_away_under_load() {
    let mut scene = Scene::begin().await;
    let before = scene.warnings().len();
    scene.redis.stop();
    tokio::time::sleep(AWAY).await;
    scene.redis.start(&[]);
    scene.goes_on("Redis", before).await;
    scene.ends_well(u64::from(ROWS)).await;
}

/// Uploads are refused while the object store is away, and rows go on.
async fn store_goes_away(scene: Scene, name: &str, set_up: impl Fn(bool)) {
    let before = scene.warnings().len();
    set_up(false);
    let refused = scene.client.upload(ROUTE, people(10, "refused"));
    let rows = scene.more(100, PATIENCE).await;
    eprintln!("rows go on meanwhile: {rows:?}");
    let (status, refused) = refused.await.expect("an answer");
    assert_eq!(status, 503, "{refused}");
    set_up(true);
    scene.goes_on(name, before).await;
    let began = Instant::now();
    let accepted = loop {
        let (status, batch) = scene.client.upload(ROUTE, people(1, "again")).await.expect("an answer");
        if status == 202 {
            break batch;
        }
        assert!(began.elapsed() < BACK, "{batch}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let ended = scene.client.finished(accepted["id"].as_str().expect("an id")).await;
    assert_eq!(ended["counts"]["completed"], 1, "{ended}");
    scene.ends_well(u64::from(ROWS) + 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_goes_away_under_load() {
    let scene = Scene::begin().await;
    let store = scene.place.s3().expect("an object store").clone();
    store_goes_away(scene, "S3", |up| store.refuse(!up)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn google_cloud_storage_goes_away_under_load() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Gcs::start(folder.path());
    let relay = Relay::before(&store.address(), "127.0.0.1:0").await;
    let settings = behind(&relay, &store.address(), store.environment());
    let scene = Scene::begin_with(&settings).await;
    store_goes_away(scene, "Google Cloud Storage", |up| relay.set_up(up)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure_goes_away_under_load() {
    let store = Azurite::start().await;
    let relay = Relay::before(&store.address(), "127.0.0.1:0").await;
    let settings = behind(&relay, &store.address(), store.environment());
    let scene = Scene::begin_with(&settings).await;
    store_goes_away(scene, "Azure", |up| relay.set_up(up)).await;
}

/// A store's settings with the relay's address in place of its own.
fn behind(
    relay: &Relay,
    address: &str,
    settings: Vec<(&'static str, String)>,
) -> Vec<(&'static str, String)> {
    let replaced = |(name, value): (&'static str, String)| (name, value.replace(address, &relay.address()));
    settings.into_iter().map(replaced).collect()
}

//! PostgreSQL's primary goes away, or takes no writes any more, and a standby is promoted, while calls are under way that must
//! not be repeated: none is, and everything goes on by itself. Both are servers of the test's own.

use std::time::{Duration, Instant};

use penstock_sandbox::proxy::Proxy;
use penstock_sandbox::{Config, Sandbox};
use penstock_tests::postgres::Postgres;
use penstock_tests::receiver::Receiver;
use penstock_tests::{Client, Place, Service};
use serde_json::Value;

use crate::storage::{calls, readiness, until};

/// Rows of each pipeline, and calls at once.
const ROWS: u32 = 15;
const AT_ONCE: usize = 10;

/// A POST that may not be repeated, and one of which nobody has said it.
fn pipeline(name: &str, more: &str) -> String {
    format!(
        "name: {name}\ncsv: {{ columns: [ {{ name: id, required: true }} ] }}\n\
        dependencies: {{ {name}: {{ base_url: \"${{INVITE_API_URL}}\", timeout: 10s, concurrency: {AT_ONCE} }} }}\nsteps:\n\
        \x20 - {{ name: create, dependency: {name}, request: {{ method: POST, path: /create, json: {{ id: \"{{{{ row.id }}}}\" }}{more} }} }}\n\
        dispatch: {{ spread: 0s }}\n"
    )
}

/// A service whose database is reached through a proxy.
struct Scene {
    primary: Postgres,
    standby: Postgres,
    proxy: Proxy,
    receiver: Receiver,
    sandbox: Sandbox,
    place: Place,
    service: Service,
    client: Client,
    batches: Vec<String>,
}

impl Scene {
    /// Twice ten calls are under way. None: without a cluster there is no PostgreSQL.
    async fn begin() -> Option<Self> {
        let receiver = Receiver::start().await;
        receiver.answer_after(Duration::from_secs(2));
        let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
        let (once, unsaid) = (pipeline("once", ", idempotent: false"), pipeline("unsaid", ""));
        let mut place = Place::new(&[("once.yaml", &once), ("unsaid.yaml", &unsaid)]);
        if !place.is_cluster() {
            return None;
        }
        let primary = Postgres::start().await;
        let standby = primary.standby();
        let (proxy, url) = Proxy::before(&primary.url("penstock")).expect("a proxy");
        place.unset("DATABASE_URL");
        place.set("DATABASE_URL", url);
        place.set("INVITE_API_URL", receiver.url.clone());
        let (said, good) = place.say(&sandbox, &["migrate"]);
        assert!(good, "{said}");
        let key = place.key(&sandbox, "acme");
        let service = place.start(&sandbox, None);
        let client = Client::new(&service, &key);
        let mut batches = Vec::new();
        for name in ["once", "unsaid"] {
            let csv = (0..ROWS).fold("id\n".to_owned(), |csv, id| csv + &format!("{name}{id}\n"));
            let (status, batch) =
                client.upload(&format!("/v2/pipelines/{name}/batches"), csv).await.expect("an answer");
            assert_eq!(status, 202, "{batch}");
            batches.push(batch["id"].as_str().expect("an id").to_owned());
        }
        until("calls are under way", || async { receiver.heard().len() >= 2 * AT_ONCE }).await;
        Some(Self { primary, standby, proxy, receiver, sandbox, place, service, client, batches })
    }

    /// The database answers and takes no writes: everybody who asks hears of it, and the answers that have come are kept.
    async fn is_reported_as_read_only(&self) {
        // Connections that a shutdown has ended are reported first.
        until("it is read-only", || async {
            let (status, database) = readiness(&self.service.base).await;
            status == 503 && database.contains("read-only")
        })
        .await;
        let (doctor, good) = self.place.operate(&self.sandbox, &["doctor"]);
        let line = doctor.as_array().expect("lines").iter().find(|line| line["what"] == "writes");
        let line = line.unwrap_or_else(|| panic!("{doctor}"));
        assert!(!good && line["verdict"] == "fail", "{doctor}");
        assert!(line["found"].as_str().expect("a sentence").contains("read-only"), "{line}");
        let (status, refused) =
            self.client.upload("/v2/pipelines/once/batches", "id\nlate\n").await.expect("an answer");
        assert_eq!(status, 503, "{refused}");
        // The answers of the calls under way have come meanwhile, and cannot be written.
        until("the calls are answered", || async { self.receiver.heard().len() >= 2 * AT_ONCE }).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
    }

    /// The standby is the primary now.
    fn promote(&self) {
        self.standby.promote();
        self.proxy.lead_to(&self.standby.address());
    }

    /// Everything goes on by itself within 30 seconds, and no row was called twice.
    async fn goes_on(&self) {
        let began = Instant::now();
        until("it is ready again", || async { readiness(&self.service.base).await.0 == 200 }).await;
        for batch in &self.batches {
            let ended: Value = self.client.finished(batch).await;
            assert_eq!(ended["counts"]["completed"], ROWS, "{ended}");
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        let doubled: Vec<_> = calls(&self.receiver).into_iter().filter(|(_, times)| *times != 1).collect();
        assert_eq!(doubled, [], "each is called once");
        let (doctor, _) = self.place.operate(&self.sandbox, &["doctor"]);
        let failed = doctor.as_array().expect("lines").iter().any(|line| line["verdict"] == "fail");
        assert!(!failed, "{doctor}");
        let (status, batch) =
            self.client.upload("/v2/pipelines/once/batches", "id\nlate\n").await.expect("an answer");
        assert_eq!(status, 202, "{batch}");
        self.client.finished(batch["id"].as_str().expect("an id")).await;
    }
}

/// The primary stops; a few seconds later its standby is the primary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_promoted() {
    let Some(scene) = Scene::begin().await else { return };
    scene.primary.shut_down();
    until("it is not ready", || async { readiness(&scene.service.base).await.0 == 503 }).await;
    // Longer than the calls under way take: their outcomes cannot be written.
    tokio::time::sleep(Duration::from_secs(4)).await;
    scene.promote();
    scene.goes_on().await;
}

/// The primary is a standby from now on, which answers and takes no writes. Services stay connected to it while the other one
/// is promoted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_is_demoted() {
    let Some(scene) = Scene::begin().await else { return };
    scene.primary.shut_down();
    scene.primary.come_back_as_standby_of(&scene.standby);
    scene.is_reported_as_read_only().await;
    scene.promote();
    scene.goes_on().await;
}

/// The primary is made read-only by its settings, and takes writes again later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_is_read_only_for_a_while() {
    let Some(scene) = Scene::begin().await else { return };
    scene.primary.configure("ALTER SYSTEM SET default_transaction_read_only = on").await;
    scene.is_reported_as_read_only().await;
    scene.primary.configure("ALTER SYSTEM RESET default_transaction_read_only").await;
    scene.goes_on().await;
}

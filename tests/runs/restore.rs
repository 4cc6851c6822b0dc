//! docs/how-to/restore.md, run: the database goes back to an earlier time, the object store does not. What was accepted since comes
//! back, what was interrupted goes, and no effect happens twice.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::database::Database;
use penstock_tests::postgres::Postgres;
use penstock_tests::receiver::Receiver;
use penstock_tests::{Client, Place, Service};
use serde_json::{Value, json};

use crate::storage::{calls, until};
use crate::{PEOPLE, invite, people};

/// Calls that an API would not recognise when they came twice.
const ONCE: &str = "name: once\ncsv: { columns: [ { name: id, required: true } ] }\n\
    dependencies: { api: { base_url: \"${ONCE_URL}\", timeout: 15s } }\nsteps:\n\
    \x20 - { name: create, dependency: api, request: { method: POST, path: /create, json: { id: \"{{ row.id }}\" } } }\n\
    dispatch: { spread: 0s }\n";

/// The block of the guide that begins with this comment.
fn step(title: &str) -> String {
    let guide = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/how-to/restore.md");
    let guide = std::fs::read_to_string(guide).expect("the guide");
    let (_, rest) = guide.split_once(&format!("# {title}\n")).unwrap_or_else(|| panic!("{title}"));
    let (block, _) = rest.split_once("```").expect("the end of a block");
    let lines: Vec<&str> = block.lines().map(|line| line.strip_prefix("   ").unwrap_or(line)).collect();
    lines.join("\n")
}

/// Where the database of a test is, and how it is backed up and restored.
enum Engine {
    Sqlite { data: PathBuf },
    Postgres { server: Postgres, restored: Option<Postgres> },
}

impl Engine {
    /// Runs a step of the guide.
    fn run(&self, title: &str, backup: &Path, more: &[(&str, String)]) {
        let mut sh = match self {
            Self::Sqlite { .. } => Command::new("sh"),
            Self::Postgres { server, .. } => server.shell(),
        };
        sh.args(["-euc", &step(title)]).env("BACKUP", backup).envs(more.iter().cloned());
        match self {
            Self::Sqlite { data } => sh.env("DATA", data),
            Self::Postgres { server, .. } => sh.env("DATABASE_URL", server.url("penstock")),
        };
        let output = sh.output().expect("sh");
        assert!(output.status.success(), "{title}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

struct Scene {
    engine: Engine,
    backup: tempfile::TempDir,
    receiver: Receiver,
    sandbox: Sandbox,
    place: Place,
}

impl Scene {
    async fn begin() -> Self {
        let receiver = Receiver::start().await;
        let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
        // A search, which does no harm when it is repeated.
        let invite = invite().replace("path: /address-links,", "path: /address-links, idempotent: true,");
        let mut place = Place::new(&[("invite.yaml", &invite), ("once.yaml", ONCE)]);
        place.set("ONCE_URL", receiver.url.clone());
        let backup = tempfile::tempdir().expect("a folder");
        let engine = if place.is_cluster() {
            let server = Postgres::start().await;
            server.owns(backup.path());
            place.unset("DATABASE_URL");
            place.set("DATABASE_URL", server.url("penstock"));
            let (said, good) = place.say(&sandbox, &["migrate"]);
            assert!(good, "{said}");
            std::fs::create_dir(backup.path().join("wal")).expect("a folder");
            server.owns(&backup.path().join("wal"));
            Engine::Postgres { server, restored: None }
        } else {
            Engine::Sqlite { data: place.data() }
        };
        Self { engine, backup, receiver, sandbox, place }
    }

    /// Before anything happens.
    async fn prepare_backups(&self) {
        if let Engine::Postgres { server, .. } = &self.engine {
            self.engine.run("turn on the archive", self.backup.path(), &[]);
            server.shut_down();
            server.again();
            self.engine.run("take a base backup", self.backup.path(), &[]);
        }
    }

    /// The moment to return to; what the guide calls `$RESTORE_TO`.
    async fn moment(&self) -> String {
        match &self.engine {
            Engine::Sqlite { .. } => {
                self.engine.run("back up SQLite", self.backup.path(), &[]);
                String::new()
            }
            Engine::Postgres { .. } => {
                let mut database = Database::of(&self.place).await;
                let now = database.texts("SELECT clock_timestamp()::text").await.remove(0);
                // A commit after the target ends the recovery.
                database.run("CREATE TABLE after_the_moment (id int)").await;
                now
            }
        }
    }

    fn restore(&mut self, to: String) {
        let backup = self.backup.path().to_owned();
        let Engine::Postgres { server, restored } = &mut self.engine else {
            self.engine.run("restore SQLite", &backup, &[]);
            return;
        };
        // In order: the last part of the log is archived.
        server.shut_down();
        let place = Postgres::reserve();
        let folder = place.data().display().to_string();
        let mut sh = place.shell();
        sh.args(["-euc", &step("restore PostgreSQL")]).env("BACKUP", &backup);
        let output = sh.env("PGDATA", folder).env("RESTORE_TO", to).output().expect("sh");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        place.again();
        self.place.unset("DATABASE_URL");
        self.place.set("DATABASE_URL", place.url("penstock"));
        *restored = Some(place);
        let redis = self.place.variable("REDIS_URL").expect("a URL").to_owned();
        let flushed = Command::new("redis-cli").args(["-u", &redis, "flushdb"]).output().expect("redis-cli");
        assert!(flushed.status.success());
    }

    fn reconcile(&self, args: &[&str]) -> Value {
        let (found, good) = self.place.operate(&self.sandbox, &[&["reconcile"], args].concat());
        assert!(good, "{found}");
        found
    }

    /// What an upload leaves that was broken off, two hours ago.
    fn leave_garbage(&self) -> PathBuf {
        let objects = self.place.objects();
        let beside = objects.iter().find(|path| path.to_string_lossy().contains("/acme/")).expect("a file");
        let garbage = beside.with_file_name("0198c2a0-0000-7000-8000-000000000000.csv.sealed");
        std::fs::write(&garbage, "cut off").expect("a file");
        self.make_old();
        garbage
    }

    /// So old that no upload under way has them.
    fn make_old(&self) {
        let old = std::time::SystemTime::now() - Duration::from_secs(2 * 3600);
        for path in self.place.all_objects() {
            let file = std::fs::File::options().append(true).open(&path).expect("an object");
            file.set_modified(old).expect("it is older now");
        }
    }
}

fn count(found: &Value, what: &str) -> Value {
    let findings = found["findings"].as_array().expect("findings");
    let finding = findings.iter().find(|finding| finding["what"] == what);
    finding.unwrap_or_else(|| panic!("{what}: {found}"))["count"].clone()
}

/// Uploads with an `Idempotency-Key`; the batch.
async fn upload(client: &Client, key: &str, path: &str, csv: String) -> Value {
    let sent = client.request("POST", path).header("content-type", "text/csv");
    let answer = sent.header("idempotency-key", key).body(csv).send().await.expect("an answer");
    let status = answer.status().as_u16();
    let batch: Value = answer.json().await.expect("JSON");
    assert_eq!(status, 202, "{batch}");
    batch
}

fn id(batch: &Value) -> String {
    batch["id"].as_str().expect("an id").to_owned()
}

/// What was accepted after the moment to which the database returns.
struct Since {
    keyed: Value,
    once: String,
    erased: String,
}

async fn accept(scene: &Scene, service: &Service, acme: &Client) -> Since {
    let path = format!("{PEOPLE}&name=since&allow_failures=false");
    let keyed = upload(acme, "since", &path, people(30).replace("person", "since")).await;
    acme.finished(&id(&keyed)).await;
    // An owner that the backup does not know, with calls that must not be repeated.
    let late = Client::new(service, &scene.place.key(&scene.sandbox, "late"));
    let once = id(&upload(&late, "once", "/v2/pipelines/once/batches", "id\n1\n2\n".into()).await);
    late.finished(&once).await;
    let erased = id(&upload(acme, "erased", PEOPLE, people(5).replace("person", "erased")).await);
    acme.finished(&erased).await;
    let answer = acme.request("DELETE", &format!("/v2/batches/{erased}")).send().await.expect("an answer");
    assert!(answer.status().is_success());
    Since { keyed, once, erased }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_returns_to_an_earlier_time() {
    let mut scene = Scene::begin().await;
    scene.prepare_backups().await;
    let key = scene.place.key(&scene.sandbox, "acme");
    let service = scene.place.start(&scene.sandbox, None);
    let acme = Client::new(&service, &key);
    let before = id(&upload(&acme, "before", PEOPLE, people(20)).await);
    acme.finished(&before).await;
    let moment = scene.moment().await;
    let since = accept(&scene, &service, &acme).await;
    let (effects, called) = (scene.sandbox.stats().effects, calls(&scene.receiver));
    assert_eq!((effects, called.len()), (20 + 30 + 5, 2));
    service.terminate();
    scene.restore(moment);
    let garbage = scene.leave_garbage();
    let files = scene.place.objects().len();
    let found = scene.reconcile(&[]);
    assert_eq!(count(&found, "accepted uploads without a batch"), 2, "{found}");
    assert_eq!(count(&found, "objects without a batch"), 1, "{found}");
    assert_eq!(scene.place.objects().len(), files, "it only looked");
    // Whoever repairs first loses nothing that was accepted.
    scene.reconcile(&["--apply"]);
    assert!(!garbage.exists());
    assert_eq!(scene.place.objects().len(), files - 1);
    let adopted = scene.reconcile(&["--adopt"])["adopted"].clone();
    let of = |batch: &str| {
        let all = adopted.as_array().expect("a list").iter();
        all.clone()
            .find(|one| one["batch"] == batch)
            .map(|one| (one["owner"].clone(), one["adoption"].clone()))
    };
    assert_eq!(of(&id(&since.keyed)), Some((json!("acme"), json!("runs"))), "{adopted}");
    assert_eq!(of(&since.once), Some((json!("late"), json!("paused"))), "{adopted}");
    assert_eq!(of(&since.erased), None, "{adopted}");
    let nothing = scene.reconcile(&["--adopt"]);
    assert_eq!((nothing["adopted"].clone(), nothing["planned"].clone()), (json!([]), json!(0)), "{nothing}");
    let service = scene.place.start(&scene.sandbox, None);
    goes_on(&scene, &service, &key, &since, effects).await;
    assert_eq!(calls(&scene.receiver), called, "no call was repeated");
}

/// The batches are as they were, and nothing happens twice.
async fn goes_on(scene: &Scene, service: &Service, key: &str, since: &Since, effects: u64) {
    let acme = Client::new(service, key);
    let keyed = acme.finished(&id(&since.keyed)).await;
    for field in ["id", "owner", "pipeline", "name", "created_at", "labels"] {
        assert_eq!(keyed[field], since.keyed[field], "{field}: {keyed}");
    }
    assert_eq!((&keyed["counts"]["completed"], &keyed["counts"]["total"]), (&json!(30), &json!(30)));
    // Its context came back too: without it the calls would have been others.
    let stats = scene.sandbox.stats();
    assert_eq!((stats.effects, stats.doubled, stats.unkeyed), (effects, 0, 0), "{stats:?}");
    assert!(stats.replays >= 30, "{stats:?}");
    let path = format!("{PEOPLE}&name=since&allow_failures=false");
    let again = upload(&acme, "since", &path, people(30).replace("person", "since")).await;
    assert_eq!(again["id"], since.keyed["id"], "its Idempotency-Key is known");
    let late = Client::new(service, &scene.place.key(&scene.sandbox, "late"));
    let waits = async || {
        let batch = late.get(&format!("/v2/batches/{}", since.once)).await;
        batch["counts"]["pending"] == 2 && batch["paused"] == true
    };
    until("its rows wait", waits).await;
    assert_eq!(late.post(&format!("/v2/batches/{}/cancel", since.once), &json!({})).await.0, 200);
    late.finished(&since.once).await;
    // An erasure takes the manifest along.
    let files = scene.place.all_objects().len();
    let answer = late.request("DELETE", &format!("/v2/batches/{}", since.once)).send().await;
    assert!(answer.expect("an answer").status().is_success());
    assert_eq!(scene.place.all_objects().len(), files - 2);
    let found = scene.reconcile(&[]);
    assert_eq!(found["planned"], 0, "{found}");
}

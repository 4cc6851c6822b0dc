//! What an operator finds after a death, what is said of it, and what fixes it.

use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Faults, Sandbox};
use penstock_tests::database::Database;
use penstock_tests::{Client, PATIENCE, Place, Service};

use crate::{PEOPLE, invite, people};

const ROWS: u32 = 60;

/// A place whose leases are short, a service that died there, and its batch.
struct Scene {
    sandbox: Sandbox,
    place: Place,
    key: String,
    batch: Option<String>,
}

impl Scene {
    async fn after_death_at(point: &str) -> Self {
        let sandbox = Sandbox::start(Config {
            faults: Faults { latency_ms: 5, ..Faults::default() },
            ..Config::default()
        })
        .expect("a sandbox");
        let quick = invite().replace("timeout: 5s", "timeout: 1s").replace("timeout: 10s", "timeout: 1s");
        let mut place = Place::new(&[("invite.yaml", &quick)]);
        place.set("PENSTOCK_LEASE_SECONDS", "6".into());
        place.set("PENSTOCK_LOST_AFTER_SECONDS", "6".into());
        let key = place.key(&sandbox, "acme");
        let service = place.start(&sandbox, Some(point));
        let _answered_before_death = Client::new(&service, &key).upload(PEOPLE, people(ROWS)).await;
        service.await_death();
        let batch = place.accepted(&sandbox);
        Self { sandbox, place, key, batch }
    }

    fn id(&self) -> &str {
        self.batch.as_deref().expect("a batch")
    }

    fn say(&self, args: &[&str]) -> (String, bool) {
        let (said, good) = self.place.say(&self.sandbox, args);
        let said: Vec<&str> = said.lines().map(str::trim).collect();
        (masked(&said.join("\n")), good)
    }

    /// A dry run: what it says, as soon as that is something else than `nothing is stuck`; nothing is written by any.
    async fn dry_run(&self) -> String {
        let mut database = Database::of(&self.place).await;
        let began = Instant::now();
        loop {
            let before = database.contents().await;
            let (said, good) = self.say(&["reconcile"]);
            assert!(good, "{said}");
            assert_eq!(database.contents().await, before, "a dry run writes nothing");
            if said != "nothing is stuck" {
                // Leases that were taken moments later run out moments later.
                tokio::time::sleep(Duration::from_secs(1)).await;
                return self.say(&["reconcile"]).0;
            }
            // Leases have to run out first.
            assert!(began.elapsed() < PATIENCE, "nothing is ever stuck");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// Fixes, finds nothing more, and lets a service carry every row to its end.
    async fn repair(&self) -> String {
        let (said, good) = self.say(&["reconcile", "--apply"]);
        assert!(good, "{said}");
        assert_eq!(self.say(&["reconcile"]).0, "nothing is stuck", "after {said}");
        said
    }

    async fn ends_well(self) {
        let service = self.place.start(&self.sandbox, None);
        let batch = Client::new(&service, &self.key).finished(self.id()).await;
        assert_eq!(batch["counts"]["completed"], ROWS, "{batch}");
        let stats = self.sandbox.stats();
        assert_eq!((stats.effects, stats.doubled), (u64::from(ROWS), 0));
    }
}

/// Numbers, holders and moments differ from run to run.
fn masked(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(masked_line).collect();
    lines.join("\n")
}

fn masked_line(line: &str) -> String {
    let words = line.split(' ').map(|word| {
        let bare = word.trim_end_matches([':', ',', ';']);
        let rest = &word[bare.len()..];
        let shown = if bare.contains("/batches/") {
            "OBJECT"
        } else if bare.len() == 36 && bare.bytes().filter(|byte| *byte == b'-').count() == 4 {
            "BATCH"
        } else if bare.contains('@') {
            "HOLDER"
        } else if bare.len() > 18 && bare.ends_with('Z') {
            "MOMENT"
        } else if !bare.is_empty() && bare.bytes().all(|byte| byte.is_ascii_digit()) && bare != "0" {
            "N"
        } else {
            bare
        };
        format!("{shown}{rest}")
    });
    words.collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn rows_whose_message_was_lost() {
    let scene = Scene::after_death_at("before-enqueue").await;
    let said = scene.dry_run().await;
    assert_eq!(
        said,
        "N  rows queued whose message was lost: back to pending\nBATCH: N rows\nnothing was written; --apply does it"
    );
    let fixed = scene.repair().await;
    assert!(fixed.ends_with("planned N, applied N, overtaken 0"), "{fixed}");
    scene.ends_well().await;
}

#[tokio::test]
async fn rows_whose_worker_died() {
    let scene = Scene::after_death_at("between-steps:5").await;
    // While the dead worker's lease lasts, a row is its own, and who asks for it hears whose.
    let (held, good) = hold(&scene).await;
    assert!(!good);
    assert_eq!(held, "HOLDER holds the row until MOMENT");
    let said = scene.dry_run().await;
    // Rows that it had heard of may have been lost by then as well.
    let expired = "N  rows processing whose lease ran out: back to pending\nBATCH: N rows\n";
    assert!(said.contains(expired) && said.ends_with("nothing was written; --apply does it"), "{said}");
    let fixed = scene.repair().await;
    assert!(fixed.ends_with("planned N, applied N, overtaken 0"), "{fixed}");
    // One of them by hand: each request is shown, without its content.
    let calls = scene.sandbox.stats();
    let (said, good) = scene.say(&["process-row", scene.id(), &first_unfinished(&scene).await]);
    assert!(good, "{said}");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.last(), Some(&"the row is completed"), "{said}");
    assert!(
        lines.len() >= 2
            && lines[lines.len() - 2].starts_with("invite_create: POST /invite/create → N in N ms"),
        "{said}"
    );
    assert!(!said.contains("example.com"), "{said}");
    assert_eq!(scene.sandbox.stats().invites, calls.invites + 1);
    // Where limits are not shared it is said.
    let own = !scene.place.is_cluster();
    assert_eq!(lines[0].starts_with("limits are kept by each process here"), own, "{said}");
    let row = ["process-row", scene.id(), &first_unfinished(&scene).await];
    let (told, good) = scene.place.operate(&scene.sandbox, &row);
    assert!(good && told["note"].is_string() == own, "{told}");
    // What has ended is not run again.
    let (said, good) = scene.say(&["process-row", scene.id(), "999"]);
    assert!(!good && said == "the batch has no row N", "{said}");
    scene.ends_well().await;
}

/// Asks for rows until one is held: some had ended, some were not claimed yet.
async fn hold(scene: &Scene) -> (String, bool) {
    let (rows, _) = scene.place.operate(&scene.sandbox, &["batches", "show", scene.id()]);
    assert!(rows["counts"]["processing"].as_u64().is_some_and(|rows| rows > 0), "{rows}");
    let statement = "SELECT CAST(min(number) AS BIGINT) FROM row_state WHERE status = 2";
    let number = Database::of(&scene.place).await.number(statement).await;
    scene.say(&["process-row", scene.id(), &number.to_string()])
}

async fn first_unfinished(scene: &Scene) -> String {
    let statement = "SELECT CAST(min(number) AS BIGINT) FROM row_state WHERE status = 0";
    Database::of(&scene.place).await.number(statement).await.to_string()
}

#[tokio::test]
async fn an_extraction_whose_worker_died_is_done_by_hand() {
    let scene = Scene::after_death_at("inside-extraction").await;
    let (said, good) = scene.say(&["extract", scene.id(), "--manual-run"]);
    assert!(!good);
    assert_eq!(said, "HOLDER extracts this batch; its lease lasts until MOMENT");
    let said = scene.dry_run().await;
    if scene.place.is_cluster() {
        assert_eq!(
            said,
            "N  batches whose extraction nobody holds: enqueue them\nBATCH\nnothing was written; --apply does it"
        );
    } else {
        // The queue is in the process that is gone: nobody would hear it.
        assert_eq!(
            said,
            "N  batches whose extraction nobody holds: start `penstock dev`, or `penstock extract BATCH --manual-run`\nBATCH"
        );
    }
    let (said, good) = scene.say(&["extract", scene.id(), "--manual-run"]);
    assert!(good, "{said}");
    assert_eq!(said.lines().last(), Some("N rows are in the database"));
    assert_eq!(scene.say(&["reconcile"]).0, "nothing is stuck");
    let (said, good) = scene.say(&["extract", scene.id(), "--manual-run"]);
    assert!(!good);
    assert_eq!(said, "the batch is queued; there is nothing to extract");
    scene.ends_well().await;
}

/// An extraction that nobody holds is enqueued, and a worker receives it, without a dispatcher's help.
#[tokio::test]
async fn an_extraction_whose_worker_died_is_rung_for() {
    let scene = Scene::after_death_at("inside-extraction").await;
    let said = scene.dry_run().await;
    assert!(said.starts_with("N  batches whose extraction nobody holds"), "{said}");
    if scene.place.is_cluster() {
        let (said, good) = scene.say(&["reconcile", "--apply"]);
        assert!(good && said.ends_with("planned N, applied N, overtaken 0"), "{said}");
        let _worker = scene.place.worker(&scene.sandbox);
        let began = Instant::now();
        while scene.place.operate(&scene.sandbox, &["batches", "show", scene.id()]).0["status"] != "queued" {
            assert!(began.elapsed() < PATIENCE, "nobody received the message");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    } else {
        let (said, good) = scene.say(&["reconcile", "--apply"]);
        assert!(good && said.ends_with("planned 0, applied 0, overtaken 0"), "{said}");
    }
    scene.ends_well().await;
}

/// What no command fixes is said all the same, with what a person has to do.
#[tokio::test]
async fn what_is_left_to_people_is_said() {
    let scene = Scene::after_death_at("before-enqueue").await;
    scene.dry_run().await;
    scene.repair().await;
    let mut database = Database::of(&scene.place).await;
    database.run("DELETE FROM runs").await;
    assert_eq!(
        scene.dry_run().await,
        "N  dispatcher runs that stopped coming: start the dispatcher (docs/runbooks.md)"
    );
    let callback = "INSERT INTO callbacks (id, owner, batch, run, event, ordinal, url, snapshot, created_at, position, \
        status, attempts, next_at) SELECT '01a20b64-4c23-7a77-86b0-6a29b5a1007b', owner, seq, 1, 'batch.created', 0, 'http://a.example', \
        '{}', created_at, 0, 0, 1, created_at - 3600000 FROM batches";
    assert_eq!(database.run(callback).await, 1);
    let said = scene.dry_run().await;
    assert!(said.contains("N  callbacks that are due and nobody delivers: start a worker"), "{said}");
    database.run("UPDATE callbacks SET status = 2").await;
    let said = scene.dry_run().await;
    assert!(
        said.contains(
            "N  callbacks that were given up: fix the receiver, then POST /v2/callbacks/{id}/redeliver"
        ),
        "{said}"
    );
    database.run("DELETE FROM callbacks").await;
    scene.ends_well().await;
}

#[tokio::test]
async fn an_object_that_no_batch_knows() {
    let scene = Scene::after_death_at("file-stored").await;
    assert!(scene.batch.is_none());
    let objects = scene.place.objects();
    assert_eq!(objects.len(), 1, "{objects:?}");
    // Young objects may belong to an upload that is under way.
    assert_eq!(scene.say(&["reconcile"]).0, "nothing is stuck");
    let old = std::time::SystemTime::now() - Duration::from_secs(2 * 3600);
    let file = std::fs::File::options().append(true).open(&objects[0]).expect("the object");
    file.set_modified(old).expect("it is older now");
    let said = scene.dry_run().await;
    assert_eq!(said, "N  objects without a batch: delete them\nOBJECT\nnothing was written; --apply does it");
    assert_eq!(scene.place.objects().len(), 1);
    scene.repair().await;
    assert!(scene.place.objects().is_empty());
}

/// A finish that was missed, which no crash brings about: it is in the transaction of the last row's end.
#[tokio::test]
async fn a_finish_that_was_missed() {
    let scene = Scene::after_death_at("after-settlement:1").await;
    let service = scene.place.start(&scene.sandbox, None);
    let ended = Client::new(&service, &scene.key).finished(scene.id()).await;
    service.terminate();
    let mut database = Database::of(&scene.place).await;
    assert_eq!(database.run("UPDATE batches SET status = 2, finished_at = NULL, outcome = NULL").await, 1);
    let said = scene.dry_run().await;
    assert_eq!(
        said,
        "N  batches that should be finished: finish them\nBATCH\nnothing was written; --apply does it"
    );
    scene.repair().await;
    let (fixed, _) = scene.place.operate(&scene.sandbox, &["batches", "show", scene.id()]);
    assert_eq!((&fixed["outcome"], &fixed["counts"]), (&ended["outcome"], &ended["counts"]), "{fixed}");
    scene.ends_well().await;
}

/// A counter that is not what the rows say, which no crash brings about either.
#[tokio::test]
async fn counters_that_differ() {
    let scene = Scene::after_death_at("before-settlement:1").await;
    scene.dry_run().await;
    scene.repair().await;
    let mut database = Database::of(&scene.place).await;
    assert_eq!(database.run("UPDATE batches SET pending = pending - 1, completed = completed + 1").await, 1);
    let said = scene.dry_run().await;
    assert_eq!(
        said,
        "N  batches whose counters differ from their rows: write what the rows say\nBATCH\nnothing was written; --apply does it"
    );
    let fixed = scene.repair().await;
    assert!(fixed.ends_with("planned N, applied N, overtaken 0"), "{fixed}");
    scene.ends_well().await;
}

/// Reconcile again and again beside a service that works: nothing is disturbed.
#[tokio::test]
async fn reconcile_beside_a_working_service_disturbs_nothing() {
    let sandbox = Sandbox::start(Config {
        faults: Faults { latency_ms: 10, jitter_ms: 10, error: 0.02, ..Faults::default() },
        ..Config::default()
    })
    .expect("a sandbox");
    let place = Place::new(&[("invite.yaml", &invite().replace("attempts: 5", "attempts: 50"))]);
    let key = place.key(&sandbox, "acme");
    let service: Service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (_, batch) = client.upload(PEOPLE, people(1500)).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    let mut rounds = 0;
    let ended = loop {
        let (report, good) = place.operate(&sandbox, &["reconcile", "--apply"]);
        assert!(good, "{report}");
        rounds += 1;
        let batch = client.get(&format!("/v2/batches/{id}")).await;
        if !batch["finished_at"].is_null() {
            break batch;
        }
    };
    assert!(rounds > 5, "{rounds}");
    assert_eq!(ended["counts"]["completed"], 1500, "{ended}");
    assert_eq!((sandbox.stats().effects, sandbox.stats().doubled), (1500, 0));
}

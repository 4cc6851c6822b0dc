//! Storage that fails, and what is lost, doubled or misreported because of it: nothing.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::database::Database;
use penstock_tests::disk::Disk;
use penstock_tests::receiver::Receiver;
use penstock_tests::{Client, PATIENCE, Place};
use serde_json::{Value, json};

use crate::{NOOP, PEOPLE, invite, people};

/// A call that an API cannot recognise when it comes twice.
const ONCE: &str = "name: once\ncsv: { columns: [ { name: id, required: true } ] }\n\
    dependencies: { api: { base_url: \"${INVITE_API_URL}\", timeout: 15s, concurrency: 10 } }\nsteps:\n\
    \x20 - { name: create, dependency: api, request: { method: POST, path: /create, json: { id: \"{{ row.id }}\" }, idempotent: false } }\n\
    dispatch: { spread: 0s }\n";

const ROUTE: &str = "/v2/pipelines/once/batches";

fn ids(count: u32) -> String {
    (0..count).fold("id\n".to_owned(), |csv, id| csv + &format!("a{id}\n"))
}

/// How often each row was asked for.
pub(crate) fn calls(receiver: &Receiver) -> BTreeMap<String, usize> {
    let mut calls = BTreeMap::new();
    for heard in receiver.heard() {
        *calls.entry(heard.json()["id"].as_str().expect("an id").to_owned()).or_default() += 1;
    }
    calls
}

/// Waits until it is so.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut so: impl FnMut() -> F) {
    let began = Instant::now();
    while !so().await {
        assert!(began.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The status of `/readyz`, and what it says of the database.
pub(crate) async fn readiness(base: &str) -> (u16, String) {
    let http = penstock_tests::http().build().expect("a client");
    let answer = http.get(format!("{base}/readyz")).send().await.expect("an answer");
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.expect("JSON");
    (status, body["database"].as_str().unwrap_or_default().to_owned())
}

/// The embedded database's disk is full while calls that must not be made twice are under way, and has room again later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_is_full_and_has_room_again() {
    let receiver = Receiver::start().await;
    receiver.answer_after(Duration::from_secs(2));
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("once.yaml", ONCE)]);
    if place.is_cluster() {
        // The database's disk is a server's of all tests; that it is full is an error of the same class.
        return;
    }
    place.set("INVITE_API_URL", receiver.url.clone());
    let disk = Disk::mount(&place.data(), 6);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let rows = 10;
    let (status, batch) = client.upload(ROUTE, ids(rows)).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id").to_owned();
    until("ten calls are under way", || async { receiver.heard().len() >= 10 }).await;

    disk.fill(service.pid());
    // Longer than the calls under way take: their outcomes cannot be written.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let (status, database) = readiness(&service.base).await;
    assert_eq!(status, 503, "{database}");
    let (status, refused) = client.upload(ROUTE, ids(5000)).await.expect("an answer");
    assert_eq!(status, 503, "{refused}");
    if matches!(disk, Disk::Mounted(_)) {
        let (doctor, good) = place.operate(&sandbox, &["doctor"]);
        assert!(!good && doctor.to_string().contains("is full"), "{doctor}");
    }
    disk.free(service.pid());

    let began = Instant::now();
    let ended = client.finished(&id).await;
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!(ended["counts"]["completed"], rows, "{ended}");
    let doubled: Vec<_> = calls(&receiver).into_iter().filter(|(_, times)| *times != 1).collect();
    assert_eq!(doubled, [], "each is called once");
    until("it is ready again", || async { readiness(&service.base).await.0 == 200 }).await;
    let (status, batch) = client.upload(ROUTE, ids(1)).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
}

/// Once something was done, the answer says so, whatever becomes of what is only shown. Here a table that only the view and
/// the dispatcher need is gone for a while.
#[tokio::test]
async fn what_was_done_is_answered_as_done() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("invite.yaml", &invite())]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let mut database = Database::of(&place).await;
    database.run("ALTER TABLE runs RENAME TO runs_elsewhere").await;
    let mut batches = Vec::new();
    for _ in 0..3 {
        let (status, batch) = client.upload(PEOPLE, people(10)).await.expect("an answer");
        assert_eq!((status, &batch["counts"]["total"]), (202, &json!(10)), "{batch}");
        batches.push(batch["id"].as_str().expect("an id").to_owned());
    }
    let command = async |id: &str, command: &str| {
        let (status, answer) = client.post(&format!("/v2/batches/{id}/{command}"), &json!({})).await;
        assert_eq!(status, 200, "{command}: {answer}");
        answer
    };
    assert_eq!(command(&batches[0], "pause").await["paused"], true);
    assert_eq!(command(&batches[0], "resume").await["paused"], false);
    command(&batches[1], "cancel").await;
    let erased =
        client.request("DELETE", &format!("/v2/batches/{}", batches[2])).send().await.expect("an answer");
    assert_eq!(erased.status(), 200);
    // An operator's commands beside it.
    let (cancelled, good) = place.operate(&sandbox, &["batches", "cancel", &batches[0]]);
    assert!(good, "{cancelled}");
    database.run("ALTER TABLE runs_elsewhere RENAME TO runs").await;
    let listed = client.get("/v2/batches").await;
    assert_eq!(listed["data"].as_array().expect("batches").len(), 3, "each upload made one batch: {listed}");
}

/// A table is locked while rows go into it. The extraction waits and goes on; no row fails for it.
#[tokio::test]
async fn a_locked_table_fails_no_row() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let rows = 20_000;
    let noop = NOOP.replace("max_rows: 1000", "max_rows: 100000");
    let place = Place::new(&[("noop.yaml", &noop)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let csv = (0..rows).fold("id,note\n".to_owned(), |csv, id| csv + &format!("{id},n\n"));
    let mut database = Database::of(&place).await;
    let (lock, held) = if place.is_cluster() {
        // A statement waits for less.
        (vec!["BEGIN", "LOCK TABLE row_data IN ACCESS EXCLUSIVE MODE"], Duration::from_secs(9))
    } else {
        (vec!["BEGIN IMMEDIATE"], Duration::from_secs(12))
    };
    let upload =
        async || client.upload("/v2/pipelines/noop/batches", csv.clone()).await.expect("an answer").1;
    // The lock of a file is on all of it: it begins when the batch is there.
    let early = if place.is_cluster() { None } else { Some(upload().await) };
    for statement in lock {
        database.run(statement).await;
    }
    let uploaded = match early {
        Some(batch) => batch,
        None => upload().await,
    };
    tokio::time::sleep(held).await;
    database.run("ROLLBACK").await;
    let batch = client.finished(uploaded["id"].as_str().expect("an id")).await;
    assert_eq!(
        (&batch["outcome"], &batch["counts"]["completed"], &batch["counts"]["failed"]),
        (&json!("success"), &json!(rows), &json!(0)),
        "{batch}"
    );
}

/// A row whose data the database refuses fails alone.
#[tokio::test]
async fn a_refused_row_fails_alone() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let key = place.key(&sandbox, "acme");
    let mut database = Database::of(&place).await;
    // An empty record has 29 bytes when it is sealed.
    database
        .run(if place.is_cluster() {
            "ALTER TABLE row_data ADD CONSTRAINT refused CHECK (number <> 5 OR length(payload) < 30)"
        } else {
            "CREATE TRIGGER refused BEFORE INSERT ON row_data WHEN NEW.number = 5 AND length(NEW.payload) >= 30 \
             BEGIN SELECT RAISE(ABORT, 'refused'); END"
        })
        .await;
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let csv = (1..=20).fold("id,note\n".to_owned(), |csv, id| csv + &format!("{id},n\n"));
    let (_, batch) = client.upload("/v2/pipelines/noop/batches", csv).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    let ended = client.finished(&id).await;
    assert_eq!(
        (&ended["counts"]["completed"], &ended["counts"]["failed"]),
        (&json!(19), &json!(1)),
        "{ended}"
    );
    let row = client.get(&format!("/v2/batches/{id}/rows/5")).await;
    assert_eq!(row["error"]["code"], "not_stored", "{row}");
}

/// A full log pipe that nobody reads costs lines and nothing else.
#[tokio::test]
async fn a_log_that_nobody_reads_blocks_nothing() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("invite.yaml", &invite())]);
    let key = place.key(&sandbox, "acme");
    // Everything is logged, far more than the pipe's 64 KiB, and nobody reads it.
    let service = place.start_logging_to(&sandbox, None, Stdio::piped());
    let client = Client::new(&service, &key);
    let (status, batch) = client.upload(PEOPLE, people(300)).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let batch = client.finished(batch["id"].as_str().expect("an id")).await;
    assert_eq!(batch["counts"]["completed"], 300, "{batch}");
    assert_eq!(readiness(&service.base).await, (200, "ok".to_owned()));
    let metrics = client.text("/metrics").await;
    assert!(metrics.contains("penstock_log_dropped_total"), "{metrics}");
    let began = Instant::now();
    service.terminate();
    assert!(began.elapsed() < Duration::from_secs(20), "it ends in order: {:?}", began.elapsed());
}

/// An object store that can be read and takes no writes is a finding.
#[tokio::test]
async fn doctor_says_that_objects_cannot_be_written() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    place.key(&sandbox, "acme");
    let objects = || {
        let (doctor, _) = place.operate(&sandbox, &["doctor"]);
        let lines = doctor.as_array().expect("lines");
        lines.iter().find(|line| line["what"] == "objects").expect("a line").clone()
    };
    let line = objects();
    assert_eq!(line["verdict"], "ok", "{line}");
    assert_eq!(place.objects(), Vec::<std::path::PathBuf>::new(), "nothing is left behind");
    // A file where a folder would have to be: not even root can write there.
    let folder = if place.is_cluster() { "s3/batches/tests" } else { "data/files" };
    let folder = place.data().with_file_name(folder);
    std::fs::create_dir_all(&folder).expect("a folder");
    let _ = std::fs::remove_dir(folder.join("probe"));
    std::fs::write(folder.join("probe"), "").expect("a file");
    let line = objects();
    assert_eq!(line["verdict"], "fail", "{line}");
    assert!(line["found"].to_string().contains("uploads are refused"), "{line}");
}

//! A bucket to which clients PUT, and what is in it and in every other file.

use std::process::Command;
use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Faults, Sandbox};
use penstock_tests::redis::Redis;
use penstock_tests::{Client, PATIENCE, Place};
use serde_json::json;

use crate::{ROUTE, invite, people};

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

/// Parts that a kill left in the bucket are found and aborted, once they are old; what was accepted stays, and young uploads too.
#[tokio::test]
async fn parts_of_a_killed_upload_are_aborted() {
    use tokio::io::AsyncWriteExt as _;
    const CUT_OFF: &str = "uploads in parts that were cut off";
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("invite.yaml", &invite())]);
    let key = place.key(&sandbox, "acme");
    let s3 = place.s3().expect("a cluster");
    // The listing has a page for each.
    for _ in 0..2 {
        let api = place.api(&sandbox);
        let (status, batch) =
            Client::new(&api, &key).upload(ROUTE, people(10, "kept")).await.expect("an answer");
        assert_eq!(status, 202, "{batch}");
        let address = api.base.strip_prefix("http://").expect("an address");
        let mut half = tokio::net::TcpStream::connect(address).await.expect("a connection");
        let head = format!(
            "POST {ROUTE} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: text/csv\r\ncontent-length: 100000000\r\n\r\n"
        );
        half.write_all(head.as_bytes()).await.expect("it is sent");
        half.write_all(people(300_000, "somebody-with-a-long-name").as_bytes()).await.expect("it is sent");
        let parts = || {
            let objects = place.objects();
            objects.iter().filter(|path| path.to_string_lossy().contains(".upload_id-")).count()
        };
        let (began, before) = (Instant::now(), parts());
        while parts() == before {
            assert!(began.elapsed() < PATIENCE, "{:?}", place.objects());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        api.kill();
        drop(half);
    }
    let found = |args: &[&str]| {
        let (plan, good) = place.operate(&sandbox, args);
        assert!(good, "{plan}");
        let findings = plan["findings"].as_array().expect("findings").clone();
        findings.into_iter().find(|finding| finding["what"] == CUT_OFF).expect("it is looked for")
    };
    assert_eq!(found(&["reconcile", "--apply"])["count"], 0, "they may be under way");
    s3.age_uploads(Duration::from_secs(25 * 3600));
    let plan = found(&["reconcile"]);
    assert_eq!((&plan["count"], &plan["applied"]), (&2.into(), &0.into()), "{plan}");
    let object = plan["detail"][0]["object"].as_str().expect("an object");
    assert!(object.starts_with("owners/"), "{plan}");
    let (text, _) = place.say(&sandbox, &["reconcile"]);
    assert!(text.contains(&format!("{object}, begun at 20")), "{text}");
    let done = found(&["reconcile", "--apply"]);
    assert_eq!((&done["applied"], &done["overtaken"]), (&2.into(), &0.into()), "{done}");
    assert_eq!(found(&["reconcile"])["count"], 0);
    let left = place.objects();
    assert_eq!(left.len(), 2, "the two that were accepted: {left:?}");
    assert!(left.iter().all(|path| !path.to_string_lossy().contains(".upload")), "{left:?}");
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

/// A bucket that is not there is reported as that.
#[tokio::test]
async fn a_missing_bucket_is_reported() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("invite.yaml", &invite())]);
    place.set("OBJECT_STORE_URL", "s3://nowhere".into());
    let api = place.api(&sandbox);
    // A busy machine may answer later than the look waits.
    let began = Instant::now();
    loop {
        let reported = crate::until_ready(&api, 503).await;
        if reported.contains("does not exist") && reported.contains("\"database\":\"ok\"") {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{reported}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

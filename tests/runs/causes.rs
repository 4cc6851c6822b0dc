//! Whoever asks why calls fail, what a batch waits for, and when it will be done is told the truth.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::receiver::{Answer, Receiver};
use penstock_tests::{Client, Place};
use serde_json::{Value, json};

const ROUTE: &str = "/v2/pipelines/causes/batches";

/// One step; `dependency` and `request` say more of it.
fn pipeline(url: &str, dependency: &str, request: &str) -> String {
    reading_pipeline(url, dependency, request, "")
}

fn reading_pipeline(url: &str, dependency: &str, request: &str, output: &str) -> String {
    format!(
        "name: causes\ncsv: {{ columns: [ {{ name: id, required: true }} ] }}\n\
         dependencies: {{ api: {{ base_url: \"{url}\"{dependency} }} }}\n\
         steps:\n\x20 - {{ name: create, dependency: api, request: {{ method: POST, path: \"/things/{{{{ row.id }}}}\"{request} }}{output} }}\n\
         retry: {{ attempts: 4, backoff: {{ initial: 200ms, factor: 1, max: 200ms, jitter: false }} }}\n\
         dispatch: {{ spread: 0s }}\n"
    )
}

/// Asks until the answer is what is waited for.
async fn until(what: &str, ask: impl AsyncFn() -> Value, is_right: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let answer = ask().await;
        if is_right(&answer) {
            return answer;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{what}: {answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn upload(client: &Client, csv: &str) -> String {
    let (status, batch) = client.upload(ROUTE, csv.to_owned()).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    batch["id"].as_str().expect("an id").to_owned()
}

fn entry<'a>(waits: &'a Value, reason: &str) -> Option<&'a Value> {
    waits.as_array().expect("entries").iter().find(|wait| wait["reason"] == reason)
}

#[tokio::test]
async fn a_refused_connection_is_named_in_the_row_the_log_why_and_doctor() {
    const CAUSE: &str = "connection refused";
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{nobody}");
    let breaker = ", breaker: { min_calls: 3, open_for: 60s }";
    let place = Place::new(&[("causes.yaml", &pipeline(&url, breaker, ""))]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let id = upload(&client, "id\n1\n2\n3\n4\n").await;
    let waits = until(
        "the breaker opens",
        async || client.get(&format!("/v2/batches/{id}/waiting")).await["data"].clone(),
        |waits| entry(waits, "breaker_open").is_some(),
    )
    .await;
    assert!(entry(&waits, "breaker_open").unwrap()["sentence"].to_string().contains(CAUSE), "{waits}");
    let told = until(
        "a row that failed waits",
        async || client.get(&format!("/v2/batches/{id}/waiting")).await["data"].clone(),
        |waits| entry(waits, "last_answer").is_some(),
    )
    .await;
    let told = entry(&told, "last_answer").expect("it is there")["sentence"].to_string();
    assert!(told.contains(CAUSE) && told.contains("step `create`"), "{told}");
    // An operator's command sees the same, on one machine too.
    let (why, good) = place.operate(&sandbox, &["why", &id]);
    assert!(good, "{why}");
    assert!(
        entry(&why, "breaker_open").expect("it is open")["sentence"].to_string().contains(CAUSE),
        "{why}"
    );
    let (row, _) = place.operate(&sandbox, &["why", &id, "1"]);
    assert_eq!(row[0]["until"], Value::Null, "nobody knows when a breaker closes: {row}");
    until(
        "no end is promised while the breaker is open",
        async || client.get(&format!("/v2/batches/{id}")).await,
        |batch| batch["eta"].is_null(),
    )
    .await;
    let rows = client.get(&format!("/v2/batches/{id}/rows")).await;
    let told = rows["data"].as_array().expect("rows").iter().filter(|row| !row["error"].is_null());
    let told: Vec<String> = told.map(|row| row["error"]["message"].to_string()).collect();
    assert!(!told.is_empty() && told.iter().all(|message| message.contains(CAUSE)), "{rows}");
    let (lines, good) = place.operate(&sandbox, &["doctor"]);
    let line = lines.as_array().expect("lines").iter().find(|line| line["what"] == "dependency");
    let line = line.expect("a line about the dependency");
    let found = line["found"].as_str().expect("a sentence");
    assert!(!good && line["verdict"] == "fail", "{lines}");
    assert!(found.contains(CAUSE) && found.contains(&url) && found.contains("breaker open"), "{found}");
    let log = std::fs::read_to_string(place.log()).expect("a log");
    let warned = log.lines().filter(|line| line.contains("a dependency cannot be reached")).count();
    assert!(log.contains("connection_refused") && warned == 1, "it is logged once: {warned}");
    service.terminate();
    if place.is_cluster() {
        return;
    }
    // Nobody is there to be asked: it is said what is not seen.
    let (why, good) = place.operate(&sandbox, &["why", &id]);
    assert!(good && entry(&why, "limits_unseen").is_some(), "{why}");
    let (lines, _) = place.operate(&sandbox, &["doctor"]);
    assert!(lines.to_string().contains("cannot be seen"), "{lines}");
}

#[tokio::test]
async fn a_dependency_that_can_be_reached_is_shown_with_its_pause() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let receiver = Receiver::start().await;
    receiver.answer_with(|_| Answer {
        status: 429,
        headers: "retry-after: 86400\r\ncontent-type: application/json\r\n".into(),
        body: "{\"error\":\"daily quota used up\"}".into(),
    });
    let place = Place::new(&[("causes.yaml", &pipeline(&receiver.url, "", ""))]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let doctor = || {
        let (lines, good) = place.operate(&sandbox, &["doctor"]);
        let line = lines.as_array().expect("lines").iter().find(|line| line["what"] == "dependency").cloned();
        (line.expect("a line about the dependency"), good)
    };
    let (line, _) = doctor();
    assert_eq!(line["verdict"], "ok", "{line}");
    assert!(line["found"].to_string().contains("connected in"), "{line}");
    let id = upload(&client, "id\n1\n").await;
    let batch = until(
        "the pause counts in the estimate",
        async || client.get(&format!("/v2/batches/{id}")).await,
        |batch| batch["eta"].is_string() && eta_seconds(batch) > 80_000,
    )
    .await;
    assert!(eta_seconds(&batch) < 90_000, "{batch}");
    let (line, good) = doctor();
    assert!(
        good && line["verdict"] == "warn" && line["found"].to_string().contains("paused until"),
        "{line}"
    );
    assert_eq!(receiver.heard().len(), 1, "a day is a day");
    // What the API said is told while the row waits, beside the pause.
    let waits = client.get(&format!("/v2/batches/{id}/waiting")).await["data"].clone();
    let (why, good) = place.operate(&sandbox, &["why", &id]);
    assert!(good && entry(&waits, "throttled").is_some(), "{waits}");
    let sentence = |waits: &Value| {
        let answer = entry(waits, "last_answer").expect("it was answered");
        answer["sentence"].as_str().expect("a text").to_owned()
    };
    let (shown, operators) = (sentence(&waits), sentence(&why));
    assert!(shown.contains("HTTP status 429") && shown.contains("daily quota used up"), "{shown}");
    // An API's words can quote a row: an operator's command shows the status alone.
    assert!(operators.contains("429") && !operators.contains("quota"), "{operators}");
}

/// From the upload to the estimated end.
fn eta_seconds(batch: &Value) -> i64 {
    let seconds = |key: &str| {
        let at: penstock_domain::time::Timestamp =
            serde_json::from_value(batch[key].clone()).expect("a time");
        at.seconds()
    };
    seconds("eta") - seconds("created_at")
}

/// A keyed call has no answer, is still under way when it is tried again, and has its answer then.
#[tokio::test]
async fn a_call_that_is_still_under_way_is_asked_for_again() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let receiver = Receiver::start().await;
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    receiver.answer_by(move |heard| {
        // Row 2 was never tried before: its conflict is one.
        if heard.path == "/things/2" {
            return (409, String::new());
        }
        match count.fetch_add(1, Ordering::SeqCst) {
            0 => (0, String::new()),
            1 => (409, String::new()),
            2 => (409, "retry-after: 1\r\n".to_owned()),
            _ => (201, String::new()),
        }
    });
    let keyed = pipeline(&receiver.url, ", timeout: 1s", ", idempotency_key: true");
    let place = Place::new(&[("causes.yaml", &keyed)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let id = upload(&client, "id\n1\n2\n").await;
    let batch = client.finished(&id).await;
    assert_eq!(
        (&batch["counts"]["completed"], &batch["counts"]["failed"]),
        (&json!(1), &json!(1)),
        "{batch}"
    );
    let heard = receiver.heard();
    let (first, second): (Vec<_>, Vec<_>) = heard.iter().partition(|heard| heard.path == "/things/1");
    assert_eq!((first.len(), second.len()), (4, 1), "{heard:?}");
    let keys: std::collections::BTreeSet<&str> =
        first.iter().map(|one| one.header("idempotency-key")).collect();
    assert_eq!(keys.len(), 1, "{keys:?}");
    let conflict = client.get(&format!("/v2/batches/{id}/rows/2")).await;
    assert_eq!(
        (&conflict["attempts"], &conflict["error"]["code"]),
        (&json!(1), &json!("http_409")),
        "{conflict}"
    );
    let shown = client.get(&format!("/v2/batches/{id}/rows/1")).await;
    assert_eq!(shown["status"], "completed", "{shown}");
}

/// Of an answer that cannot be read the row has the status and what was wrong; who asks to wait is waited for.
#[tokio::test]
async fn an_odd_answer_is_described_in_its_row() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let receiver = Receiver::start().await;
    receiver.answer_with(|heard| {
        let answer = |status, headers: &str, body: &str| Answer {
            status,
            headers: headers.to_owned(),
            body: body.to_owned(),
        };
        match heard.path.as_str() {
            // The receiver's own line says 0: a second length makes the header one that cannot be read.
            "/things/1" => answer(200, "content-length: 9\r\n", ""),
            "/things/2" => answer(200, "x-fine: yes\r\n", ""),
            "/things/4" => answer(422, "content-type: text/plain\r\n", "\u{feff}That address\r\nis taken.\n"),
            "/things/5" => answer(400, "content-encoding: gzip\r\n", "\u{1f}\u{8b}"),
            "/things/6" => answer(400, "content-type: application/json\r\n", "\u{feff}{\"reason\":\"no\"}"),
            "/things/7" => answer(404, "content-type: text/html\r\n", &"<p>gone</p> ".repeat(100)),
            _ => answer(500, "retry-after: 2\r\n", ""),
        }
    });
    let reading = reading_pipeline(&receiver.url, "", "", ", output: { s: \"{{ body.x }}\" }");
    let place = Place::new(&[("causes.yaml", &reading)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let id = upload(&client, "id\n1\n2\n3\n4\n5\n6\n7\n").await;
    client.finished(&id).await;
    for (number, code, status, message) in [
        (
            1,
            "bad_response",
            200,
            "step `create` was answered with HTTP status 200, but its header cannot be read (invalid content-length parsed)",
        ),
        (2, "bad_response", 200, "step `create` was answered with HTTP status 200 (0 bytes), but"),
        (3, "http_500", 500, "step `create` was answered with HTTP status 500"),
        (4, "http_422", 422, "step `create` was answered with HTTP status 422: That address is taken."),
        (
            5,
            "http_400",
            400,
            "step `create` was answered with HTTP status 400, but its body is encoded as `gzip`",
        ),
        (6, "http_400", 400, "step `create` was answered with HTTP status 400"),
        (7, "http_404", 404, "step `create` was answered with HTTP status 404: <p>gone</p> <p>gone</p>"),
    ] {
        let error = &client.get(&format!("/v2/batches/{id}/rows/{number}")).await["error"];
        assert_eq!((&error["code"], &error["http_status"]), (&json!(code), &json!(status)), "{error}");
        assert!(error["message"].as_str().expect("a sentence").starts_with(message), "{error}");
        assert!(error["message"].to_string().len() < 500, "{error}");
        assert!(code == "bad_response" || !error.to_string().contains("not JSON"), "{error}");
    }
    let read = &client.get(&format!("/v2/batches/{id}/rows/6")).await["error"]["detail"];
    assert_eq!(read, &json!({ "reason": "no" }), "a byte order mark is passed over");
    let times: Vec<Instant> =
        receiver.heard().iter().filter(|heard| heard.path == "/things/3").map(|heard| heard.at).collect();
    assert_eq!(times.len(), 4, "all attempts were made");
    for pair in times.windows(2) {
        assert!(pair[1].duration_since(pair[0]) >= Duration::from_secs(2), "{times:?}");
    }
}

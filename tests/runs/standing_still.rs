//! Rows and batches that wait for something that does not come: rows end at their time, and a batch that no worker can process
//! is named, costs nothing, and goes on by itself.

use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::receiver::Receiver;
use penstock_tests::{Client, Place};
use serde_json::{Value, json};

use crate::storage::until;

const ROWS: u32 = 10;

fn ids() -> String {
    (0..ROWS).fold("id\n".to_owned(), |csv, id| csv + &format!("a{id}\n"))
}

/// A pipeline with a step that may be repeated.
fn calling(dependency: &str, retry: &str) -> String {
    format!(
        "name: calling\ncsv: {{ columns: [ {{ name: id, required: true }} ] }}\n\
        dependencies: {{ api: {{ base_url: \"${{INVITE_API_URL}}\", timeout: 5s{dependency} }} }}\nsteps:\n\
        \x20 - {{ name: create, dependency: api, request: {{ method: POST, path: /create, json: {{ id: \"{{{{ row.id }}}}\" }}, idempotent: true }} }}\n\
        retry: {{ {retry} }}\ndispatch: {{ spread: 0s }}\n"
    )
}

const ROUTE: &str = "/v2/pipelines/calling/batches";

/// Rows wait for much longer than they have; all of them end in time, with the words of the last answer.
async fn ends(dependency: &str, retry: &str, (status, headers): (u16, &'static str), code: &str) {
    let receiver = Receiver::start().await;
    receiver.answer_by(move |_| (status, headers.to_owned()));
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("calling.yaml", &calling(dependency, retry))]);
    place.set("INVITE_API_URL", receiver.url.clone());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (accepted, batch) = client.upload(ROUTE, ids()).await.expect("an answer");
    assert_eq!(accepted, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id").to_owned();
    let began = Instant::now();
    let ended = client.finished(&id).await;
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
    assert_eq!(ended["counts"]["failed"], ROWS, "{ended}");
    let rows = client.get(&format!("/v2/batches/{id}/rows?limit=100")).await;
    let rows = rows["data"].as_array().expect("rows");
    for row in rows {
        assert_eq!(row["error"]["code"], code, "{row}");
    }
    let words = format!("HTTP status {status}");
    let with_words = rows.iter().filter(|row| row["error"]["message"].to_string().contains(&words));
    assert!(with_words.count() > 0, "{rows:?}");
    let failed = client.text(&format!("/v2/batches/{id}/failed.csv")).await;
    assert!(failed.contains(code), "{failed}");
}

#[tokio::test]
async fn rows_behind_a_long_pause_end_at_their_deadline() {
    ends("", "deadline: 3s", (429, "retry-after: 600\r\n"), "deadline_exceeded").await;
}

#[tokio::test]
async fn rows_that_are_refused_for_too_long_end_during_the_pause() {
    ends("", "throttled_for: 3s", (429, "retry-after: 600\r\n"), "throttled").await;
}

#[tokio::test]
async fn rows_behind_an_open_breaker_end_at_their_deadline() {
    let breaker = ", breaker: { min_calls: 3, window: 30s, open_for: 10m, probes: 1 }";
    let retry = "attempts: 1000, backoff: { initial: 200ms, factor: 1, max: 200ms }, deadline: 3s";
    ends(breaker, retry, (500, ""), "deadline_exceeded").await;
}

fn with_header(header: &str) -> String {
    calling(header, "attempts: 3")
}

/// The line of `doctor` about batches.
fn about_batches(doctor: &Value) -> &Value {
    let mut lines = doctor.as_array().expect("lines").iter();
    lines.find(|line| line["what"] == "batches").unwrap_or_else(|| panic!("{doctor}"))
}

/// The definition that a batch was uploaded under needs a variable that was removed since. The batch stands still and is named
/// everywhere, other batches go on, and it does so itself when the variable is back.
#[tokio::test]
async fn a_batch_whose_variable_is_gone_is_named_and_goes_on_with_it() {
    let receiver = Receiver::start().await;
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let before = with_header(", headers: { X-Token: \"${GONE_TOKEN}\" }");
    let mut place = Place::new(&[("calling.yaml", &before)]);
    place.set("INVITE_API_URL", receiver.url.clone());
    place.set("GONE_TOKEN", "t0ken".into());
    // As many rows as the owner may have in flight: they must not take the place of others.
    place.set("ROWS_PER_OWNER", ROWS.to_string());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    receiver.answer_by(|_| (503, "retry-after: 1\r\n".to_owned()));
    let (status, batch) = client.upload(ROUTE, ids()).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id").to_owned();
    receiver.until(|_| true).await;
    service.terminate();
    receiver.answer(204);

    place.write("pipelines/calling.yaml", &with_header(""));
    place.unset("GONE_TOKEN");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let waits = async || client.get(&format!("/v2/batches/{id}/waiting")).await["data"][0].clone();
    until("it is named", || async { waits().await["reason"] == "unprocessable" }).await;
    let why = waits().await;
    assert!(why["sentence"].as_str().expect("a sentence").contains("GONE_TOKEN"), "{why}");
    let (said, good) = place.say(&sandbox, &["why", &id]);
    assert!(good && said.contains("GONE_TOKEN"), "{said}");
    let (doctor, good) = place.operate(&sandbox, &["doctor"]);
    let line = about_batches(&doctor);
    assert!(!good && line["verdict"] == "fail", "{doctor}");
    let found = line["found"].as_str().expect("a sentence");
    assert!([id.as_str(), "`calling`", "GONE_TOKEN"].iter().all(|word| found.contains(word)), "{found}");
    let (plan, _) = place.operate(&sandbox, &["reconcile"]);
    let findings = plan["findings"].as_array().expect("findings");
    let finding = findings.iter().find(|one| one["what"] == "batches that no worker can process");
    let finding = finding.unwrap_or_else(|| panic!("{plan}"));
    assert_eq!((&finding["count"], &finding["detail"][0]["batch"]), (&json!(1), &json!(id)), "{plan}");
    assert!(finding["detail"][0]["reason"].to_string().contains("GONE_TOKEN"), "{plan}");

    // It is tried again only every few seconds, and takes nobody's place.
    let tries = || {
        let log = std::fs::read_to_string(place.log()).expect("a log");
        log.matches("the batch's rows cannot be processed here").count()
    };
    let (first, began) = (tries(), Instant::now());
    let (_, other) = client.upload(ROUTE, ids()).await.expect("an answer");
    let other = client.finished(other["id"].as_str().expect("an id")).await;
    assert_eq!(other["counts"]["completed"], ROWS, "{other}");
    // Two lanes may try at once: four lines are at least two tries.
    until("it was tried again", || async { tries() > first + 3 }).await;
    assert!(began.elapsed() > Duration::from_secs(5), "{:?}", began.elapsed());
    // Each try queues the rows, and requeues them.
    let pending = async || client.get(&format!("/v2/batches/{id}")).await["counts"]["pending"].clone();
    until("its rows are requeued", || async { pending().await == ROWS }).await;
    service.terminate();

    place.set("GONE_TOKEN", "t0ken".into());
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let began = Instant::now();
    let ended = client.finished(&id).await;
    assert_eq!(ended["counts"]["completed"], ROWS, "{ended}");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    let (doctor, _) = place.operate(&sandbox, &["doctor"]);
    assert_eq!(about_batches(&doctor)["verdict"], "ok", "{doctor}");
}

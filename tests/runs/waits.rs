//! What is said while rows wait: what no limiter knows of, with the time it moves next, and batches that stand still, to whoever asks
//! and by alerts.

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::database::Database;
use penstock_tests::receiver::{Answer, Heard, Receiver};
use penstock_tests::{Client, Place};
use serde_json::{Value, json};

use crate::storage::until;

const ROUTE: &str = "/v2/pipelines/calling/batches";

/// A pipeline of one step, with these keys of its dependency.
fn calling(dependency: &str) -> String {
    format!(
        "name: calling\ncsv: {{ columns: [ {{ name: id, required: true }} ] }}\n\
        dependencies: {{ api: {{ base_url: \"${{INVITE_API_URL}}\", timeout: 5s{dependency} }} }}\nsteps:\n\
        \x20 - {{ name: create, dependency: api, request: {{ method: POST, path: /create, json: {{ id: \"{{{{ row.id }}}}\" }}, idempotent: true }} }}\n\
        dispatch: {{ spread: 0s }}\n"
    )
}

fn answer(status: u16, headers: &str, body: &str) -> Answer {
    Answer { status, headers: headers.to_owned(), body: body.to_owned() }
}

async fn uploaded(client: &Client, rows: u32) -> String {
    let csv = (0..rows).fold("id\n".to_owned(), |csv, id| csv + &format!("a{id}\n"));
    let (status, batch) = client.upload(ROUTE, csv).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    batch["id"].as_str().expect("an id").to_owned()
}

/// One reason of what a batch waits for.
async fn wait_for(client: &Client, id: &str, reason: &str) -> Option<Value> {
    let waits = client.get(&format!("/v2/batches/{id}/waiting")).await;
    let waits = waits["data"].as_array().expect("a list");
    waits.iter().find(|wait| wait["reason"] == reason).cloned()
}

/// Seconds from now until a time.
fn seconds_until(at: &Value) -> i64 {
    let at: penstock_domain::time::Timestamp = serde_json::from_value(at.clone()).expect("a time");
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock").as_secs();
    at.seconds() - i64::try_from(now).expect("a time")
}

/// A token endpoint that fails, and an operator's pause: each in a sentence, with its time where that is known, and gone with its
/// reason. The estimate reckons with both.
#[tokio::test]
async fn a_failing_token_endpoint_and_a_pause_are_said() {
    let receiver = Receiver::start().await;
    receiver.answer_with(|heard| match heard.path.as_str() {
        "/token" => answer(503, "retry-after: 600\r\n", ""),
        _ => answer(204, "", ""),
    });
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let definition = calling(
        ", auth: { oauth2: { token_url: \"${INVITE_API_URL}/token\", grant: client_credentials, client_id: us, client_secret: \"${INVITE_API_TOKEN}\" } }",
    );
    let mut place = Place::new(&[("calling.yaml", &definition)]);
    place.set("INVITE_API_URL", receiver.url.clone());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let id = uploaded(&client, 3).await;
    let fails = async || wait_for(&client, &id, "credentials_unavailable").await;
    until("the token endpoint's failure is said", || async {
        fails().await.is_some_and(|wait| wait["until"].is_string())
    })
    .await;
    let wait = fails().await.expect("it is said");
    let sentence = wait["sentence"].as_str().expect("a sentence");
    assert!(sentence.contains("`api`") && sentence.contains("the token endpoint answered 503"), "{wait}");
    assert!((300..=600).contains(&seconds_until(&wait["until"])), "{wait}");
    // What is read of limits for estimates is up to a second old.
    until("the estimate reckons with it", || async {
        let eta = client.get(&format!("/v2/batches/{id}")).await["eta"].clone();
        eta.is_string() && seconds_until(&eta) > 300
    })
    .await;
    let (said, good) = place.say(&sandbox, &["why", &id]);
    assert!(good && said.contains("the token endpoint answered 503") && said.contains("(until "), "{said}");

    let (_, done) = place.operate(&sandbox, &["limits", "pause", "api"]);
    assert!(done);
    let wait = wait_for(&client, &id, "dependency_paused").await.expect("the pause is said");
    assert!(
        wait["until"].is_null() && wait["sentence"].to_string().contains("penstock limits resume api"),
        "{wait}"
    );
    assert!(fails().await.expect("it is said").get("until").is_some_and(Value::is_null), "nobody knows when");
    until("nobody knows when it ends", || async {
        client.get(&format!("/v2/batches/{id}")).await["eta"].is_null()
    })
    .await;
    place.operate(&sandbox, &["limits", "resume", "api"]);
    assert!(wait_for(&client, &id, "dependency_paused").await.is_none());

    // The next process knows nothing of the pause that the endpoint asked for.
    receiver.answer_with(|heard| match heard.path.as_str() {
        "/token" => Answer::json("{\"access_token\": \"t\", \"expires_in\": 600}"),
        _ => answer(204, "", ""),
    });
    service.terminate();
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    until("nothing is said of it any more", || async {
        wait_for(&client, &id, "credentials_unavailable").await.is_none()
    })
    .await;
    service.terminate();
}

/// An API says that no call is left: rows wait for its next window, and it is said.
#[tokio::test]
async fn a_budget_that_an_api_tells_of_is_said() {
    let receiver = Receiver::start().await;
    receiver.answer_by(|_| (200, "x-ratelimit-remaining: 0\r\nx-ratelimit-reset: 300\r\n".to_owned()));
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("calling.yaml", &calling(", concurrency: 1"))]);
    place.set("INVITE_API_URL", receiver.url.clone());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let id = uploaded(&client, 5).await;
    let used_up = async || wait_for(&client, &id, "budget_used_up").await;
    until("it is said that the budget is used up", || async { used_up().await.is_some() }).await;
    let wait = used_up().await.expect("it is said");
    assert!(wait["sentence"].to_string().contains("calls are left"), "{wait}");
    assert!((200..=300).contains(&seconds_until(&wait["until"])), "{wait}");
    service.terminate();
}

fn alert<'a>(rule: &'a str, kind: &'a str, id: &'a str) -> impl Fn(&Heard) -> bool + 'a {
    move |heard| {
        heard.path == "/alerts" && {
            let told = heard.json();
            told["type"] == kind && told["data"]["rule"] == rule && told["data"]["subject"] == id
        }
    }
}

/// What `GET …/errors` says keeps the batch from going on, once something does.
async fn blocked(client: &Client, id: &str) -> Value {
    client.get(&format!("/v2/batches/{id}/errors")).await["blocked"].clone()
}

/// A batch that an answer holds, and one that gets nowhere: an alert and a callback each, both are named with the API's words in
/// `errors`, the held one stands in `doctor` and the other one in the log.
#[tokio::test]
async fn batches_that_stand_still_say_so_everywhere() {
    let receiver = Receiver::start().await;
    let refuses = |status: u16, headers: &'static str| {
        move |heard: &Heard| match heard.path.as_str() {
            "/create" => answer(status, headers, "{\"message\": \"the bill is not paid\"}"),
            _ => answer(204, "", ""),
        }
    };
    receiver.answer_with(refuses(402, ""));
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("calling.yaml", &calling(", responses: { hold: [402] }"))]);
    place.set("INVITE_API_URL", receiver.url.clone());
    let rules = format!(
        "every: 300ms\nreceivers:\n  - {{ name: ops, kind: webhook, url: \"{}/alerts\" }}\nrules:\n\
        \x20 - {{ rule: batch_held, to: [ops] }}\n  - {{ rule: batch_stalled, after: 1s, to: [ops] }}\n",
        receiver.url
    );
    let file = place.write("alerts.yaml", &rules);
    place.set("PENSTOCK_ALERTS", file);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let route = format!("{ROUTE}?callback_url={}/hook", receiver.url);
    let (status, batch) = client.upload(&route, "id\na0\na1\na2\n").await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let held = batch["id"].as_str().expect("an id").to_owned();
    let callback =
        |event: &'static str| move |heard: &Heard| heard.path == "/hook" && heard.json()["type"] == event;
    let told = receiver.until(callback("batch.held")).await.json();
    assert_eq!(
        (&told["data"]["hold"]["code"], &told["data"]["errors"]),
        (&json!("http_402"), &json!([])),
        "{told}"
    );
    let told = receiver.until(alert("batch_held", "alert.firing", &held)).await;
    let text = told.json()["data"]["text"].to_string();
    assert!(text.contains("http_402") && text.contains("`create`") && !text.contains("bill"), "{text}");
    let (doctor, _) = place.operate(&sandbox, &["doctor"]);
    let lines = doctor.as_array().expect("lines");
    let line = lines.iter().find(|line| line["what"] == "batches").expect("a line");
    assert!(line["verdict"] == "warn" && line["found"].to_string().contains(&held), "{line}");
    let why = blocked(&client, &held).await;
    assert_eq!(
        (&why["reason"], &why["code"], &why["step"]),
        (&json!("held"), &json!("http_402"), &json!("create")),
        "{why}"
    );
    assert!(why["message"].to_string().contains("the bill is not paid"), "{why}");

    receiver.answer_with(refuses(429, "retry-after: 1\r\n"));
    let (status, _) = client.post(&format!("/v2/batches/{held}/resume"), &serde_json::json!({})).await;
    assert_eq!(status, 200);
    receiver.until(alert("batch_held", "alert.resolved", &held)).await;
    let told = receiver.until(alert("batch_stalled", "alert.firing", &held)).await;
    let text = told.json()["data"]["text"].to_string();
    // On a slow machine not all three were tried within the alert's second.
    assert!(text.contains("gets nowhere") && text.contains("tried failed or waits"), "{text}");
    // It counts as stalled everywhere else two minutes after its start.
    Database::of(&place).await.run("UPDATE batches SET started_at = started_at - 120000").await;
    let told = receiver.until(callback("batch.delayed")).await.json();
    let delay = &told["data"]["delay"];
    assert_eq!((&delay["reason"], &delay["code"]), (&json!("stalled"), &json!("throttled")), "{told}");
    // The words are of a row that waits, which all of them do only between two calls.
    until("it is said with the API's words", || async {
        let why = blocked(&client, &held).await;
        why["reason"] == "stalled"
            && why["code"] == "throttled"
            && why["message"].to_string().contains("the bill is not paid")
    })
    .await;
    let log = std::fs::read_to_string(place.log()).expect("a log");
    assert!(log.contains(&format!("batch {held} (calling) gets nowhere")), "{log}");
    receiver.answer_with(|_| answer(204, "", ""));
    receiver.until(alert("batch_stalled", "alert.resolved", &held)).await;
    assert_eq!(client.finished(&held).await["counts"]["completed"], 3);
    assert!(blocked(&client, &held).await.is_null());
    let delays = receiver.heard().into_iter().filter(callback("batch.delayed")).count();
    assert_eq!(delays, 1);
    service.terminate();
}

//! `penstock limits`: what an operator changes while services run is heard of by every worker within two seconds, is listed, and is
//! taken back. `penstock process-row --reveal`: what a row sent and was answered last.

use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::database::Database;
use penstock_tests::receiver::{Answer, Receiver};
use penstock_tests::{Client, Place};
use serde_json::json;

use crate::large::{Fleet, ids};
use crate::storage::until;

const ROUTE: &str = "/v2/pipelines/calling/batches";

/// Every worker hears of a change within this time.
const HEARD_WITHIN: Duration = Duration::from_secs(2);

fn calling(keys: &str, request: &str) -> String {
    format!(
        "name: calling\ncsv: {{ columns: [ {{ name: id, required: true }} ] }}\n\
        dependencies: {{ api: {{ base_url: \"${{INVITE_API_URL}}\", timeout: 5s, {keys} }}, other: {{ base_url: \"${{INVITE_API_URL}}\" }} }}\nsteps:\n\
        \x20 - {{ name: create, dependency: api, request: {{ method: POST, idempotent: true, json: {{ id: \"{{{{ row.id }}}}\" }}, {request} }} }}\n\
        retry: {{ attempts: 1 }}\ndispatch: {{ rows_per_owner: 2000, spread: 0s }}\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_is_changed_is_heard_of_within_two_seconds() {
    let receiver = Receiver::start().await;
    receiver.answer(204);
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let definition = calling("rate: { limit: 60, period: 1s, burst: 2 }, concurrency: 9", "path: /create");
    let mut place = Place::new(&[("calling.yaml", &definition)]);
    place.set("INVITE_API_URL", receiver.url.clone());
    let fleet = Fleet::start(&place, &sandbox, 2);
    fleet.upload(ROUTE, ids(2000)).await;
    until("it is called", || async { receiver.heard().len() > 60 }).await;
    // Calls a second, from when each worker has heard of a change that was made just now.
    let rate = async || {
        tokio::time::sleep(HEARD_WITHIN + Duration::from_millis(200)).await;
        let (began, before) = (Instant::now(), receiver.heard().len());
        tokio::time::sleep(Duration::from_secs(2)).await;
        let calls = u32::try_from(receiver.heard().len() - before).expect("few");
        f64::from(calls) / began.elapsed().as_secs_f64()
    };
    let operate = |words: &[&str]| {
        let (value, good) = place.operate(&sandbox, &[&["limits"], words].concat());
        assert!(good, "{words:?}: {value}");
        value
    };
    let listed = |name: &str| {
        let all = operate(&["list"]);
        let of = all.as_array().expect("a list").iter().find(|one| one["dependency"] == name).cloned();
        of.unwrap_or_else(|| panic!("{all}"))
    };
    let before = json!({ "dependency": "api", "rate": "60 in 1s", "concurrency": "9", "set": null });
    assert_eq!(listed("api"), before);
    assert_eq!((&listed("other")["rate"], &listed("other")["set"]), (&json!("-"), &json!(null)));

    operate(&["set", "api", "--limit", "6"]);
    let lower = rate().await;
    assert!(lower < 9.0, "{lower} a second, of 6");
    assert_eq!(listed("api")["set"]["limit"], 6);
    assert_eq!(listed("api")["rate"], "60 in 1s", "as the definition says");
    operate(&["pause", "api"]);
    let paused = rate().await;
    assert!(paused < 0.1, "{paused} a second while it is paused");
    let (table, _) = place.say(&sandbox, &["limits", "list"]);
    let line = table.lines().find(|line| line.starts_with("api ")).unwrap_or_default();
    assert!(line.contains("60 in 1s") && line.ends_with("paused, limit 6"), "{table}");
    operate(&["resume", "api"]);
    let again = rate().await;
    assert!(again > 4.0 && again < 9.0, "{again} a second, of 6");
    assert_eq!(operate(&["reset", "api"]), json!({ "dependency": "api", "reset": true }));
    let reset = rate().await;
    // However slow the machine is, more than what was set.
    assert!(reset > 10.0, "{reset} a second, of 60");
    assert_eq!(listed("api"), before);
    assert_eq!(operate(&["reset", "api"])["reset"], false, "nothing was set");
    let audit = Database::of(&place).await.texts("SELECT action FROM audit ORDER BY id").await;
    let limits: Vec<&str> =
        audit.iter().map(String::as_str).filter(|action| action.starts_with("limits.")).collect();
    assert_eq!(limits, ["limits.set", "limits.pause", "limits.resume", "limits.reset"]);
}

/// What a failed row sent last, and was answered, is printed as HTTP writes it, without what is secret. Who asked for it is on record.
#[tokio::test]
async fn the_last_request_and_answer_of_a_row_are_printed_to_an_operator() {
    let receiver = Receiver::start().await;
    receiver.answer_with(|heard| {
        let words = format!("not {} with {}", heard.json()["id"], heard.header("authorization"));
        let headers = "content-type: application/json\r\nx-request-id: r-7\r\nset-cookie: s=1\r\n".into();
        Answer { status: 422, headers, body: json!({ "error": "refused", "message": words }).to_string() }
    });
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let definition = calling(
        "auth: { bearer: \"${TOKEN}\" }",
        "path: \"/create/{{ row.id }}\", query: { a: \"b c\" }, headers: { X-Campaign: spring }",
    );
    let mut place = Place::new(&[("calling.yaml", &definition)]);
    place.set("INVITE_API_URL", receiver.url.clone());
    place.set("TOKEN", "v3ry-secret".into());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (_, batch) = client.upload(ROUTE, ids(2)).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    client.finished(&id).await;
    let (said, _) = place.say(&sandbox, &["process-row", &id, "1", "--reveal"]);
    let lines: Vec<&str> = said.lines().collect();
    for line in [
        "POST /create/r0?a=b%20c",
        "content-type: application/json",
        "x-campaign: spring",
        "{\"id\":\"r0\"}",
        "→ 422",
        "x-request-id: r-7",
        "set-cookie: ***",
    ] {
        assert!(lines.contains(&line), "{line} in {said}");
    }
    assert!(said.contains("not \\\"r0\\\" with Bearer ***"), "{said}");
    assert!(!said.contains("v3ry-secret"), "{said}");
    let (value, _) = place.operate(&sandbox, &["process-row", &id, "1", "--reveal"]);
    assert_eq!(value["row"]["sent"]["answer"]["status"], 422, "{value}");
    // Without it nothing of a row is shown.
    let (said, _) = place.say(&sandbox, &["process-row", &id, "1"]);
    assert!(!said.contains("r0") && !said.contains("422"), "{said}");
    let audit = Database::of(&place).await.texts("SELECT action FROM audit ORDER BY id").await;
    assert_eq!(audit.iter().filter(|action| *action == "row.process_and_reveal").count(), 2, "{audit:?}");
    service.terminate();
}

//! Calls that are made at most once, and a worker that dies in the middle of one.

use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::database::Database;
use penstock_tests::receiver::Receiver;
use penstock_tests::{Client, Place};
use serde_json::{Value, json};

/// Three steps; what is said more of the second one.
fn pipeline(more: &str) -> String {
    format!(
        "name: once\ncsv: {{ columns: [ {{ name: id, required: true }} ] }}\n\
         dependencies: {{ api: {{ base_url: \"${{INVITE_API_URL}}\", timeout: 8s }} }}\nsteps:\n\
         \x20 - {{ name: first, dependency: api, request: {{ method: POST, path: /first, json: {{ id: \"{{{{ row.id }}}}\" }}, {more} }}, output: {{ s: \"{{{{ status }}}}\" }} }}\n\
         \x20 - {{ name: create, dependency: api, request: {{ method: POST, path: /create, json: {{ id: \"{{{{ row.id }}}}\" }}, idempotent: false }}, output: {{ s: \"{{{{ status }}}}\" }} }}\n\
         \x20 - {{ name: last, dependency: api, request: {{ method: PUT, path: /last, json: {{ id: \"{{{{ row.id }}}}\" }} }} }}\n\
         result: {{ status: \"{{{{ steps.create.s }}}}\" }}\n\
         dispatch: {{ spread: 0s }}\n"
    )
}

const ROUTE: &str = "/v2/pipelines/once/batches";

async fn scene(receiver: &Receiver, more: &str) -> (Sandbox, Place, String) {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("once.yaml", &pipeline(more))]);
    place.set("INVITE_API_URL", receiver.url.clone());
    place.set("PENSTOCK_LEASE_SECONDS", "17".into());
    let key = place.key(&sandbox, "acme");
    (sandbox, place, key)
}

/// How often a step was asked for with such a row.
fn calls(receiver: &Receiver, path: &str, id: &str) -> usize {
    let body = json!({ "id": id });
    receiver
        .heard()
        .iter()
        .filter(|heard| {
            heard.path == path && serde_json::from_str::<Value>(&heard.body).ok() == Some(body.clone())
        })
        .count()
}

/// Rows 1 to 3 are in the middle of the call when the worker dies, 4 to 6 in the middle of the next one: the former fail
/// with an unknown outcome and are not called again until somebody asks for it, the latter go on.
#[tokio::test]
async fn a_worker_dies_in_the_middle() {
    let receiver = Receiver::start().await;
    let held = |path: &str, body: &str| match path {
        "/create" => ["a1", "a2", "a3"].iter().any(|id| body.contains(id)),
        "/last" => ["b4", "b5", "b6"].iter().any(|id| body.contains(id)),
        _ => false,
    };
    receiver.answer_by(move |heard| (if held(&heard.path, &heard.body) { 0 } else { 204 }, String::new()));
    let (sandbox, place, key) = scene(&receiver, "idempotent: true").await;
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let path = format!("{ROUTE}?callback_url={}/hook", receiver.url);
    let (status, batch) = client.upload(&path, "id\na1\na2\na3\nb4\nb5\nb6\nc7\n").await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id").to_owned();
    let mut database = Database::of(&place).await;
    receiver.until(|heard| heard.status == 0).await;
    let began = Instant::now();
    // Everybody is where they shall be, and what is known of them is written down.
    loop {
        let under_way = receiver.heard().iter().filter(|heard| heard.status == 0).count();
        let notes = database.number("SELECT count(*) FROM row_state WHERE asked IS NOT NULL").await;
        let receipts = database.number("SELECT count(*) FROM row_receipts").await;
        let done = database.number("SELECT count(*) FROM row_state WHERE status = 3").await;
        if (under_way, notes, receipts, done) == (6, 3, 9, 1) {
            break;
        }
        assert!(
            began.elapsed() < Duration::from_secs(7),
            "{under_way} calls, {notes} notes, {receipts} receipts, {done} rows: {}",
            client.get(&format!("/v2/batches/{id}/rows")).await
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    service.kill();
    receiver.answer(204);
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let ended = client.finished(&id).await;
    assert_eq!(
        (&ended["outcome"], &ended["counts"]["failed"], &ended["counts"]["completed"]),
        (&json!("partial_success"), &json!(3), &json!(4)),
        "{ended}"
    );
    for row in ["a1", "a2", "a3", "b4", "b5", "b6", "c7"] {
        assert_eq!(calls(&receiver, "/create", row), 1, "{row}");
        assert_eq!(calls(&receiver, "/first", row), 1, "{row}");
    }
    // It is told wherever an error is told.
    let rows = client.get(&format!("/v2/batches/{id}/rows?code=outcome_unknown")).await;
    let rows = rows["data"].as_array().expect("rows");
    assert_eq!(rows.len(), 3, "{rows:?}");
    for row in rows {
        let error = &row["error"];
        assert_eq!((&row["status"], &row["attempts"]), (&json!("failed"), &json!(1)), "{row}");
        assert_eq!((&error["code"], &error["step"]), (&json!("outcome_unknown"), &json!("create")), "{row}");
        assert_eq!(error["http_status"], Value::Null, "{row}");
        assert!(
            error["message"].as_str().is_some_and(|text| text.contains("stopped in the middle")),
            "{row}"
        );
    }
    let one = client.get(&format!("/v2/batches/{id}/rows/2")).await;
    assert_eq!(&one, &rows[1]);
    let groups = client.get(&format!("/v2/batches/{id}/errors")).await;
    assert_eq!(
        groups["data"],
        json!([{ "code": "outcome_unknown", "step": "create", "count": 3, "sample": [1, 2, 3], "message": rows[0]["error"]["message"] }])
    );
    // Uploaded again they would be asked for a second time: they are not in the report that is made for that.
    let failed = client.text(&format!("/v2/batches/{id}/failed.csv")).await;
    assert_eq!(failed.lines().count(), 1, "{failed}");
    for (report, lines) in [("results.csv", 8), ("unprocessed.csv", 4)] {
        let text = client.text(&format!("/v2/batches/{id}/{report}")).await;
        let told: Vec<&str> = text.lines().filter(|line| line.contains(",outcome_unknown,")).collect();
        assert_eq!((text.lines().count(), told.len()), (lines, 3), "{text}");
        assert!(told[0].starts_with("a1,1,failed,") && told[0].contains("stopped in the middle"), "{text}");
    }
    let waiting = client.get(&format!("/v2/batches/{id}/waiting?row=1")).await;
    assert_eq!(waiting["data"][0]["reason"], "ended", "{waiting}");
    let (said, good) = place.say(&sandbox, &["why", &id, "1"]);
    assert!(good && said.contains("failed"), "{said}");
    let log = std::fs::read_to_string(place.log()).expect("a log");
    let told = log.lines().find(|line| line.contains("died in the middle of a call")).expect("a warning");
    assert!(told.contains("\"level\":\"WARN\"") && told.contains("\"rows\":3"), "{told}");
    let hook = |kind: &'static str| {
        move |heard: &penstock_tests::receiver::Heard| heard.path == "/hook" && heard.json()["type"] == kind
    };
    receiver.until(hook("batch.row_failed_first")).await;
    receiver.until(hook("batch.finished")).await;
    // Somebody who knows better has them tried again: from the step that was asked for.
    let (status, again) = client.post(&format!("/v2/batches/{id}/retry"), &json!({})).await;
    assert_eq!((status, &again["counts"]["pending"]), (200, &json!(3)), "{again}");
    let ended = client.finished(&id).await;
    assert_eq!((&ended["outcome"], &ended["counts"]["completed"]), (&json!("success"), &json!(7)), "{ended}");
    for (row, times) in [("a1", 2), ("a2", 2), ("a3", 2), ("b4", 1), ("c7", 1)] {
        assert_eq!((calls(&receiver, "/create", row), calls(&receiver, "/first", row)), (times, 1), "{row}");
    }
    let row = client.get(&format!("/v2/batches/{id}/rows/1")).await;
    assert_eq!(
        (&row["status"], &row["error"], &row["result"]["status"]),
        (&json!("completed"), &Value::Null, &json!(204))
    );
}

/// Two such steps, one right behind the other: of a row that died in the second one the first one's answer is known, and
/// whoever has it tried again has not the first one made twice.
#[tokio::test]
async fn what_was_answered_before_is_not_called_again() {
    let receiver = Receiver::start().await;
    receiver.answer_by(|heard| (if heard.path == "/create" { 0 } else { 204 }, String::new()));
    let (sandbox, place, key) = scene(&receiver, "idempotent: false").await;
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (_, batch) = client.upload(ROUTE, "id\na1\n").await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    receiver.until(|heard| heard.path == "/create").await;
    service.kill();
    receiver.answer(204);
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    client.finished(&id).await;
    let row = client.get(&format!("/v2/batches/{id}/rows/1")).await;
    assert_eq!(
        (&row["error"]["code"], &row["error"]["step"]),
        (&json!("outcome_unknown"), &json!("create")),
        "{row}"
    );
    client.post(&format!("/v2/batches/{id}/retry"), &json!({})).await;
    assert_eq!(client.finished(&id).await["outcome"], "success");
    assert_eq!((calls(&receiver, "/first", "a1"), calls(&receiver, "/create", "a1")), (1, 2));
}

/// Rows that wait for the only slot when the worker dies were not asked for: they go on, and only the one whose call was
/// under way ends with an unknown outcome.
#[tokio::test]
async fn who_waits_for_a_slot_was_not_asked_for() {
    const ROWS: usize = 6;
    let receiver = Receiver::start().await;
    receiver.answer(0);
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let definition = format!(
        "name: once\ncsv: {{ columns: [ {{ name: id, required: true }} ] }}\n\
         dependencies: {{ api: {{ base_url: \"{}\", timeout: 8s, concurrency: 1 }} }}\nsteps:\n\
         \x20 - {{ name: create, dependency: api, request: {{ method: POST, path: /create, json: {{ id: \"{{{{ row.id }}}}\" }}, idempotent: false }} }}\n\
         dispatch: {{ spread: 0s }}\n",
        receiver.url
    );
    let mut place = Place::new(&[("once.yaml", &definition)]);
    place.set("PENSTOCK_LEASE_SECONDS", "17".into());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let csv: String =
        std::iter::once("id\n".to_owned()).chain((0..ROWS).map(|row| format!("r{row}\n"))).collect();
    let (_, batch) = client.upload(ROUTE, csv).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    let mut database = Database::of(&place).await;
    receiver.until(|heard| heard.path == "/create").await;
    // The others have come as far as they can meanwhile.
    let began = Instant::now();
    let mut waited = false;
    while !waited || began.elapsed() < Duration::from_millis(500) {
        let waiting = "SELECT count(*) FROM row_state WHERE status = 2 OR code = 'concurrency_limited'";
        waited = database.number(waiting).await == i64::try_from(ROWS).expect("few");
        assert_eq!(database.number("SELECT count(*) FROM row_state WHERE asked IS NOT NULL").await, 1);
        assert!(began.elapsed() < Duration::from_secs(7), "they do not wait");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    service.kill();
    receiver.answer(204);
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let ended = client.finished(&id).await;
    let counts = &ended["counts"];
    assert_eq!((&counts["failed"], &counts["completed"]), (&json!(1), &json!(ROWS - 1)), "{ended}");
    for row in 0..ROWS {
        assert_eq!(calls(&receiver, "/create", &format!("r{row}")), 1, "{row}");
    }
}

//! A batch's life as its owner sees it.

use std::time::{Duration, Instant};

use penstock_sandbox::faults::Wait;
use penstock_sandbox::{Config, Faults, Limit, Sandbox};
use penstock_tests::receiver::Receiver;
use penstock_tests::{Client, Place};
use serde_json::{Value, json};

use crate::{PEOPLE, invite, people};

/// Five steps, GET and POST, other columns and results: YAML alone.
const OTHER: &str = r#"
name: lookup
csv:
  columns:
    - { name: code, required: true, pattern: "^[A-Z]{2}[0-9]+$" }
    - { name: day, format: date }
    - { name: kind, enum: [small, large] }
dependencies:
  api: { base_url: "${ADDRESS_API_URL}", timeout: 5s }
steps:
  - { name: a, dependency: api, request: { method: POST, path: /address-links, idempotent: true, json: { postcode: "{{ row.code }}" } }, output: { id: "{{ body.links[0].id }}", all: "{{ body.links }}" } }
  - { name: b, dependency: api, request: { method: GET, path: "/addresses/{{ steps.a.id }}" }, output: { id: "{{ body.addresses[0].id }}" } }
  - { name: c, dependency: api, request: { method: GET, path: "/addresses/{{ steps.a.all[0].id }}", query: { kind: "{{ row.kind }}" } }, output: { n: "{{ body.addresses | length }}" } }
  - { name: d, dependency: api, request: { method: POST, path: /address-links, idempotent: true, json: { postcode: "{{ row.code }}", n: "{{ steps.c.n }}" } }, output: { s: "{{ status }}" } }
  - { name: e, dependency: api, request: { method: GET, path: "/addresses/{{ steps.a.id }}" } }
result: { address: "{{ steps.b.id }}", count: "{{ steps.c.n }}", status: "{{ steps.d.s }}", label: "{{ row.code }}/{{ row.day }}" }
dispatch: { spread: 0s }
"#;

#[tokio::test]
async fn another_pipeline_is_yaml_alone() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("lookup.yaml", OTHER)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let csv = "kind,code,day\nsmall,AB1,2026-11-23\nlarge,ZZ2,\n,CD3,\n";
    let (status, batch) = client.upload("/v2/pipelines/lookup/batches", csv).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id");
    let batch = client.finished(id).await;
    assert_eq!((&batch["outcome"], &batch["counts"]["failed"]), (&"partial_success".into(), &1.into()));
    let rows = client.get(&format!("/v2/batches/{id}/rows")).await;
    let first = &rows["data"][0];
    assert_eq!(
        (&first["number"], &first["line"], &first["status"]),
        (&1.into(), &2.into(), &"completed".into())
    );
    assert_eq!(
        (&first["result"]["count"], &first["result"]["status"]),
        (&json!(1), &json!(200)),
        "types are kept"
    );
    assert_eq!(first["result"]["label"], "AB1/2026-11-23");
    let failed = client.get(&format!("/v2/batches/{id}/rows?status=failed")).await;
    let error = &failed["data"][0]["error"];
    assert_eq!(
        (&error["code"], &error["step"], &error["http_status"]),
        (&"unknown_postcode".into(), &"a".into(), &422.into())
    );
    assert_eq!(error["detail"]["error"], "unknown_postcode");
}

#[tokio::test]
async fn a_limit_is_kept_and_a_retry_calls_no_finished_step_again() {
    // The sandbox allows 50 ms more than the pipeline asks for: twenty other services share the machine, and what is
    // tested here is the metering, not the machine's scheduler.
    let limit = Limit { rate: 200.0, burst: 30.0 };
    let sandbox = Sandbox::start(Config { address: Some(limit), invite: Some(limit), ..Config::default() })
        .expect("a sandbox");
    let definition = crate::INVITE
        .replace("limit: 50, period: 1s, burst: 10", "limit: 200, period: 1s, burst: 20")
        .replace("limit: 20, period: 1s, burst: 5", "limit: 200, period: 1s, burst: 20")
        .replace("rows_per_owner: 100", "rows_per_owner: 500, spread: 0s");
    let place = Place::new(&[("invite.yaml", &definition)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let mut csv = people(300);
    csv.push_str("taken@example.com,T,T,,AB0001\n");
    let (_, batch) = client.upload(PEOPLE, csv).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id");
    let batch = client.finished(id).await;
    assert_eq!((&batch["counts"]["completed"], &batch["counts"]["failed"]), (&300.into(), &1.into()));
    let before = sandbox.stats();
    assert_eq!(before.statuses.get(&429), None, "no call came too early: {before:?}");
    assert_eq!((before.address_links, before.addresses, before.invites), (301, 301, 301));
    let times: Vec<f64> = sandbox
        .calls()
        .iter()
        .filter(|call| call.endpoint == penstock_sandbox::Endpoint::Invite)
        .map(|call| std::time::Duration::from_micros(call.at_us).as_secs_f64())
        .collect();
    assert!(penstock_sandbox::limits::worst_excess(&times, &limit) <= 0.0);
    let (status, batch) = client.post(&format!("/v2/batches/{id}/retry"), &json!({})).await;
    assert_eq!((status, &batch["run"], &batch["counts"]["pending"]), (200, &2.into(), &1.into()), "{batch}");
    let batch = client.finished(id).await;
    assert_eq!(batch["counts"]["failed"], 1);
    let after = sandbox.stats();
    assert_eq!((after.address_links, after.addresses, after.invites), (301, 301, 302));
}

#[tokio::test]
async fn the_first_failure_ends_a_batch_that_allows_none() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("invite.yaml", &invite().replace("rows_per_owner: 500", "rows_per_owner: 5"))]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let csv = format!(
        "email,first_name,last_name,phone,postcode\ntaken@example.com,T,T,,AB0001\n{}",
        people(50).split_once('\n').unwrap().1
    );
    let (_, batch) = client.upload(&format!("{PEOPLE}&allow_failures=false"), csv).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id");
    let batch = client.finished(id).await;
    assert_eq!((&batch["status"], &batch["outcome"]), (&"cancelled".into(), &"failure".into()), "{batch}");
    assert_eq!(
        (&batch["failure"]["code"], &batch["failure"]["row"]),
        (&"email_taken".into(), &1.into()),
        "{batch}"
    );
    assert!(batch["counts"]["cancelled"].as_u64().unwrap() >= 40, "{batch}");
}

#[tokio::test]
async fn a_failing_downstream_is_tried_again_and_what_is_exhausted_keeps_its_story() {
    let faults = Faults { error: 1.0, ..Faults::default() };
    let sandbox = Sandbox::start(Config { faults, ..Config::default() }).expect("a sandbox");
    let definition = invite()
        .replace("attempts: 5", "attempts: 3")
        .replace("timeout: 10s }", "timeout: 10s, breaker: { min_calls: 1000 } }");
    let place = Place::new(&[("invite.yaml", &definition)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (_, batch) = client.upload(PEOPLE, people(2)).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id");
    let batch = client.finished(id).await;
    assert_eq!((&batch["outcome"], &batch["counts"]["failed"]), (&"failure".into(), &2.into()));
    let row = client.get(&format!("/v2/batches/{id}/rows/1")).await;
    assert_eq!((&row["attempts"], &row["error"]["code"]), (&3.into(), &"internal".into()), "{row}");
    assert_eq!(row["error"]["attempts"].as_array().map(Vec::len), Some(3), "{row}");
    let summary = client.get(&format!("/v2/batches/{id}/errors")).await;
    assert_eq!(
        summary["data"][0],
        json!({ "code": "internal", "step": "address_links", "count": 2, "sample": [1, 2], "message": row["error"]["message"] })
    );
    let waiting = client.get(&format!("/v2/batches/{id}/waiting?row=1")).await;
    assert_eq!(
        (&waiting["data"][0]["reason"], &waiting["data"][1]["reason"]),
        (&"ended".into(), &"ended".into())
    );
    let ready = client.get("/readyz").await;
    assert_eq!(ready["ready"], true);
    let document = client.get("/v2/openapi.json").await;
    assert!(document["paths"]["/v2/client/users/batch/invite"].is_object());
    assert!(client.text("/metrics").await.contains("penstock_batches"));
    assert!(client.text("/docs/").await.contains("swagger"));
}

/// A row that is claimed and comes back unserved waits for the dispatcher's next run: a worker takes up what the slowest
/// dependency can soon carry, also when that one is called last.
#[tokio::test]
async fn few_rows_are_claimed_in_vain() {
    let faults = Faults { latency_ms: 100, ..Faults::default() };
    let sandbox = Sandbox::start(Config { faults, ..Config::default() }).expect("a sandbox");
    let definition = "name: narrow\ncsv: { columns: [ { name: id, required: true } ] }\n\
        dependencies:\n  wide: { base_url: \"${ADDRESS_API_URL}\" }\n\
        \x20 narrow: { base_url: \"${INVITE_API_URL}\", rate: { limit: 20, period: 1s, burst: 5 } }\n\
        steps:\n\
        \x20 - { name: a, dependency: wide, request: { method: GET, path: /addresses/lnk_x } }\n\
        \x20 - { name: b, dependency: narrow, request: { method: GET, path: /addresses/lnk_y } }\n\
        dispatch: { spread: 0s }\n";
    let place = Place::new(&[("narrow.yaml", definition)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let rows = 200;
    let file: String =
        std::iter::once("id\n".to_owned()).chain((0..rows).map(|n| format!("{n}\n"))).collect();
    let (_, batch) = client.upload("/v2/pipelines/narrow/batches", file).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id");
    let began = Instant::now();
    assert_eq!(client.finished(id).await["outcome"], "success");
    let took = began.elapsed();
    let metrics = client.text("/metrics").await;
    let claims = metrics
        .lines()
        .find_map(|line| line.strip_prefix("penstock_row_queue_duration_seconds_count{pipeline=\"narrow\"} "))
        .and_then(|value| value.parse::<f64>().ok())
        .expect("a figure");
    assert!(claims < f64::from(rows) * 1.25, "{claims} claims for {rows} rows, {took:?}");
}

/// The downstream allows far less than is configured, and says so in each of the ways in which that is done.
#[tokio::test]
async fn however_a_429_says_how_long_it_is_waited_out() {
    let allowed = Limit { rate: 20.0, burst: 20.0 };
    let sandbox = Sandbox::start(Config { address: Some(allowed), ..Config::default() }).expect("a sandbox");
    let place = Place::new(&[("lookup.yaml", OTHER)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let mut refused_before = 0;
    for wait in [Wait::Seconds, Wait::Date, Wait::RateLimit, Wait::Reset, Wait::Nothing] {
        sandbox.set_faults(Faults { wait, ..Faults::default() });
        let csv: String = (0..8).map(|number| format!("small,AB{number},\n")).collect();
        let (_, batch) = client
            .upload("/v2/pipelines/lookup/batches", format!("kind,code,day\n{csv}"))
            .await
            .expect("an answer");
        let id = batch["id"].as_str().expect("an id");
        let batch = client.finished(id).await;
        assert_eq!(batch["outcome"], "success", "{wait:?}: {batch}");
        let rows = client.get(&format!("/v2/batches/{id}/rows")).await;
        let rows = rows["data"].as_array().expect("rows");
        assert!(rows.iter().all(|row| row["attempts"] == 1), "{wait:?}: {rows:?}");
        let all = sandbox.stats().statuses.get(&429).copied().unwrap_or(0);
        let refused = all - std::mem::replace(&mut refused_before, all);
        assert!((1..=40).contains(&refused), "{wait:?}: {refused} calls were refused");
    }
}

#[tokio::test]
async fn callbacks_tell_a_batch_from_its_first_to_its_last_event_once() {
    let receiver = Receiver::start().await;
    let url = format!("{}/hook", receiver.url);
    // The first delivery is refused: it comes again under the same id.
    receiver.answer(500);
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", crate::NOOP)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (status, batch) = client
        .upload(&format!("/v2/pipelines/noop/batches?callback_url={url}"), "id\n1\n2\n")
        .await
        .expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let refused = receiver.until(|heard| heard.status == 500).await;
    receiver.answer(204);
    let finished =
        receiver.until(|heard| heard.status == 204 && heard.json()["type"] == "batch.finished").await;
    let succeeded =
        receiver.until(|heard| heard.status == 204 && heard.json()["type"] == "batch.succeeded").await;
    let created =
        receiver.until(|heard| heard.status == 204 && heard.json()["type"] == "batch.created").await;
    assert_eq!(created.header("webhook-id"), refused.header("webhook-id"), "a redelivery keeps its id");
    assert_ne!(finished.header("webhook-id"), succeeded.header("webhook-id"));
    let data = &finished.json()["data"];
    assert_eq!((&data["id"], &data["progress"]), (&batch["id"], &100.into()));
    let taken = receiver.heard().iter().filter(|heard| heard.status == 204).count();
    assert_eq!(taken, 3, "each event once: {:?}", receiver.heard());
    // A rotation: the new secret verifies, and for a while the one before does as well.
    let (first, good) = place.operate(&sandbox, &["owners", "rotate-secret", "acme"]);
    assert!(good, "{first}");
    let (second, good) = place.operate(&sandbox, &["owners", "rotate-secret", "acme"]);
    assert!(good, "{second}");
    let again = format!("/v2/callbacks/{}/redeliver", created.header("webhook-id"));
    let (status, said) = client.post(&again, &Value::Null).await;
    assert!(status < 300, "{said}");
    let redelivered = receiver
        .until(|heard| {
            heard.header("webhook-signature") != created.header("webhook-signature")
                && heard.header("webhook-id") == created.header("webhook-id")
                && heard.status == 204
        })
        .await;
    for secret in [&first, &second] {
        let secret = secret["secret"].as_str().expect("a secret");
        redelivered.verify(secret).expect("an independent library verifies it");
        assert!(created.verify(secret).is_err(), "it was signed before");
    }
    let listed = client.get("/v2/callbacks").await;
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(3));
}

/// `batch.progress` is told each percent or every half minute, whichever is later, and never behind the end; the events
/// of a batch grow, and go on behind the last one that was seen.
#[tokio::test]
async fn progress_is_told_as_it_grows() {
    let receiver = Receiver::start().await;
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let slow = "name: slow\ncsv: { columns: [ { name: id, required: true } ] }\n\
        dependencies: { api: { base_url: \"${ADDRESS_API_URL}\", rate: { limit: 8, period: 1s, burst: 1 } } }\n\
        steps: [ { name: a, dependency: api, request: { method: GET, path: /addresses/x } } ]\ndispatch: { spread: 0s }\n";
    let place = Place::new(&[("slow.yaml", slow)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let file: String = std::iter::once("id\n".to_owned()).chain((0..300).map(|n| format!("{n}\n"))).collect();
    let path = format!("/v2/pipelines/slow/batches?callback_url={}", receiver.url);
    let (_, batch) = client.upload(&path, file).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id");
    let events = format!("/v2/batches/{id}/events");
    let mut listening = client.request("GET", &events).send().await.expect("an answer");
    let mut told = String::new();
    while told.matches("event: batch").count() < 3 {
        told.push_str(&String::from_utf8_lossy(
            &listening.chunk().await.expect("it goes on").expect("a part"),
        ));
    }
    drop(listening);
    let seen = |text: &str| -> Vec<i64> {
        text.lines()
            .filter_map(|line| line.strip_prefix("id: "))
            .map(|id| id.parse().expect("a number"))
            .collect()
    };
    let last = *seen(&told).last().expect("an id");
    let rest = client.request("GET", &events).header("last-event-id", last.to_string()).send().await;
    let rest = rest.expect("an answer").text().await.expect("it ends with the batch");
    let ids: Vec<i64> = seen(&told).into_iter().chain(seen(&rest)).collect();
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{ids:?}");
    let shown: Vec<u64> = told
        .lines()
        .chain(rest.lines())
        .filter_map(|line| line.strip_prefix("data: "))
        .filter_map(|data| serde_json::from_str::<Value>(data).ok())
        .map(|batch| batch["progress"].as_u64().expect("a number"))
        .collect();
    assert!(shown.windows(2).all(|pair| pair[0] <= pair[1]), "{shown:?}");
    assert_eq!(shown.iter().filter(|progress| **progress == 100).count(), 1, "{shown:?}");
    receiver.until(|heard| heard.json()["type"] == "batch.finished").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let heard = receiver.heard();
    let kinds: Vec<String> =
        heard.iter().map(|one| one.json()["type"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(kinds.iter().filter(|kind| *kind == "batch.progress").count(), 1, "{kinds:?}");
    assert_eq!(kinds.last().map(String::as_str), Some("batch.finished"), "{kinds:?}");
}

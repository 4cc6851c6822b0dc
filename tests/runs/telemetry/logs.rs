//! Logs, without a collector.

use std::collections::{BTreeMap, BTreeSet};

use penstock_sandbox::{Config, Faults, Sandbox};
use penstock_tests::receiver::Receiver;
use penstock_tests::{Client, Place};
use serde_json::Value;

use crate::{PEOPLE, invite, people};

const ROWS: u64 = 30;

fn lines(place: &Place) -> Vec<Value> {
    let log = std::fs::read_to_string(place.log()).expect("a log");
    log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
}

fn text<'a>(line: &'a Value, name: &str) -> &'a str {
    line[name].as_str().unwrap_or_else(|| panic!("{name} in {line}"))
}

fn is_trace(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) && id.bytes().any(|byte| byte != b'0')
}

/// The batch as everybody knows it; never its key in SQL.
fn is_uuid(id: &str) -> bool {
    id.len() == 36 && id.bytes().filter(|byte| *byte == b'-').count() == 4
}

/// Every line of a row says which one and of which batch, and bears the trace id that its calls told the downstream; lines
/// of a batch, a run and a request bear theirs; and no line has anything of a row's content.
#[tokio::test]
async fn lines_say_whose_they_are_without_a_collector() {
    let receiver = Receiver::start().await;
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("invite.yaml", &invite())]);
    place.set("RUST_LOG", "info,penstock=debug".into());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    sandbox.set_faults(Faults { error: 0.2, ..Faults::default() });
    let path = format!("{PEOPLE}&callback_url={}/hook", receiver.url);
    let file =
        people(u32::try_from(ROWS).unwrap()).replace("person1@", "taken1@").replace("person2@", "taken2@");
    let (_, batch) = client.upload(&path, file).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    let batch = client.finished(&id).await;
    receiver.until(|heard| heard.json()["type"] == "batch.finished").await;
    service.terminate();
    let lines = lines(&place);
    let trace = id.replace('-', "");

    let mut ends: BTreeMap<u64, &str> = BTreeMap::new();
    let (mut steps, mut traces) = (0, BTreeSet::new());
    for line in lines.iter().filter(|line| line["target"] == "penstock::row") {
        let row = line["row"].as_u64().unwrap_or_else(|| panic!("a row in {line}"));
        assert!(
            (1..=ROWS).contains(&row) && text(line, "batch") == id && is_trace(text(line, "trace_id")),
            "{line}"
        );
        traces.insert(text(line, "trace_id"));
        match text(line, "message") {
            "a step was called" => {
                assert!(line["milliseconds"].is_number() && line["step"].is_string(), "{line}");
                steps += 1;
            }
            end @ ("the row is completed" | "the row failed") => {
                assert_eq!(ends.insert(row, end), None, "{line}");
                let failed = end == "the row failed";
                assert_eq!(text(line, "level"), if failed { "WARN" } else { "DEBUG" });
                assert!(!failed || (line["code"].is_string() && line["step"].is_string()), "{line}");
            }
            other => assert_eq!(other, "the row is requeued", "{line}"),
        }
    }
    assert_eq!(ends.len() as u64, ROWS, "{ends:?}");
    let failed = ends.values().filter(|end| **end == "the row failed").count();
    assert_eq!(batch["counts"]["failed"], failed, "{batch}");
    assert!(failed >= 2);
    let stats = sandbox.stats();
    assert_eq!((stats.traced, steps), (stats.statuses.values().sum(), stats.traced), "{stats:?}");
    let parent = stats.last_traceparent.expect("one of them");
    let told = parent
        .strip_prefix("00-")
        .and_then(|rest| rest.strip_suffix("-00"))
        .expect("W3C's form, not sampled");
    assert!(traces.contains(told.split('-').next().expect("an id")), "{parent}");

    for message in [
        "extraction begins",
        "extraction is done",
        "rows are released",
        "a batch is finished",
        "a callback was delivered",
    ] {
        let found: Vec<_> = lines.iter().filter(|line| line["message"] == message).collect();
        assert!(!found.is_empty(), "no line says that {message}");
        for line in found {
            assert_eq!(
                (text(line, "batch"), text(line, "trace_id")),
                (id.as_str(), trace.as_str()),
                "{line}"
            );
        }
    }
    let requests: Vec<_> = lines.iter().filter(|line| line["message"] == "a request was answered").collect();
    assert!(requests.len() >= 2);
    for line in requests {
        assert!(is_trace(text(line, "trace_id")) && line["http.response.status_code"].is_number(), "{line}");
        if text(line, "http.route").starts_with("/v2/batches/") {
            assert_eq!(text(line, "batch"), id, "{line}");
        }
    }
    let run = lines.iter().find(|line| text(line, "message").starts_with("released 30 rows")).expect("a run");
    assert!(is_trace(text(run, "trace_id")) && run["span"] == "dispatch", "{run}");
    for line in &lines {
        assert!(line.get("batch").is_none_or(|batch| batch.as_str().is_some_and(is_uuid)), "{line}");
        for content in ["person", "taken1", "taken2", "example.com", "autumn"] {
            assert!(!line.to_string().contains(content), "{content} in {line}");
        }
    }
}

/// Whoever asks for warnings alone is told which row failed all the same.
#[tokio::test]
async fn a_warning_names_its_row_whatever_is_asked_for() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("invite.yaml", &invite())]);
    place.set("RUST_LOG", "warn".into());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (_, batch) =
        client.upload(PEOPLE, people(3).replace("person1@", "taken1@")).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    client.finished(&id).await;
    service.terminate();
    // At the end there may be others: of connections that nobody needs any more.
    let mut lines = lines(&place);
    lines.retain(|line| text(line, "target") == "penstock::row");
    let [line] = &lines[..] else { panic!("one line: {lines:?}") };
    assert_eq!(
        (text(line, "message"), text(line, "batch"), &line["row"]),
        ("the row failed", id.as_str(), &2.into())
    );
    assert!(is_trace(text(line, "trace_id")), "{line}");
}

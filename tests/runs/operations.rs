//! What an operator is told, and what their tools read.

use std::time::Duration;

use penstock_sandbox::{Config, Faults, Sandbox};
use penstock_tests::database::Database;
use penstock_tests::receiver::Receiver;
use penstock_tests::{Client, Place};

use crate::{PEOPLE, invite, people};

const SECRET: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

/// Alert rules that look twice a second.
fn rules(url: &str) -> String {
    format!(
        "every: 500ms\nreceivers:\n  - {{ name: chat, kind: slack, url: \"{url}/chat\" }}\n\
         \x20 - {{ name: pager, kind: webhook, url: \"{url}/pager\", secret: \"{SECRET}\" }}\nrules:\n\
         \x20 - {{ rule: failure_share, above: 20 %, min_rows: 5, to: [chat, pager] }}\n\
         \x20 - {{ rule: breaker_open, to: [pager] }}\n\
         \x20 - {{ rule: stuck_rows, lasting: 10m, to: [pager] }}\n\
         \x20 - {{ rule: dispatcher_late, after: 5m, to: [pager] }}\n\
         \x20 - {{ rule: extraction_failed, to: [pager] }}\n\
         \x20 - {{ rule: callbacks_exhausted, to: [pager] }}\n"
    )
}

/// A breaker that opens is told once and, when it has closed, told again; a batch that fails is told to both receivers;
/// a receiver that is away hears of it when it is back.
#[tokio::test]
async fn alerts_are_told_once_and_their_end_too() {
    let receiver = Receiver::start().await;
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let pipeline = invite().replace(
        "concurrency: 12, timeout: 10s",
        "concurrency: 12, timeout: 10s, breaker: { failure_share: 50 %, min_calls: 5, window: 10s, open_for: 1s, probes: 1 }",
    );
    let mut place = Place::new(&[("invite.yaml", &pipeline)]);
    let file = place.write("alerts.yaml", &rules(&receiver.url));
    place.set("PENSTOCK_ALERTS", file);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    receiver.answer(503);
    sandbox.set_faults(Faults { error: 1.0, ..Faults::default() });
    let path = format!("{PEOPLE}&callback_url={}/hook", receiver.url);
    let (_, batch) = client.upload(&path, people(60)).await.expect("an answer");
    let refused = receiver.until(|heard| heard.json()["data"]["rule"] == "breaker_open").await;
    assert_eq!(refused.status, 503);
    receiver.answer(204);
    let told = |kind: &'static str, rule: &'static str| {
        move |heard: &penstock_tests::receiver::Heard| {
            heard.path == "/pager"
                && heard.status == 204
                && heard.json()["type"] == kind
                && heard.json()["data"]["rule"] == rule
        }
    };
    let open = receiver.until(told("alert.firing", "breaker_open")).await;
    open.verify(SECRET).expect("the reference library verifies it");
    assert!(open.verify("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").is_err());
    assert_eq!(open.json()["data"]["subject"], "address");
    assert_eq!(open.header("webhook-id"), refused.header("webhook-id"), "a try keeps its id");
    let delayed = |heard: &penstock_tests::receiver::Heard| heard.json()["type"] == "batch.delayed";
    let callback = receiver.until(|heard| heard.status == 204 && delayed(heard)).await;
    assert_eq!((&callback.path, &callback.json()["data"]["id"]), (&"/hook".to_owned(), &batch["id"]));
    sandbox.set_faults(Faults::default());
    receiver.until(told("alert.resolved", "breaker_open")).await;
    client.finished(batch["id"].as_str().expect("an id")).await;
    // Every row of this file is refused by the downstream for good.
    let taken = people(20).replace("person", "taken");
    let (_, failing) = client.upload(PEOPLE, taken).await.expect("an answer");
    client.finished(failing["id"].as_str().expect("an id")).await;
    let about = failing["id"].clone();
    let paged =
        receiver.until(|heard| heard.path == "/pager" && heard.json()["data"]["subject"] == about).await;
    assert_eq!(paged.json()["data"]["rule"], "failure_share");
    let id = about.as_str().expect("an id").to_owned();
    let chat = receiver.until(|heard| heard.path == "/chat" && heard.body.contains(&id)).await;
    assert!(chat.json()["text"].as_str().is_some_and(|text| text.contains("100 %")), "{}", chat.body);
    // Two more rounds: nothing is told twice.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let heard = receiver.heard();
    let times = |path: &str, subject: &str| {
        heard
            .iter()
            .filter(|one| one.status == 204 && one.path == path && one.body.contains(subject))
            .filter(|one| path == "/chat" || one.json()["type"] == "alert.firing")
            .count()
    };
    assert_eq!((times("/pager", &id), times("/chat", &id)), (1, 1), "{heard:?}");
    assert_eq!(times("/pager", "\"subject\":\"address\""), 1);
    assert_eq!(heard.iter().filter(|one| one.status == 204 && delayed(one)).count(), 1, "once in a run");
    for secret in ["person", "taken", "example.com"] {
        assert!(!heard.iter().any(|one| one.body.contains(secret)), "an alert carries no row's content");
    }
}

/// A file that turns out bad when it is extracted is told of, to those whom it concerns by now, and is over when it is an
/// hour ago; a receiver whose rule waits hears nothing.
#[tokio::test]
async fn a_file_that_cannot_be_extracted_is_told_of() {
    let receiver = Receiver::start().await;
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("noop.yaml", crate::NOOP)]);
    let url = &receiver.url;
    let rules = format!(
        "every: 300ms\nreceivers:\n  - {{ name: chat, kind: slack, url: \"{url}/chat\" }}\n\
         \x20 - {{ name: pager, kind: webhook, url: \"{url}/pager\" }}\n\
         \x20 - {{ name: patient, kind: webhook, url: \"{url}/patient\" }}\nrules:\n\
         \x20 - {{ rule: extraction_failed, to: [chat, pager] }}\n\
         \x20 - {{ rule: extraction_failed, lasting: 10m, to: [patient] }}\n"
    );
    let file = place.write("alerts.yaml", &rules);
    place.set("PENSTOCK_ALERTS", file);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (_, upload) = client.post("/v2/uploads", &serde_json::json!({})).await;
    let http = penstock_tests::http().build().expect("a client");
    let put = http.put(upload["url"].as_str().expect("a URL")).body("id\nnot-a-number\n");
    let put = if upload["authorization"] == true { put.bearer_auth(&key) } else { put };
    assert!(put.send().await.expect("an answer").status().is_success());
    let body = serde_json::json!({ "upload_id": upload["upload_id"] });
    let (status, batch) = client.post("/v2/pipelines/noop/batches", &body).await;
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id").to_owned();
    let ended = client.finished(&id).await;
    assert_eq!((&ended["status"], &ended["outcome"]), (&"failed".into(), &"failure".into()), "{ended}");
    let paged = receiver.until(|heard| heard.path == "/pager").await.json();
    assert_eq!(
        (&paged["type"], &paged["data"]["subject"]),
        (&"alert.firing".into(), &batch["id"]),
        "{paged}"
    );
    let chat = receiver.until(|heard| heard.path == "/chat").await;
    assert!(chat.body.contains(&id) && !chat.body.contains("not-a-number"), "{}", chat.body);
    let mut database = Database::of(&place).await;
    assert_eq!(database.run("UPDATE batches SET finished_at = finished_at - 7200000").await, 1);
    receiver.until(|heard| heard.path == "/pager" && heard.json()["type"] == "alert.resolved").await;
    let mut paths: Vec<String> = receiver.heard().into_iter().map(|heard| heard.path).collect();
    paths.sort_unstable();
    paths.dedup();
    assert_eq!(paths, ["/chat", "/pager"]);
}

/// Everything that is wrong with a folder of definitions is told at once, each with its place.
#[tokio::test]
async fn definitions_that_cannot_be_loaded_stop_a_program_with_their_places() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", crate::NOOP)]);
    place.write("pipelines/second.yaml", &format!("# another\n{}", crate::NOOP));
    let (said, good) = place.say(&sandbox, &["dev"]);
    assert!(!good, "{said}");
    let (first, second) =
        ("/noop.yaml:1 defines a pipeline `noop` as well; rename one of them", "/second.yaml:2: ");
    assert!(said.contains(first) && said.contains(second), "{said}");
    let latin = place.write("pipelines/second.yaml", "");
    std::fs::write(latin, b"name: second\n# J\xf6rg\n").expect("a file");
    place.write("pipelines/third.yaml", &crate::NOOP.replace("steps: []", "steps:"));
    let (said, good) = place.say(&sandbox, &["dev"]);
    assert!(!good, "{said}");
    for wanted in ["/second.yaml:2: the file is not UTF-8", "/third.yaml:3: `steps:`: a list belongs here"] {
        assert!(said.contains(wanted), "{said}");
    }
}

//! Definitions that change while services run: they are used without a restart, batches keep the version that they were uploaded
//! under, and what cannot be used changes nothing.

use std::path::PathBuf;

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::receiver::{Answer, Heard, Receiver};
use penstock_tests::{Client, Place, Service};
use serde_json::json;

use crate::storage::until;

/// A pipeline whose only step calls this path.
fn calling(name: &str, path: &str, more: &str) -> String {
    format!(
        "name: {name}\n{more}csv: {{ columns: [ {{ name: id, required: true }} ] }}\n\
        dependencies: {{ api: {{ base_url: \"${{INVITE_API_URL}}\" }} }}\nsteps:\n\
        \x20 - {{ name: call, dependency: api, request: {{ method: PUT, path: {path} }} }}\n\
        retry: {{ attempts: 1 }}\ndispatch: {{ spread: 0s }}\n"
    )
}

/// One process on SQLite, which looks by itself; on a cluster's services the three programs, which are told by SIGHUP.
struct Running(Vec<Service>);

impl Running {
    fn start(place: &Place, sandbox: &Sandbox) -> Self {
        if !place.is_cluster() {
            return Self(vec![place.start(sandbox, None)]);
        }
        Self(vec![place.api(sandbox), place.worker(sandbox), place.dispatcher(sandbox, "500ms")])
    }

    fn api(&self) -> &Service {
        &self.0[0]
    }

    fn definitions_have_changed(&self, place: &Place) {
        for service in self.0.iter().filter(|_| place.is_cluster()) {
            let sent = std::process::Command::new("kill").args(["-HUP", &service.pid().to_string()]).status();
            assert!(sent.is_ok_and(|status| status.success()));
        }
    }
}

async fn uploaded(client: &Client, pipeline: &str) -> String {
    let path = format!("/v2/pipelines/{pipeline}/batches");
    let (status, batch) = client.upload(&path, "id\n1\n2\n").await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    batch["id"].as_str().expect("an id").to_owned()
}

/// Until an upload there is answered so.
async fn until_answered(client: &Client, path: &str, wanted: u16) {
    until("the definitions are used", || async {
        client.upload(path, "id\n1\n").await.is_some_and(|(status, _)| status == wanted)
    })
    .await;
}

#[tokio::test]
async fn definitions_are_used_when_they_change_and_faulty_ones_are_not() {
    let receiver = Receiver::start().await;
    receiver.answer_with(|heard| {
        let status = if heard.path == "/old" { 500 } else { 204 };
        Answer { status, headers: String::new(), body: String::new() }
    });
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("calling.yaml", &calling("calling", "/old", ""))]);
    place.set("INVITE_API_URL", receiver.url.clone());
    let key = place.key(&sandbox, "acme");
    let running = Running::start(&place, &sandbox);
    let client = Client::new(running.api(), &key);
    let before = uploaded(&client, "calling").await;
    let (status, paused) = client.post(&format!("/v2/batches/{before}/pause"), &json!({})).await;
    assert!(status < 300, "{paused}");

    // A changed one and a new one, with a route of its own.
    place.write("pipelines/calling.yaml", &calling("calling", "/new", ""));
    place.write("pipelines/other.yaml", &calling("other", "/other", "route: /v2/own/other\n"));
    running.definitions_have_changed(&place);
    until_answered(&client, "/v2/pipelines/other/batches", 202).await;
    until_answered(&client, "/v2/own/other", 202).await;
    let after = uploaded(&client, "calling").await;
    assert_eq!(client.finished(&after).await["counts"]["completed"], 2);
    assert!(receiver.heard().iter().any(|heard| heard.path == "/new"));

    // A batch keeps its definition, until somebody retries it under today's.
    client.post(&format!("/v2/batches/{before}/resume"), &json!({})).await;
    let ended = client.finished(&before).await;
    assert_eq!(ended["counts"]["failed"], 2, "{ended}");
    assert!(receiver.heard().iter().filter(|heard| heard.path == "/old").count() >= 1);
    let (status, retried) =
        client.post(&format!("/v2/batches/{before}/retry"), &json!({ "definition": "current" })).await;
    assert!(status < 300, "{retried}");
    assert_eq!(client.finished(&before).await["counts"]["completed"], 2);

    // A faulty one is reported, and nothing changes.
    place.write("pipelines/calling.yaml", "name: calling\nsteps: [\n");
    std::fs::remove_file(PathBuf::from(place.write("pipelines/other.yaml", ""))).expect("a file");
    running.definitions_have_changed(&place);
    place.logged("those from before stay in use").await;
    for pipeline in ["calling", "other"] {
        let id = uploaded(&client, pipeline).await;
        assert_eq!(client.finished(&id).await["counts"]["completed"], 2);
    }
    until("the API reports it", || async {
        client.text("/metrics").await.lines().any(|line| line == "penstock_definitions_faulty 1")
    })
    .await;
    let ready = client.request("GET", "/readyz").send().await.expect("an answer");
    assert_eq!(ready.status(), 200);
    let (report, healthy) = place.say(&sandbox, &["doctor"]);
    assert!(!healthy && report.contains("calling.yaml:"), "{report}");

    // One that was removed is gone.
    place.write("pipelines/calling.yaml", &calling("calling", "/newest", ""));
    running.definitions_have_changed(&place);
    until_answered(&client, "/v2/pipelines/other/batches", 404).await;
    let id = uploaded(&client, "calling").await;
    assert_eq!(client.finished(&id).await["counts"]["completed"], 2);
    assert!(receiver.heard().iter().any(|heard| heard.path == "/newest"));
    running.0.into_iter().for_each(Service::terminate);
}

/// A changed folder is noticed without a signal, in a cluster by each of its programs, within a minute.
#[tokio::test]
async fn a_changed_folder_is_noticed_without_a_signal() {
    let receiver = Receiver::start().await;
    receiver.answer(204);
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("calling.yaml", &calling("calling", "/old", ""))]);
    place.set("INVITE_API_URL", receiver.url.clone());
    let key = place.key(&sandbox, "acme");
    let running = Running::start(&place, &sandbox);
    let client = Client::new(running.api(), &key);
    let before = uploaded(&client, "calling").await;
    assert_eq!(client.finished(&before).await["counts"]["completed"], 2);
    place.write("pipelines/calling.yaml", &calling("calling", "/new", ""));
    place.write("pipelines/other.yaml", &calling("other", "/other", ""));
    let changed = std::time::Instant::now();
    until_answered(&client, "/v2/pipelines/other/batches", 202).await;
    let after = uploaded(&client, "calling").await;
    assert_eq!(client.finished(&after).await["counts"]["completed"], 2);
    assert!(changed.elapsed() < std::time::Duration::from_secs(60), "{:?}", changed.elapsed());
    let called = |path: &str| receiver.heard().iter().filter(|heard| heard.path == path).count();
    assert_eq!((called("/old"), called("/new")), (2, 2));
    until("the new one is called", || async { called("/other") > 0 }).await;
    running.0.into_iter().for_each(Service::terminate);
}

/// What a file holds that a step names is used once it has changed.
#[tokio::test]
async fn a_file_that_a_step_names_is_read_again() {
    let receiver = Receiver::start().await;
    receiver.answer(204);
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let definition = calling("tagged", "/call", "")
        .replace("path: /call", "path: /call, headers: { X-Tag: \"${file:tag.txt}\" }");
    let mut place = Place::new(&[("tagged.yaml", &definition)]);
    place.set("INVITE_API_URL", receiver.url.clone());
    place.write("pipelines/tag.txt", "one\n");
    let key = place.key(&sandbox, "acme");
    let running = Running::start(&place, &sandbox);
    let client = Client::new(running.api(), &key);
    let tagged = |tag: &str| {
        let heard = receiver.heard();
        let has_tag =
            |call: &&Heard| call.headers.iter().any(|(name, value)| name == "x-tag" && value == tag);
        heard.iter().filter(has_tag).count()
    };
    let before = uploaded(&client, "tagged").await;
    client.finished(&before).await;
    assert_eq!(tagged("one"), 2);
    place.write("pipelines/tag.txt", "two\n");
    until("the file's new content is used", || async {
        let id = uploaded(&client, "tagged").await;
        client.finished(&id).await;
        tagged("two") > 0
    })
    .await;
    running.0.into_iter().for_each(Service::terminate);
}

//! The pictures of the console in the documentation; `cargo xtask pictures` puts them there.

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::browser::Browser;
use penstock_tests::{Client, Place};
use serde_json::Value;

use crate::browser::examine;
use crate::{invite, people};

const ROUTE: &str = "/v2/pipelines/invite/batches?context=%7B%22campaign%22%3A%22autumn%22%7D&name=";

async fn upload(client: &Client, name: &str, csv: String) -> String {
    let (status, batch) = client.upload(&(ROUTE.to_owned() + name), csv).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    batch["id"].as_str().expect("an id").to_owned()
}

/// What an office worker sees on a usual day: a batch that ended, one that runs, and one that was paused.
#[tokio::test]
async fn the_documentation_has_pictures() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    // A rate at which one of them runs for minutes.
    let paced = invite().replace("limit: 5000, period: 1s, burst: 500", "limit: 60, period: 1s, burst: 10");
    let place = Place::new(&[("invite.yaml", &paced)]);
    if place.is_cluster() {
        return;
    }
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let some_fail = |count| {
        people(count).replace("person1@", "taken1@").replace("person30@example.com", "p@blocked.example")
    };
    let ended = upload(&client, "August%20invitations&labels=autumn,north", some_fail(120)).await;
    client.finished(&ended).await;
    let paused = upload(&client, "October%20preview", people(1500)).await;
    let (status, _) = client.post(&format!("/v2/batches/{paused}/pause"), &Value::Null).await;
    assert_eq!(status, 200);
    let running = upload(&client, "September%20newsletter&labels=autumn", some_fail(4000)).await;
    let browser = Browser::start(&service.base, true).await;
    browser.goto(&format!("/console/batches/{running}")).await;
    browser.sign_in(&key).await;
    browser.until("document.querySelector('.chart .left') && document.querySelector('.group')").await;
    examine(&place, &browser, "batch-running").await;
    browser.picture("console-batch", "dark").await;
    browser.follow("Batches").await;
    browser.until("document.querySelectorAll('tr[data-batch]').length === 3").await;
    browser.picture("console-batches", "light").await;
    browser.goto(&format!("/console/batches/{ended}/rows/2")).await;
    browser.reads("Why it failed").await;
    browser.picture("console-row", "light").await;
    browser.was_quiet().await;
    browser.close().await;
}

//! Pages that stay open in a real browser: what they show goes on, and ends with the session.

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::browser::Browser;
use penstock_tests::{Client, Place};
use serde_json::json;

/// Rows that fail one after the other, for longer than anybody looks.
const FAILS: &str = "name: fails
csv: { columns: [ { name: id, required: true } ] }
dependencies: { api: { base_url: \"${INVITE_API_URL}\", rate: { limit: 5, period: 1s } } }
steps: [ { name: ask, dependency: api, request: { method: GET, path: /unknown } } ]
retry: { attempts: 1 }
dispatch: { rows_per_owner: 1000, spread: 0s }
";

/// Forgets what the page has asked for so far.
const FETCHED_UNTIL_NOW: &str = "performance.clearResourceTimings()";

/// What it has asked for since, besides its stream.
const FETCHED: &str = "return performance.getEntriesByType('resource').map(one => one.name).filter(name => !name.includes('/events?'))";

#[tokio::test]
async fn groups_of_failed_rows_grow_and_a_page_ends_with_its_session() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("fails.yaml", FAILS)]);
    let (made, _) = place.operate(&sandbox, &["keys", "create", "--owner", "acme", "--name", "Ann"]);
    let (key, id) = (made["key"].as_str().expect("a key"), made["id"].as_str().expect("an id"));
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, key);
    let rows: String = (1..2000).map(|row| format!("{row}\n")).collect();
    let route = format!("/v2/pipelines/fails/batches?name={}", "W".repeat(200));
    let (status, batch) = client.upload(&route, format!("id\n{rows}")).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let page = format!("/console/batches/{}", batch["id"].as_str().expect("an id"));
    let browser = Browser::start(&service.base, true).await;
    browser.goto(&page).await;
    browser.sign_in(key).await;
    // A name that is one long word makes no page wider than the window.
    for path in ["", "/rows", "/rows/1", "/erase", "/cancel"] {
        browser.goto(&format!("{page}{path}")).await;
        browser.fits_everywhere(path).await;
    }
    browser.goto(&page).await;
    browser.reads("Ann (acme)").await;
    let shown = "document.querySelector('.group header')?.textContent ?? ''";
    browser.until(&format!("({shown}).includes('http_404')")).await;
    let first = browser.script(&format!("return {shown}")).await.to_string();
    browser.script(FETCHED_UNTIL_NOW).await;
    browser.until(&format!("({shown}) !== {first}")).await;
    // What the watcher counts comes by the stream, and no page is asked for because of it.
    assert_eq!(browser.script(FETCHED).await, json!([]));
    let (_, good) = place.operate(&sandbox, &["keys", "revoke", id]);
    assert!(good);
    browser.until("location.pathname === '/console/sign-in'").await;
    browser.was_quiet().await;
    browser.close().await;
}

/// Limits and operations go on by themselves while they are open, without a page asked for again.
#[tokio::test]
async fn pages_of_operators_go_on() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("fails.yaml", FAILS)]);
    let (made, _) = place.operate(&sandbox, &["keys", "create", "--owner", "ops", "--admin"]);
    let key = made["key"].as_str().expect("a key");
    let service = place.start(&sandbox, None);
    let browser = Browser::start(&service.base, true).await;
    browser.goto("/console/limits").await;
    browser.sign_in(key).await;
    let badge = "document.querySelector('.head .badge')?.textContent";
    browser.until(&format!("{badge} === 'open'")).await;
    // What somebody is typing stays.
    browser.script("const field = document.querySelector('main input[name=limit]'); field.focus(); field.value = '7'").await;
    browser.script(FETCHED_UNTIL_NOW).await;
    let client = Client::new(&service, key);
    let (status, set) = client.post("/v2/limits/api", &json!({ "paused": true })).await;
    assert_eq!(status, 200, "{set}");
    browser.until(&format!("{badge} === 'paused'")).await;
    assert_eq!(
        browser.script("return document.querySelector('main input[name=limit]').value").await,
        json!("7")
    );
    assert_eq!(browser.script(FETCHED).await, json!([]));
    browser.goto("/console/operations").await;
    browser.script(FETCHED_UNTIL_NOW).await;
    let (_, good) = place.operate(&sandbox, &["keys", "create", "--owner", "newcomer"]);
    assert!(good);
    browser.reads("newcomer").await;
    assert_eq!(browser.script(FETCHED).await, json!([]));
    browser.was_quiet().await;
    browser.close().await;
}

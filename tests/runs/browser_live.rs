//! Pages that stay open in a real browser: what they show goes on, and ends with the session.

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::browser::Browser;
use penstock_tests::{Client, Place};

/// Rows that fail one after the other, for longer than anybody looks.
const FAILS: &str = "name: fails
csv: { columns: [ { name: id, required: true } ] }
dependencies: { api: { base_url: \"${INVITE_API_URL}\", rate: { limit: 5, period: 1s } } }
steps: [ { name: ask, dependency: api, request: { method: GET, path: /unknown } } ]
retry: { attempts: 1 }
dispatch: { rows_per_owner: 1000, spread: 0s }
";

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
    browser.until(&format!("({shown}) !== {first}")).await;
    let (_, good) = place.operate(&sandbox, &["keys", "revoke", id]);
    assert!(good);
    browser.until("location.pathname === '/console/sign-in'").await;
    browser.was_quiet().await;
    browser.close().await;
}

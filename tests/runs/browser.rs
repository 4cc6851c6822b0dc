//! The console as people use it: a real Chromium, with scripts and without.

use std::path::PathBuf;

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::browser::Browser;
use penstock_tests::{Client, Place, Service};

use crate::{NOOP, PEOPLE, invite, people};

/// What a person may write into any field: markup that would run.
const MARKUP: &str = "<script>alert(1)</script>";

/// Calls so slowly that its batches run for as long as a test needs them.
fn slow() -> String {
    invite()
        .replace("name: invite\nroute: /v2/client/users/batch/invite", "name: slow")
        .replace("limit: 5000, period: 1s, burst: 500", "limit: 1, period: 60s, burst: 1")
}

pub(crate) fn file(place: &Place, name: &str, text: &str) -> PathBuf {
    PathBuf::from(place.write(name, text))
}

/// Twelve people, two of whom are invited already.
fn some_taken() -> String {
    people(12).replace("person3@", "taken3@").replace("person7@", "taken7@")
}

async fn heading(browser: &Browser) -> String {
    browser.script("return document.querySelector('h1').textContent").await.as_str().unwrap().to_owned()
}

/// Pictures and checks of pages are the same on all services: they are made once.
pub(crate) async fn examine(place: &Place, browser: &Browser, name: &str) {
    if !place.is_cluster() {
        browser.examine(name).await;
    }
}

#[tokio::test]
async fn a_person_corrects_a_file_watches_it_run_and_retries() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("invite.yaml", &invite()), ("noop.yaml", NOOP)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let browser = Browser::start(&service.base, true).await;
    browser.goto("/console/upload").await;
    examine(&place, &browser, "sign-in").await;
    browser.sign_in(&key).await;
    assert_eq!(browser.path().await, "/console/upload", "who signed in is led back");

    browser.select("Pipeline", "invite").await;
    browser.fill("Name", MARKUP).await;
    browser.fill("Labels", &format!("{MARKUP}, autumn")).await;
    browser.fill("campaign", "<b>autumn</b>").await;
    let bad = format!("{}not an address,{MARKUP},L,,AB1234\n", some_taken());
    browser.choose(&file(&place, "bad.csv", &bad)).await;
    browser.press("Upload").await;
    browser.reads("The file was not accepted").await;
    let headers = "return [...document.querySelectorAll('#errors th')].map((th) => th.textContent).join()";
    assert_eq!(browser.script(headers).await, "Line,Column,What is wrong,Kind");
    let cells =
        "return [...document.querySelectorAll('#errors td')].slice(0, 2).map((td) => td.textContent).join()";
    assert_eq!(browser.script(cells).await, "14,email");
    browser.follow("errors.csv").await;
    let listed = browser.downloaded("errors.csv").await;
    assert!(listed.contains(",_line,_column,_code,_message,_ref\r\n"), "{listed}");
    assert!(listed.contains("not an address,") && listed.contains(",14,email,format,"), "{listed}");
    examine(&place, &browser, "upload-refused").await;

    browser.choose(&file(&place, "people.csv", &some_taken())).await;
    browser.press("Upload").await;
    browser.until("location.pathname.startsWith('/console/batches/')").await;
    // It updates itself: the page is never left for another one.
    browser.script("window.first = true").await;
    browser.until("window.first && document.querySelector('[data-state^=completed-1]')").await;
    assert_eq!(heading(&browser).await, MARKUP);
    browser.reads("Why rows failed").await;
    let labels =
        "return [...document.querySelectorAll('.facts .label')].map((one) => one.textContent).join()";
    assert_eq!(browser.script(labels).await, format!("{MARKUP},autumn"));
    browser.until("document.querySelector('.chart .rate')").await;
    examine(&place, &browser, "batch").await;
    browser.follow("results.csv").await;
    assert_eq!(browser.downloaded("results.csv").await.lines().count(), 13);
    browser.press("Retry these").await;
    browser.reads("2 rows go back.").await;
    browser.until("document.querySelector('[data-state^=completed-2]')").await;

    browser.follow("Rows").await;
    browser.select("State", "failed").await;
    browser.select("Failed at", "invite_create").await;
    browser.press("Filter").await;
    browser
        .until("location.search.includes('status=failed') && location.search.includes('step=invite_create')")
        .await;
    assert_eq!(browser.script("return document.querySelectorAll('main tbody tr').length").await, 2);
    examine(&place, &browser, "rows").await;
    browser.follow("4").await;
    browser.until("document.querySelector('h1')?.textContent === 'Row 4'").await;
    assert!(
        !browser.text().await.contains("taken3@example.com"),
        "values are shown when somebody asks for them"
    );
    browser.press("Reveal").await;
    browser.reads("taken3@example.com").await;
    browser.reads("Last request").await;
    examine(&place, &browser, "row").await;
    for (page, heading) in
        [("Batches", "Batches"), ("Pipelines", "Pipelines"), ("invite", "invite"), ("Upload", "Upload")]
    {
        browser.follow(page).await;
        browser.until(&format!("document.querySelector('h1')?.textContent === '{heading}'")).await;
        examine(&place, &browser, &heading.to_lowercase()).await;
    }
    browser.goto("/console/batches").await;
    for (label, found) in [("winter", 0), ("autumn", 1)] {
        browser.script("document.querySelector('[name=label]').value = ''").await;
        browser.fill("Label", label).await;
        browser.press("Filter").await;
        let shown = format!(
            "location.search.includes('label={label}') && document.querySelectorAll('tr[data-batch]').length === {found}"
        );
        browser.until(&shown).await;
    }
    browser.press("Sign out").await;
    browser.until("location.pathname === '/console/sign-in'").await;
    browser.was_quiet().await;
    browser.close().await;
}

async fn running(service: &Service, key: &str) -> String {
    let client = Client::new(service, key);
    let path = PEOPLE.replace("/v2/client/users/batch/invite", "/v2/pipelines/slow/batches");
    let (status, batch) = client.upload(&format!("{path}&name=slow"), people(20)).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    batch["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn commands_work_with_scripts_and_without() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("slow.yaml", &slow()), ("noop.yaml", NOOP)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    for scripts in [true, false] {
        let id = running(&service, &key).await;
        let browser = Browser::start(&service.base, scripts).await;
        browser.goto(&format!("/console/batches/{id}")).await;
        browser.sign_in(&key).await;
        browser.press("Pause").await;
        browser.reads("Paused: no more rows are released.").await;
        browser.press("Resume").await;
        browser.reads("Resumed.").await;
        browser.press("Cancel").await;
        browser.reads("Rows that have not started never run.").await;
        let on_the_page = !browser.path().await.contains("/cancel");
        assert_eq!(on_the_page, scripts, "a dialog with scripts, a page without");
        browser.press("Cancel batch").await;
        browser.reads("Cancelled: rows that have not started never run.").await;
        if !scripts {
            browser.follow("Upload").await;
            // The pipeline that is chosen first is the first by name.
            browser.fill("Name", "by hand").await;
            browser.choose(&file(&place, "bad.csv", "id,note\nx,a\n")).await;
            browser.press("Upload").await;
            browser.reads("The file was not accepted").await;
            browser.choose(&file(&place, "good.csv", "id,note\n1,a\n")).await;
            browser.press("Upload").await;
            browser.reads("The file was accepted.").await;
            browser.press("Sign out").await;
            browser.reads("API key").await;
        }
        browser.was_quiet().await;
        browser.close().await;
    }
}

/// The operator's pages while there is something on them: calls of the last minutes, a limit that was changed, rows that wait.
#[tokio::test]
async fn an_operator_pauses_a_limit_and_looks_at_operations() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("slow.yaml", &slow()), ("noop.yaml", NOOP)]);
    let key = place.key(&sandbox, "acme");
    let (admin, _) = place.operate(&sandbox, &["keys", "create", "--owner", "ops", "--admin"]);
    let service = place.start(&sandbox, None);
    let id = running(&service, &key).await;
    let operator = Client::new(&service, admin["key"].as_str().expect("a key"));
    let is_called = || async {
        let limits = operator.get("/v2/limits").await;
        let all = limits["data"].as_array().expect("limits").clone();
        all.iter().any(|one| one["last_hour"].as_array().is_some_and(|minutes| !minutes.is_empty()))
    };
    crate::storage::until("calls are written down", is_called).await;
    let browser = Browser::start(&service.base, true).await;
    browser.goto("/console/limits").await;
    browser.sign_in(admin["key"].as_str().expect("a key")).await;
    browser.until("document.querySelector('svg.use rect.calls')").await;
    browser.press("Pause").await;
    browser.until("document.querySelector('h2 + .badge.warn')?.textContent === 'paused'").await;
    examine(&place, &browser, "limits").await;
    browser.press("Resume").await;
    browser.until("!document.querySelector('h2 + .badge.warn')").await;
    browser.goto("/console/operations?stuck=true").await;
    browser.reads("Dispatcher runs").await;
    browser.until("[...document.querySelectorAll('th')].some((owner) => owner.textContent === 'acme')").await;
    examine(&place, &browser, "operations").await;
    browser.was_quiet().await;
    browser.close().await;
    let (status, _) =
        Client::new(&service, &key).post(&format!("/v2/batches/{id}/cancel"), &serde_json::json!({})).await;
    assert_eq!(status, 200);
}

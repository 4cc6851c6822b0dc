//! Pages of the console that the usual way does not lead to, in a real Chromium; and what others wrote, which never runs.

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::browser::Browser;
use penstock_tests::receiver::{Answer, Receiver};
use penstock_tests::{Client, PATIENCE, Place};
use serde_json::{Value, json};

use crate::NOOP;
use crate::browser::{examine, file};

/// What would run, were it taken for markup.
const MARKUP: &str = "\"><img src=x onerror=alert(1)><script>alert(2)</script>";

/// An API that refuses two rows in different ways, in its own words, which are markup; answers one, and asks for time for all others.
async fn api() -> Receiver {
    let api = Receiver::start().await;
    api.answer_with(|heard| {
        let body = |code: &str| json!({ "code": code, "message": MARKUP, "more": MARKUP }).to_string();
        match heard.path.as_str() {
            "/rows/1" => Answer { status: 422, ..Answer::json(body("too_old")) },
            "/rows/2" => Answer { status: 409, ..Answer::json(body("taken")) },
            "/rows/3" => Answer::json(json!({ "said": MARKUP }).to_string()),
            _ => Answer { status: 503, headers: "retry-after: 600\r\n".into(), body: MARKUP.into() },
        }
    });
    api
}

fn asking(api: &Receiver) -> String {
    format!(
        "name: asking\ncsv: {{ columns: [ {{ name: id, required: true, format: integer }}, {{ name: note }} ] }}\n\
         dependencies: {{ api: {{ base_url: \"{}\" }} }}\n\
         steps: [ {{ name: ask, dependency: api, request: {{ method: GET, path: \"/rows/{{{{ row.id }}}}\", headers: {{ X-Note: \"{{{{ context.note }}}}\" }} }}, \
         output: {{ said: \"{{{{ body.said }}}}\" }} }} ]\n\
         result: {{ said: \"{{{{ steps.ask.said }}}}\" }}\n\
         dispatch: {{ spread: 0s }}\n",
        api.url
    )
}

/// Rows whose notes are markup.
fn rows(count: u32) -> String {
    let quoted = MARKUP.replace('"', "\"\"");
    let row = |number| format!("{number},\"{quoted}\"\n");
    format!("id,note\n{}", (1..=count).map(row).collect::<String>())
}

async fn counted(client: &Client, id: &str, is_right: impl Fn(&Value) -> bool) {
    let began = std::time::Instant::now();
    loop {
        let batch = client.get(&format!("/v2/batches/{id}")).await;
        if is_right(&batch) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{batch}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Nothing on the page is an element that somebody else wrote, and nothing ran.
async fn is_text(browser: &Browser, page: &str, shows: bool) {
    assert!(!browser.has_alert().await, "{page}");
    let others = "return document.querySelectorAll('body img, body script').length";
    assert_eq!(browser.script(others).await, 0, "{page}");
    let shown = format!("return document.documentElement.textContent.includes({})", json!(MARKUP));
    assert_eq!(browser.script(&shown).await, shows, "{page}: {}", browser.text().await);
}

async fn batch_at(browser: &Browser) -> String {
    browser.until("location.pathname.startsWith('/console/batches/')").await;
    let path = browser.script("return location.pathname.split('/')[3]").await;
    path.as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn what_others_wrote_is_shown_as_text_and_to_its_owner_alone() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let api = api().await;
    let place = Place::new(&[("asking.yaml", &asking(&api))]);
    let (made, _) = place.operate(&sandbox, &["keys", "create", "--owner", "acme", "--name", MARKUP]);
    let key = made["key"].as_str().expect("a key");
    let rival = place.key(&sandbox, "rival");
    let (admin, _) = place.operate(&sandbox, &["keys", "create", "--owner", "ops", "--admin"]);
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, key);
    let browser = Browser::start(&service.base, true).await;
    browser.goto("/console/batches").await;
    browser.sign_in(key).await;
    examine(&place, &browser, "batches-empty").await;
    browser.follow("Upload").await;
    browser.fill("Name", MARKUP).await;
    browser.fill("Labels", MARKUP).await;
    browser.fill("note", "a note").await;
    // A header and a file's name that are markup.
    let header = format!("id,\"{}\"\nx,y\n", MARKUP.replace('"', "\"\""));
    browser.choose(&file(&place, "<img src=x onerror=alert(3)>.csv", &header)).await;
    browser.press("Upload").await;
    browser.reads("The file was not accepted").await;
    is_text(&browser, "refused", true).await;
    browser.choose(&file(&place, "rows.csv", &rows(3))).await;
    browser.press("Upload").await;
    let id = batch_at(&browser).await;
    client.finished(&id).await;
    let batch = format!("/console/batches/{id}");
    for (page, shows) in [
        (batch.clone(), true),
        (format!("{batch}/rows"), true),
        (format!("{batch}/rows/1"), true),
        (format!("{batch}/rows/3"), true),
        (format!("{batch}/erase"), true),
        ("/console/batches".into(), true),
        (format!("/console/batches?search={}", "%3Cscript%3Ealert(2)%3C/script%3E"), true),
        ("/console/%3Cscript%3Ealert(5)%3C/script%3E".into(), false),
    ] {
        browser.goto(&page).await;
        is_text(&browser, &page, shows).await;
    }
    browser.goto(&format!("{batch}/rows/1")).await;
    browser.press("Reveal").await;
    browser.reads("Last request").await;
    is_text(&browser, "revealed", true).await;
    browser.press("Sign out").await;
    // The name of the key is the operator's to read, in the audit log.
    browser.sign_in(admin["key"].as_str().expect("a key")).await;
    browser.goto(&batch).await;
    browser.reads("batch.create").await;
    is_text(&browser, "audit", true).await;
    browser.press("Sign out").await;
    browser.sign_in(&rival).await;
    for page in [batch.clone(), format!("{batch}/rows"), format!("{batch}/rows/1"), format!("{batch}/cancel")]
    {
        browser.goto(&page).await;
        browser.reads("not_found").await;
        is_text(&browser, &page, false).await;
    }
    examine(&place, &browser, "problem").await;
    browser.goto("/console/batches").await;
    browser.reads("No batches yet").await;
    assert!(!browser.text().await.contains("acme"));
    browser.was_quiet().await;
    browser.close().await;
}

/// The trial that a person fills in holds the batch; some of its failed rows are tried again; what cannot be undone asks back.
#[tokio::test]
async fn a_trial_holds_a_batch_and_some_rows_are_retried() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let api = api().await;
    let place = Place::new(&[("asking.yaml", &asking(&api))]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let browser = Browser::start(&service.base, true).await;
    // The first failed row ends a batch whose form says so.
    browser.goto("/console/upload").await;
    browser.sign_in(&key).await;
    browser.fill("note", "a note").await;
    browser
        .script(
            "document.querySelector('details').open = true; document.querySelector('[name=stop]').click()",
        )
        .await;
    browser.choose(&file(&place, "rows.csv", &rows(3))).await;
    browser.press("Upload").await;
    let stopped = batch_at(&browser).await;
    let ended = client.finished(&stopped).await;
    assert!(ended["allow_failures"] == false && ended["failure"]["step"] == "ask", "{ended}");
    browser.goto("/console/upload").await;
    browser.fill("Name", "trial").await;
    browser.fill("note", "a note").await;
    browser.script("document.querySelector('details').open = true").await;
    browser.fill("Rows to try first", "3").await;
    browser.fill("Most of them that may fail", "40").await;
    browser.choose(&file(&place, "rows.csv", &rows(9))).await;
    browser.press("Upload").await;
    let id = batch_at(&browser).await;
    counted(&client, &id, |batch| batch["held"] == true && batch["counts"]["failed"] == 2).await;
    browser.reads("held").await;
    browser.reads("2 of the 3 first rows failed").await;
    examine(&place, &browser, "batch-held").await;
    browser.press("Resume").await;
    browser.reads("Resumed.").await;
    browser.reads("Why it waits").await;
    counted(&client, &id, |batch| batch["counts"]["processing"] == 0 && batch["counts"]["queued"] == 0).await;
    browser.goto(&format!("/console/batches/{id}")).await;
    browser.reads("moves").await;
    examine(&place, &browser, "batch-waits").await;
    let history = client.get(&format!("/v2/batches/{id}/history")).await;
    let events = history["data"].as_array().expect("events");
    let names: Vec<&str> = events.iter().filter_map(|event| event["event"].as_str()).collect();
    assert_eq!(names, ["uploaded", "started", "extracted", "held", "resumed"], "{history}");
    assert_eq!((&events[0]["who"], &events[2]["detail"]), (&json!("acme"), &json!("9")), "{history}");
    browser.reads("all of the file is read: 9 rows").await;
    // Of two groups one is tried again.
    browser.script("document.querySelector('details.some').open = true").await;
    browser.select("Code", "taken").await;
    browser.press("Retry some").await;
    browser.reads("1 row goes back.").await;
    browser.press("Cancel").await;
    browser.reads("Rows that have not started never run.").await;
    examine(&place, &browser, "cancel-dialog").await;
    browser.goto(&format!("/console/batches/{id}/cancel")).await;
    examine(&place, &browser, "cancel").await;
    browser.press("Cancel batch").await;
    browser.reads("Cancelled: rows that have not started never run.").await;
    counted(&client, &id, |batch| batch["status"] == "cancelled").await;
    // The row that was not asked for failed in the first run, and only in that.
    let asked = |path: &str| api.heard().iter().filter(|heard| heard.path == path).count();
    assert_eq!(asked("/rows/1"), 2, "once in each batch");
    browser.was_quiet().await;
    browser.close().await;
}

#[tokio::test]
async fn a_link_is_handed_on_and_a_callback_delivered_again() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let receiver = Receiver::start().await;
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let to = format!("/v2/pipelines/noop/batches?name=told&callback_url={}/hook", receiver.url);
    let (_, batch) = client.upload(&to, "id,note\n1,a\n").await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    client.finished(&id).await;
    let heard = || receiver.heard().iter().filter(|heard| heard.json()["type"] == "batch.finished").count();
    let finished = async |count| crate::storage::until("it is told", || async { heard() >= count }).await;
    finished(1).await;
    let browser = Browser::start(&service.base, true).await;
    browser.goto(&format!("/console/batches/{id}")).await;
    browser.sign_in(&key).await;
    browser.reads("Callbacks").await;
    browser
        .until("[...document.querySelectorAll('td')].some((cell) => cell.textContent === 'delivered')")
        .await;
    examine(&place, &browser, "callbacks").await;
    let first = "[...document.querySelectorAll('tr')].find((line) => line.textContent.includes('batch.finished')).querySelector('button').click()";
    browser.script(first).await;
    browser.reads("The callback is delivered again.").await;
    finished(2).await;
    browser.press("Make a link to hand on").await;
    browser.reads("Who has this link can read the report").await;
    examine(&place, &browser, "link").await;
    let link = browser.script("return document.querySelector('main input[readonly]').value").await;
    let link = link.as_str().expect("an address").to_owned();
    let read = penstock_tests::http().build().expect("a client").get(&link).send().await.expect("an answer");
    assert_eq!(read.status(), 200);
    let report = client.text(&format!("/v2/batches/{id}/results.csv")).await;
    assert_eq!(read.text().await.expect("a text"), report);
    browser.goto(&format!("/console/batches/{id}/erase")).await;
    examine(&place, &browser, "erase").await;
    browser.was_quiet().await;
    browser.close().await;
}

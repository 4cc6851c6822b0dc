//! The console in a real Chromium, with the keyboard alone, and while a page updates itself.

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::browser::Browser;
use penstock_tests::receiver::{Answer, Receiver};
use penstock_tests::{Client, PATIENCE, Place};
use serde_json::{Value, json};

const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e006}";

/// An API that refuses the first row, and asks for time for all others.
async fn api() -> Receiver {
    let api = Receiver::start().await;
    api.answer_with(|heard| match heard.path.as_str() {
        "/rows/1" => {
            Answer { status: 422, ..Answer::json(r#"{"code":"too_old","message":"the offer has ended"}"#) }
        }
        _ => Answer { status: 503, headers: "retry-after: 600\r\n".into(), body: String::new() },
    });
    api
}

/// A pipeline that asks it once for each row.
fn asking(api: &Receiver) -> String {
    format!(
        "name: asking\ncsv: {{ columns: [ {{ name: id, required: true }} ] }}\n\
         dependencies: {{ api: {{ base_url: \"{}\" }} }}\n\
         steps: [ {{ name: ask, dependency: api, request: {{ method: GET, path: \"/rows/{{{{ row.id }}}}\" }} }} ]\n\
         dispatch: {{ spread: 0s }}\n",
        api.url
    )
}

/// Uploads three rows, of which the first fails and the others wait; the batch's id.
async fn upload(client: &Client, name: &str) -> String {
    let path = format!("/v2/pipelines/asking/batches?name={name}");
    let (status, batch) = client.upload(&path, "id\n1\n2\n3\n").await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    batch["id"].as_str().expect("an id").to_owned()
}

async fn failed(client: &Client, id: &str, count: u32) {
    let began = std::time::Instant::now();
    loop {
        let batch = client.get(&format!("/v2/batches/{id}")).await;
        if batch["counts"]["failed"] == count {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{batch}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Presses Tab until an element of this text has the focus. On the way, each element that has it shows so; the button inside of a date
/// does it by itself.
async fn tab_to(browser: &Browser, text: &str) {
    let text = json!(text);
    let focused = format!(
        "const at = document.activeElement, style = getComputedStyle(at), box = at.getBoundingClientRect(); \
         return {{ found: at.textContent.trim() === {text} || at.labels?.[0]?.textContent.trim() === {text}, \
         seen: parseFloat(style.outlineWidth) >= 2 && (style.outlineStyle !== 'none' || at.type === 'date') && box.width > 0 && box.left >= 0, \
         at: at.outerHTML.slice(0, 200) }};"
    );
    for _ in 0..60 {
        browser.keys(TAB).await;
        let focused = browser.script(&focused).await;
        assert_eq!(focused["seen"], true, "where the focus is cannot be seen: {focused}");
        if focused["found"] == true {
            return;
        }
    }
    panic!("Tab does not come to {text}: {}", browser.text().await);
}

#[tokio::test]
async fn the_keyboard_alone_leads_from_signing_in_to_why_a_row_failed() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let api = api().await;
    let place = Place::new(&[("asking.yaml", &asking(&api))]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let id = upload(&client, "autumn").await;
    failed(&client, &id, 1).await;
    let browser = Browser::start(&service.base, true).await;
    browser.goto("/console").await;
    browser.until("document.activeElement?.name === 'key'").await;
    browser.keys(&format!("{key}{ENTER}")).await;
    browser.until("document.querySelector('h1')?.textContent === 'Batches'").await;
    // The first that is come to passes over the navigation.
    tab_to(&browser, "Skip to the content").await;
    browser.keys(ENTER).await;
    browser.until("document.activeElement.id === 'content'").await;
    let order = "return [...document.querySelectorAll('[tabindex]')].every((one) => one.tabIndex <= 0)";
    for (link, heading) in [("autumn", "autumn"), ("line 2", "Row 1")] {
        assert_eq!(browser.script(order).await, true, "what is focused next is what is read next");
        tab_to(&browser, link).await;
        browser.keys(ENTER).await;
        browser.until(&format!("document.querySelector('h1')?.textContent === '{heading}'")).await;
    }
    browser.reads("the offer has ended").await;
    browser.was_quiet().await;
    browser.close().await;
}

/// A page that is renewed keeps what its reader does: the focus, what is opened, filled in and selected, and how far it is scrolled.
#[tokio::test]
async fn a_page_that_updates_itself_takes_nothing_out_of_a_readers_hands() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let api = api().await;
    let place = Place::new(&[("asking.yaml", &asking(&api))]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let id = upload(&client, "autumn").await;
    failed(&client, &id, 1).await;
    let command = async |name: &str| {
        let done = client.post(&format!("/v2/batches/{id}/{name}"), &Value::Null).await;
        assert_eq!(done.0, 200, "{}", done.1);
    };
    let browser = Browser::start(&service.base, true).await;
    browser.goto("/console/batches").await;
    browser.sign_in(&key).await;
    // A line of the list.
    browser.until("document.querySelector('tr[data-batch] a')").await;
    let look = "const link = document.querySelector('tr[data-batch] a'); window.kept = link; link.focus(); \
        getSelection().selectAllChildren(link);";
    browser.script(look).await;
    command("pause").await;
    browser.until("document.querySelector('tr[data-batch] .badge.warn')?.textContent === 'paused'").await;
    assert_eq!(browser.script("return document.activeElement === window.kept").await, true);
    assert_eq!(browser.script("return getSelection().toString()").await, "autumn");
    // What came new is counted, and shown when somebody wants it.
    let other = upload(&client, "winter").await;
    browser.reads("1 new batch.").await;
    assert_eq!(browser.script("return document.querySelectorAll('tr[data-batch]').length").await, 1);
    browser.follow("Show").await;
    browser.until(&format!("document.querySelectorAll('tr[data-batch]').length === 2 && document.querySelector('tr[data-batch=\"{other}\"]')")).await;
    // A page whose buttons change is renewed as a whole.
    browser.goto(&format!("/console/batches/{id}")).await;
    browser.until("document.querySelector('.buttons')?.textContent.includes('Resume')").await;
    let fill = "document.querySelector('details.some').open = true; \
        const field = document.querySelector('[name=from_row]'); window.kept = field; field.focus(); field.value = '2'; \
        scrollTo(0, 120); window.scrolled = scrollY; return scrollY > 0;";
    assert_eq!(browser.script(fill).await, true);
    command("resume").await;
    browser.until("document.querySelector('.buttons')?.textContent.includes('Pause')").await;
    let same = "return [document.activeElement === window.kept, window.kept.value, \
        document.querySelector('details.some').open, scrollY === window.scrolled]";
    assert_eq!(browser.script(same).await, json!([true, "2", true, true]));
    browser.was_quiet().await;
    browser.close().await;
}

//! What callbacks say of a batch: the same at each delivery.

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::receiver::{Answer, Heard, Receiver};
use penstock_tests::{Client, Place};
use serde_json::{Value, json};

const CALLING: &str = "name: calling\ncsv: { columns: [ { name: id, required: true } ] }\n\
    dependencies: { api: { base_url: \"${INVITE_API_URL}\", timeout: 5s } }\nsteps:\n\
    \x20 - { name: create, dependency: api, request: { method: POST, path: \"/create/{{ row.id }}\", idempotent: true } }\n\
    retry: { attempts: 1 }\ndispatch: { spread: 0s }\n";

fn refuses(heard: &Heard) -> Answer {
    match heard.path.as_str() {
        "/create/good" => Answer::json("{}"),
        "/create/gone" => Answer { status: 404, ..Answer::json("{}") },
        path if path.starts_with("/create/") => {
            let text = json!({ "code": "Email_Taken", "message": format!("{path} was invited before") });
            Answer { status: 422, ..Answer::json(text.to_string()) }
        }
        _ => Answer { status: 204, headers: String::new(), body: String::new() },
    }
}

/// `batch.finished` of a run.
fn finished(run: u32) -> impl Fn(&Heard) -> bool {
    move |heard| {
        heard.path == "/hook" && {
            let told = heard.json();
            told["type"] == "batch.finished" && told["data"]["run"] == run
        }
    }
}

/// The end of a run comes with its failed rows by code and step, and without a word of an API. What is delivered again after a
/// retry says what the first delivery said.
#[tokio::test]
async fn the_end_of_a_run_counts_its_failed_rows_by_code() {
    let receiver = Receiver::start().await;
    receiver.answer_with(refuses);
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("calling.yaml", CALLING)]);
    place.set("INVITE_API_URL", receiver.url.clone());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let route = format!("/v2/pipelines/calling/batches?callback_url={}/hook", receiver.url);
    let (status, batch) = client.upload(&route, "id\ngood\ntaken\ngone\ntoo\n").await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id");
    let first = receiver.until(finished(1)).await;
    let counted = json!([
        { "code": "email_taken", "step": "create", "count": 2 },
        { "code": "http_404", "step": "create", "count": 1 },
    ]);
    assert_eq!(first.json()["data"]["errors"], counted, "{}", first.body);
    assert!(!first.body.contains("invited before"), "{}", first.body);
    let begun =
        receiver.until(|heard| heard.path == "/hook" && heard.json()["type"] == "batch.created").await;
    assert_eq!(begun.json()["data"].get("errors"), None, "{}", begun.body);

    receiver.answer_with(|_| Answer::json("{}"));
    let (status, said) = client.post(&format!("/v2/batches/{id}/retry"), &json!({})).await;
    assert_eq!(status, 200, "{said}");
    let second = receiver.until(finished(2)).await;
    assert_eq!(second.json()["data"]["errors"], json!([]), "{}", second.body);

    let before = receiver.heard().len();
    let webhook = first.header("webhook-id").to_owned();
    let (status, said) = client.post(&format!("/v2/callbacks/{webhook}/redeliver"), &Value::Null).await;
    assert_eq!(status, 202, "{said}");
    crate::storage::until("it is delivered again", || async {
        receiver.heard().iter().skip(before).any(|heard| heard.header("webhook-id") == webhook)
    })
    .await;
    let again = receiver.heard().into_iter().skip(before).find(finished(1)).expect("it was heard");
    assert_eq!(again.body, first.body);
    service.terminate();
}

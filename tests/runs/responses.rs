//! `responses`: what a definition says about answers, and whose words a client reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::database::Database;
use penstock_tests::receiver::{Answer, Receiver};
use penstock_tests::{Client, Place};
use serde_json::Value;

use crate::storage::until;

const ROUTE: &str = "/v2/pipelines/posting/batches";

/// A step that may not be repeated, at an API whose answers are all 200.
fn posting(responses: &str) -> String {
    format!(
        "name: posting\ncsv: {{ columns: [ {{ name: id, required: true }} ] }}\n\
        dependencies:\n  api:\n    base_url: \"${{INVITE_API_URL}}\"\n    timeout: 5s\n    responses: {{ {responses} }}\nsteps:\n\
        \x20 - name: post\n    dependency: api\n    request: {{ method: POST, path: \"/post/{{{{ row.id }}}}\", idempotent: false }}\n\
        \x20   output: {{ ts: \"{{{{ body.ts }}}}\" }}\nresult: {{ ts: \"{{{{ steps.post.ts }}}}\" }}\n\
        retry: {{ attempts: 3, backoff: {{ initial: 50ms, factor: 1, max: 50ms }} }}\ndispatch: {{ spread: 0s }}\n"
    )
}

const SLACK: &str = "hold: \"{{ body.error in ['invalid_auth', 'token_revoked'] }}\", \
    retry: \"{{ body.error == 'internal_error' }}\", fail: \"{{ body.ok == false }}\", \
    error: { code: \"{{ body.error }}\", message: \"Slack says {{ body.error }}\" }";

fn refused(error: &str) -> Answer {
    Answer::json(format!("{{\"ok\": false, \"error\": \"{error}\"}}"))
}

async fn batch(client: &Client, csv: &str) -> String {
    let (status, batch) = client.upload(ROUTE, csv.to_owned()).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    batch["id"].as_str().expect("an id").to_owned()
}

fn row(rows: &Value, number: usize) -> &Value {
    &rows["data"][number - 1]
}

/// An API that answers 200 with an error in it: rows succeed, are tried again, and fail in its own words, in every place where a
/// client reads them.
#[tokio::test]
async fn an_error_in_a_200_is_one_and_is_reported_in_the_apis_words() {
    let receiver = Receiver::start().await;
    let passing = AtomicBool::new(false);
    receiver.answer_with(move |heard| match heard.path.as_str() {
        "/post/gone" => refused("Channel Not Found!"),
        "/post/passing" if !passing.swap(true, Ordering::SeqCst) => refused("internal_error"),
        _ => Answer::json("{\"ok\": true, \"ts\": \"1.5\"}"),
    });
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("posting.yaml", &posting(SLACK))]);
    place.set("INVITE_API_URL", receiver.url.clone());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let id = batch(&client, "id\ngood\ngone\npassing\n").await;
    let ended = client.finished(&id).await;
    assert_eq!(
        (&ended["counts"]["completed"], &ended["counts"]["failed"]),
        (&2.into(), &1.into()),
        "{ended}"
    );
    let rows = client.get(&format!("/v2/batches/{id}/rows?limit=100")).await;
    let error = &row(&rows, 2)["error"];
    assert_eq!(error["code"], "channel_not_found_", "{rows}");
    assert_eq!(error["message"], "Slack says Channel Not Found!", "{rows}");
    assert_eq!(row(&rows, 3)["attempts"], 2, "{rows}");
    assert_eq!(receiver.heard().iter().filter(|heard| heard.path == "/post/gone").count(), 1);
    // What was sent is shown to whoever asks for it, and that stands in the audit log.
    assert!(rows["data"][1]["sent"].is_null(), "{rows}");
    let shown = client.get(&format!("/v2/batches/{id}/rows/2?reveal=true")).await;
    let sent = &shown["sent"];
    assert_eq!((&sent["method"], &sent["target"]), (&"POST".into(), &"/post/gone".into()), "{shown}");
    assert_eq!(sent["answer"]["status"], 200, "{shown}");
    assert!(sent["answer"]["body"].to_string().contains("Channel Not Found!"), "{shown}");
    let audit = Database::of(&place).await.texts("SELECT action FROM audit").await;
    assert!(audit.iter().any(|action| action == "row.reveal"), "{audit:?}");
    let failed = client.text(&format!("/v2/batches/{id}/failed.csv")).await;
    assert!(failed.contains("channel_not_found_,Slack says Channel Not Found!"), "{failed}");
    let errors = client.get(&format!("/v2/batches/{id}/errors")).await;
    assert!(errors.to_string().contains("channel_not_found_"), "{errors}");
    let worded = errors["data"].as_array().expect("groups").iter();
    let said: Vec<&Value> = worded.map(|group| &group["message"]).collect();
    assert!(said.iter().any(|words| words.to_string().contains("Slack says Channel Not Found!")), "{errors}");
    let found = client.get(&format!("/v2/batches/{id}/rows?code=channel_not_found_")).await;
    assert_eq!(row(&found, 1)["number"], 2, "{found}");
}

/// A credential is revoked while a batch runs: the batch is held with the API's own words, rows lose nothing, and `resume` brings it
/// to its end. Another batch is held by an answer of its own only.
#[tokio::test]
async fn an_answer_holds_the_batch_until_somebody_resumes_it() {
    let receiver = Receiver::start().await;
    let revoked = Arc::new(AtomicBool::new(true));
    receiver.answer_with({
        let revoked = revoked.clone();
        move |heard| {
            if revoked.load(Ordering::SeqCst) && heard.path.starts_with("/post/a") {
                refused("token_revoked")
            } else {
                Answer::json("{\"ok\": true, \"ts\": \"1.5\"}")
            }
        }
    });
    let hook = Receiver::start().await;
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("posting.yaml", &posting(SLACK))]);
    place.set("INVITE_API_URL", receiver.url.clone());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let csv = (0..30).fold("id\n".to_owned(), |csv, id| csv + &format!("a{id}\n"));
    let (_, made) =
        client.upload(&format!("{ROUTE}?callback_url={}", hook.url), csv).await.expect("an answer");
    let id = made["id"].as_str().expect("an id").to_owned();
    let look = async || client.get(&format!("/v2/batches/{id}")).await;
    until("it is held", || async {
        look().await["held"] == true && look().await["counts"]["processing"] == 0
    })
    .await;
    let held = look().await;
    let hold = &held["hold"];
    assert_eq!(
        (&hold["reason"], &hold["code"], &hold["step"]),
        (&"Slack says token_revoked".into(), &"token_revoked".into(), &"post".into()),
        "{held}"
    );
    assert!(hold["since"].is_string(), "{held}");
    assert_eq!(held["counts"]["failed"], 0, "{held}");
    let waits = client.get(&format!("/v2/batches/{id}/waiting")).await;
    let why = waits["data"].as_array().expect("waits").iter().find(|wait| wait["reason"] == "held");
    assert!(why.expect("it is held")["sentence"].to_string().contains("Slack says token_revoked"), "{waits}");
    let told = hook.until(|heard| heard.json()["type"] == "batch.held").await.json();
    assert_eq!(told["data"]["hold"]["code"], "token_revoked", "{told}");
    assert!(!told.to_string().contains("Slack says"), "{told}");
    let (said, _) = place.say(&sandbox, &["why", &id]);
    assert!(said.contains("held") && !said.contains("Slack says"), "{said}");
    let calls = receiver.heard().len();
    assert!(calls <= 30, "{calls}");

    let other = batch(&client, "id\nb1\nb2\n").await;
    assert_eq!(client.finished(&other).await["outcome"], "success");
    assert_eq!(receiver.heard().len(), calls + 2, "nothing of the held batch was called");

    revoked.store(false, Ordering::SeqCst);
    let (status, resumed) = client.post(&format!("/v2/batches/{id}/resume"), &Value::Null).await;
    assert_eq!((status, &resumed["held"]), (200, &false.into()), "{resumed}");
    let ended = client.finished(&id).await;
    assert_eq!(
        (&ended["outcome"], &ended["counts"]["completed"]),
        (&"success".into(), &30.into()),
        "{ended}"
    );
    let rows = client.get(&format!("/v2/batches/{id}/rows?limit=100")).await;
    assert!(rows["data"].as_array().expect("rows").iter().all(|row| row["attempts"] == 1), "{rows}");
}

/// A vendor with several limits under the same headers refuses a search by 403 for a second, while there is enough left of the hour:
/// nobody waits for the end of the hour.
#[tokio::test]
async fn a_refusal_by_a_short_limit_does_not_wait_for_a_long_one() {
    let receiver = Receiver::start().await;
    let refused = AtomicBool::new(false);
    receiver.answer_with(move |heard| {
        let told = |left: u32, seconds: u32| {
            format!("x-ratelimit-remaining: {left}\r\nx-ratelimit-reset: {seconds}\r\n")
        };
        let answer = Answer::json("{\"ok\": true, \"ts\": \"1.5\"}");
        if heard.path == "/post/search" && !refused.swap(true, Ordering::SeqCst) {
            return Answer { status: 403, headers: told(0, 1), ..answer };
        }
        Answer { headers: told(4000, 3000), ..answer }
    });
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("posting.yaml", &posting("throttled: \"{{ status == 403 }}\", wait: 1"))]);
    place.set("INVITE_API_URL", receiver.url.clone());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let first = batch(&client, "id\nfirst\n").await;
    client.finished(&first).await;
    let id = batch(&client, "id\nsearch\nother\nlast\n").await;
    let ended = client.finished(&id).await;
    assert_eq!(ended["counts"]["completed"], 3, "{ended}");
}

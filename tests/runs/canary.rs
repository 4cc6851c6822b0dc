//! A trial with the first rows, over HTTP: held, resumed, cancelled, passed, and the ceiling that stays.

use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::receiver::{Heard, Receiver};
use penstock_tests::{Client, PATIENCE, Place};
use serde_json::{Value, json};

use crate::{PEOPLE, invite, people};

/// A file of so many rows of which these are refused by the downstream.
fn file(rows: u32, refused: impl Fn(u32) -> bool) -> String {
    let mut csv = people(0);
    for number in 1..=rows {
        let name = if refused(number) { "taken" } else { "person" };
        csv.push_str(&format!("{name}{number}@example.com,F,L,,AB0001\n"));
    }
    csv
}

async fn held(client: &Client, id: &str) -> Value {
    let began = Instant::now();
    loop {
        let batch = client.get(&format!("/v2/batches/{id}")).await;
        let counts = &batch["counts"];
        if batch["held"] == true && counts["queued"] == 0 && counts["processing"] == 0 {
            return batch;
        }
        if !batch["finished_at"].is_null() || began.elapsed() >= PATIENCE {
            panic!("{batch}, and its first row: {}", client.get(&format!("/v2/batches/{id}/rows/1")).await);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn about<'a>(id: &'a str, event: &'a str) -> impl Fn(&Heard) -> bool + 'a {
    move |heard| heard.json()["type"] == event && heard.json()["data"]["id"] == id
}

/// Too many of the first rows fail: nothing else is called until a person says so; that person may let it go on, or end it.
#[tokio::test]
async fn a_batch_is_held_by_its_first_rows() {
    let receiver = Receiver::start().await;
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let pipeline = invite() + "canary: { rows: 10, max_failure: 20 % }\n";
    let place = Place::new(&[("invite.yaml", &pipeline)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let path = format!("{PEOPLE}&callback_url={}", receiver.url);
    let (_, batch) = client.upload(&path, file(60, |number| number <= 3)).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    let stands = held(&client, &id).await;
    assert_eq!(
        (&stands["counts"]["failed"], &stands["counts"]["completed"]),
        (&json!(3), &json!(7)),
        "{stands}"
    );
    assert_eq!(
        (&stands["status"], &stands["paused"], &stands["eta"]),
        (&json!("queued"), &json!(false), &Value::Null)
    );
    let reason = stands["held_reason"].as_str().expect("a reason");
    assert!(reason.contains("3 of the 10 first rows failed") && reason.contains("20 %"), "{reason}");
    receiver.until(about(&id, "batch.held")).await;
    let waiting = client.get(&format!("/v2/batches/{id}/waiting")).await;
    assert_eq!(waiting["data"][0]["reason"], "held", "{waiting}");
    let (said, good) = place.say(&sandbox, &["batches", "show", &id]);
    assert!(good && said.contains("held: 3 of the 10"), "{said}");
    // Several runs come and release nothing.
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(sandbox.stats().invites, 10);
    // It goes on, and is not held a second time by what it was waved through for.
    let (status, going) = client.post(&format!("/v2/batches/{id}/resume"), &json!({})).await;
    assert_eq!((status, &going["held"]), (200, &json!(false)), "{going}");
    let ended = client.finished(&id).await;
    assert_eq!(
        (&ended["counts"]["completed"], &ended["counts"]["failed"]),
        (&json!(57), &json!(3)),
        "{ended}"
    );
    receiver.until(about(&id, "batch.finished")).await;
    assert_eq!(receiver.heard().iter().filter(|heard| about(&id, "batch.held")(heard)).count(), 1);
    // Another one is ended where it stands.
    let (_, batch) = client.upload(PEOPLE, file(60, |number| number % 2 == 0)).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    held(&client, &id).await;
    let (status, _) = client.post(&format!("/v2/batches/{id}/cancel"), &json!({})).await;
    assert_eq!(status, 200);
    let ended = client.finished(&id).await;
    assert_eq!(
        (&ended["status"], &ended["counts"]["cancelled"]),
        (&json!("cancelled"), &json!(50)),
        "{ended}"
    );
    assert_eq!((&ended["held"], ended.get("held_reason")), (&json!(false), None), "{ended}");
}

/// Few enough fail: nobody is asked. An upload brings a trial of its own, in each of the ways in which fields come, and with
/// it a ceiling that stays; a file shorter than its trial just ends.
#[tokio::test]
async fn a_trial_that_is_passed_holds_nobody() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let pipeline = invite() + "canary: { rows: 10, max_failure: 20 % }\n";
    let place = Place::new(&[("invite.yaml", &pipeline)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    for (csv, failed) in [(file(40, |number| number <= 2), 2), (file(6, |_| true), 6)] {
        let (_, batch) = client.upload(PEOPLE, csv).await.expect("an answer");
        let ended = client.finished(batch["id"].as_str().expect("an id")).await;
        assert_eq!((&ended["counts"]["failed"], &ended["held"]), (&json!(failed), &json!(false)), "{ended}");
    }
    // The upload's own, with a ceiling: the trial is passed, and what comes behind is too much.
    let own = "&canary=%7B%22rows%22%3A5,%22max_failure%22%3A%2250%20%25%22,%22stop_after%22%3A20%7D";
    let path = format!("{PEOPLE}{own}");
    let place_of_many = file(600, |number| number > 5);
    let (status, batch) = client.upload(&path, place_of_many).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id").to_owned();
    let stands = held(&client, &id).await;
    let failed = stands["counts"]["failed"].as_u64().expect("a count");
    let completed = stands["counts"]["completed"].as_u64().expect("a count");
    assert!(completed == 5 && (15..595).contains(&failed), "{stands}");
    assert!(
        stands["held_reason"].as_str().is_some_and(|text| text.contains("rows that have ended")),
        "{stands}"
    );
    client.post(&format!("/v2/batches/{id}/cancel"), &json!({})).await;
    client.finished(&id).await;
    // In a form's field, and one that cannot be meant.
    let form = |canary: &str| {
        format!(
            "--b\r\ncontent-disposition: form-data; name=\"canary\"\r\n\r\n{canary}\r\n--b\r\n\
             content-disposition: form-data; name=\"context\"\r\n\r\n{{\"campaign\":\"x\"}}\r\n--b\r\n\
             content-disposition: form-data; name=\"file\"; filename=\"a.csv\"\r\n\r\n{}\r\n--b--\r\n",
            file(30, |number| number == 1)
        )
    };
    let send = async |canary: &str| {
        let request = client.request("POST", "/v2/pipelines/invite/batches");
        let request = request.header("content-type", "multipart/form-data; boundary=b").body(form(canary));
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.json::<Value>().await.expect("JSON"))
    };
    let (status, batch) = send("{\"rows\": 1, \"max_failure\": \"10 %\"}").await;
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id").to_owned();
    let stands = held(&client, &id).await;
    assert_eq!(
        (&stands["counts"]["failed"], &stands["counts"]["pending"]),
        (&json!(1), &json!(29)),
        "{stands}"
    );
    client.post(&format!("/v2/batches/{id}/resume"), &json!({})).await;
    assert_eq!(client.finished(&id).await["counts"]["completed"], 29);
    for canary in [
        "{}",
        "{\"rows\": 0, \"max_failure\": \"10 %\"}",
        "{\"rows\": 1, \"max_failure\": \"110 %\"}",
        "7",
        "{\"rows\": 1, \"max_failure\": \"10 %\", \"x\": 1}",
    ] {
        let (status, problem) = send(canary).await;
        assert_eq!((status, &problem["code"]), (422, &json!("bad_field")), "{canary}: {problem}");
    }
}

//! Bulk calls beside what stops, skips and shares a batch: a pause, a cancel, a trial, a condition, other owners, other workers, answers
//! that rows have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use penstock_sandbox::Sandbox;
use penstock_tests::receiver::{Answer, Heard};
use penstock_tests::{Client, PATIENCE, Place, Service};
use serde_json::{Value, json};

use crate::bulk::{BY_EMAIL, Setting, counts, emails, errors, file, pipeline, status, upload};

/// Rows in flight.
const PROCESSING: &str = "SELECT count(*) FROM row_state WHERE status = 2";

/// On a cluster an API, a dispatcher and so many workers; else one process.
struct Fleet {
    api: Service,
    workers: Vec<Service>,
    _dispatcher: Option<Service>,
}

impl Fleet {
    fn start(place: &Place, sandbox: &Sandbox, workers: usize) -> Self {
        if !place.is_cluster() {
            return Self { api: place.start(sandbox, None), workers: Vec::new(), _dispatcher: None };
        }
        let workers = (0..workers).map(|_| place.worker(sandbox)).collect();
        Self { api: place.api(sandbox), workers, _dispatcher: Some(place.dispatcher(sandbox, "300ms")) }
    }

    fn callers(&self) -> usize {
        self.workers.len().max(1)
    }
}

async fn until(client: &Client, id: &str, what: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let batch = client.get(&format!("/v2/batches/{id}")).await;
        if what(&batch) {
            return batch;
        }
        assert!(began.elapsed() < PATIENCE, "{batch}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn is_idle(batch: &Value) -> bool {
    batch["counts"]["queued"] == 0 && batch["counts"]["processing"] == 0
}

/// The rows of a small file start over the time between two runs; those of a call start together.
#[tokio::test]
async fn the_first_rows_of_a_new_process_go_in_one_call() {
    let definition = pipeline(&format!("max_rows: 100, max_wait: 300ms, {BY_EMAIL}"), "idempotent: true", "")
        .replace("dispatch: { spread: 0s }\n", "");
    let setting = Setting::new(&definition, |_, _| None).await;
    let other = definition.replace("name: bulk", "name: other");
    setting.place.write("pipelines/other.yaml", &other);
    let service = setting.place.start_every(&setting.sandbox, "1s");
    let client = setting.client(&service);
    let id = upload(&client, file(20)).await;
    assert_eq!(counts(&client.finished(&id).await), (20, 0));
    assert_eq!(setting.calls(), [20]);
}

/// A call that is under way when its batch is paused, or cancelled, ends as it would have; no other one is made.
#[tokio::test]
async fn a_pause_and_a_cancel_let_a_call_end() {
    let definition =
        pipeline(&format!("max_rows: 10, max_wait: 5s, {BY_EMAIL}"), "idempotency_key: true", "");
    // A call at a time.
    let definition = definition.replace("spread: 0s", "spread: 0s, rows_per_owner: 10");
    let setting = Setting::new(&definition, |_, _| None).await;
    setting.receiver.answer_after(Duration::from_millis(150));
    let service = setting.place.start(&setting.sandbox, None);
    let client = setting.client(&service);
    let id = upload(&client, file(40)).await;
    setting.receiver.until(|heard| heard.path == "/batch").await;
    let (answer, paused) = client.post(&format!("/v2/batches/{id}/pause"), &json!({})).await;
    assert_eq!(answer, 200, "{paused}");
    until(&client, &id, is_idle).await;
    let calls = setting.calls();
    assert!(calls.len() < 4 && calls.iter().all(|rows| *rows == 10), "{calls:?}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(setting.calls(), calls, "a paused batch makes no calls");
    client.post(&format!("/v2/batches/{id}/resume"), &json!({})).await;
    assert_eq!(counts(&client.finished(&id).await), (40, 0));
    assert_eq!(setting.calls(), [10; 4]);
    setting.each_once(40);

    let id = upload(&client, file(40).replace("p00", "q00")).await;
    setting.receiver.until(|heard| heard.path == "/batch" && emails(heard)[0].starts_with('q')).await;
    client.post(&format!("/v2/batches/{id}/cancel"), &json!({})).await;
    let ended = client.finished(&id).await;
    let (completed, cancelled) = (counts(&ended).0, ended["counts"]["cancelled"].as_u64().expect("a count"));
    assert!(completed >= 10 && cancelled > 0 && completed + cancelled == 40, "{ended}");
    setting.each_once(40 + usize::try_from(completed).expect("few"));
}

/// The first rows' call holds the batch; after a resume the others go.
#[tokio::test]
async fn a_trial_with_the_first_rows_is_a_call_of_its_own() {
    let errors = "errors: { results: \"{{ body.errors }}\", match: { result: \"{{ result.email }}\", row: \"{{ row.email }}\" } }";
    let definition =
        pipeline(&format!("max_rows: 20, max_wait: 2s, {BY_EMAIL}, {errors}"), "idempotency_key: true", "");
    let setting = Setting::new(&(definition + "canary: { rows: 10, max_failure: 20 % }\n"), |api, heard| {
        let good = |email: &&String| !email.contains("000");
        let made: Vec<Value> =
            emails(heard).iter().filter(good).map(|email| json!({ "email": email })).collect();
        let bad: Vec<Value> = emails(heard)
            .iter()
            .filter(|email| !good(email))
            .map(|email| json!({ "email": email }))
            .collect();
        api.calls.push(emails(heard).len());
        let results: Vec<Value> =
            made.iter().map(|one| json!({ "email": one["email"], "made": one["email"] })).collect();
        Some(status(207, &json!({ "results": results, "errors": bad })))
    })
    .await;
    let service = setting.place.start(&setting.sandbox, None);
    let client = setting.client(&service);
    // The first nine are refused.
    let id = upload(&client, file(50)).await;
    let held = until(&client, &id, |batch| batch["held"] == true && is_idle(batch)).await;
    assert_eq!(counts(&held), (1, 9), "{held}");
    assert_eq!(setting.calls().iter().sum::<usize>(), 10, "{:?}", setting.calls());
    client.post(&format!("/v2/batches/{id}/resume"), &json!({})).await;
    assert_eq!(counts(&client.finished(&id).await), (41, 9));
    assert_eq!(setting.calls()[1..], [20, 20], "{:?}", setting.calls());
}

/// Rows for which the step is not called join no call; rows of different owners never share one; each owner's calls are full.
#[tokio::test]
async fn owners_do_not_share_calls_and_rows_that_skip_the_step_join_none() {
    let more = "    when: \"{{ 'skip' not in row.email }}\"\n    otherwise: { id: none }\n";
    let definition =
        pipeline(&format!("max_rows: 50, max_wait: 5s, {BY_EMAIL}"), "idempotency_key: true", more);
    let sent = Arc::<Mutex<Vec<Vec<String>>>>::default();
    let shared = sent.clone();
    let setting = Setting::new(&definition, move |_, heard| {
        shared.lock().expect("no test panics here").push(emails(heard));
        None
    })
    .await;
    let service = setting.place.start(&setting.sandbox, None);
    let owners = ["acme", "bolt", "cord"];
    let clients: Vec<Client> = owners
        .iter()
        .map(|owner| Client::new(&service, &setting.place.key(&setting.sandbox, owner)))
        .collect();
    let mut ids = Vec::new();
    for (client, owner) in clients.iter().zip(owners) {
        let rows: String =
            (1..=105)
                .map(|row| {
                    if row % 21 == 0 {
                        format!("skip{row}@{owner}\n")
                    } else {
                        format!("p{row:03}@{owner}\n")
                    }
                })
                .collect();
        ids.push(upload(client, format!("email\n{rows}")).await);
    }
    for (client, id) in clients.iter().zip(&ids) {
        assert_eq!(counts(&client.finished(id).await), (105, 0));
    }
    let sent = sent.lock().expect("no test panics here").clone();
    let mut calls: BTreeMap<BTreeSet<&str>, Vec<usize>> = BTreeMap::new();
    for emails in &sent {
        let of = emails.iter().filter_map(|email| email.split_once('@')).map(|(_, owner)| owner).collect();
        calls.entry(of).or_default().push(emails.len());
    }
    let each = |owner| (BTreeSet::from([owner]), vec![50, 50]);
    assert_eq!(calls, owners.map(each).into());
    setting.each_once(300);
}

/// At most one call of each worker is less than full.
#[tokio::test]
async fn several_workers_make_full_calls() {
    let definition =
        pipeline(&format!("max_rows: 50, max_wait: 2s, {BY_EMAIL}"), "idempotency_key: true", "");
    let setting = Setting::new(&definition, |_, _| None).await;
    let fleet = Fleet::start(&setting.place, &setting.sandbox, 2);
    let client = setting.client(&fleet.api);
    let id = upload(&client, file(1230)).await;
    assert_eq!(counts(&client.finished(&id).await), (1230, 0));
    let calls = setting.calls();
    assert!(calls.iter().filter(|rows| **rows < 50).count() <= fleet.callers(), "{calls:?}");
    setting.each_once(1230);
}

/// A row whose answer is known joins no call; each key is asked for once, by whichever worker, and a call carries keys, not rows.
#[tokio::test]
async fn rows_with_the_same_question_ask_once_in_calls_of_many() {
    let cache = "    cache: { key: \"{{ row.email | lower }}\", ttl: 1h, scope: owner }\n";
    let definition =
        pipeline(&format!("max_rows: 20, max_wait: 300ms, {BY_EMAIL}"), "idempotent: true", cache);
    let setting = Setting::new(&definition, answer_each).await;
    let fleet = Fleet::start(&setting.place, &setting.sandbox, 2);
    let client = setting.client(&fleet.api);
    let rows: String = (0..600).map(|row| format!("p{:04}@example.com\n", row % 60)).collect();
    let id = upload(&client, format!("email\n{rows}wrong@example.com\n")).await;
    let ended = client.finished(&id).await;
    assert_eq!(counts(&ended), (600, 1), "{ended}");
    setting.each_once(60);
    let calls = setting.calls();
    assert!(calls.len() <= 12, "{calls:?}");
    let row = client.get(&format!("/v2/batches/{id}/rows/599")).await;
    assert_eq!(row["result"]["made"], "made-p0058@example.com", "{row}");
    let id = upload(&client, file(59)).await;
    assert_eq!(counts(&client.finished(&id).await), (59, 0));
    assert_eq!(setting.calls(), calls, "all of them were found");
}

/// Results for all but those that are wrong.
fn answer_each(api: &mut crate::bulk::Api, heard: &Heard) -> Option<Answer> {
    let emails = emails(heard);
    api.calls.push(emails.len());
    let good = emails.iter().filter(|email| !email.starts_with("wrong"));
    let results: Vec<Value> = good
        .map(|email| {
            *api.effects.entry(email.clone()).or_default() += 1;
            json!({ "email": email, "made": format!("made-{email}") })
        })
        .collect();
    Some(status(200, &json!({ "results": results })))
}

/// Rows that wait for company are requeued when the service stops, and go when it runs again.
#[tokio::test]
async fn rows_that_gather_are_requeued_when_the_service_stops() {
    let definition =
        pipeline(&format!("max_rows: 100, max_wait: 5s, {BY_EMAIL}"), "idempotency_key: true", "");
    // One row less than the batch has is let go: those wait for the last one.
    let definition = definition.replace("spread: 0s", "spread: 0s, rows_per_owner: 9");
    let setting = Setting::new(&definition, |_, _| None).await;
    let service = setting.place.start(&setting.sandbox, None);
    let id = upload(&setting.client(&service), file(10)).await;
    let mut database = penstock_tests::database::Database::of(&setting.place).await;
    let began = Instant::now();
    // On a slow machine they may have gone meanwhile, which is as good.
    while setting.calls().is_empty() && database.number(PROCESSING).await < 9 {
        assert!(began.elapsed() < Duration::from_secs(60), "rows were not claimed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    service.terminate();
    assert_eq!(database.number(PROCESSING).await, 0);
    let service = setting.place.start(&setting.sandbox, None);
    let ended = setting.client(&service).finished(&id).await;
    assert_eq!(counts(&ended), (10, 0), "{ended}");
    setting.each_once(10);
}

/// Some of a call's rows cannot make it again; what is known of it stays, and all of them make it with its key.
#[tokio::test]
async fn a_part_of_a_call_is_retried_and_then_all_of_it() {
    let definition = pipeline(&format!("max_rows: 2, max_wait: 5s, {BY_EMAIL}"), "idempotency_key: true", "");
    let is_well = Arc::<std::sync::atomic::AtomicBool>::default();
    let shared = is_well.clone();
    let setting = Setting::new(&definition, move |api, heard| {
        let answer = api.create(heard);
        Some(if shared.load(std::sync::atomic::Ordering::SeqCst) { answer } else { status(500, &json!({})) })
    })
    .await;
    let service = setting.place.start(&setting.sandbox, None);
    let client = setting.client(&service);
    let id = upload(&client, file(2)).await;
    assert_eq!(counts(&client.finished(&id).await), (0, 2));
    is_well.store(true, std::sync::atomic::Ordering::SeqCst);
    let asked = setting.calls().len();
    let (answer, retried) = client.post(&format!("/v2/batches/{id}/retry"), &json!({ "rows": [2] })).await;
    assert_eq!(answer, 200, "{retried}");
    assert_eq!(counts(&client.finished(&id).await), (0, 2));
    assert_eq!(setting.calls().len(), asked, "it is not called for without the other one");
    let codes: BTreeSet<String> = errors(&client, &id).await.into_iter().map(|(code, _)| code).collect();
    assert!(codes.contains("outcome_unknown"), "{codes:?}");
    let (answer, retried) = client.post(&format!("/v2/batches/{id}/retry"), &json!({})).await;
    assert_eq!(answer, 200, "{retried}");
    assert_eq!(counts(&client.finished(&id).await), (2, 0));
    setting.each_once(2);
}

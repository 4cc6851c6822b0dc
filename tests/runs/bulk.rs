//! Many rows in one call: full calls, each row's own result, a wrong row among many, and nothing twice whoever dies in between.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::receiver::{Answer, Heard, Receiver};
use penstock_tests::{Client, Place, Service};
use serde_json::{Value, json};

const ROUTE: &str = "/v2/pipelines/bulk/batches";

/// A pipeline with one bulk step. `bulk` are its keys besides the size, `request` those of its request besides its place and body.
pub(crate) fn pipeline(bulk: &str, request: &str, more: &str) -> String {
    format!(
        "name: bulk\ncsv: {{ columns: [ {{ name: email, required: true }} ] }}\n\
         dependencies: {{ api: {{ base_url: \"${{INVITE_API_URL}}\", timeout: 2s }} }}\nsteps:\n\
         \x20 - name: upsert\n    dependency: api\n\
         \x20   request: {{ method: POST, path: /batch, json: {{ inputs: {{ each: {{ email: \"{{{{ row.email }}}}\", id: \"{{{{ item.id }}}}\" }} }} }}, {request} }}\n\
         \x20   bulk: {{ {bulk} }}\n{more}\
         \x20   output: {{ id: \"{{{{ body.made }}}}\" }}\n\
         result: {{ made: \"{{{{ steps.upsert.id }}}}\" }}\n\
         retry: {{ backoff: {{ initial: 100ms, max: 200ms }} }}\ndispatch: {{ spread: 0s }}\n"
    )
}

pub(crate) const BY_EMAIL: &str =
    "results: \"{{ body.results }}\", match: { result: \"{{ result.email }}\", row: \"{{ row.email }}\" }";

/// What an API knows of its calls.
#[derive(Default)]
pub(crate) struct Api {
    /// How often each address was created.
    pub(crate) effects: BTreeMap<String, u32>,
    /// The addresses of each key's calls, and what they were answered.
    keys: HashMap<String, (Vec<String>, String)>,
    /// Keys that came with other rows than before.
    mixed: u32,
    /// Calls, and how many rows each had.
    pub(crate) calls: Vec<usize>,
}

impl Api {
    /// Creates the addresses of a call, once for each idempotency key.
    pub(crate) fn create(&mut self, heard: &Heard) -> Answer {
        let emails = emails(heard);
        self.calls.push(emails.len());
        let key = heard.header("idempotency-key").to_owned();
        if let Some((before, answer)) = self.keys.get(&key).filter(|_| !key.is_empty()) {
            self.mixed += u32::from(*before != emails);
            return Answer::json(answer.clone());
        }
        let results: Vec<Value> = emails
            .iter()
            .map(|email| {
                *self.effects.entry(email.clone()).or_default() += 1;
                json!({ "email": email, "made": format!("made-{email}") })
            })
            .collect();
        let answer = json!({ "results": results }).to_string();
        self.keys.insert(key, (emails, answer.clone()));
        Answer::json(answer)
    }
}

pub(crate) fn emails(heard: &Heard) -> Vec<String> {
    let inputs = heard.json()["inputs"].as_array().expect("inputs").clone();
    inputs.iter().map(|one| one["email"].as_str().expect("an address").to_owned()).collect()
}

pub(crate) fn status(status: u16, body: &Value) -> Answer {
    Answer { status, ..Answer::json(body.to_string()) }
}

pub(crate) struct Setting {
    pub(crate) receiver: Receiver,
    pub(crate) api: Arc<Mutex<Api>>,
    pub(crate) sandbox: Sandbox,
    pub(crate) place: Place,
    pub(crate) key: String,
}

impl Setting {
    /// A place with the pipeline; the API creates what it is sent, unless `decide` has another answer.
    pub(crate) async fn new(
        definition: &str,
        decide: impl Fn(&mut Api, &Heard) -> Option<Answer> + Send + 'static,
    ) -> Self {
        let receiver = Receiver::start().await;
        let api = Arc::<Mutex<Api>>::default();
        let shared = api.clone();
        receiver.answer_with(move |heard| {
            let mut api = shared.lock().expect("no test panics here");
            decide(&mut api, heard).unwrap_or_else(|| api.create(heard))
        });
        let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
        let mut place = Place::new(&[("bulk.yaml", definition)]);
        place.set("INVITE_API_URL", receiver.url.clone());
        place.set("PENSTOCK_LEASE_SECONDS", "17".into());
        let key = place.key(&sandbox, "acme");
        Self { receiver, api, sandbox, place, key }
    }

    pub(crate) fn client(&self, service: &Service) -> Client {
        Client::new(service, &self.key)
    }

    pub(crate) fn calls(&self) -> Vec<usize> {
        self.api.lock().expect("no test panics here").calls.clone()
    }

    /// Each of so many addresses was created once, and no key came with other rows than before.
    pub(crate) fn each_once(&self, rows: usize) {
        let api = self.api.lock().expect("no test panics here");
        assert_eq!(api.effects.len(), rows);
        assert!(api.effects.values().all(|times| *times == 1), "{:?}", api.effects);
        assert_eq!(api.mixed, 0, "a key belongs to its rows");
    }
}

pub(crate) fn file(rows: usize) -> String {
    (1..=rows).fold("email\n".to_owned(), |file, row| format!("{file}p{row:04}@example.com\n"))
}

pub(crate) async fn upload(client: &Client, file: String) -> String {
    let (status, batch) = client.upload(ROUTE, file).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    batch["id"].as_str().expect("an id").to_owned()
}

pub(crate) fn counts(batch: &Value) -> (u64, u64) {
    let count = |name: &str| batch["counts"][name].as_u64().expect("a count");
    (count("completed"), count("failed"))
}

/// The codes and messages of the rows that failed.
pub(crate) async fn errors(client: &Client, id: &str) -> Vec<(String, String)> {
    let rows = client.get(&format!("/v2/batches/{id}/rows?status=failed&limit=200")).await;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = rows["data"].as_array().expect("rows").clone();
    rows.iter().map(|row| (text(&row["error"]["code"]), text(&row["error"]["message"]))).collect()
}

#[tokio::test]
async fn calls_are_full_and_each_row_has_its_own_result() {
    let errors_of = "errors: { results: \"{{ body.errors }}\", match: { result: \"{{ result.emails }}\", row: \"{{ row.email }}\" } }";
    let definition =
        pipeline(&format!("max_rows: 100, max_wait: 5s, {BY_EMAIL}, {errors_of}"), "idempotent: true", "");
    let setting = Setting::new(&definition, |api, heard| {
        let emails = emails(heard);
        api.calls.push(emails.len());
        let good = |email: &&String| !email.starts_with("taken") && !email.starts_with("lost");
        let results: Vec<Value> = emails
            .iter()
            .filter(good)
            .map(|email| json!({ "email": email, "made": format!("made-{email}") }))
            .collect();
        let taken: Vec<&String> = emails.iter().filter(|email| email.starts_with("taken")).collect();
        let errors = json!([{ "emails": taken, "code": "email_taken", "message": "It was invited before." }]);
        Some(status(207, &json!({ "results": results, "errors": errors })))
    })
    .await;
    let service = setting.place.start(&setting.sandbox, None);
    let client = setting.client(&service);
    let id = upload(&client, file(248) + "taken@example.com\nlost@example.com\n").await;
    let ended = client.finished(&id).await;
    assert_eq!(counts(&ended), (248, 2), "{ended}");
    let mut calls = setting.calls();
    calls.sort_unstable();
    assert_eq!(calls, [50, 100, 100], "every call but the last is full");
    let mut failed = errors(&client, &id).await;
    failed.sort();
    assert_eq!(failed[1], ("email_taken".into(), "It was invited before.".into()));
    assert!(failed[0].0 == "bad_response" && failed[0].1.contains("no result for this row"), "{failed:?}");
    let row = client.get(&format!("/v2/batches/{id}/rows/17")).await;
    assert_eq!(row["result"]["made"], "made-p0017@example.com", "{row}");
}

#[tokio::test]
async fn a_wrong_row_among_a_hundred_fails_alone() {
    let definition =
        pipeline(&format!("max_rows: 100, max_wait: 5s, {BY_EMAIL}"), "idempotency_key: true", "");
    let setting = Setting::new(&definition, |api, heard| {
        let emails = emails(heard);
        let wrong = emails.iter().any(|email| email.starts_with("wrong"));
        wrong.then(|| {
            api.calls.push(emails.len());
            status(422, &json!({ "code": "invalid", "message": "One of these is no address." }))
        })
    })
    .await;
    let service = setting.place.start(&setting.sandbox, None);
    let client = setting.client(&service);
    let id = upload(&client, file(99) + "wrong@example.com\n").await;
    let ended = client.finished(&id).await;
    assert_eq!(counts(&ended), (99, 1), "{ended}");
    assert_eq!(
        errors(&client, &id).await,
        [("invalid".to_owned(), "One of these is no address.".to_owned())]
    );
    let calls = setting.calls();
    assert!(calls[0] == 100 && calls.len() <= 11, "{calls:?}");
    setting.each_once(99);
}

/// A service that dies at a named place in the middle of a call makes it again with exactly the same rows and key.
async fn survives(crash_at: &str) {
    let definition = pipeline(&format!("max_rows: 20, {BY_EMAIL}"), "idempotency_key: true", "");
    let setting = Setting::new(&definition, |_, _| None).await;
    let service = setting.place.start(&setting.sandbox, Some(crash_at));
    let _answered_before_death = setting.client(&service).upload(ROUTE, file(60)).await;
    service.await_death();
    let id = setting.place.accepted(&setting.sandbox).expect("a batch");
    let service = setting.place.start(&setting.sandbox, None);
    let ended = setting.client(&service).finished(&id).await;
    assert_eq!(counts(&ended), (60, 0), "{crash_at}: {ended}");
    setting.each_once(60);
    let (mismatches, _) = setting.place.operate(&setting.sandbox, &["reconcile"]);
    let findings = mismatches["findings"].as_array().expect("findings");
    let stuck = findings.iter().filter(|finding| finding["what"] != "objects without a batch");
    assert!(stuck.into_iter().all(|finding| finding["count"] == 0), "{crash_at}: {mismatches}");
}

#[tokio::test]
async fn a_death_before_the_call_is_recorded() {
    survives("before-call-record").await;
}

#[tokio::test]
async fn a_death_inside_the_record_of_a_call() {
    survives("inside-call-record:2").await;
}

#[tokio::test]
async fn a_death_after_the_call_was_recorded() {
    survives("after-call-record").await;
}

#[tokio::test]
async fn a_death_after_the_answer() {
    survives("after-call:2").await;
}

#[tokio::test]
async fn a_death_inside_the_settlement_of_a_call() {
    survives("inside-settlement").await;
}

/// Silence and a 500 after the effect: exactly these rows go again with that key. A 429 does not part them after that.
#[tokio::test]
async fn without_an_answer_the_same_rows_go_again_with_the_same_key() {
    let definition = pipeline(&format!("max_rows: 10, {BY_EMAIL}"), "idempotency_key: true", "");
    let setting = Setting::new(&definition, |api, heard| {
        let (key, rows) = (heard.header("idempotency-key"), emails(heard).len());
        if api.keys.contains_key(key) {
            // Asked for again: once it is throttled, then it is answered as before.
            let limited = status(429, &json!({}));
            let before = api.calls.iter().filter(|rows| **rows == 1000).count();
            return (before == 0).then(|| {
                api.calls.push(1000);
                Answer { headers: "retry-after: 0.2\r\n".into(), ..limited }
            });
        }
        let bad = [0, 500][api.keys.len() % 2];
        api.create(heard);
        api.calls.push(rows);
        Some(status(bad, &json!({})))
    })
    .await;
    let service = setting.place.start(&setting.sandbox, None);
    let client = setting.client(&service);
    let id = upload(&client, file(20)).await;
    let ended = client.finished(&id).await;
    assert_eq!(counts(&ended), (20, 0), "{ended}");
    setting.each_once(20);
}

#[tokio::test]
async fn a_call_that_is_made_at_most_once_is_unknown_for_all_of_its_rows() {
    let definition = pipeline(&format!("max_rows: 10, max_wait: 5s, {BY_EMAIL}"), "idempotent: false", "");
    let setting = Setting::new(&definition, |api, heard| {
        let silent = emails(heard).iter().any(|email| email.starts_with("p0003"));
        silent.then(|| {
            api.create(heard);
            status(0, &json!({}))
        })
    })
    .await;
    let service = setting.place.start(&setting.sandbox, None);
    let client = setting.client(&service);
    let id = upload(&client, file(20)).await;
    let ended = client.finished(&id).await;
    assert_eq!(counts(&ended), (10, 10), "{ended}");
    let codes: BTreeSet<String> = errors(&client, &id).await.into_iter().map(|(code, _)| code).collect();
    assert_eq!(codes, BTreeSet::from(["outcome_unknown".to_owned()]));
    setting.each_once(20);
    assert_eq!(setting.calls().len(), 2);
}

/// Results that are answers of their own: what is called too often goes again with others, what is wrong fails by its own words.
#[tokio::test]
async fn each_result_is_judged_by_itself() {
    let bulk = "max_rows: 50, max_wait: 5s, results: \"{{ body.responses }}\", match: { result: \"{{ result.id }}\", row: \"{{ item.id }}\" }, \
        response: { status: \"{{ result.status }}\", headers: \"{{ result.headers }}\", body: \"{{ result.body }}\" }";
    let definition = pipeline(bulk, "idempotency_key: true", "");
    let setting = Setting::new(&definition, |api, heard| {
        let first = api.calls.is_empty();
        let inputs = heard.json()["inputs"].as_array().expect("inputs").clone();
        api.calls.push(inputs.len());
        let answer = |input: &Value| {
            let email = input["email"].as_str().expect("an address");
            let (status, body) = match email {
                _ if email.starts_with("wrong") => {
                    (409, json!({ "code": "exists", "message": "It exists." }))
                }
                _ if email.starts_with("often") && first => (429, json!({})),
                _ => {
                    *api.effects.entry(email.to_owned()).or_default() += 1;
                    (201, json!({ "made": email }))
                }
            };
            json!({ "id": input["id"], "status": status, "headers": { "Retry-After": "0.1" }, "body": body })
        };
        let responses: Vec<Value> = inputs.iter().map(answer).collect();
        Some(status(200, &json!({ "responses": responses })))
    })
    .await;
    let service = setting.place.start(&setting.sandbox, None);
    let client = setting.client(&service);
    let id = upload(&client, file(10) + "wrong@example.com\noften1@example.com\noften2@example.com\n").await;
    let ended = client.finished(&id).await;
    assert_eq!(counts(&ended), (12, 1), "{ended}");
    assert_eq!(errors(&client, &id).await, [("exists".to_owned(), "It exists.".to_owned())]);
    assert_eq!(setting.calls()[0], 13);
    setting.each_once(12);
}

/// A job for many rows: it is asked for once, each look is one call for all of them, and a death in between changes nothing.
#[tokio::test]
async fn one_job_and_one_look_for_many_rows() {
    let more = "    poll: { until: \"{{ body.state == 'done' }}\", path: \"/jobs/{{ body.job }}\", every: 400ms, timeout: 60s }\n";
    let definition = pipeline(&format!("max_rows: 20, max_wait: 5s, {BY_EMAIL}"), "idempotent: false", more);
    let opened = Arc::<Mutex<Option<Instant>>>::default();
    let shared = opened.clone();
    let setting = Setting::new(&definition, move |api, heard| {
        let Some(job) = heard.path.strip_prefix("/jobs/") else {
            api.create(heard);
            return Some(status(202, &json!({ "job": api.calls.len(), "state": "new" })));
        };
        let open = shared.lock().expect("no test panics here").is_some();
        if !open {
            return Some(Answer::json(json!({ "state": "new" }).to_string()));
        }
        let sizes = api.keys.values().map(|(emails, _)| emails.clone()).next().unwrap_or_default();
        let all: Vec<Value> = api
            .effects
            .keys()
            .map(|email| json!({ "email": email, "made": format!("{job}-{email}") }))
            .collect();
        assert!(!sizes.is_empty());
        Some(Answer::json(json!({ "state": "done", "results": all }).to_string()))
    })
    .await;
    let service = setting.place.start(&setting.sandbox, None);
    let id = upload(&setting.client(&service), file(40)).await;
    setting.receiver.until(|heard| heard.path == "/jobs/2").await;
    service.kill();
    *opened.lock().expect("no test panics here") = Some(Instant::now());
    let service = setting.place.start(&setting.sandbox, None);
    let client = setting.client(&service);
    let ended = client.finished(&id).await;
    assert_eq!(counts(&ended), (40, 0), "{ended}");
    setting.each_once(40);
    assert_eq!(setting.calls(), [20, 20]);
    let looks = setting.receiver.heard().iter().filter(|heard| heard.path.starts_with("/jobs/")).count();
    assert!(looks < 40, "{looks} looks for two jobs");
}

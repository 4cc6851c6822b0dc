//! A step that waits for its result: the request is made once, looks come at their times, and whoever dies in between changes nothing
//! of that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::receiver::{Answer, Heard, Receiver};
use penstock_tests::{Client, Place};
use serde_json::{Value, json};

use crate::storage::until;

const ROUTE: &str = "/v2/pipelines/jobs/batches";

/// How long a look waits for the next one.
const EVERY: Duration = Duration::from_millis(700);

/// `request` has further keys of the request, such as its idempotency key.
fn jobs(request: &str, timeout: &str) -> String {
    format!(
        "name: jobs\ncsv: {{ columns: [ {{ name: id, required: true }} ] }}\n\
        dependencies: {{ api: {{ base_url: \"${{INVITE_API_URL}}\" }} }}\nsteps:\n\
        \x20 - name: job\n    dependency: api\n\
        \x20   request: {{ method: POST, path: /jobs, json: {{ id: \"{{{{ row.id }}}}\" }}, {request} }}\n\
        \x20   poll: {{ until: \"{{{{ body.state == 'done' }}}}\", fail: \"{{{{ body.state == 'void' }}}}\", path: \"/jobs/{{{{ body.id }}}}\", every: 700ms, timeout: {timeout} }}\n\
        \x20   output: {{ result: \"{{{{ body.result }}}}\" }}\n\
        \x20 - {{ name: told, dependency: api, request: {{ method: PUT, path: \"/told/{{{{ row.id }}}}\" }} }}\n\
        result: {{ result: \"{{{{ steps.job.result }}}}\" }}\nretry: {{ attempts: 1 }}\ndispatch: {{ spread: 0s }}\n"
    )
}

/// What an API knows of its jobs: how often each was created, and when.
#[derive(Default)]
struct Jobs {
    made: HashMap<String, (u32, Instant)>,
    /// Idempotency keys of the requests that created jobs, and of looks; empty where there was none.
    keys: (Vec<String>, Vec<String>),
    /// Jobs that are finished in any case.
    open_gate: bool,
}

/// Answers as an API whose jobs take two seconds. `never…` takes forever, `void…` has no result, `ready…` is done at once, and every
/// other look at `shaky…` fails.
fn answer(jobs: &Mutex<Jobs>, heard: &Heard) -> Answer {
    let mut jobs = jobs.lock().expect("no test panics here");
    let job = |id: &str, state: &str, result: Value| {
        Answer::json(json!({ "id": id, "state": state, "result": result }).to_string())
    };
    if heard.path == "/jobs" {
        let id = heard.json()["id"].as_str().expect("an id").to_owned();
        jobs.made.entry(id.clone()).or_insert((0, heard.at)).0 += 1;
        jobs.keys.0.push(heard.header("idempotency-key").to_owned());
        return if id.starts_with("ready") {
            job(&id, "done", json!("at once"))
        } else {
            job(&id, "new", Value::Null)
        };
    }
    let Some(id) = heard.path.strip_prefix("/jobs/") else { return Answer::json("{}") };
    jobs.keys.1.push(heard.header("idempotency-key").to_owned());
    let Some((_, made_at)) = jobs.made.get(id) else {
        return Answer { status: 404, headers: String::new(), body: String::new() };
    };
    let age = heard.at.duration_since(*made_at);
    match id {
        _ if id.starts_with("void") => job(id, "void", Value::Null),
        _ if id.starts_with("never") && !jobs.open_gate => job(id, "new", Value::Null),
        _ if id.starts_with("shaky") && (age.as_millis() / 700).is_multiple_of(2) => {
            Answer { status: 500, headers: String::new(), body: String::new() }
        }
        _ if age < Duration::from_secs(2) => job(id, "new", Value::Null),
        _ => job(id, "done", json!(format!("of {id}"))),
    }
}

struct Setting {
    receiver: Receiver,
    jobs: Arc<Mutex<Jobs>>,
    sandbox: Sandbox,
    place: Place,
}

impl Setting {
    async fn new(request: &str, timeout: &str) -> Self {
        let receiver = Receiver::start().await;
        let jobs = Arc::new(Mutex::new(Jobs::default()));
        let shared = jobs.clone();
        receiver.answer_with(move |heard| answer(&shared, heard));
        let mut place = Place::new(&[("jobs.yaml", &self::jobs(request, timeout))]);
        place.set("INVITE_API_URL", receiver.url.clone());
        Self { receiver, jobs, sandbox: Sandbox::start(Config::default()).expect("a sandbox"), place }
    }

    fn made(&self, id: &str) -> u32 {
        self.jobs.lock().expect("no test panics here").made.get(id).map_or(0, |(times, _)| *times)
    }

    /// When looks at a job were heard.
    fn looks(&self, id: &str) -> Vec<Instant> {
        let path = format!("/jobs/{id}");
        self.receiver.heard().iter().filter(|heard| heard.path == path).map(|heard| heard.at).collect()
    }
}

#[tokio::test]
async fn a_result_is_waited_for_and_its_request_is_made_once() {
    let mut setting = Setting::new("idempotency_key: true", "6s").await;
    // Rows that wait for a result leave their place to others.
    setting.place.set("ROWS_PER_OWNER", "2".into());
    let key = setting.place.key(&setting.sandbox, "acme");
    let service = setting.place.start(&setting.sandbox, None);
    let client = Client::new(&service, &key);
    let ids = ["a", "b", "c", "d", "ready", "void", "never", "shaky"];
    let csv = ids.iter().fold("id\n".to_owned(), |csv, id| csv + id + "\n");
    let (status, batch) = client.upload(ROUTE, csv).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id").to_owned();
    let waits = async || client.get(&format!("/v2/batches/{id}/waiting")).await["data"].clone();
    until("it is said that rows wait for results", || async {
        let waits = waits().await;
        let polling =
            waits.as_array().expect("a list").iter().find(|wait| wait["reason"] == "polling").cloned();
        polling.is_some_and(|wait| wait["until"].is_string())
    })
    .await;
    let ended = client.finished(&id).await;
    assert_eq!(
        (&ended["counts"]["completed"], &ended["counts"]["failed"]),
        (&json!(6), &json!(2)),
        "{ended}"
    );
    for id in ids {
        assert_eq!(setting.made(id), 1, "{id}");
        let looks = setting.looks(id);
        let made_at = setting.jobs.lock().expect("no test panics here").made[id].1;
        for pair in [&[made_at], looks.as_slice()].concat().windows(2) {
            let pause = pair[1].duration_since(pair[0]);
            assert!(pause >= EVERY && pause < EVERY + Duration::from_secs(2), "{id}: {pause:?}");
        }
    }
    assert_eq!(setting.looks("ready").len(), 0);
    assert_eq!(setting.looks("void").len(), 1);
    let results = client.text(&format!("/v2/batches/{id}/results.csv")).await;
    assert!(results.contains("of c") && results.contains("at once"), "{results}");
    let rows = client.get(&format!("/v2/batches/{id}/rows?status=failed")).await;
    for number in [6, 7] {
        let row = client.get(&format!("/v2/batches/{id}/rows/{number}?reveal=true")).await;
        assert_eq!(row["sent"]["target"], format!("/jobs/{}", ids[number - 1]), "{row}");
        assert_eq!(row["sent"]["answer"]["status"], 200, "{row}");
    }
    let codes: Vec<&str> = rows["data"]
        .as_array()
        .expect("rows")
        .iter()
        .filter_map(|row| row["error"]["code"].as_str())
        .collect();
    assert_eq!(codes, ["poll_failed", "poll_timeout"], "{rows}");

    // A retry goes on looking where the result was only late, and asks anew where there was to be none.
    setting.jobs.lock().expect("no test panics here").open_gate = true;
    let (status, retried) = client.post(&format!("/v2/batches/{id}/retry"), &json!({})).await;
    assert!(status < 300, "{retried}");
    let ended = client.finished(&id).await;
    assert_eq!(
        (&ended["counts"]["completed"], &ended["counts"]["failed"]),
        (&json!(7), &json!(1)),
        "{ended}"
    );
    assert_eq!((setting.made("never"), setting.made("void")), (1, 2));
    let jobs = setting.jobs.lock().expect("no test panics here");
    let (made, looked) = &jobs.keys;
    assert!(made.len() >= ids.len() && made.iter().all(|key| !key.is_empty()), "{made:?}");
    assert!(!looked.is_empty() && looked.iter().all(String::is_empty), "looks have no key: {looked:?}");
}

#[tokio::test]
async fn whoever_dies_between_two_looks_creates_nothing_twice() {
    let setting = Setting::new("idempotent: false", "1m").await;
    let key = setting.place.key(&setting.sandbox, "acme");
    let ids: Vec<String> = (0..60).map(|id| format!("j{id}")).collect();
    let mut service = setting.place.start(&setting.sandbox, None);
    let client = Client::new(&service, &key);
    let csv = ids.iter().fold("id\n".to_owned(), |csv, id| csv + id + "\n");
    let (_, batch) = client.upload(ROUTE, csv).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    for _ in 0..2 {
        let before = setting.receiver.heard().len();
        until("looks are made", || async {
            let heard = setting.receiver.heard();
            heard.iter().skip(before).filter(|heard| heard.path.starts_with("/jobs/")).count() > 10
        })
        .await;
        service.kill();
        service = setting.place.start(&setting.sandbox, None);
    }
    let client = Client::new(&service, &key);
    let ended = client.finished(&id).await;
    // What was asked for and not answered when the service was killed ends as unknown: it is made at most once.
    let rows = client.get(&format!("/v2/batches/{id}/rows?status=failed&limit=100")).await;
    for row in rows["data"].as_array().expect("rows") {
        assert_eq!(row["error"]["code"], "outcome_unknown", "{row}");
    }
    assert!(ended["counts"]["completed"].as_u64().is_some_and(|rows| rows > 40), "{ended}");
    for id in &ids {
        assert!(setting.made(id) <= 1, "{id}");
    }
}

/// However a row ends whose request was answered: the effect may be there, so that another upload of its line never has it again.
#[tokio::test]
async fn a_line_whose_result_was_waited_for_has_no_second_effect() {
    let receiver = Receiver::start().await;
    let job = |heard: &Heard| -> Answer {
        if heard.method == "POST" {
            return Answer { status: 202, ..Answer::json(json!({ "job": heard.json()["id"] }).to_string()) };
        }
        match heard.path.rsplit('/').next().expect("a job") {
            job if job.starts_with("gone") => Answer { status: 404, ..Answer::json("{}") },
            job if job.starts_with("often") => Answer { status: 429, ..Answer::json("{}") },
            job if job.starts_with("broken") => Answer { status: 503, ..Answer::json("{}") },
            _ => Answer::json(json!({ "state": "running" }).to_string()),
        }
    };
    receiver.answer_with(job);
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let definition = |name: &str, request: &str, timeout: &str, retry: &str| {
        format!(
            "name: {name}\ncsv: {{ columns: [ {{ name: id, required: true }}, {{ name: note }} ] }}\n\
             dependencies: {{ api: {{ base_url: \"${{INVITE_API_URL}}\", timeout: 8s }} }}\nsteps:\n\
             \x20 - name: create\n    dependency: api\n\
             \x20   request: {{ method: POST, path: /jobs, json: {{ id: \"{{{{ row.id }}}}\" }}, {request} }}\n\
             \x20   poll: {{ until: \"{{{{ body.state == 'done' }}}}\", path: \"/jobs/{{{{ body.job }}}}\", every: 100ms, timeout: {timeout} }}\n\
             retry: {{ attempts: 2, throttled_for: 1s, backoff: {{ initial: 50ms, max: 100ms }}{retry} }}\ndispatch: {{ spread: 0s }}\n"
        )
    };
    let mut place = Place::new(&[
        ("once.yaml", &definition("once", "idempotent: false", "700ms", "")),
        ("keyed.yaml", &definition("keyed", "idempotency_key: true", "700ms", "")),
        ("late.yaml", &definition("late", "idempotent: false", "1m", ", deadline: 3s")),
    ]);
    place.set("INVITE_API_URL", receiver.url.clone());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let file = "id,note\nwaits,a\ngone,b\noften,c\nbroken,d\n";
    let asked = || receiver.heard().iter().filter(|heard| heard.method == "POST").count();
    for (name, code) in
        [("once", "effect_without_key"), ("late", "effect_without_key"), ("keyed", "changed_after_effect")]
    {
        let route = format!("/v2/pipelines/{name}/batches");
        let before = asked();
        let (status, batch) = client.upload(&route, file).await.expect("an answer");
        assert_eq!(status, 202, "{name}: {batch}");
        let id = batch["id"].as_str().expect("an id");
        let ended = client.finished(id).await;
        assert_eq!(ended["counts"]["failed"], 4, "{name}: {ended}");
        assert_eq!(asked() - before, 4, "{name}");
        let report = async |name: &str| client.text(&format!("/v2/batches/{id}/{name}")).await;
        let (failed, unprocessed) = (report("failed.csv").await, report("unprocessed.csv").await);
        let (offered, kept) = if name == "keyed" { (4, 0) } else { (0, 4) };
        assert_eq!(
            (failed.lines().count() - 1, unprocessed.lines().count() - 1),
            (offered, kept),
            "{name}:\n{failed}\n{unprocessed}"
        );
        let lines = if name == "keyed" { failed } else { unprocessed };
        let changed = ["waits,a", "gone,b", "often,c", "broken,d"]
            .iter()
            .fold(lines.clone(), |text, line| text.replace(line, &format!("{line}!")));
        let (status, problem) = client.upload(&route, changed).await.expect("an answer");
        assert_eq!((status, &problem["errors"][0]["code"]), (422, &code.into()), "{name}: {problem}");
        let (status, again) = client.upload(&route, lines).await.expect("an answer");
        if name != "keyed" {
            assert_eq!((status, &again["errors"][0]["code"]), (422, &code.into()), "{name}: {again}");
            continue;
        }
        assert_eq!(status, 202, "{again}");
        client.finished(again["id"].as_str().expect("an id")).await;
        let posts = receiver.heard().into_iter().filter(|heard| heard.method == "POST");
        let keys: std::collections::BTreeSet<_> = posts
            .map(|heard| heard.header("idempotency-key").to_owned())
            .filter(|key| !key.is_empty())
            .collect();
        assert_eq!(keys.len(), 4, "each line has the key of its row");
    }
}

//! What an answer to a look may say, and where looks go: `responses` and `Retry-After` count there too, an address leads where the
//! API says and nowhere else, and each job is created once by its key while workers die.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::receiver::{Answer, Heard, Receiver};
use penstock_tests::{Client, Place};
use serde_json::{Value, json};

use crate::large::Fleet;
use crate::storage::until;

const ROUTE: &str = "/v2/pipelines/jobs/batches";

const EVERY: Duration = Duration::from_millis(400);

/// Jobs whose results lie where the answer says.
fn jobs(responses: &str, dispatch: &str) -> String {
    format!(
        "name: jobs\ncsv: {{ columns: [ {{ name: id, required: true }} ] }}\n\
        dependencies: {{ api: {{ base_url: \"${{INVITE_API_URL}}\", timeout: 5s{responses} }} }}\nsteps:\n\
        \x20 - name: job\n    dependency: api\n\
        \x20   request: {{ method: POST, path: /jobs, json: {{ id: \"{{{{ row.id }}}}\" }}, idempotency_key: true }}\n\
        \x20   poll: {{ until: \"{{{{ body.state == 'done' }}}}\", url: \"{{{{ headers.location }}}}\", every: 400ms, timeout: 1m }}\n\
        \x20   output: {{ result: \"{{{{ body.result }}}}\" }}\n\
        result: {{ result: \"{{{{ steps.job.result }}}}\" }}\nretry: {{ attempts: 2 }}\ndispatch: {{ spread: 0s{dispatch} }}\n"
    )
}

const RESPONSES: &str = ", responses: { throttled: \"{{ body.error == 'slow_down' }}\", wait: \"{{ body.wait }}\", \
    hold: \"{{ body.error == 'suspended' }}\", retry: \"{{ body.error == 'internal' }}\", fail: \"{{ body.error == 'Void!' }}\", \
    success: [2xx, 404], error: { code: \"{{ body.error }}\", message: \"the API says {{ body.error }}\" } }";

/// What the looks at a job are answered: by its id and how many looks came before this one.
fn look(id: &str, before: usize) -> Answer {
    let error = |body: Value| Answer::json(body.to_string());
    match (id, before) {
        ("throttled", 0) => error(json!({ "error": "slow_down", "wait": 2 })),
        ("internal", 0) => error(json!({ "error": "internal" })),
        ("void", 1) => error(json!({ "error": "Void!" })),
        ("late", 0 | 1) => Answer { status: 404, headers: String::new(), body: String::new() },
        ("slow", 0) => {
            let running = Answer::json("{\"state\": \"running\"}");
            Answer { headers: format!("{}retry-after: 2\r\n", running.headers), ..running }
        }
        (_, 0) => Answer::json("{\"state\": \"running\"}"),
        _ => Answer::json(json!({ "state": "done", "result": format!("of {id}") }).to_string()),
    }
}

/// The job that a look is at. Its address has a query that the looks must have.
fn looked_at(heard: &Heard) -> Option<&str> {
    heard.path.strip_prefix("/results/")?.strip_suffix("?part=a%20b&x=1")
}

struct Setting {
    receiver: Receiver,
    sandbox: Sandbox,
    place: Place,
    /// Whether looks at jobs of `held…` are answered that the account is suspended.
    suspended: Arc<Mutex<bool>>,
}

impl Setting {
    async fn new(definition: &str) -> Self {
        let receiver = Receiver::start().await;
        let suspended = Arc::new(Mutex::new(true));
        let looks = Mutex::new(HashMap::<String, usize>::new());
        let (url, is_suspended) = (receiver.url.clone(), suspended.clone());
        receiver.answer_with(move |heard| {
            if let Some(id) = looked_at(heard) {
                if id.starts_with("held") && *is_suspended.lock().expect("no test panics here") {
                    return Answer::json("{\"error\": \"suspended\"}");
                }
                let mut looks = looks.lock().expect("no test panics here");
                let before = looks.entry(id.to_owned()).or_default();
                *before += 1;
                return look(id, *before - 1);
            }
            if heard.path != "/jobs" {
                return Answer { status: 400, headers: String::new(), body: String::new() };
            }
            let id = heard.json()["id"].as_str().expect("an id").to_owned();
            let host = if id == "elsewhere" { "http://127.0.0.1:1" } else { &url };
            let location = format!("location: {host}/results/{id}?part=a%20b&x=1\r\n");
            Answer { status: 202, headers: location, body: "{\"state\": \"new\"}".into() }
        });
        let mut place = Place::new(&[("jobs.yaml", definition)]);
        place.set("INVITE_API_URL", receiver.url.clone());
        Self { receiver, sandbox: Sandbox::start(Config::default()).expect("a sandbox"), place, suspended }
    }

    fn created(&self, id: &str) -> Vec<Instant> {
        let heard = self.receiver.heard();
        heard.iter().filter(|one| one.path == "/jobs" && one.json()["id"] == id).map(|one| one.at).collect()
    }

    fn looks(&self, id: &str) -> Vec<Instant> {
        let heard = self.receiver.heard();
        heard.iter().filter(|one| looked_at(one) == Some(id)).map(|one| one.at).collect()
    }
}

async fn upload(client: &Client, ids: &[&str]) -> String {
    let csv = ids.iter().fold("id\n".to_owned(), |csv, id| csv + id + "\n");
    let (status, batch) = client.upload(ROUTE, csv).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    batch["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn what_a_look_is_answered_is_judged_as_every_answer_is() {
    const IDS: [&str; 7] = ["plain", "throttled", "internal", "void", "late", "slow", "elsewhere"];
    let setting = Setting::new(&jobs(RESPONSES, "")).await;
    let key = setting.place.key(&setting.sandbox, "acme");
    let service = setting.place.start(&setting.sandbox, None);
    let client = Client::new(&service, &key);
    let id = upload(&client, &IDS).await;
    let ended = client.finished(&id).await;
    let rows = client.get(&format!("/v2/batches/{id}/rows")).await;
    assert_eq!((&ended["counts"]["completed"], &ended["counts"]["failed"]), (&json!(5), &json!(2)), "{rows}");
    let row = |id: &str| {
        let at = IDS.iter().position(|known| *known == id).expect("a row");
        rows["data"][at].clone()
    };
    for id in IDS {
        assert_eq!(setting.created(id).len(), 1, "{id}");
        let times = [setting.created(id), setting.looks(id)].concat();
        for pair in times.windows(2) {
            let pause = pair[1].duration_since(pair[0]);
            assert!(pause >= EVERY, "{id}: {pause:?}");
        }
    }
    let pauses = |id: &str| {
        let looks = setting.looks(id);
        looks.windows(2).map(|pair| pair[1].duration_since(pair[0])).collect::<Vec<_>>()
    };
    // What the answer asks for lengthens the pause to the next look.
    for id in ["throttled", "slow"] {
        assert!(pauses(id)[0] >= Duration::from_millis(1900), "{id}: {:?}", pauses(id));
    }
    assert_eq!((pauses("late").len(), pauses("internal").len(), pauses("void").len()), (2, 1, 1));
    // A throttled look pauses the dependency, for whoever calls it.
    let throttled_at = setting.looks("throttled")[0];
    let heard = setting.receiver.heard();
    let meanwhile = heard.iter().filter(|one| {
        let after = one.at.saturating_duration_since(throttled_at);
        after > Duration::from_millis(300) && after < Duration::from_millis(1800)
    });
    assert_eq!(meanwhile.count(), 0, "calls in the pause");
    // A look that fails in a way that may pass costs no attempt.
    for id in ["plain", "throttled", "internal", "late", "slow"] {
        assert_eq!(row(id)["attempts"], 1, "{id}: {rows}");
        assert_eq!(row(id)["result"]["result"], format!("of {id}"), "{rows}");
    }
    let void = &row("void")["error"];
    assert_eq!((&void["code"], &void["message"]), (&json!("void_"), &json!("the API says Void!")), "{rows}");
    assert_eq!(row("elsewhere")["error"]["code"], "forbidden_url", "{rows}");
    assert!(!row("elsewhere")["error"]["message"].to_string().contains("127.0.0.1:1/"), "{rows}");

    // An answer to a look holds the batch; nothing is created again when it goes on.
    let held = upload(&client, &["held1", "held2"]).await;
    let batch = async || client.get(&format!("/v2/batches/{held}")).await;
    until("it is held", || async {
        let batch = batch().await;
        batch["held"] == true && batch["counts"]["processing"] == 0
    })
    .await;
    assert_eq!(batch().await["hold"]["reason"], "the API says suspended", "{}", batch().await);
    let looks = setting.looks("held1").len() + setting.looks("held2").len();
    let other = upload(&client, &["beside"]).await;
    assert_eq!(client.finished(&other).await["counts"]["completed"], 1, "others are not held");
    assert_eq!(setting.looks("held1").len() + setting.looks("held2").len(), looks, "nobody looks meanwhile");
    *setting.suspended.lock().expect("no test panics here") = false;
    let (status, _) = client.post(&format!("/v2/batches/{held}/resume"), &json!({})).await;
    assert_eq!(status, 200);
    assert_eq!(client.finished(&held).await["counts"]["completed"], 2);
    assert_eq!((setting.created("held1").len(), setting.created("held2").len()), (1, 1));
    service.terminate();
}

/// No more of an owner's rows wait for a result than the pipeline allows; another owner has as many of its own.
#[tokio::test]
async fn the_rows_that_wait_for_results_are_bounded_for_each_owner() {
    const MOST: usize = 3;
    let setting = Setting::new(&jobs("", &format!(", rows_polling_per_owner: {MOST}"))).await;
    // A job is open from its request to the look that finds its result.
    let open = Arc::new(Mutex::new((BTreeMap::<String, Instant>::new(), BTreeMap::<char, usize>::new())));
    let (url, known) = (setting.receiver.url.clone(), open.clone());
    setting.receiver.answer_with(move |heard| {
        let (jobs, most) = &mut *known.lock().expect("no test panics here");
        if let Some(id) = looked_at(heard) {
            let age = jobs.get(id).map_or(Duration::ZERO, Instant::elapsed);
            if age < Duration::from_millis(900) {
                return Answer::json("{\"state\": \"running\"}");
            }
            jobs.remove(id);
            return Answer::json(json!({ "state": "done", "result": "there" }).to_string());
        }
        let id = heard.json()["id"].as_str().expect("an id").to_owned();
        let owner = id.chars().next().expect("a letter");
        jobs.insert(id.clone(), Instant::now());
        let open = jobs.keys().filter(|id| id.starts_with(owner)).count();
        let most = most.entry(owner).or_default();
        *most = open.max(*most);
        let location = format!("location: {url}/results/{id}?part=a%20b&x=1\r\n");
        Answer { status: 202, headers: location, body: String::new() }
    });
    let keys = ["acme", "rival"].map(|owner| setting.place.key(&setting.sandbox, owner));
    let service = setting.place.start(&setting.sandbox, None);
    let mut batches = Vec::new();
    for (key, owner) in keys.iter().zip(["a", "r"]) {
        let client = Client::new(&service, key);
        let ids: Vec<String> = (0..9).map(|row| format!("{owner}{row}")).collect();
        let id = upload(&client, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
        batches.push((client, id));
    }
    for (client, id) in &batches {
        let ended = client.finished(id).await;
        assert_eq!(ended["counts"]["completed"], 9, "{ended}");
    }
    let most = open.lock().expect("no test panics here").1.clone();
    assert_eq!(most, BTreeMap::from([('a', MOST), ('r', MOST)]), "as many as allowed, and no more");
    service.terminate();
}

/// An API that creates a job for each idempotency key, as strictly as APIs do.
#[derive(Default)]
struct Keyed {
    /// By key: the row that it was used for, the job, and when it was created.
    jobs: HashMap<String, (String, usize, Instant)>,
    faults: Vec<String>,
    looks: usize,
}

impl Keyed {
    fn answer(&mut self, heard: &Heard, url: &str) -> Answer {
        if let Some(job) = looked_at(heard) {
            self.looks += 1;
            let found = self.jobs.values().find(|(_, number, _)| number.to_string() == job);
            let Some((row, _, made_at)) = found else {
                self.faults.push(format!("there is no job {job}"));
                return Answer { status: 400, headers: String::new(), body: String::new() };
            };
            let state = if made_at.elapsed() < Duration::from_millis(1500) { "running" } else { "done" };
            return Answer::json(json!({ "state": state, "result": format!("of {row}") }).to_string());
        }
        let (key, row) = (heard.header("idempotency-key").to_owned(), heard.json()["id"].to_string());
        let number = self.jobs.len();
        let (first, job, _) = self.jobs.entry(key.clone()).or_insert((row.clone(), number, heard.at));
        if key.is_empty() || *first != row {
            self.faults.push(format!("the key `{key}` of {first} was used for {row}"));
        }
        let location = format!("location: {url}/results/{job}?part=a%20b&x=1\r\n");
        Answer { status: 201, headers: location, body: String::new() }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_job_is_created_once_by_its_key_while_workers_are_killed() {
    const ROWS: usize = 90;
    let setting = Setting::new(&jobs(", rate: { limit: 60, period: 1s, burst: 5 }", "")).await;
    let api = Arc::new(Mutex::new(Keyed::default()));
    let (known, url) = (api.clone(), setting.receiver.url.clone());
    setting.receiver.answer_with(move |heard| known.lock().expect("no test panics here").answer(heard, &url));
    let mut fleet = Fleet::start(&setting.place, &setting.sandbox, 2);
    let csv = (0..ROWS).fold("id\n".to_owned(), |csv, id| csv + &format!("r{id}\n"));
    let id = fleet.upload(ROUTE, csv).await;
    let created = |jobs: usize| {
        let api = &api;
        move || async move { api.lock().expect("no test panics here").jobs.len() >= jobs }
    };
    until("some are created", created(ROWS / 4)).await;
    fleet.kill_one();
    until("looks are made", || async { api.lock().expect("no test panics here").looks > 20 }).await;
    fleet.kill_one();
    let ended = fleet.finished(&id).await;
    assert_eq!(ended["counts"]["completed"], ROWS, "{ended}");
    let api = api.lock().expect("no test panics here");
    assert_eq!(api.faults, Vec::<String>::new());
    assert_eq!(api.jobs.len(), ROWS, "one key for each row");
    let rows: HashSet<&String> = api.jobs.values().map(|(row, ..)| row).collect();
    assert_eq!(rows.len(), ROWS, "one job for each row");
    let looked = setting.receiver.heard();
    let keyed = looked.iter().filter(|one| one.method == "GET" && !one.header("idempotency-key").is_empty());
    assert_eq!(keyed.count(), 0, "a look has no key");
}

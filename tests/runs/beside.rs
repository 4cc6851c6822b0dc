//! Other owners keep their rate beside one whose rows are in trouble: a row that is refused each time, a row that kills its worker, and
//! a credential that is refused from some moment on. What becomes of the one in trouble is told wherever somebody looks.

use std::collections::HashMap;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::receiver::{Answer, Heard, Receiver};
use penstock_tests::{Client, Place, Service};
use serde_json::{Value, json};

use crate::storage::until;

const ROUTE: &str = "/v2/pipelines/calling/batches";

/// Calls a second that the dependency allows, all owners together.
const RATE: u32 = 20;

/// What others have at least of their rate.
const KEPT: f64 = 0.95;

/// How long it is watched.
const WATCHED: Duration = Duration::from_secs(5);

/// One keyed call a row, which says whose it is and who makes it.
fn calling(keys: &str, retry: &str) -> String {
    format!(
        "name: calling\ncsv: {{ columns: [ {{ name: id, required: true }} ] }}\ndependencies:\n  api:\n\
        \x20   base_url: \"${{INVITE_API_URL}}\"\n    timeout: 5s\n    headers: {{ X-Process: \"${{PROCESS}}\" }}\n\
        \x20   rate: {{ limit: {RATE}, period: 1s, burst: 3 }}\n{keys}steps:\n\
        \x20 - {{ name: create, dependency: api, request: {{ method: POST, path: /create, idempotency_key: true, json: {{ id: \"{{{{ row.id }}}}\", owner: \"{{{{ owner.name }}}}\" }} }} }}\n\
        retry: {{ {retry} }}\ndispatch: {{ spread: 0s }}\n"
    )
}

struct Scene {
    hook: Receiver,
    receiver: Receiver,
    sandbox: Sandbox,
    place: Place,
}

impl Scene {
    async fn new(definition: &str) -> Self {
        let (receiver, hook) = (Receiver::start().await, Receiver::start().await);
        let mut place = Place::new(&[("calling.yaml", definition)]);
        place.set("INVITE_API_URL", receiver.url.clone());
        place.set("PROCESS", "nobody".into());
        Self { hook, receiver, sandbox: Sandbox::start(Config::default()).expect("a sandbox"), place }
    }

    fn clients(&self, service: &Service) -> [Client; 2] {
        ["acme", "other"].map(|owner| Client::new(service, &self.place.key(&self.sandbox, owner)))
    }

    async fn upload(&self, client: &Client, word: &str, rows: u32) -> String {
        let csv = (0..rows).fold("id\n".to_owned(), |csv, id| csv + &format!("{word}{id}\n"));
        let path = format!("{ROUTE}?callback_url={}", self.hook.url);
        let (status, batch) = client.upload(&path, csv).await.expect("an answer");
        assert_eq!(status, 202, "{batch}");
        batch["id"].as_str().expect("an id").to_owned()
    }

    /// Calls that others' rows have had since then, and that went well.
    fn good_since(&self, since: Instant) -> usize {
        let heard = self.receiver.heard();
        let good = |one: &&Heard| one.at >= since && one.status == 200 && one.json()["owner"] == "other";
        heard.iter().filter(good).count()
    }

    /// Waits, and sees that the others have their rate from now on. What else runs on this machine may take it from them once or twice.
    async fn others_keep_their_rate(&self, why: &str) {
        let mut shares = Vec::new();
        while shares.len() < 3 && shares.last().is_none_or(|share| *share < KEPT) {
            let began = Instant::now();
            tokio::time::sleep(WATCHED).await;
            let (calls, seconds) = (self.good_since(began), began.elapsed().as_secs_f64());
            shares.push(f64::from(u32::try_from(calls).expect("few")) / (seconds * f64::from(RATE)));
        }
        println!("{why}: {shares:.3?} of their rate");
        assert!(shares.iter().any(|share| *share >= KEPT), "{why}: {shares:.3?} of their rate");
    }
}

fn status(status: u16, headers: &str, body: &str) -> Answer {
    Answer { status, headers: headers.to_owned(), body: body.to_owned() }
}

#[tokio::test]
async fn beside_a_row_that_is_always_refused() {
    let scene = Scene::new(&calling("", "throttled_for: 25s")).await;
    scene.receiver.answer_with(|heard| {
        if heard.json()["owner"] != "acme" {
            return Answer::json("{}");
        }
        status(429, "retry-after: 1\r\n", "{\"error\": \"busy\", \"message\": \"This one is busy.\"}")
    });
    let service = scene.place.start(&scene.sandbox, None);
    let [acme, other] = scene.clients(&service);
    scene.upload(&other, "good", 900).await;
    let busy = scene.upload(&acme, "busy", 1).await;
    let refused = || scene.receiver.heard().iter().filter(|one| one.status == 429).count();
    until("it is refused again", || async { refused() >= 2 }).await;
    // Within five seconds the others have their rate back, and keep it.
    tokio::time::sleep(Duration::from_secs(5)).await;
    scene.others_keep_their_rate("beside a row that gets 429").await;
    let ended = acme.finished(&busy).await;
    assert_eq!(ended["counts"]["failed"], 1, "{ended}");
    let row = acme.get(&format!("/v2/batches/{busy}/rows/1")).await;
    assert_eq!(row["error"]["code"], "throttled", "{row}");
    assert!(row["error"]["message"].to_string().contains("This one is busy."), "{row}");
    service.terminate();
}

/// The processes that make calls, by the name that their calls have.
struct Processes {
    running: Vec<(String, Service)>,
    pids: Arc<Mutex<HashMap<String, u32>>>,
    started: u32,
}

impl Processes {
    fn start_one(&mut self, scene: &mut Scene) {
        self.started += 1;
        let name = format!("process-{}", self.started);
        scene.place.unset("PROCESS");
        scene.place.set("PROCESS", name.clone());
        let service = if scene.place.is_cluster() {
            scene.place.worker(&scene.sandbox)
        } else {
            scene.place.start(&scene.sandbox, None)
        };
        self.pids.lock().expect("no test panics here").insert(name.clone(), service.pid());
        self.running.push((name, service));
    }

    /// Starts another one for each that has died.
    fn replace_the_dead(&mut self, scene: &mut Scene) {
        let dead: Vec<usize> =
            (0..self.running.len()).rev().filter(|at| !self.running[*at].1.lives()).collect();
        dead.iter().for_each(|at| drop(self.running.remove(*at)));
        dead.iter().for_each(|_| self.start_one(scene));
    }
}

/// Whoever makes the call of one row dies, and is started again. In a cluster the others have their rate from the first death on; on
/// one machine, where nobody is there meanwhile, when the row has ended after its third.
#[tokio::test]
async fn beside_a_row_that_kills_its_worker() {
    let mut scene = Scene::new(&calling("", "attempts: 3")).await;
    let pids = Arc::new(Mutex::new(HashMap::<String, u32>::new()));
    let known = pids.clone();
    scene.receiver.answer_with(move |heard| {
        if heard.json()["owner"] == "acme" {
            let pid = known.lock().expect("no test panics here")[heard.header("x-process")].to_string();
            assert!(Command::new("kill").args(["-9", &pid]).status().expect("kill runs").success());
        }
        Answer::json("{}")
    });
    let is_cluster = scene.place.is_cluster();
    let servers = is_cluster
        .then(|| (scene.place.api(&scene.sandbox), scene.place.dispatcher(&scene.sandbox, "300ms")));
    let mut processes = Processes { running: Vec::new(), pids, started: 0 };
    (0..if is_cluster { 3 } else { 1 }).for_each(|_| processes.start_one(&mut scene));
    let keys = ["acme", "other"].map(|owner| scene.place.key(&scene.sandbox, owner));
    let api = servers.as_ref().map_or(&processes.running[0].1, |(api, _)| api);
    let [acme, other] = [&keys[0], &keys[1]].map(|key| Client::new(api, key));
    scene.upload(&other, "good", 4000).await;
    let began = Instant::now();
    until("they are called", || async { scene.good_since(began) > RATE as usize }).await;
    let id = scene.upload(&acme, "killer", 1).await;
    let deaths = |scene: &Scene| {
        let heard = scene.receiver.heard();
        heard.iter().filter(|one| one.json()["owner"] == "acme").count()
    };
    until("a worker died", || async { deaths(&scene) > 0 }).await;
    let first_death = Instant::now();
    let ended = loop {
        processes.replace_the_dead(&mut scene);
        let api = servers.as_ref().map_or(&processes.running[0].1, |(api, _)| api);
        let answer = Client::new(api, &keys[0]).request("GET", &format!("/v2/batches/{id}")).send().await;
        // It may die meanwhile.
        let Ok(answer) = answer else { continue };
        let Ok(batch) = answer.json::<Value>().await else { continue };
        if batch["finished_at"].is_string() {
            break batch;
        }
        assert!(began.elapsed() < penstock_tests::PATIENCE, "it never ends: {batch}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(ended["counts"]["failed"], 1, "{ended}");
    assert_eq!(deaths(&scene), 3);
    if is_cluster {
        let (calls, seconds) = (scene.good_since(first_death), first_death.elapsed().as_secs_f64());
        let share = f64::from(u32::try_from(calls).expect("few")) / (seconds * f64::from(RATE));
        println!("from the first death to the last, {seconds:.1} s: {share:.3} of their rate");
        // What else runs on this machine takes some of it from debug programs.
        assert!(share >= if cfg!(debug_assertions) { 0.9 } else { KEPT }, "{share:.3} in {seconds:.1} s");
    } else {
        let ended = Instant::now();
        // A limiter that knows nothing yet begins with an empty burst.
        until("calls are made again", || async { scene.good_since(ended) > RATE as usize }).await;
    }
    scene.others_keep_their_rate("beside a row that kills its worker").await;
    assert_eq!(deaths(&scene), 3, "nobody calls it again");
}

fn alert<'a>(rule: &'a str, id: &'a str) -> impl Fn(&Heard) -> bool + 'a {
    move |heard| {
        heard.path == "/alerts" && {
            let told = heard.json();
            told["type"] == "alert.firing" && told["data"]["rule"] == rule && told["data"]["subject"] == id
        }
    }
}

/// An API that refuses one owner's rows with 401 from some moment on.
async fn revoked(responses: &str) -> (Scene, Service, [Client; 2], String) {
    let mut scene = Scene::new(&calling(responses, "attempts: 3")).await;
    scene.receiver.answer_with({
        let good = Mutex::new(0);
        move |heard| {
            let mut good = good.lock().expect("no test panics here");
            *good += u32::from(heard.json()["owner"] == "acme");
            if heard.json()["owner"] == "acme" && *good > 20 {
                let body = "{\"error\": \"key_revoked\", \"message\": \"The key was revoked.\"}";
                return status(401, "content-type: application/json\r\n", body);
            }
            Answer::json("{}")
        }
    });
    let rules = format!(
        "every: 300ms\nreceivers:\n  - {{ name: ops, kind: webhook, url: \"{}/alerts\" }}\nrules:\n  - {{ rule: batch_held, to: [ops] }}\n",
        scene.hook.url
    );
    let file = scene.place.write("alerts.yaml", &rules);
    scene.place.set("PENSTOCK_ALERTS", file);
    let service = scene.place.start(&scene.sandbox, None);
    let clients = scene.clients(&service);
    scene.upload(&clients[1], "good", 900).await;
    let id = scene.upload(&clients[0], "mine", 60).await;
    (scene, service, clients, id)
}

/// Without a word about it the rows fail, with the API's own words, and the batch ends.
#[tokio::test]
async fn beside_a_credential_that_is_refused() {
    let (scene, service, [acme, _other], id) = revoked("").await;
    until("it is refused", || async { scene.receiver.heard().iter().any(|one| one.status == 401) }).await;
    let ended = acme.finished(&id).await;
    assert_eq!(
        (&ended["counts"]["completed"], &ended["counts"]["failed"]),
        (&json!(20), &json!(40)),
        "{ended}"
    );
    scene.others_keep_their_rate("beside a credential that is refused").await;
    let errors = acme.get(&format!("/v2/batches/{id}/errors")).await;
    assert!(errors.to_string().contains("key_revoked"), "{errors}");
    let failed = acme.text(&format!("/v2/batches/{id}/failed.csv")).await;
    assert_eq!(failed.matches("key_revoked,The key was revoked.").count(), 40, "{failed}");
    scene.hook.until(|heard| heard.path != "/alerts" && heard.json()["type"] == "batch.finished").await;
    let log = std::fs::read_to_string(scene.place.log()).expect("a log");
    // The API's own words may quote a row: an operator's log has the status.
    let told = log.lines().filter(|line| line.contains("the row failed") && line.contains("http_401"));
    assert_eq!(told.count(), 40, "a line for each row");
    assert!(!log.contains("The key was revoked."), "the API's words");
    service.terminate();
}

/// With `hold` the batch is held at once, and everybody is told why.
#[tokio::test]
async fn beside_a_credential_that_holds_its_batch() {
    let (scene, service, [acme, _other], id) = revoked("    responses: { hold: [401] }\n").await;
    let batch = async || acme.get(&format!("/v2/batches/{id}")).await;
    until("it is held", || async {
        let batch = batch().await;
        batch["held"] == true && batch["counts"]["processing"] == 0
    })
    .await;
    let calls = || scene.receiver.heard().iter().filter(|one| one.json()["owner"] == "acme").count();
    let before = calls();
    scene.others_keep_their_rate("beside a batch that is held").await;
    assert_eq!(calls(), before, "nobody calls for it");
    let held = batch().await;
    let hold = &held["hold"];
    assert_eq!(
        (&hold["code"], &hold["reason"], &hold["step"], &held["counts"]["failed"]),
        (&json!("key_revoked"), &json!("The key was revoked."), &json!("create"), &json!(0)),
        "{held}"
    );
    let waits = acme.get(&format!("/v2/batches/{id}/waiting")).await;
    let wait = waits["data"].as_array().expect("waits").iter().find(|wait| wait["reason"] == "held");
    let sentence = wait.map(|wait| wait["sentence"].to_string()).unwrap_or_default();
    assert!(sentence.contains("The key was revoked."), "{waits}");
    let told = scene.hook.until(|heard| heard.path == "/" && heard.json()["type"] == "batch.held").await;
    assert_eq!(told.json()["data"]["hold"]["code"], "key_revoked", "{}", told.body);
    let told = scene.hook.until(alert("batch_held", &id)).await.json()["data"]["text"].to_string();
    assert!(told.contains("key_revoked") && told.contains("`create`"), "{told}");
    let log = std::fs::read_to_string(scene.place.log()).expect("a log");
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let line = lines.iter().find(|line| line["message"].to_string().contains("an answer holds a batch"));
    let line = line.expect("a line about it");
    assert!(line["level"] == "WARN" && line["step"] == "create", "{line}");
    assert!(!log.contains("The key was revoked."), "the API's words may quote a row");
    service.terminate();
}

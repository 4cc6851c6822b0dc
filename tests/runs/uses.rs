//! Limits hold up the rows that call for them, and for what their calls take: others go on.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::receiver::{Answer, Heard, Receiver};
use penstock_tests::{Client, Place, Service};
use serde_json::{Value, json};

use crate::storage::until;

/// Two steps at two dependencies; what is said of the first, and of its dependency.
fn pipeline(step: &str, dependency: &str) -> String {
    format!(
        "name: uses\ncsv: {{ columns: [ {{ name: id, required: true }}, {{ name: kind, required: true }} ] }}\n\
         dependencies:\n\
         \x20 a: {{ base_url: \"${{INVITE_API_URL}}\", timeout: 5s{dependency} }}\n\
         \x20 b: {{ base_url: \"${{INVITE_API_URL}}\", timeout: 5s, rate: {{ limit: 100, period: 1s }} }}\n\
         steps:\n\
         \x20 - {{ name: a, dependency: a, {step}, request: {{ method: GET, path: \"/a/{{{{ row.kind }}}}\" }} }}\n\
         \x20 - {{ name: b, dependency: b, request: {{ method: GET, path: \"/b/{{{{ row.id }}}}\" }} }}\n\
         dispatch: {{ spread: 0s, rows_per_owner: 1000 }}\n"
    )
}

const ONLY_A: &str = "when: \"{{ row.kind == 'a' }}\"";

struct Scene {
    receiver: Receiver,
    client: Client,
    _running: (Service, Place, Sandbox),
}

impl Scene {
    async fn new(definition: &str, decide: impl Fn(&Heard) -> Answer + Send + 'static) -> Self {
        let receiver = Receiver::start().await;
        receiver.answer_with(move |heard| decide(heard));
        let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
        let mut place = Place::new(&[("uses.yaml", definition)]);
        place.set("INVITE_API_URL", receiver.url.clone());
        let service = place.start(&sandbox, None);
        let client = Client::new(&service, &place.key(&sandbox, "acme"));
        Self { receiver, client, _running: (service, place, sandbox) }
    }

    async fn upload(&self, rows: impl Iterator<Item = String>) -> String {
        let file: String = std::iter::once("id,kind\n".to_owned()).chain(rows).collect();
        let (status, batch) =
            self.client.upload("/v2/pipelines/uses/batches", file).await.expect("an answer");
        assert_eq!(status, 202, "{batch}");
        batch["id"].as_str().expect("an id").to_owned()
    }

    /// Waits until so many rows have completed; how long that took.
    async fn completed(&self, batch: &str, rows: u64) -> Duration {
        let began = Instant::now();
        until("the rows complete", async || {
            let seen: Value = self.client.get(&format!("/v2/batches/{batch}")).await;
            seen["counts"]["completed"].as_u64() >= Some(rows)
        })
        .await;
        began.elapsed()
    }
}

fn good() -> Answer {
    Answer::json("{}")
}

/// A row that is refused for half a minute holds up those that call for the same, of whatever owner, and nobody else.
#[tokio::test]
async fn a_pause_is_for_those_that_call() {
    let decide = |heard: &Heard| {
        if heard.path.starts_with("/a") {
            return Answer { status: 429, headers: "retry-after: 25\r\n".into(), ..good() };
        }
        good()
    };
    let scene = Scene::new(&pipeline(ONLY_A, ""), decide).await;
    let batch =
        scene.upload((0..60).map(|row| format!("{row},{}\n", if row == 0 { "a" } else { "b" }))).await;
    scene.receiver.until(|heard| heard.path.starts_with("/a")).await;
    let took = scene.completed(&batch, 59).await;
    assert!(took < Duration::from_secs(20), "{took:?}");
    let asked = scene.receiver.heard().iter().filter(|heard| heard.path.starts_with("/a")).count();
    assert_eq!(asked, 1, "its pause is not over");
}

/// A limit that no row reaches, or one row for all of them, does not decide how many are taken up.
#[tokio::test]
async fn a_rate_is_for_those_that_call() {
    for step in [ONLY_A, "cache: { key: \"{{ row.kind }}\", ttl: 1h }"] {
        let scene = Scene::new(&pipeline(step, ", rate: { limit: 1, period: 60s }"), |_| good()).await;
        let batch = scene.upload((0..600).map(|row| format!("{row},b\n"))).await;
        let took = scene.completed(&batch, 600).await;
        // 6 s at the other limit; 50 s when this one held them up.
        assert!(took < Duration::from_secs(25), "{step}: {took:?}");
    }
}

/// What a call leaves of its estimate is there for the next one.
#[tokio::test]
async fn what_is_given_back_is_used() {
    let definition = "name: uses\ncsv: { columns: [ { name: id, required: true }, { name: kind } ] }\n\
        dependencies: { a: { base_url: \"${INVITE_API_URL}\", timeout: 5s, rate: [ { name: points, limit: 200, period: 1s, burst: 400 } ] } }\n\
        steps: [ { name: a, dependency: a, cost: { points: { estimate: 40, actual: \"{{ body.points }}\" } }, request: { method: GET, path: \"/a/{{ row.id }}\" } } ]\n\
        dispatch: { spread: 0s, rows_per_owner: 1000 }\n";
    let taken = Arc::<Mutex<Vec<Instant>>>::default();
    let noted = taken.clone();
    let decide = move |_: &Heard| {
        noted.lock().expect("no test panics here").push(Instant::now());
        Answer::json(json!({ "points": 5 }).to_string())
    };
    let scene = Scene::new(definition, decide).await;
    let batch = scene.upload((0..300).map(|row| format!("{row},b\n"))).await;
    scene.completed(&batch, 300).await;
    let taken = taken.lock().expect("no test panics here").clone();
    let span = |from: usize, to: usize| taken[to].duration_since(taken[from]);
    // 7.5 s by what they take, less the burst, and 58 s by their estimates.
    assert!(span(0, 299) < Duration::from_secs(30), "{:?}", span(0, 299));
    // What is allowed is passed in no second: the burst, and what came since.
    for from in 0..300 {
        let within =
            taken[from..].iter().filter(|at| at.duration_since(taken[from]) < Duration::from_secs(1));
        assert!(within.count() * 5 <= 400 + 200 + 40, "from {from} on");
    }
}

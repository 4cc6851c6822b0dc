//! More rows than calls: full calls at the rate that is allowed, wrong rows found by halving, answers asked for once.

mod once;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use penstock_sandbox::limits::worst_excess;
use penstock_sandbox::{Config, Limit, Sandbox};
use penstock_tests::receiver::{Answer, Heard, Receiver};
use penstock_tests::{Client, Place, Service};
use serde_json::{Value, json};

use crate::Promises;
use crate::flow::jain;

/// Rows of a call.
const ROWS: usize = 100;

/// Everything that is promised here, with so many rows.
pub async fn run(rows: u32, part: Option<&str>, kept: &mut Promises) {
    let wanted = |name: &str| part.is_none_or(|part| part == name);
    if wanted("rate") {
        rate(rows, kept).await;
    }
    if wanted("fair") {
        fair(rows, kept).await;
    }
    if wanted("poison") {
        one_poison(kept).await;
        poison(rows, kept).await;
    }
    if wanted("headline") {
        for (rate, rows) in [(20, rows.min(20_000)), (100, rows)] {
            headline(rate, rows, kept).await;
        }
    }
    if wanted("cache") {
        once::cache_hit(rows, kept).await;
        once::cache_over_workers(kept).await;
    }
    if wanted("unique") {
        once::unique(rows * 10, kept).await;
    }
}

/// A call as the downstream saw it.
struct Call {
    at: Instant,
    /// What its rows have as `id`.
    ids: Vec<String>,
}

/// A downstream that answers bulk calls, and its record.
struct Downstream {
    receiver: Receiver,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Downstream {
    /// `refuse` says whether a row is wrong, and `answer` what a call with wrong rows is answered.
    async fn start(
        refuse: impl Fn(&str) -> bool + Send + 'static,
        answer: impl Fn(&[String], &[String]) -> Option<Answer> + Send + 'static,
    ) -> Self {
        let (receiver, calls) = (Receiver::start().await, Arc::<Mutex<Vec<Call>>>::default());
        let record = calls.clone();
        receiver.answer_with(move |heard| {
            let ids = ids(heard);
            let at = heard.at;
            record.lock().expect("no panic").push(Call { at, ids: ids.clone() });
            let (wrong, good): (Vec<String>, Vec<String>) = ids.into_iter().partition(|id| refuse(id));
            answer(&good, &wrong).unwrap_or_else(|| results(&good))
        });
        Self { receiver, calls }
    }

    fn taken(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock().expect("no panic"))
    }
}

fn ids(heard: &Heard) -> Vec<String> {
    if heard.body.is_empty() {
        return vec![heard.path.rsplit('/').next().unwrap_or_default().to_owned()];
    }
    let body = heard.json();
    let text = |one: &Value| one["id"].as_str().unwrap_or_default().to_owned();
    body["rows"].as_array().map_or_else(|| vec![text(&body)], |rows| rows.iter().map(text).collect())
}

fn results(good: &[String]) -> Answer {
    let results: Vec<Value> = good.iter().map(|id| json!({ "id": id, "made": id })).collect();
    Answer::json(json!({ "results": results, "made": "one", "city": "x" }).to_string())
}

const BULK: &str = "bulk: { max_rows: 100, max_wait: 500ms, results: \"{{ body.results }}\", match: { result: \"{{ result.id }}\", row: \"{{ row.id }}\" }, \
    errors: { results: \"{{ body.errors }}\", match: { result: \"{{ result.id }}\", row: \"{{ row.id }}\" } } }";

/// A pipeline with these keys of its dependency and steps.
fn pipeline(dependency: &str, steps: &str) -> String {
    format!(
        "name: bulk\ncsv: {{ columns: [ {{ name: id, required: true }}, {{ name: postcode }} ] }}\n\
         dependencies: {{ api: {{ base_url: \"${{INVITE_API_URL}}\", timeout: 5s{dependency} }} }}\nsteps:\n{steps}dispatch: {{ spread: 0s }}\n"
    )
}

/// The step that creates the rows in bulk.
fn create(request: &str) -> String {
    format!(
        "  - name: create\n    dependency: api\n    request: {{ method: POST, path: /create, {request}, json: {{ rows: {{ each: {{ id: \"{{{{ row.id }}}}\" }} }} }} }}\n    {BULK}\n"
    )
}

fn file(rows: u32, postcodes: u32) -> String {
    (0..rows).fold("id,postcode\n".to_owned(), |csv, row| {
        csv + &format!("r{row:07},AB{:05}\n", row % postcodes.max(1))
    })
}

/// A place with one pipeline, its services and its owners' batches.
struct Scene {
    place: Place,
    sandbox: Sandbox,
    service: Service,
}

impl Scene {
    fn start(definition: &str, downstream: &Downstream) -> Self {
        let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
        let mut place = Place::new(&[("bulk.yaml", definition)]);
        place.set("INVITE_API_URL", downstream.receiver.url.clone());
        let service = place.start_every(&sandbox, "1s");
        Self { place, sandbox, service }
    }

    async fn upload(&self, owner: &str, file: String) -> (Client, String) {
        let client = Client::new(&self.service, &self.place.key(&self.sandbox, owner));
        let (status, batch) = client.upload("/v2/pipelines/bulk/batches", file).await.expect("an answer");
        assert_eq!(status, 202, "{batch}");
        (client, batch["id"].as_str().expect("an id").to_owned())
    }
}

/// Waits for a batch's end, however long it takes; its counts of completed and failed rows.
async fn ended(client: &Client, id: &str) -> (u64, u64) {
    loop {
        let batch = client.get(&format!("/v2/batches/{id}")).await;
        if !batch["finished_at"].is_null() {
            let count = |name: &str| batch["counts"][name].as_u64().unwrap_or(0);
            return (count("completed"), count("failed"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[allow(clippy::cast_precision_loss, reason = "some thousands")]
fn number(count: usize) -> f64 {
    count as f64
}

const TEN: Limit = Limit { rate: 10.0, burst: 1.0 };

const TEN_A_SECOND: &str = ", rate: { limit: 10, period: 1s, burst: 1 }";

/// Ten calls a second are allowed, of a hundred rows each.
async fn rate(rows: u32, kept: &mut Promises) {
    let rows = rows.min(30_000);
    let downstream = Downstream::start(|_| false, |_, _| None).await;
    let scene = Scene::start(&pipeline(TEN_A_SECOND, &create("idempotency_key: true")), &downstream);
    let (client, id) = scene.upload("bench", file(rows, 1)).await;
    assert_eq!(ended(&client, &id).await, (rows.into(), 0));
    let calls = downstream.taken();
    let began = calls[0].at;
    let at: Vec<f64> = calls.iter().map(|call| call.at.duration_since(began).as_secs_f64()).collect();
    let took = at.last().copied().unwrap_or(1.0);
    println!("\n10 calls/s, {ROWS} rows a call, {rows} rows: {} calls in {took:.1} s", calls.len());
    let without_last = number(calls[..calls.len() - 1].iter().map(|call| call.ids.len()).sum());
    kept.at_least("rows/s", without_last / took, 900.0);
    let least = calls[..calls.len() - 1].iter().map(|call| call.ids.len()).min().unwrap_or(ROWS);
    kept.at_least("rows of the least full call but the last, of 100", number(least), 95.0);
    kept.at_most(
        "calls above burst + rate·t in the worst window, as they arrive",
        worst_excess(&at, &TEN),
        0.5,
    );
}

/// Ten owners with long batches share it.
async fn fair(rows: u32, kept: &mut Promises) {
    let downstream = Downstream::start(|_| false, |_, _| None).await;
    let definition = pipeline(TEN_A_SECOND, &create("idempotency_key: true"));
    let scene = Scene::start(&definition, &downstream);
    let each = rows.min(6000);
    for owner in 0..10 {
        let csv = file(each, 1).replace("\nr", &format!("\no{owner}-"));
        scene.upload(&format!("owner{owner}"), csv).await;
    }
    let before = downstream.taken().len();
    tokio::time::sleep(Duration::from_secs(30)).await;
    let mut done: BTreeMap<String, f64> = (0..10).map(|owner| (format!("o{owner}"), 0.0)).collect();
    let (mut calls, mut mixed, mut full) = (0, 0, 0);
    for call in downstream.taken() {
        let owners: HashSet<&str> = call.ids.iter().filter_map(|id| id.split('-').next()).collect();
        (calls, mixed, full) =
            (calls + 1, mixed + usize::from(owners.len() > 1), full + usize::from(call.ids.len() == ROWS));
        for owner in owners {
            *done.entry(owner.to_owned()).or_default() += number(call.ids.len());
        }
    }
    println!("\nten owners, 30 s: {calls} calls ({before} before), {full} of them full");
    kept.at_most("calls with rows of two owners", number(mixed), 0.0);
    kept.at_least("share of full calls", number(full) / number(calls), 0.95);
    kept.at_least(
        "Jain's index of the ten owners' rows",
        jain(&done.into_values().collect::<Vec<_>>()),
        0.99,
    );
}

fn refused(_: &[String], wrong: &[String]) -> Option<Answer> {
    let body = json!({ "code": "invalid", "message": "One of these is wrong." }).to_string();
    (!wrong.is_empty()).then(|| Answer { status: 422, ..Answer::json(body) })
}

fn errors(wrong: &[String]) -> Value {
    wrong.iter().map(|id| json!({ "id": id, "code": "invalid", "message": "It is wrong." })).collect()
}

/// One wrong row among a hundred.
async fn one_poison(kept: &mut Promises) {
    let downstream = Downstream::start(|id| id == "r0000057", refused).await;
    let scene = Scene::start(&pipeline("", &create("idempotent: true")), &downstream);
    let (client, id) = scene.upload("bench", file(100, 1)).await;
    assert_eq!(ended(&client, &id).await, (99, 1));
    println!("\none wrong row among {ROWS}, in calls that are refused as a whole");
    kept.at_most("further calls", number(downstream.taken().len() - 1), 14.0);
}

/// One row in a hundred is wrong, at random. Where the answer names the wrong rows, that costs little: 0.63 of the calls have one, and
/// with the calls that take the 0.99 of rows that are good that is 1.62 at least. Where it only refuses, each call tells one bit of
/// which rows are wrong, and there are 8.08 bits of it in a hundred rows.
async fn poison(rows: u32, kept: &mut Promises) {
    let is_wrong = |id: &str| {
        let number: u64 = id.trim_start_matches('r').parse().unwrap_or(0);
        // A fixed permutation (splitmix64): the same rows in each run.
        let mut hash = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (hash ^ (hash >> 31)).is_multiple_of(100)
    };
    let wrong = u64::from((0..rows).map(|row| u32::from(is_wrong(&format!("r{row:07}")))).sum::<u32>());
    let good = u64::from(rows) - wrong;
    println!("\n{wrong} wrong rows among {rows}, at random");
    let named_in_success = |good: &[String], wrong: &[String]| {
        let results: Vec<Value> = good.iter().map(|id| json!({ "id": id, "made": id })).collect();
        let body = json!({ "results": results, "errors": errors(wrong) }).to_string();
        Some(Answer { status: 207, ..Answer::json(body) })
    };
    let named_in_refusal = |_: &[String], wrong: &[String]| {
        let body = json!({ "errors": errors(wrong) }).to_string();
        (!wrong.is_empty()).then(|| Answer { status: 422, ..Answer::json(body) })
    };
    type Says = fn(&[String], &[String]) -> Option<Answer>;
    let cases: [(&str, Says, f64); 3] = [
        ("each row has its verdict (207): calls, in multiples", named_in_success, 1.6),
        ("a refusal names the wrong rows: calls, in multiples", named_in_refusal, 1.7),
        ("a refusal names nobody: calls, in multiples", refused, 10.0),
    ];
    for (what, says, most) in cases {
        let downstream = Downstream::start(is_wrong, says).await;
        let scene = Scene::start(&pipeline("", &create("idempotent: true")), &downstream);
        let (client, id) = scene.upload("bench", file(rows, 1)).await;
        assert_eq!(ended(&client, &id).await, (good, wrong), "{what}");
        kept.at_most(what, number(downstream.taken().len()) * number(ROWS) / f64::from(rows), most);
    }
}

/// Twenty rows for each postcode, its address asked for once, people created in bulk, beside a call for each of both, at the same rate.
async fn headline(calls_a_second: u32, rows: u32, kept: &mut Promises) {
    let burst = calls_a_second / 10;
    let rate = format!(", rate: {{ limit: {calls_a_second}, period: 1s, burst: {burst} }}");
    let postcodes = rows / 20;
    let address = "  - name: address\n    dependency: api\n    request: { method: GET, path: \"/addresses/{{ row.postcode }}\" }\n    output: { city: \"{{ body.city }}\" }\n";
    let cached = format!("{address}    cache: {{ key: \"{{{{ row.postcode }}}}\", ttl: 1d }}\n");
    let single = "  - name: create\n    dependency: api\n    request: { method: POST, path: /create, idempotency_key: true, json: { id: \"{{ row.id }}\" } }\n";
    let few = rows / 20;
    let measure = |definition: String, rows: u32| async move {
        let downstream = Downstream::start(|_| false, |_, _| None).await;
        let scene = Scene::start(&definition, &downstream);
        let (client, id) = scene.upload("bench", file(rows, postcodes)).await;
        assert_eq!(ended(&client, &id).await, (rows.into(), 0));
        let calls = downstream.taken();
        let took = calls[calls.len() - 1].at.duration_since(calls[0].at).as_secs_f64();
        (calls.len(), took)
    };
    let (calls, took) =
        measure(pipeline(&rate, &format!("{cached}{}", create("idempotency_key: true"))), rows).await;
    let (single_calls, single_took) = measure(pipeline(&rate, &format!("{address}{single}")), few).await;
    println!(
        "\n{rows} rows, {postcodes} postcodes, {calls_a_second} calls/s: {calls} calls in {took:.1} s; one by one, {few} rows: {single_calls} calls in {single_took:.1} s"
    );
    let least = f64::from(postcodes) + f64::from(rows) / number(ROWS);
    kept.at_most("calls, in multiples of postcodes + rows/100", number(calls) / least, 1.1);
    let one_by_one = single_took * f64::from(rows) / f64::from(few);
    kept.at_least("time one by one, in multiples", one_by_one / took, 20.0);
}

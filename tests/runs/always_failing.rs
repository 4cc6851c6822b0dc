//! Rows that the API refuses or fails for reasons of their own: they end, they say why they wait, and they slow nobody.

use std::time::{Duration, Instant};

use penstock_sandbox::faults::Wait;
use penstock_sandbox::{Config, Endpoint, Faults, Sandbox};
use penstock_tests::{Client, Place, Service};
use serde_json::json;

/// One call a row.
const ONE_CALL: &str = "name: one\ncsv: { columns: [ { name: email, required: true } ] }\n\
    dependencies: { invite: { base_url: \"${INVITE_API_URL}\", timeout: 5s, LIMITS } }\n\
    steps: [ { name: invite, dependency: invite, request: { method: POST, path: /invite/create, idempotency_key: true, \
    json: { email: \"{{ row.email }}\", campaign: \"c\" } } } ]\n\
    retry: { RETRY }\n\
    dispatch: { spread: 0s }\n";

const BATCHES: &str = "/v2/pipelines/one/batches";

fn pipeline(limits: &str, retry: &str) -> String {
    ONE_CALL.replace("LIMITS", limits).replace("RETRY", retry)
}

/// A file of these people.
fn people(names: impl IntoIterator<Item = String>) -> String {
    std::iter::once("email\n".to_owned()).chain(names.into_iter().map(|name| format!("{name}\n"))).collect()
}

fn named(name: &str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |number| format!("{name}{number}@example.com"))
}

async fn upload(client: &Client, csv: String) -> String {
    let (status, batch) = client.upload(BATCHES, csv).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    batch["id"].as_str().expect("an id").to_owned()
}

/// Calls that were answered well since a moment, in each second.
fn per_second(sandbox: &Sandbox, since: u64) -> Vec<usize> {
    let calls = sandbox.calls();
    let good = calls.iter().filter(|call| {
        call.endpoint == Endpoint::Invite && (200..300).contains(&call.status) && call.at_us >= since
    });
    let mut seconds = Vec::new();
    for call in good {
        let second = usize::try_from((call.at_us - since) / 1_000_000).expect("few");
        seconds.resize(seconds.len().max(second + 1), 0);
        seconds[second] += 1;
    }
    seconds
}

/// Looks until it is so.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(90), "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// One person is refused each time. Another owner's rows have the rate that they would have without.
#[tokio::test]
async fn a_row_that_is_always_refused_slows_no_other_owner() {
    for wait in [Wait::Seconds, Wait::Nothing] {
        let faults = Faults { wait, wait_seconds: 2, ..Faults::default() };
        let sandbox = Sandbox::start(Config { faults, ..Config::default() }).expect("a sandbox");
        let limits = "rate: { limit: 50, period: 1s, burst: 10 }";
        let place = Place::new(&[("one.yaml", &pipeline(limits, "throttled_for: 20s"))]);
        let (key, other) = (place.key(&sandbox, "acme"), place.key(&sandbox, "other"));
        let service = place.start(&sandbox, None);
        let (client, other) = (Client::new(&service, &key), Client::new(&service, &other));
        let busy = upload(&client, people(named("busy", 1))).await;
        let good = upload(&other, people(named("person", 1100))).await;
        let refused = || sandbox.calls().into_iter().filter(|call| call.status == 429).collect::<Vec<_>>();
        let second = until("it is refused again", async || refused().get(1).copied()).await;
        // The row says what it waits for, in the API's own words.
        let row = client.get(&format!("/v2/batches/{busy}/rows/1")).await;
        assert_eq!(row["attempts"], 0, "{row}");
        assert_eq!((&row["error"]["code"], &row["error"]["http_status"]), (&json!("throttled"), &json!(429)));
        assert_eq!(row["error"]["detail"]["error"], "person_is_busy", "{row}");
        assert!(row["error"]["throttled"]["times"].as_u64().expect("a number") >= 1, "{row}");
        other.finished(&good).await;
        let seconds = per_second(&sandbox, second.at_us + 5_000_000);
        let whole = &seconds[..seconds.len().saturating_sub(1)];
        let mean = whole.iter().sum::<usize>() as f64 / whole.len() as f64;
        assert!(whole.len() >= 5 && mean > 45.0, "{wait:?}: {mean} a second, of 50: {seconds:?}");
        let ended = client.finished(&busy).await;
        assert_eq!(ended["counts"]["failed"], 1, "{ended}");
        let row = client.get(&format!("/v2/batches/{busy}/rows/1")).await;
        assert_eq!((&row["status"], &row["error"]["code"]), (&json!("failed"), &json!("throttled")), "{row}");
        assert_eq!(row["error"]["detail"]["error"], "person_is_busy", "the API's own words: {row}");
        assert!(refused().len() <= 10, "{} calls in vain", refused().len());
    }
}

/// Forty rows are answered 500 each time: they end in minutes.
#[tokio::test]
async fn rows_that_always_fail_end() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("one.yaml", &pipeline("concurrency: 20", "attempts: 3"))]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let began = Instant::now();
    let id = upload(&client, people(named("broken", 40))).await;
    until("the breaker opens", async || {
        let waits = client.get(&format!("/v2/batches/{id}/waiting")).await;
        waits.to_string().contains("breaker_open").then_some(())
    })
    .await;
    let ended = client.finished(&id).await;
    assert_eq!(ended["counts"]["failed"], 40, "{ended}");
    assert!(began.elapsed() < Duration::from_secs(190), "{:?}", began.elapsed());
    let row = client.get(&format!("/v2/batches/{id}/rows/40")).await;
    let attempts = row["error"]["attempts"].as_array().expect("a list");
    let probes = attempts.iter().filter(|attempt| attempt["probe"] == true).count();
    assert_eq!((row["attempts"].as_u64(), attempts.len() - probes), (Some(3), 3), "{row}");
}

/// A third of the rows fails each time, one here and one there or all at the beginning. The others are as quick as they would be without
/// a breaker.
#[tokio::test]
async fn rows_that_always_fail_hold_up_no_others() {
    // A service that starts keeps this thread, and with it the requests to the others.
    let [one, two, three] =
        ["breaker: { min_calls: 1000000 }", "breaker: { min_calls: 20 }", "breaker: { min_calls: 20 }"]
            .map(Started::with);
    let (without, beside, behind) = tokio::join!(
        one.until_the_good_ones_are_done(false),
        two.until_the_good_ones_are_done(false),
        three.until_the_good_ones_are_done(true),
    );
    assert!(beside < without * 1.3 + 3.0, "{beside} s beside them, {without} s without a breaker");
    assert!(behind < without + 70.0, "{behind} s behind them, {without} s without a breaker");
}

struct Started {
    _sandbox: Sandbox,
    _place: Place,
    _service: Service,
    client: Client,
}

impl Started {
    fn with(breaker: &str) -> Self {
        let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
        let limits = format!("rate: {{ limit: 20, period: 1s, burst: 5 }}, {breaker}");
        let place = Place::new(&[("one.yaml", &pipeline(&limits, "attempts: 3"))]);
        let key = place.key(&sandbox, "acme");
        let service = place.start(&sandbox, None);
        let client = Client::new(&service, &key);
        Self { _sandbox: sandbox, _place: place, _service: service, client }
    }

    async fn until_the_good_ones_are_done(&self, behind: bool) -> f64 {
        let beside =
            |n: usize| ["person-a", "broken", "person-b"].map(|name| format!("{name}{n}@example.com"));
        let names: Vec<String> = if behind {
            named("broken", 100).chain(named("person", 200)).collect()
        } else {
            (0..100).flat_map(beside).collect()
        };
        let id = upload(&self.client, people(names)).await;
        let began = Instant::now();
        until("the good ones are done", async || {
            let batch = self.client.get(&format!("/v2/batches/{id}")).await;
            (batch["counts"]["completed"] == 200).then_some(())
        })
        .await;
        let took = began.elapsed().as_secs_f64();
        let ended = self.client.finished(&id).await;
        let counts = &ended["counts"];
        assert_eq!((&counts["completed"], &counts["failed"]), (&json!(200), &json!(100)));
        took
    }
}

/// All rows are refused each time. They all end soon after their time is over, though most of them are asked for once or never.
#[tokio::test]
async fn a_batch_that_is_always_refused_ends() {
    let faults = Faults { wait: Wait::Seconds, wait_seconds: 1, ..Faults::default() };
    let sandbox = Sandbox::start(Config { faults, ..Config::default() }).expect("a sandbox");
    let limits = "rate: { limit: 20, period: 1s, burst: 1 }";
    let place = Place::new(&[("one.yaml", &pipeline(limits, "throttled_for: 5s"))]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let id = upload(&client, people(named("busy", 60))).await;
    let ended = client.finished(&id).await;
    assert_eq!(ended["counts"]["failed"], 60, "{ended}");
    for number in [1, 30, 60] {
        let row = client.get(&format!("/v2/batches/{id}/rows/{number}")).await;
        assert_eq!(row["error"]["code"], "throttled", "{row}");
    }
    let calls = sandbox.calls().len();
    assert!(calls < 60, "{calls} calls in vain: they end together");
}

/// A row ends in the middle of a pause that is longer than its time. With limits of owners' own the pause is the owner's.
#[tokio::test]
async fn a_long_pause_is_its_owners_where_the_limits_are() {
    let faults = Faults { wait: Wait::Seconds, wait_seconds: 60, ..Faults::default() };
    let sandbox = Sandbox::start(Config { faults, ..Config::default() }).expect("a sandbox");
    let limits = "concurrency: { limit: 3, per_owner: true }";
    let place = Place::new(&[("one.yaml", &pipeline(limits, "throttled_for: 2s"))]);
    let (key, other) = (place.key(&sandbox, "acme"), place.key(&sandbox, "other"));
    let service = place.start(&sandbox, None);
    let (client, other) = (Client::new(&service, &key), Client::new(&service, &other));
    let busy = upload(&client, people(named("busy", 1))).await;
    let refused = || sandbox.calls().into_iter().filter(|call| call.status == 429).collect::<Vec<_>>();
    until("it is refused", async || refused().first().map(|_| ())).await;
    let good = upload(&other, people(named("person", 20))).await;
    other.finished(&good).await;
    assert_eq!(refused().len(), 1, "the other owner did not wait for the pause's end");
    let ended = client.finished(&busy).await;
    assert_eq!(ended["counts"]["failed"], 1, "{ended}");
    let row = client.get(&format!("/v2/batches/{busy}/rows/1")).await;
    assert_eq!(row["error"]["code"], "throttled", "{row}");
    assert_eq!(refused().len(), 1, "nobody knocks in the pause: {row}");
}

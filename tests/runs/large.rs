//! Long runs of several workers that are killed on the way, by what an API records: tokens that end all the time, several limits at
//! once, a limit that only the API's headers tell of, and results that are waited for.
//!
//! `PENSTOCK_TEST_SIZE` multiplies them (1 in the usual tests; 100 is 20,000 rows over tokens, 100,000 results and 10,000 values of a limit). On one machine's
//! services the one process is killed and started again.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::receiver::{Answer, Heard, Receiver};
use penstock_tests::redis::Redis;
use penstock_tests::{Client, PATIENCE, Place, Service};
use serde_json::{Value, json};

/// By how much these runs are larger than usual.
pub(crate) fn size() -> u32 {
    std::env::var("PENSTOCK_TEST_SIZE")
        .map_or(1, |size| size.parse().expect("PENSTOCK_TEST_SIZE is a number"))
}

fn is_large() -> bool {
    size() > 1
}

/// Everything that runs: one process, or an API, a dispatcher and several workers.
pub(crate) struct Fleet<'a> {
    place: &'a Place,
    sandbox: &'a Sandbox,
    pub(crate) key: String,
    /// The process that answers; on one machine it is the worker too.
    api: Option<Service>,
    workers: Vec<Service>,
    _dispatcher: Option<Service>,
}

impl<'a> Fleet<'a> {
    pub(crate) fn start(place: &'a Place, sandbox: &'a Sandbox, workers: usize) -> Self {
        let key = place.key(sandbox, "acme");
        let is_cluster = place.is_cluster();
        let api = if is_cluster { place.api(sandbox) } else { place.start(sandbox, None) };
        let workers =
            if is_cluster { (0..workers).map(|_| place.worker(sandbox)).collect() } else { Vec::new() };
        let dispatcher = is_cluster.then(|| place.dispatcher(sandbox, "300ms"));
        Self { place, sandbox, key, api: Some(api), workers, _dispatcher: dispatcher }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.api.as_ref().expect("it runs"), &self.key)
    }

    /// Kills a worker, and starts another one in its place.
    pub(crate) fn kill_one(&mut self) {
        if self.place.is_cluster() {
            self.workers.remove(0).kill();
            self.workers.push(self.place.worker(self.sandbox));
        } else {
            self.api.take().expect("it runs").kill();
            self.api = Some(self.place.start(self.sandbox, None));
        }
    }

    /// How many processes make calls.
    pub(crate) fn callers(&self) -> usize {
        self.workers.len().max(1)
    }

    /// Memory of the largest process that makes calls, in MiB.
    fn most_memory(&self) -> u64 {
        let callers: Vec<&Service> =
            if self.workers.is_empty() { self.api.iter().collect() } else { self.workers.iter().collect() };
        let of = |service: &Service| {
            let status =
                std::fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) / 1024
        };
        callers.into_iter().map(of).max().unwrap_or(0)
    }

    pub(crate) async fn upload(&self, route: &str, csv: String) -> String {
        let (status, batch) = self.client().upload(route, csv).await.expect("an answer");
        assert_eq!(status, 202, "{batch}");
        batch["id"].as_str().expect("an id").to_owned()
    }

    /// Waits until a batch has ended.
    pub(crate) async fn finished(&self, id: &str) -> Value {
        let (began, client) = (Instant::now(), self.client());
        loop {
            let batch = client.get(&format!("/v2/batches/{id}")).await;
            if !batch["finished_at"].is_null() {
                return batch;
            }
            assert!(began.elapsed() < PATIENCE * size().min(20), "not finished: {batch}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

pub(crate) fn ids(rows: u32) -> String {
    (0..rows).fold("id\n".to_owned(), |csv, id| csv + &format!("r{id}\n"))
}

/// A pipeline that makes one keyed call for each row, with these keys of its dependency.
fn calling(dependency: &str) -> String {
    format!(
        "name: calling\ncsv: {{ columns: [ {{ name: id, required: true }}, {{ name: sender }} ] }}\n\
        dependencies:\n  api:\n    base_url: \"${{INVITE_API_URL}}\"\n    timeout: 5s\n{dependency}steps:\n\
        \x20 - {{ name: create, dependency: api, request: {{ method: POST, path: /create, json: {{ id: \"{{{{ row.id }}}}\", sender: \"{{{{ row.sender }}}}\" }}, idempotency_key: true }} }}\n\
        dispatch: {{ rows_per_owner: 2000, spread: 0s }}\n"
    )
}

const ROUTE: &str = "/v2/pipelines/calling/batches";

async fn scene(definition: &str) -> (Receiver, Sandbox, Place) {
    let receiver = Receiver::start().await;
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("calling.yaml", definition)]);
    place.set("INVITE_API_URL", receiver.url.clone());
    if is_large() {
        place.set("RUST_LOG", "info".into());
    }
    (receiver, sandbox, place)
}

fn status(status: u16, headers: &str) -> Answer {
    Answer { status, headers: headers.to_owned(), body: String::new() }
}

/// Calls of a kind, and the times at which they came, in order.
pub(crate) fn times<'h>(calls: impl Iterator<Item = &'h Heard>) -> Vec<Instant> {
    let mut times: Vec<Instant> = calls.map(|call| call.at).collect();
    times.sort_unstable();
    times
}

/// The most of these in any window of this length.
pub(crate) fn most_in_any(times: &[Instant], window: Duration) -> usize {
    let (mut most, mut first) = (0, 0);
    for (last, at) in times.iter().enumerate() {
        while at.duration_since(times[first]) >= window {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most
}

/// A window as it is asserted: a small run on a busy machine notes calls later than they came.
fn asserted(window: Duration) -> Duration {
    if is_large() { window } else { window * 7 / 10 }
}

/// What a token endpoint has given, and calls that had none of its tokens.
#[derive(Default)]
struct Tokens {
    given: HashMap<String, Instant>,
    unauthorized: u32,
}

/// Tokens live for a short time, and a worker dies on the way: no row fails for its token, and each process asks once for each end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_end_all_the_time_fail_no_row() {
    let life = Duration::from_secs(if is_large() { 5 } else { 1 });
    let rate = if is_large() { 300 } else { 120 };
    let definition = calling(&format!(
        "    rate: {{ limit: {rate}, period: 1s, burst: 20 }}\n    auth: {{ oauth2: {{ token_url: \"${{INVITE_API_URL}}/token\", grant: client_credentials, client_id: us, client_secret: them }} }}\n"
    ));
    let (receiver, sandbox, place) = scene(&definition).await;
    let tokens = Arc::new(Mutex::new(Tokens::default()));
    let given = tokens.clone();
    receiver.answer_with(move |heard| {
        let mut tokens = given.lock().expect("no test panics here");
        if heard.path == "/token" {
            let token = format!("t{}", tokens.given.len());
            tokens.given.insert(format!("Bearer {token}"), Instant::now());
            let seconds = life.as_secs();
            return Answer::json(format!("{{\"access_token\": \"{token}\", \"expires_in\": {seconds}}}"));
        }
        let known = tokens.given.get(heard.header("authorization"));
        if known.is_some_and(|at| at.elapsed() < life) {
            return status(200, "");
        }
        tokens.unauthorized += 1;
        status(401, "")
    });
    let rows = 200 * size();
    let mut fleet = Fleet::start(&place, &sandbox, if is_large() { 4 } else { 2 });
    let began = Instant::now();
    let id = fleet.upload(ROUTE, ids(rows)).await;
    let third = rows as usize / 3;
    crate::storage::until("a third is done", || async { receiver.heard().len() > third }).await;
    fleet.kill_one();
    let ended = fleet.finished(&id).await;
    let took = began.elapsed();
    assert_eq!(ended["counts"]["completed"], rows, "{ended}");
    let heard = receiver.heard();
    let done = heard.iter().filter(|call| call.path == "/create" && call.status == 200);
    let keys: HashSet<&str> = done.map(|call| call.header("idempotency-key")).collect();
    assert_eq!(keys.len(), rows as usize, "each row by its own key");
    let (given, unauthorized) = {
        let tokens = tokens.lock().expect("no test panics here");
        (tokens.given.len(), tokens.unauthorized)
    };
    // Each process asks when it begins, and at four fifths of each token's life.
    let renewals = took.as_secs_f64() / (life.as_secs_f64() * 0.8);
    let most = (fleet.callers() as f64 + 1.0) * (renewals + 1.0);
    assert!((given as f64) < most + 1.0, "{given} tokens in {took:?}, at most {most}");
    println!("{rows} rows in {took:?}: {given} tokens of {life:?}, {unauthorized} calls answered 401");
}

/// Limits that hold together: no window of any of them is passed, though a worker is killed and Redis loses everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_window_of_stacked_limits_is_passed_by_a_kill_and_a_loss_of_redis() {
    let (limit, period) = if is_large() { (100, 10) } else { (30, 2) };
    let definition = calling(&format!(
        "    rate:\n      - {{ limit: {limit}, period: {period}s, burst: 5, window: sliding }}\n\
        \x20     - {{ limit: 2000, period: 1m, window: calendar }}\n\
        \x20     - {{ limit: 5, period: 1s, per: \"{{{{ row.sender }}}}\" }}\n    concurrency: 3\n"
    ));
    let (receiver, sandbox, mut place) = scene(&definition).await;
    let mut redis = Redis::reserve();
    if place.is_cluster() {
        redis.start(&[]);
        place.set("REDIS_URL", redis.url());
    }
    let busy_for = Duration::from_millis(50);
    receiver.answer(204);
    receiver.answer_after(busy_for);
    let rows = 75 * size().min(16);
    let mut fleet = Fleet::start(&place, &sandbox, if is_large() { 4 } else { 2 });
    let senders = (0..rows).fold("id,sender\n".to_owned(), |csv, id| csv + &format!("r{id},s{}\n", id % 7));
    let id = fleet.upload(ROUTE, senders).await;
    let calls = |at_least: usize| {
        let receiver = &receiver;
        move || async move { receiver.heard().len() > at_least }
    };
    crate::storage::until("a third is done", calls(rows as usize / 3)).await;
    fleet.kill_one();
    if place.is_cluster() {
        redis.stop();
        redis.start(&[]);
    }
    let ended = fleet.finished(&id).await;
    assert_eq!(ended["counts"]["completed"], rows, "{ended}");
    let heard = receiver.heard();
    let all = times(heard.iter());
    let most = most_in_any(&all, asserted(Duration::from_secs(period)));
    assert!(most <= limit, "{most} in a window");
    assert!(most_in_any(&all, Duration::from_secs(60)) <= 2000);
    assert!(most_in_any(&all, busy_for) <= 3, "{} at once", most_in_any(&all, busy_for));
    let mut by_sender: HashMap<String, Vec<&Heard>> = HashMap::new();
    for call in &heard {
        by_sender.entry(call.json()["sender"].to_string()).or_default().push(call);
    }
    for (sender, calls) in by_sender {
        // A burst of one: what leaves a fifth of a second apart arrives so, give or take what a call is on its way.
        let most = most_in_any(&times(calls.into_iter()), asserted(Duration::from_millis(900)));
        assert!(most <= 5, "{sender}: {most}");
    }
    let took =
        all.last().zip(all.first()).map_or(Duration::ZERO, |(last, first)| last.duration_since(*first));
    println!("{} calls for {rows} rows in {took:?}", all.len());
    if is_large() {
        // A sliding window's steady rate is its limit without the burst.
        let steady = f64::from(u32::try_from(limit - 5).expect("a number"));
        let allowed = steady * took.as_secs_f64() / Duration::from_secs(period).as_secs_f64();
        let used = f64::from(u32::try_from(all.len()).expect("a number")) / allowed;
        assert!(used >= 0.97, "{used} of what the tightest limit allows");
    }
}

/// An API with a quota for each window, which only its answers tell.
struct Quota {
    calls: u32,
    window: Duration,
    began: Instant,
    /// Calls in each window, those that were refused too.
    counted: Vec<u32>,
}

impl Quota {
    fn call(&mut self) -> Answer {
        let elapsed = self.began.elapsed();
        let number = usize::try_from(elapsed.as_millis() / self.window.as_millis()).expect("a number");
        self.counted.resize(self.counted.len().max(number + 1), 0);
        self.counted[number] += 1;
        let left = self.calls.saturating_sub(self.counted[number]);
        let reset = self.window.as_secs_f64() - elapsed.as_secs_f64() % self.window.as_secs_f64();
        let headers = format!(
            "x-ratelimit-limit: {}\r\nx-ratelimit-remaining: {left}\r\nx-ratelimit-reset: {reset:.3}\r\n",
            self.calls
        );
        status(if self.counted[number] > self.calls { 429 } else { 200 }, &headers)
    }
}

/// No limit is configured: what the API tells is kept to, so that after a while it refuses nothing and its quota is used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_only_headers_tell_of_is_kept() {
    let (receiver, sandbox, place) = scene(&calling("")).await;
    let (calls, seconds) = if is_large() { (100, 10) } else { (25, 2) };
    let window = Duration::from_secs(seconds);
    let quota = Quota { calls, window, began: Instant::now(), counted: Vec::new() };
    let quota = Arc::new(Mutex::new(quota));
    let asked = quota.clone();
    receiver.answer_with(move |_| asked.lock().expect("no test panics here").call());
    receiver.answer_after(Duration::from_millis(20));
    let rows = if is_large() { 20 * calls } else { 3 * calls };
    let fleet = Fleet::start(&place, &sandbox, if is_large() { 4 } else { 1 });
    let id = fleet.upload(ROUTE, ids(rows)).await;
    let ended = fleet.finished(&id).await;
    assert_eq!(ended["counts"]["completed"], rows, "{ended}");
    let counted = std::mem::take(&mut quota.lock().expect("no test panics here").counted);
    let first = counted.iter().position(|calls| *calls > 0).expect("calls");
    // The first windows tell what there is: the first one, or the first minute of several workers.
    let learned = if is_large() { 60 / usize::try_from(seconds).expect("a number") } else { 1 };
    let later = counted.get(first + learned..).unwrap_or_default();
    assert!(later.iter().all(|of_window| *of_window <= calls), "refused: {counted:?}");
    if is_large() {
        let whole = &later[..later.len().saturating_sub(1)];
        let used: u32 = whole.iter().sum();
        let all = calls * u32::try_from(whole.len()).expect("a number");
        assert!(f64::from(used) >= 0.9 * f64::from(all), "{used} of {all}: {counted:?}");
    }
    println!("{rows} rows over windows of {calls} calls: {counted:?}");
}

/// What an API knows of its jobs: when each was created, how often, and how often it was looked at.
#[derive(Default)]
struct Jobs(HashMap<String, (Instant, u32)>);

/// Results come after different times. Workers are killed meanwhile: each job is created once by its key, and each result is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_that_take_their_time_are_all_read() {
    let (longest, every, rate) = if is_large() { (120_000, "10s", 1000) } else { (2_500, "500ms", 400) };
    let definition = format!(
        "name: calling\ncsv: {{ columns: [ {{ name: id, required: true }} ] }}\n\
        dependencies: {{ api: {{ base_url: \"${{INVITE_API_URL}}\", rate: {{ limit: {rate}, period: 1s, burst: 20 }} }} }}\nsteps:\n\
        \x20 - name: job\n    dependency: api\n\
        \x20   request: {{ method: POST, path: /jobs, json: {{ id: \"{{{{ row.id }}}}\" }}, idempotency_key: true }}\n\
        \x20   poll: {{ until: \"{{{{ body.done }}}}\", path: \"/jobs/{{{{ body.id }}}}\", every: {every}, timeout: 1h }}\n\
        \x20   output: {{ result: \"{{{{ body.result }}}}\" }}\n\
        result: {{ result: \"{{{{ steps.job.result }}}}\" }}\ndispatch: {{ rows_per_owner: 5000, rows_polling_per_owner: 200000, spread: 0s }}\n"
    );
    let (receiver, sandbox, place) = scene(&definition).await;
    let jobs = Arc::new(Mutex::new(Jobs::default()));
    let known = jobs.clone();
    receiver.answer_with(move |heard| {
        let jobs = &mut known.lock().expect("no test panics here").0;
        let Some(id) = heard.path.strip_prefix("/jobs/") else {
            let id = heard.json()["id"].as_str().expect("an id").to_owned();
            // A repeated request with the same key is the same job.
            jobs.entry(id.clone()).or_insert((heard.at, 0));
            return Answer::json(json!({ "id": id, "done": false }).to_string());
        };
        let Some((made_at, looks)) = jobs.get_mut(id) else { return status(404, "") };
        *looks += 1;
        let number: u64 = id.trim_start_matches('r').parse().expect("a number");
        let done = made_at.elapsed() >= Duration::from_millis(number * 7919 % longest);
        Answer::json(json!({ "id": id, "done": done, "result": format!("of {id}") }).to_string())
    });
    let rows = if is_large() { 1000 * size() } else { 200 };
    let mut fleet = Fleet::start(&place, &sandbox, if is_large() { 4 } else { 2 });
    let began = Instant::now();
    let id = fleet.upload(ROUTE, ids(rows)).await;
    for part in 1..=(if is_large() { 4 } else { 1 }) {
        let wanted = rows as usize * part / 5;
        let created = || async { jobs.lock().expect("no test panics here").0.len() > wanted };
        crate::storage::until("a part is created", created).await;
        fleet.kill_one();
    }
    let ended = fleet.finished(&id).await;
    assert_eq!(ended["counts"]["completed"], rows, "{ended}");
    let took = began.elapsed();
    let memory = fleet.most_memory();
    let results = fleet.client().text(&format!("/v2/batches/{id}/results.csv")).await;
    let read = results.lines().skip(1).filter(|line| {
        let row = line.split(',').next().unwrap_or_default();
        line.contains(&format!("of {row}"))
    });
    assert_eq!(read.count(), rows as usize);
    let calls = times(receiver.heard().iter());
    let allowed = usize::try_from(rate + 20).expect("a number");
    let most = most_in_any(&calls, asserted(Duration::from_secs(1)));
    assert!(most <= allowed, "{most} calls in a second");
    assert!(memory < 160, "{memory} MiB");
    println!("{rows} results in {took:?}, {} calls, at most {most} in a second, {memory} MiB", calls.len());
}

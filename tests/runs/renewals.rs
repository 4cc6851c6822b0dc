//! Credentials that are made anew: a token after a 401, a signature for each attempt, a refresh token that is worth one request; and
//! the way to the API that the environment names.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use penstock_sandbox::{Config, Sandbox};
use penstock_tests::receiver::{Answer, Heard, Receiver};
use penstock_tests::{Client, Place};
use ring::hmac;
use serde_json::json;

use crate::large::{Fleet, ids};

const ROUTE: &str = "/v2/pipelines/calling/batches";

/// A pipeline of one call, with these keys of its dependency.
fn calling(dependency: &str, request: &str) -> String {
    format!(
        "name: calling\ncsv: {{ columns: [ {{ name: id, required: true }} ] }}\n\
        dependencies: {{ api: {{ timeout: 5s, {dependency} }} }}\nsteps:\n\
        \x20 - {{ name: create, dependency: api, request: {{ method: POST, json: {{ id: \"{{{{ row.id }}}}\" }}, idempotency_key: true, {request} }} }}\n\
        retry: {{ attempts: 3, backoff: {{ initial: 1100ms, factor: 1, max: 1100ms, jitter: false }} }}\n\
        dispatch: {{ rows_per_owner: 1000, spread: 0s }}\n"
    )
}

const TOKENS: &str = "base_url: \"${INVITE_API_URL}\", rate: { limit: 60, period: 1s, burst: 5 }, auth: { oauth2: { \
    token_url: \"${INVITE_API_URL}/token\", grant: client_credentials, client_id: us, client_secret: them } }";

fn status(status: u16) -> Answer {
    Answer { status, headers: String::new(), body: String::new() }
}

async fn upload(client: &Client, csv: String) -> String {
    let (status, batch) = client.upload(ROUTE, csv).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    batch["id"].as_str().expect("an id").to_owned()
}

/// Which calls were made for each row, by their answers in order.
fn calls(heard: &[Heard]) -> HashMap<String, Vec<u16>> {
    let mut calls = HashMap::<String, Vec<u16>>::new();
    for call in heard.iter().filter(|one| one.path == "/create") {
        calls.entry(call.json()["id"].to_string()).or_default().push(call.status);
    }
    calls
}

/// A token ends before its time: one fresh one for all calls that were refused, and each of them is made once more, without an
/// attempt. When fresh ones are refused as well, no row has more than two calls, and few tokens are asked for.
#[tokio::test]
async fn a_token_that_is_refused_is_replaced_once_and_the_call_made_once_more() {
    const ROWS: usize = 80;
    let receiver = Receiver::start().await;
    // Tokens that were given, and the number of the first that is good.
    let tokens = Arc::new(Mutex::new((0, 0)));
    let known = tokens.clone();
    receiver.answer_with(move |heard| {
        let (given, first_good) = &mut *known.lock().expect("no test panics here");
        if heard.path == "/token" {
            *given += 1;
            return Answer::json(format!("{{\"access_token\": \"t{given}\", \"expires_in\": 3600}}"));
        }
        let token = heard.header("authorization").trim_start_matches("Bearer t").parse::<u32>();
        if token.is_ok_and(|token| token >= *first_good) {
            return Answer::json("{}");
        }
        Answer { status: 401, ..Answer::json("{\"error\": \"token_revoked\", \"message\": \"Ask again.\"}") }
    });
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("calling.yaml", &calling(TOKENS, "path: /create"))]);
    place.set("INVITE_API_URL", receiver.url.clone());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let id = upload(&client, ids(80)).await;
    crate::storage::until("it is called", || async { calls(&receiver.heard()).len() > 20 }).await;
    tokens.lock().expect("no test panics here").1 = 2;
    let ended = client.finished(&id).await;
    assert_eq!(ended["counts"]["completed"], ROWS, "{ended}");
    assert_eq!(tokens.lock().expect("no test panics here").0, 2, "one fresh token for all");
    let calls_of = calls(&receiver.heard());
    let refused: Vec<&Vec<u16>> = calls_of.values().filter(|answers| answers[0] == 401).collect();
    assert!(!refused.is_empty() && refused.iter().all(|answers| **answers == [401, 200]), "{refused:?}");
    assert!(calls_of.values().all(|answers| answers.len() <= 2), "{calls_of:?}");
    let rows = client.get(&format!("/v2/batches/{id}/rows?limit=100")).await;
    assert!(rows["data"].as_array().expect("rows").iter().all(|row| row["attempts"] == 1), "{rows}");

    // No token is good any more.
    tokens.lock().expect("no test panics here").1 = u32::MAX;
    let before = receiver.heard().len();
    let id = upload(&client, ids(30)).await;
    let ended = client.finished(&id).await;
    assert_eq!(ended["counts"]["failed"], 30, "{ended}");
    let calls_of = calls(&receiver.heard()[before..]);
    assert!(calls_of.values().all(|answers| answers.len() <= 2), "{calls_of:?}");
    let asked = tokens.lock().expect("no test panics here").0 - 2;
    assert!((1..=2).contains(&asked), "{asked} tokens for 30 rows that are all refused");
    let row = client.get(&format!("/v2/batches/{id}/rows/30")).await;
    let error = &row["error"];
    assert_eq!(
        (&row["attempts"], &error["code"], &error["message"], &error["http_status"]),
        (&json!(1), &json!("token_revoked"), &json!("Ask again."), &json!(401)),
        "{row}"
    );
    service.terminate();
}

/// The first attempt of each row fails. Each attempt has a signature of its own, of exactly what was sent, with its own time.
#[tokio::test]
async fn each_attempt_is_signed_anew_with_every_algorithm() {
    let receiver = Receiver::start().await;
    let tried = Mutex::new(HashSet::new());
    receiver.answer_with(move |heard| {
        let mut tried = tried.lock().expect("no test panics here");
        if tried.insert(format!("{} {}", heard.path, heard.body)) { status(503) } else { Answer::json("{}") }
    });
    let signed = |algorithm: &str, encoding: &str| {
        let auth = format!(
            "base_url: \"${{INVITE_API_URL}}/v1\", auth: {{ hmac: {{ secret: \"${{SIGNING}}\", algorithm: {algorithm}, \
             message: \"{{{{ request.timestamp }}}}.{{{{ request.method }}}}.{{{{ request.path }}}}.{{{{ request.query }}}}.{{{{ request.headers['x-row'] }}}}.{{{{ request.body }}}}\", \
             headers: {{ X-Time: \"{{{{ request.timestamp }}}}\", X-Sign: \"v1={{{{ signature | {encoding} }}}}\" }} }} }}"
        );
        let request =
            "path: \"/{{ row.id }}\", query: { q: \"a b&c\" }, headers: { X-Row: \"{{ row_number }}\" }";
        calling(&auth, request)
            .replace("name: calling", &format!("name: {algorithm}"))
            .replace("api", &format!("api-{algorithm}"))
    };
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let kinds = [("sha1", "hex"), ("sha512", "base64"), ("sha256", "hex")];
    let files = kinds.map(|(algorithm, encoding)| signed(algorithm, encoding));
    let mut place = Place::new(&[("a.yaml", &files[0]), ("b.yaml", &files[1]), ("c.yaml", &files[2])]);
    place.set("INVITE_API_URL", receiver.url.clone());
    place.set("SIGNING", "k€y".into());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    for (name, _) in kinds {
        let csv = format!("id\n{name}-1\n{name}-2\n");
        let (_, batch) =
            client.upload(&format!("/v2/pipelines/{name}/batches"), csv).await.expect("an answer");
        let ended = client.finished(batch["id"].as_str().expect("an id")).await;
        assert_eq!(ended["counts"]["completed"], 2, "{ended}");
    }
    let mut times = BTreeMap::<String, Vec<i64>>::new();
    for call in receiver.heard() {
        let (path, query) = call.path.split_once('?').expect("a query");
        let (time, row) = (call.header("x-time"), call.header("x-row"));
        let message = format!("{time}.POST.{path}.{query}.{row}.{}", call.body);
        let algorithm = match path.trim_start_matches("/v1/").split('-').next() {
            Some("sha1") => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Some("sha512") => hmac::HMAC_SHA512,
            _ => hmac::HMAC_SHA256,
        };
        let signature = call.header("x-sign").strip_prefix("v1=").expect("a signature");
        let bytes = if path.contains("sha512") {
            BASE64_STANDARD.decode(signature).expect("base64")
        } else {
            let digit = |at: usize| u8::from_str_radix(&signature[at..at + 2], 16).expect("digits");
            (0..signature.len()).step_by(2).map(digit).collect()
        };
        let key = hmac::Key::new(algorithm, "k€y".as_bytes());
        assert!(hmac::verify(&key, message.as_bytes(), &bytes).is_ok(), "{call:?}");
        times.entry(path.to_owned()).or_default().push(time.parse().expect("seconds"));
    }
    assert_eq!(times.len(), 6, "{times:?}");
    for (path, times) in times {
        assert!(times.len() == 2 && times[1] > times[0], "{path}: {times:?}");
    }
    service.terminate();
}

/// An endpoint that takes each refresh token once, and whose new access token ends the one before.
struct Rotating {
    refresh: String,
    access: String,
    renewals: u32,
    /// Requests with a refresh token that was used before.
    reused: Vec<String>,
}

impl Rotating {
    fn answer(&mut self, heard: &Heard) -> Answer {
        if heard.path != "/token" {
            let good = heard.header("authorization") == format!("Bearer {}", self.access);
            return status(if good { 200 } else { 401 });
        }
        if !heard.body.contains(&format!("refresh_token={}&", self.refresh)) {
            self.reused.push(heard.body.clone());
            return Answer { status: 400, ..Answer::json("{\"error\": \"invalid_grant\"}") };
        }
        self.renewals += 1;
        (self.refresh, self.access) =
            (format!("refresh-{}", self.renewals), format!("access-{}", self.renewals));
        Answer::json(
            json!({ "access_token": self.access, "expires_in": 2, "refresh_token": self.refresh })
                .to_string(),
        )
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_token_that_is_worth_one_request_serves_all_workers() {
    const ROWS: u32 = 240;
    let receiver = Receiver::start().await;
    let first =
        Rotating { refresh: "refresh-0".into(), access: "none".into(), renewals: 0, reused: Vec::new() };
    let endpoint = Arc::new(Mutex::new(first));
    let shared = endpoint.clone();
    receiver.answer_with(move |heard| shared.lock().expect("no test panics here").answer(heard));
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let definition = calling(
        "base_url: \"${INVITE_API_URL}\", rate: { limit: 40, period: 1s, burst: 5 }, auth: { oauth2: { \
         token_url: \"${INVITE_API_URL}/token\", grant: refresh_token, client_id: us, refresh_token: refresh-0 } }",
        "path: /create",
    );
    let mut place = Place::new(&[("calling.yaml", &definition)]);
    place.set("INVITE_API_URL", receiver.url.clone());
    let fleet = Fleet::start(&place, &sandbox, 3);
    let id = fleet.upload(ROUTE, ids(ROWS)).await;
    let ended = fleet.finished(&id).await;
    assert_eq!(ended["counts"]["completed"], ROWS, "{ended}");
    {
        let endpoint = endpoint.lock().expect("no test panics here");
        assert_eq!(endpoint.reused, Vec::<String>::new(), "after {} renewals", endpoint.renewals);
        assert!(endpoint.renewals >= 2, "{} renewals", endpoint.renewals);
    }
    // Calls that were under way at a renewal were made again, and no row lost an attempt.
    let rows = fleet.client().get(&format!("/v2/batches/{id}/rows?limit=1000")).await;
    let attempts = rows["data"].as_array().expect("rows").iter().filter(|row| row["attempts"] != 1).count();
    assert_eq!(attempts, 0, "{attempts} rows were tried again");
}

/// `proxy: environment` heeds HTTP_PROXY and NO_PROXY; without `proxy` none is used, whatever the environment says.
#[tokio::test]
async fn the_proxy_of_the_environment_is_used_where_a_definition_says_so() {
    let (proxy, api) = (Receiver::start().await, Receiver::start().await);
    proxy.answer_with(|heard| {
        Answer::json(format!(
            "{{\"by\": \"{}\"}}",
            if heard.path.starts_with("http://far.invalid/") { "proxy" } else { "?" }
        ))
    });
    api.answer_with(|_| Answer::json("{\"by\": \"itself\"}"));
    let port = api.url.rsplit(':').next().expect("a port").to_owned();
    let step = |name: &str| {
        format!(
            "  - {{ name: {name}, dependency: {name}, request: {{ method: PUT, path: \"/{name}/{{{{ row.id }}}}\" }}, output: {{ by: \"{{{{ body.by }}}}\" }} }}\n"
        )
    };
    let definition = format!(
        "name: calling\ncsv: {{ columns: [ {{ name: id, required: true }} ] }}\ndependencies:\n\
        \x20 far: {{ base_url: \"http://far.invalid/v1\", proxy: environment }}\n\
        \x20 near: {{ base_url: \"http://127.0.0.1:{port}\", proxy: environment }}\n\
        \x20 unsaid: {{ base_url: \"http://localhost:{port}\" }}\nsteps:\n{}{}{}\
        result: {{ far: \"{{{{ steps.far.by }}}}\", near: \"{{{{ steps.near.by }}}}\", unsaid: \"{{{{ steps.unsaid.by }}}}\" }}\n\
        retry: {{ attempts: 1 }}\ndispatch: {{ spread: 0s }}\n",
        step("far"),
        step("near"),
        step("unsaid"),
    );
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("calling.yaml", &definition)]);
    let key = place.key(&sandbox, "acme");
    place.set("HTTP_PROXY", proxy.url.replace("http://", "http://someone:pr0xy%20password@"));
    place.set("NO_PROXY", "127.0.0.1".into());
    place.set("RUST_LOG", "trace".into());
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let id = upload(&client, "id\n1\n2\n".to_owned()).await;
    let ended = client.finished(&id).await;
    assert_eq!(ended["counts"]["completed"], 2, "{ended}");
    let row = client.get(&format!("/v2/batches/{id}/rows/1")).await;
    assert_eq!(row["result"], json!({ "far": "proxy", "near": "itself", "unsaid": "itself" }), "{row}");
    let mut asked: Vec<String> = proxy.heard().into_iter().map(|heard| heard.path).collect();
    asked.sort();
    assert_eq!(asked, ["http://far.invalid/v1/far/1", "http://far.invalid/v1/far/2"]);
    // `someone:pr0xy password`
    let shown = "Basic c29tZW9uZTpwcjB4eSBwYXNzd29yZA==";
    assert!(proxy.heard().iter().all(|heard| heard.header("proxy-authorization") == shown));
    assert!(api.heard().iter().all(|heard| heard.header("proxy-authorization").is_empty()));
    service.terminate();
    for secret in ["pr0xy", "c29tZW9uZTpwcjB4eSBwYXNzd29yZA"] {
        assert_eq!(place.files_with(secret.as_bytes()), Vec::<std::path::PathBuf>::new(), "{secret}");
    }
}

//! Credentials that change under way: tokens that end, files that are replaced, refresh tokens that are used once, values of each
//! owner. Nothing of them is found anywhere.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::database::Database;
use penstock_tests::receiver::{Answer, Heard, Receiver};
use penstock_tests::{Client, PATIENCE, Place};
use serde_json::{Value, json};

/// In every secret.
const MARKER: &str = "Zq9marker";

const ROUTE: &str = "/v2/pipelines/calling/batches";

fn ids(rows: u32) -> String {
    (0..rows).fold("id\n".to_owned(), |csv, id| csv + &format!("a{id}\n"))
}

/// A pipeline of one keyed step, with these keys of its dependency.
fn calling(dependency: &str) -> String {
    format!(
        "name: calling\ncsv: {{ columns: [ {{ name: id, required: true }} ] }}\n\
        dependencies: {{ api: {{ timeout: 5s, {dependency} }} }}\nsteps:\n\
        \x20 - {{ name: create, dependency: api, request: {{ method: POST, path: /create, json: {{ id: \"{{{{ row.id }}}}\" }}, idempotency_key: true }} }}\n\
        dispatch: {{ rows_per_owner: 1000, spread: 0s }}\n"
    )
}

fn status(status: u16) -> Answer {
    Answer { status, headers: String::new(), body: String::new() }
}

/// What the database has of the marker in the clear.
async fn leaks(place: &Place) -> Vec<String> {
    let contents = Database::of(place).await.contents().await;
    contents.into_iter().filter(|line| line.contains(MARKER)).collect()
}

/// Calls that were answered 200, and the rows that they were for.
fn effects(receiver: &Receiver) -> (usize, HashSet<String>) {
    let heard = receiver.heard();
    let calls: Vec<&Heard> = heard.iter().filter(|one| one.path == "/create" && one.status == 200).collect();
    (calls.len(), calls.iter().map(|one| one.header("idempotency-key").to_owned()).collect())
}

/// Tokens of an endpoint that live for a while, and the calls that were answered 401.
#[derive(Default)]
struct Tokens {
    given: Vec<(String, Instant)>,
    unauthorized: u32,
}

const LIFE: Duration = Duration::from_millis(1000);

#[tokio::test]
async fn tokens_that_live_a_second_outlast_a_batch_and_a_killed_worker() {
    let receiver = Receiver::start().await;
    let tokens = Arc::new(Mutex::new(Tokens::default()));
    let given = tokens.clone();
    receiver.answer_with(move |heard| {
        let mut tokens = given.lock().expect("no test panics here");
        if heard.path == "/token" {
            let number = tokens.given.len();
            let token = format!("{MARKER}token{number}");
            tokens.given.push((format!("Bearer {token}"), Instant::now()));
            return Answer::json(format!(
                "{{\"access_token\": \"{token}\", \"token_type\": \"bearer\", \"expires_in\": 1}}"
            ));
        }
        let known = tokens.given.iter().find(|(token, _)| token == heard.header("authorization"));
        if known.is_some_and(|(_, at)| at.elapsed() < LIFE) {
            return status(200);
        }
        tokens.unauthorized += 1;
        status(401)
    });
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let definition = calling(
        "base_url: \"${INVITE_API_URL}\", rate: { limit: 60, period: 1s, burst: 5 }, auth: { oauth2: { \
         token_url: \"${INVITE_API_URL}/token\", grant: client_credentials, client_id: \"the client\", client_secret: \"${CRM_SECRET}\" } }",
    );
    let mut place = Place::new(&[("calling.yaml", &definition)]);
    place.set("INVITE_API_URL", receiver.url.clone());
    place.set("CRM_SECRET", format!("{MARKER}secret/+"));
    place.set("RUST_LOG", "trace".into());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let (accepted, batch) = Client::new(&service, &key).upload(ROUTE, ids(240)).await.expect("an answer");
    assert_eq!(accepted, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id").to_owned();
    crate::storage::until("it is called", || async { effects(&receiver).0 > 80 }).await;
    service.kill();
    let began = Instant::now();
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let ended = client.finished(&id).await;
    assert_eq!(ended["counts"]["completed"], 240, "{ended}");
    assert_eq!(effects(&receiver).1.len(), 240, "each row once, by its key");
    let given = tokens.lock().expect("no test panics here").given.len();
    // Renewed at four fifths of a second: in the two lives of the service.
    let lives = began.elapsed().as_secs() + 8;
    assert!(given as u64 <= 2 * lives, "{given} tokens in {lives} s");
    let asked = receiver.heard().into_iter().find(|heard| heard.path == "/token").expect("a request");
    // `the client` and the secret, encoded as in a form before they are put together (RFC 6749, 2.3.1).
    assert_eq!(asked.header("authorization"), "Basic dGhlK2NsaWVudDpacTltYXJrZXJzZWNyZXQlMkYlMkI=");
    assert_eq!(asked.body, "grant_type=client_credentials");
    service.terminate();
    assert_eq!(place.files_with(MARKER.as_bytes()), Vec::<std::path::PathBuf>::new());
    assert_eq!(leaks(&place).await, Vec::<String>::new());
}

/// Each refresh token is taken once. A second service finds the one that the first was given last.
#[tokio::test]
async fn a_refresh_token_that_is_replaced_outlasts_the_service() {
    let receiver = Receiver::start().await;
    let refresh = Arc::new(Mutex::new((format!("{MARKER}refresh0"), 0)));
    let valid = refresh.clone();
    receiver.answer_with(move |heard| {
        let mut valid = valid.lock().expect("no test panics here");
        if heard.path != "/token" {
            let good = heard.header("authorization") == format!("Bearer {MARKER}access{}", valid.1);
            return status(if good { 200 } else { 401 });
        }
        if heard.body != format!("grant_type=refresh_token&refresh_token={}&client_id=me", valid.0) {
            return Answer { status: 400, ..Answer::json("{\"error\": \"invalid_grant\"}") };
        }
        valid.1 += 1;
        valid.0 = format!("{MARKER}refresh{}", valid.1);
        Answer::json(format!(
            "{{\"access_token\": \"{MARKER}access{}\", \"expires_in\": 1, \"refresh_token\": \"{}\"}}",
            valid.1, valid.0
        ))
    });
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let definition = calling(
        "base_url: \"${INVITE_API_URL}\", rate: { limit: 40, period: 1s }, auth: { oauth2: { \
         token_url: \"${INVITE_API_URL}/token\", grant: refresh_token, client_id: me, refresh_token: \"${CRM_REFRESH}\" } }",
    );
    let mut place = Place::new(&[("calling.yaml", &definition)]);
    place.set("INVITE_API_URL", receiver.url.clone());
    place.set("CRM_REFRESH", format!("{MARKER}refresh0"));
    place.set("RUST_LOG", "trace".into());
    let key = place.key(&sandbox, "acme");
    for life in 0..2 {
        let service = place.start(&sandbox, None);
        let client = Client::new(&service, &key);
        let (accepted, batch) = client.upload(ROUTE, ids(60)).await.expect("an answer");
        assert_eq!(accepted, 202, "{batch}");
        let ended = client.finished(batch["id"].as_str().expect("an id")).await;
        assert_eq!(ended["counts"]["completed"], 60, "service {life}: {ended}");
        service.terminate();
    }
    assert!(refresh.lock().expect("no test panics here").1 >= 2);
    assert_eq!(place.files_with(MARKER.as_bytes()), Vec::<std::path::PathBuf>::new());
    assert_eq!(leaks(&place).await, Vec::<String>::new());
}

/// Two pipelines call one API for two accounts: the same client, another refresh token each.
#[tokio::test]
async fn refresh_tokens_of_one_client_have_tokens_of_their_own() {
    let receiver = Receiver::start().await;
    receiver.answer_with(|heard| match heard.path.as_str() {
        "/token" => {
            let account = heard.body.split_once("refresh_token=of-").map_or("?", |(_, rest)| &rest[..3]);
            Answer::json(format!("{{\"access_token\": \"access-{account}\", \"expires_in\": 3600}}"))
        }
        path => status(if heard.header("authorization") == format!("Bearer access-{}", &path[1..]) {
            200
        } else {
            401
        }),
    });
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let definition = |account: &str| {
        let dependency = format!(
            "base_url: \"${{INVITE_API_URL}}\", auth: {{ oauth2: {{ token_url: \"${{INVITE_API_URL}}/token\", \
             grant: refresh_token, client_id: me, refresh_token: \"${{REFRESH_{account}}}\" }} }}"
        );
        let path = format!("/{}", account.to_lowercase());
        calling(&dependency)
            .replace("name: calling", &format!("name: calling-{}", account.to_lowercase()))
            .replace("/create", &path)
    };
    let mut place = Place::new(&[("one.yaml", &definition("ONE")), ("two.yaml", &definition("TWO"))]);
    place.set("INVITE_API_URL", receiver.url.clone());
    place.set("REFRESH_ONE", "of-one-account".into());
    place.set("REFRESH_TWO", "of-two-account".into());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    for account in ["one", "two"] {
        let (accepted, batch) = client
            .upload(&format!("/v2/pipelines/calling-{account}/batches"), ids(3))
            .await
            .expect("an answer");
        assert_eq!(accepted, 202, "{batch}");
        let ended = client.finished(batch["id"].as_str().expect("an id")).await;
        assert_eq!(ended["counts"]["completed"], 3, "{account}: {ended}");
    }
    assert!(
        receiver.heard().iter().all(|heard| heard.status == 200),
        "nobody was called with another one's token"
    );
}

#[tokio::test]
async fn a_token_in_a_file_is_replaced_while_rows_are_called_for() {
    let receiver = Receiver::start().await;
    let valid = Arc::new(Mutex::new(vec!["one"]));
    let accepted = valid.clone();
    receiver.answer_with(move |heard| {
        let valid = accepted.lock().expect("no test panics here");
        let good = valid.iter().any(|token| heard.header("x-token") == *token);
        status(if good { 200 } else { 401 })
    });
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    // Beside the folder of the definitions.
    let definition = calling(
        "base_url: \"${INVITE_API_URL}\", rate: { limit: 50, period: 1s }, \
         auth: { api_key: { header: X-Token, value: \"${file:../token}\" } }",
    );
    let mut place = Place::new(&[("calling.yaml", &definition)]);
    place.set("INVITE_API_URL", receiver.url.clone());
    place.write("token", "one\n");
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (_, batch) = client.upload(ROUTE, ids(5000)).await.expect("an answer");
    let path = format!("/v2/batches/{}", batch["id"].as_str().expect("an id"));
    crate::storage::until("it is called", || async { effects(&receiver).0 > 20 }).await;
    // While tokens are replaced the old one is valid too: a call that waits for its moment has it already.
    valid.lock().expect("no test panics here").push("two");
    let file = place.write("token.new", "two\n");
    std::fs::rename(&file, file.trim_end_matches(".new")).expect("a file");
    let is_replaced = || async {
        let heard = receiver.heard();
        heard.len() > 20 && heard[heard.len() - 20..].iter().all(|heard| heard.header("x-token") == "two")
    };
    crate::storage::until("all calls have the new token", is_replaced).await;
    let (_, cancelled) = client.post(&format!("{path}/cancel"), &json!({})).await;
    assert_eq!(cancelled["counts"]["failed"], 0, "{cancelled}");
    service.terminate();
}

/// Each owner is called for at its own address, with its own secret; who lacks one waits, and nobody is called elsewhere.
#[tokio::test]
async fn each_owner_has_its_own_address_and_secret() {
    let receiver = Receiver::start().await;
    receiver.answer(200);
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let port = receiver.url.rsplit(':').next().expect("a port").to_owned();
    let definition = calling(
        "base_url: \"http://{{ owner.vars.shop }}:${SHOP_PORT}\", hosts: [localhost, \"127.0.0.1\"], \
         headers: { X-Owner: \"{{ owner.name }}\" }, auth: { bearer: \"{{ owner.secrets.token }}\" }",
    );
    let mut place = Place::new(&[("calling.yaml", &definition)]);
    place.set("SHOP_PORT", port);
    place.set("RUST_LOG", "trace".into());
    let token = |owner: &str| format!("token={MARKER}{owner}");
    let set = |args: &[&str]| {
        let (said, good) = place.operate(&sandbox, &[&["owners", "set"], args].concat());
        assert!(good && !said.to_string().contains(MARKER), "{said}");
    };
    // Nothing is there yet: this command begins the installation.
    set(&["acme", "--var", "shop=localhost", "--secret", &token("acme")]);
    let keys = ["acme", "rival", "evil"].map(|owner| place.key(&sandbox, owner));
    set(&["evil", "--var", "shop=x@elsewhere.example/", "--secret", &token("evil")]);
    let service = place.start(&sandbox, None);
    let mut batches = Vec::new();
    for key in &keys {
        let client = Client::new(&service, key);
        let (_, batch) = client.upload(ROUTE, ids(5)).await.expect("an answer");
        batches.push((client, batch["id"].as_str().expect("an id").to_owned()));
    }
    let ended = batches[0].0.finished(&batches[0].1).await;
    assert_eq!(ended["counts"]["completed"], 5, "{ended}");
    let waits = async |at: usize| {
        let (client, id) = &batches[at];
        let began = Instant::now();
        loop {
            let waiting: Value = client.get(&format!("/v2/batches/{id}/waiting")).await;
            let found = waiting["data"]
                .as_array()
                .expect("waits")
                .iter()
                .find(|wait| wait["reason"] == "unprocessable");
            if let Some(wait) = found {
                return wait["sentence"].to_string();
            }
            assert!(began.elapsed() < PATIENCE, "{waiting}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let lacking = waits(1).await;
    assert!(lacking.contains("penstock owners set rival --secret token=…"), "{lacking}");
    let elsewhere = waits(2).await;
    assert!(elsewhere.contains("nobody was called"), "{elsewhere}");
    set(&["rival", "--var", "shop=127.0.0.1", "--secret", &token("rival")]);
    let ended = batches[1].0.finished(&batches[1].1).await;
    assert_eq!(ended["counts"]["completed"], 5, "{ended}");
    for heard in receiver.heard() {
        let owner = heard.header("x-owner").to_owned();
        let shop = if owner == "acme" { "localhost:" } else { "127.0.0.1:" };
        assert!(heard.header("host").starts_with(shop), "{heard:?}");
        assert_eq!(heard.header("authorization"), format!("Bearer {MARKER}{owner}"));
    }
    let (values, _) = place.operate(&sandbox, &["owners", "values", "acme"]);
    assert!(values.to_string().contains("shop") && !values.to_string().contains(MARKER), "{values}");
    service.terminate();
    assert_eq!(place.files_with(MARKER.as_bytes()), Vec::<std::path::PathBuf>::new());
    assert_eq!(leaks(&place).await, Vec::<String>::new());
}

/// An endpoint that refuses holds the batch with its own words; after `resume` it is asked again. One that fails makes rows wait.
#[tokio::test]
async fn an_endpoint_that_refuses_holds_and_one_that_fails_makes_rows_wait() {
    let receiver = Receiver::start().await;
    let mode = Arc::new(Mutex::new("fails"));
    let now = mode.clone();
    receiver.answer_with(move |heard| match (heard.path.as_str(), *now.lock().expect("no test panics here")) {
        ("/token", "fails") => status(503),
        ("/token", "refuses") => {
            let body = "{\"error\": \"invalid_client\", \"error_description\": \"The client was disabled on Monday.\"}";
            Answer { status: 401, ..Answer::json(body) }
        }
        ("/token", _) => Answer::json("{\"access_token\": \"t\"}"),
        _ => status(if heard.header("authorization") == "Bearer t" { 200 } else { 401 }),
    });
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let definition = calling(
        "base_url: \"${INVITE_API_URL}\", auth: { oauth2: { token_url: \"${INVITE_API_URL}/token\", \
         grant: client_credentials, client_id: me, client_secret: s3cret, client_auth: body, scope: \"a b\" } }",
    );
    let mut place = Place::new(&[("calling.yaml", &definition)]);
    place.set("INVITE_API_URL", receiver.url.clone());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (_, batch) = client.upload(ROUTE, ids(20)).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    let path = format!("/v2/batches/{id}");
    receiver.until(|heard| heard.path == "/token").await;
    *mode.lock().expect("no test panics here") = "refuses";
    crate::storage::until("the batch is held", || async { client.get(&path).await["held"] == true }).await;
    let held = client.get(&path).await;
    assert_eq!(held["hold"]["code"], "invalid_client", "{held}");
    assert_eq!(held["hold"]["reason"], "The client was disabled on Monday.", "{held}");
    let knocks = || receiver.heard().iter().filter(|heard| heard.path == "/token").count();
    assert!(knocks() <= 12, "{} requests for a token", knocks());
    *mode.lock().expect("no test panics here") = "works";
    let (resumed, _) = client.post(&format!("{path}/resume"), &serde_json::json!({})).await;
    assert_eq!(resumed, 200);
    let ended = client.finished(&id).await;
    assert_eq!(ended["counts"]["completed"], 20, "{ended}");
    let body = "grant_type=client_credentials&scope=a+b&client_id=me&client_secret=s3cret";
    assert!(receiver.heard().iter().any(|heard| heard.body == body), "as a form");
}

/// What keeps a signature from being made is why rows wait: it is said, nobody is called, and no attempt is lost.
#[tokio::test]
async fn rows_wait_for_a_signature_that_cannot_be_made() {
    let receiver = Receiver::start().await;
    receiver.answer(200);
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let definition = calling(
        "base_url: \"${INVITE_API_URL}\", auth: { hmac: { secret: \"{{ '${SIGNING_KEY}' | base64decode }}\", algorithm: sha256, \
         message: \"{{ request.body }}\", headers: { X-Signature: \"{{ signature | base64 }}\" } } }",
    );
    let mut place = Place::new(&[("calling.yaml", &definition)]);
    place.set("INVITE_API_URL", receiver.url.clone());
    place.set("SIGNING_KEY", "*".into());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (_, batch) = client.upload(ROUTE, ids(5)).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    let path = format!("/v2/batches/{id}/waiting");
    let is_reported = || async {
        let waiting = client.get(&path).await;
        let waits = waiting["data"].as_array().expect("waits").clone();
        waits.iter().any(|wait| {
            wait["reason"] == "credentials_unavailable"
                && wait["sentence"].as_str().is_some_and(|sentence| sentence.contains("cannot be computed"))
        })
    };
    crate::storage::until("it is told what rows wait for", is_reported).await;
    assert!(receiver.heard().is_empty());
    drop(service);
    place.set("SIGNING_KEY", "/wA=".into());
    let service = place.start(&sandbox, None);
    let ended = Client::new(&service, &key).finished(&id).await;
    assert_eq!(ended["counts"]["completed"], 5, "{ended}");
}

//! Credentials of every kind, in use, refused, and quoted by whoever was sent them, are found nowhere: not in logs at any level, not in
//! metrics or traces, in the database or in Redis, and not in what clients and operators are shown. The same of what is made of them:
//! tokens, assertions, signatures and the headers that carry them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::database::Database;
use penstock_tests::receiver::{Answer, Heard, Receiver};
use penstock_tests::{Client, Place};
use serde_json::json;

use crate::storage::until;

/// In every secret.
const MARKER: &str = "Zq5secret";

/// Ways to show who calls, each a dependency of its own.
const KINDS: [(&str, &str); 9] = [
    ("basic", "basic: { username: someone, password: \"${PASSWORD}\" }"),
    ("bearer", "bearer: \"${BEARER}\""),
    ("header", "api_key: { header: X-Api-Key, value: \"${KEY}\" }"),
    ("query", "api_key: { query: key, value: \"${KEY}\" }"),
    (
        "client",
        "oauth2: { token_url: \"${INVITE_API_URL}/token/client\", grant: client_credentials, client_id: us, client_secret: \"${CLIENT}\" }",
    ),
    (
        "assertion",
        "oauth2: { token_url: \"${INVITE_API_URL}/token/assertion\", grant: jwt_bearer, jwt: { issuer: us, audience: them, key: \"${PRIVATE}\", algorithm: ES256 } }",
    ),
    (
        "refresh",
        "oauth2: { token_url: \"${INVITE_API_URL}/token/refresh\", grant: refresh_token, client_id: us, refresh_token: \"${REFRESH}\" }",
    ),
    (
        "hmac",
        "hmac: { secret: \"${HMAC}\", algorithm: sha256, message: \"{{ request.method }} {{ request.body }}\", headers: { X-Signature: \"{{ signature | hex }}\" } }",
    ),
    (
        "sigv4",
        "aws_sigv4: { service: ses, region: eu-west-1, access_key_id: \"${SES_ID}\", secret_access_key: \"${SES_SECRET}\", session_token: \"${SES_SESSION}\" }",
    ),
];

/// A step for each kind, for rows of that kind.
fn definition() -> String {
    let mut text =
        "name: calling\ncsv: { columns: [ { name: kind, required: true }, { name: fails } ] }\ndependencies:\n".to_owned();
    for (name, auth) in KINDS {
        text += &format!("  {name}: {{ base_url: \"${{INVITE_API_URL}}\", auth: {{ {auth} }} }}\n");
    }
    text += "steps:\n";
    for (name, _) in KINDS {
        text += &format!(
            "  - {{ name: {name}, dependency: {name}, when: \"{{{{ row.kind == '{name}' }}}}\", \
             request: {{ method: POST, path: /{name}, json: {{ fails: \"{{{{ row.fails }}}}\" }}, idempotent: true }} }}\n"
        );
    }
    text + "retry: { attempts: 2, backoff: { initial: 50ms, factor: 1, max: 50ms } }\ndispatch: { spread: 0s }\n"
}

/// Quotes everything that it was sent.
fn quoted(status: u16, heard: &Heard) -> Answer {
    let sent =
        ["authorization", "x-signature", "x-api-key", "x-amz-security-token"].map(|name| heard.header(name));
    let words = format!("no: {} {} {}", sent.join(" "), heard.path, heard.body);
    let body =
        json!({ "error": "not_you", "error_description": words, "headers": format!("{:?}", heard.headers) });
    Answer { status, ..Answer::json(body.to_string()) }
}

/// What Redis holds of these, where there is one.
fn in_redis(place: &Place, needles: &BTreeSet<String>) -> Vec<String> {
    let Some(url) = place.variable("REDIS_URL") else { return Vec::new() };
    let contents = penstock_tests::redis::contents(url);
    let contents = String::from_utf8_lossy(&contents);
    let is_there = |needle: &&String| contents.contains(needle.as_str());
    needles.iter().filter(is_there).cloned().collect()
}

/// What was sent to the API and its token endpoints: credentials, and what was made of them.
fn sent(receiver: &Receiver) -> BTreeSet<String> {
    let mut sent = BTreeSet::from([MARKER.to_owned()]);
    for heard in receiver.heard() {
        for name in ["authorization", "x-signature", "x-api-key"] {
            let value = heard.header(name);
            let value = value.rsplit([' ', '=']).next().unwrap_or(value);
            sent.extend((value.len() > 8).then(|| value.to_owned()));
        }
        let assertion = heard.body.split("assertion=").nth(1).and_then(|rest| rest.split('&').next());
        // Its head is anybody's.
        sent.extend(assertion.and_then(|all| all.split_once('.')).map(|(_, signed)| signed.to_owned()));
    }
    sent
}

struct Scene {
    receiver: Receiver,
    hook: Receiver,
    collector: Receiver,
    sandbox: Sandbox,
    place: Place,
    /// Whether token endpoints refuse.
    refuses: Arc<AtomicBool>,
    /// A line of the private key.
    private: String,
}

impl Scene {
    async fn new() -> Self {
        let (receiver, hook, collector) =
            (Receiver::start().await, Receiver::start().await, Receiver::start().await);
        let (refuses, given) = (Arc::new(AtomicBool::new(false)), AtomicU32::new(0));
        let is_refused = refuses.clone();
        receiver.answer_with(move |heard| match heard.path.strip_prefix("/token/") {
            Some(_) if is_refused.load(Ordering::SeqCst) => quoted(400, heard),
            Some(kind) => {
                let number = given.fetch_add(1, Ordering::SeqCst);
                let token = |what: &str| format!("{MARKER}-{what}-{kind}-{number}");
                let tokens = json!({ "access_token": token("access"), "refresh_token": token("refresh"), "expires_in": 3600 });
                Answer::json(tokens.to_string())
            }
            None if heard.body.contains("yes") => quoted(422, heard),
            None => Answer::json("{}"),
        });
        collector.answer(200);
        let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
        let mut place = Place::new(&[("calling.yaml", &definition())]);
        place.set("INVITE_API_URL", receiver.url.clone());
        for name in
            ["PASSWORD", "BEARER", "KEY", "CLIENT", "REFRESH", "HMAC", "SES_ID", "SES_SECRET", "SES_SESSION"]
        {
            place.set(name, format!("{MARKER}{name}"));
        }
        let pem = rcgen::KeyPair::generate().expect("a key").serialize_pem();
        let private = pem.lines().nth(1).expect("a line").to_owned();
        place.set("PRIVATE", pem);
        place.set("RUST_LOG", "trace".into());
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()),
            ("OTEL_METRIC_EXPORT_INTERVAL", "500"),
            ("OTEL_BSP_SCHEDULE_DELAY", "200"),
        ] {
            place.set(name, value.to_owned());
        }
        Self { receiver, hook, collector, sandbox, place, refuses, private }
    }

    async fn upload(&self, client: &Client, csv: &str) -> String {
        let path = format!("/v2/pipelines/calling/batches?callback_url={}", self.hook.url);
        let (status, batch) = client.upload(&path, csv.to_owned()).await.expect("an answer");
        assert_eq!(status, 202, "{batch}");
        batch["id"].as_str().expect("an id").to_owned()
    }
}

/// Everything that a client and an operator are shown of a batch.
async fn shown(scene: &Scene, client: &Client, id: &str, rows: usize) -> Vec<(String, String)> {
    let mut shown = Vec::new();
    let mut paths: Vec<String> =
        ["", "/rows", "/errors", "/waiting", "/failed.csv", "/results.ndjson", "/rows?code=not_you"]
            .iter()
            .map(|path| format!("/v2/batches/{id}{path}"))
            .collect();
    paths.extend((1..=rows).map(|row| format!("/v2/batches/{id}/rows/{row}?reveal=true")));
    paths.push("/metrics".into());
    for path in paths {
        let answer = client.request("GET", &path).send().await.expect("an answer");
        shown.push((path, answer.text().await.expect("a text")));
    }
    let (_, problem) = client.post(&format!("/v2/batches/{id}/retry"), &json!({ "rows": [999_999] })).await;
    shown.push(("a problem".into(), problem.to_string()));
    for command in [
        vec!["doctor"],
        vec!["why", id],
        vec!["why", id, "1"],
        vec!["batches", "show", id],
        vec!["reconcile"],
    ] {
        let (said, _) = scene.place.operate(&scene.sandbox, &command);
        shown.push((command.join(" "), said.to_string()));
    }
    let (said, _) = scene.place.say(&scene.sandbox, &["process-row", id, "1", "--reveal"]);
    shown.push(("process-row".into(), said));
    let told = |receiver: &Receiver| {
        let heard = receiver.heard();
        heard.iter().map(|one| format!("{:?} {}", one.headers, one.body)).collect::<Vec<_>>().join("\n")
    };
    shown.push(("callbacks".into(), told(&scene.hook)));
    shown.push(("telemetry".into(), told(&scene.collector)));
    shown
}

#[tokio::test]
async fn credentials_of_every_kind_are_found_nowhere() {
    let scene = Scene::new().await;
    let key = scene.place.key(&scene.sandbox, "acme");
    let service = scene.place.start(&scene.sandbox, None);
    let client = Client::new(&service, &key);
    let csv = KINDS
        .iter()
        .fold("kind,fails\n".to_owned(), |csv, (kind, _)| csv + &format!("{kind},yes\n{kind},no\n"));
    let id = scene.upload(&client, &csv).await;
    let ended = client.finished(&id).await;
    let counts = &ended["counts"];
    assert_eq!((&counts["completed"], &counts["failed"]), (&json!(9), &json!(9)), "{ended}");
    scene.hook.until(|heard| heard.json()["type"] == "batch.finished").await;
    until("spans and metrics were sent", || async {
        let heard = scene.collector.heard();
        let sent =
            |path: &str, word: &str| heard.iter().any(|one| one.path == path && one.body.contains(word));
        sent("/v1/traces", "assertion") && sent("/v1/metrics", "penstock.calls")
    })
    .await;
    let mut all = shown(&scene, &client, &id, 18).await;
    service.terminate();

    // Endpoints that refuse, and quote what they were sent, hold batches with their words.
    scene.refuses.store(true, Ordering::SeqCst);
    let service = scene.place.start(&scene.sandbox, None);
    let client = Client::new(&service, &key);
    for kind in ["client", "assertion"] {
        let id = scene.upload(&client, &format!("kind,fails\n{kind},no\n")).await;
        let path = format!("/v2/batches/{id}");
        until("it is held", || async { client.get(&path).await["held"] == true }).await;
        let held = client.get(&path).await;
        assert_eq!(held["hold"]["code"], "not_you", "{held}");
        all.extend(shown(&scene, &client, &id, 1).await);
    }
    service.terminate();

    let mut needles = sent(&scene.receiver);
    needles.insert(scene.private.clone());
    assert!(needles.len() > 12, "{needles:?}");
    let heard = scene.receiver.heard();
    assert!(heard.iter().any(|heard| heard.path.contains(MARKER)), "the key in the query was sent");
    for (place, text) in &all {
        let found: Vec<&String> = needles.iter().filter(|needle| text.contains(needle.as_str())).collect();
        assert!(found.is_empty(), "{place} has {found:?}: {text}");
    }
    assert_eq!(in_redis(&scene.place, &needles), Vec::<String>::new());
    for needle in &needles {
        assert_eq!(scene.place.files_with(needle.as_bytes()), Vec::<std::path::PathBuf>::new(), "{needle}");
    }
    let contents = Database::of(&scene.place).await.contents().await;
    assert!(!contents.iter().any(|line| needles.iter().any(|needle| line.contains(needle))));
    let log = std::fs::read_to_string(scene.place.log()).expect("a log");
    assert!(log.contains(r#""level":"TRACE""#), "everything was told");
}

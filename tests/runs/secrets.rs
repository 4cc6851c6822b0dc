//! Credentials of every kind, in use and refused, are found nowhere: not in logs at any level, not in metrics, in the database or in
//! Redis. The same of what is made of them: signatures and the headers that carry them.

use std::collections::BTreeSet;

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::database::Database;
use penstock_tests::receiver::{Answer, Receiver};
use penstock_tests::{Client, Place};

/// In every secret.
const MARKER: &str = "Zq5secret";

/// Ways to show who calls, each a dependency of its own.
const KINDS: [(&str, &str); 6] = [
    ("basic", "basic: { username: someone, password: \"${PASSWORD}\" }"),
    ("bearer", "bearer: \"${BEARER}\""),
    ("header", "api_key: { header: X-Api-Key, value: \"${KEY}\" }"),
    ("query", "api_key: { query: key, value: \"${KEY}\" }"),
    (
        "hmac",
        "hmac: { secret: \"${HMAC}\", algorithm: sha256, message: \"{{ request.method }} {{ request.body }}\", headers: { X-Signature: \"{{ signature | hex }}\" } }",
    ),
    (
        "sigv4",
        "aws_sigv4: { service: ses, region: eu-west-1, access_key_id: \"${SES_ID}\", secret_access_key: \"${SES_SECRET}\", session_token: \"${SES_SESSION}\" }",
    ),
];

/// One step for each kind; the last one is refused.
fn definition() -> String {
    let mut text =
        "name: calling\ncsv: { columns: [ { name: id, required: true } ] }\ndependencies:\n".to_owned();
    for (name, auth) in KINDS {
        text += &format!("  {name}: {{ base_url: \"${{INVITE_API_URL}}\", auth: {{ {auth} }} }}\n");
    }
    text += "steps:\n";
    for (name, _) in KINDS {
        text += &format!(
            "  - {{ name: {name}, dependency: {name}, request: {{ method: POST, path: /{name}, json: {{ id: \"{{{{ row.id }}}}\" }}, idempotent: true }} }}\n"
        );
    }
    text + "retry: { attempts: 2, backoff: { initial: 50ms, factor: 1, max: 50ms } }\ndispatch: { spread: 0s }\n"
}

/// What Redis holds of these, where there is one.
fn in_redis(place: &Place, needles: &BTreeSet<String>) -> Vec<String> {
    let Some(url) = place.variable("REDIS_URL") else { return Vec::new() };
    let contents = penstock_tests::redis::contents(url);
    let is_there = |needle: &&String| contents.windows(needle.len()).any(|part| part == needle.as_bytes());
    needles.iter().filter(is_there).cloned().collect()
}

#[tokio::test]
async fn credentials_of_every_kind_are_found_nowhere() {
    let receiver = Receiver::start().await;
    receiver.answer_with(|heard| match heard.path.as_str() {
        "/sigv4" => Answer { status: 503, headers: String::new(), body: String::new() },
        _ => Answer::json("{}"),
    });
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("calling.yaml", &definition())]);
    place.set("INVITE_API_URL", receiver.url.clone());
    for name in ["PASSWORD", "BEARER", "KEY", "HMAC", "SES_ID", "SES_SECRET", "SES_SESSION"] {
        place.set(name, format!("{MARKER}{name}"));
    }
    place.set("RUST_LOG", "trace".into());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (status, batch) =
        client.upload("/v2/pipelines/calling/batches", "id\na\nb\n").await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let ended = client.finished(batch["id"].as_str().expect("an id")).await;
    assert_eq!(ended["counts"]["failed"], 2, "{ended}");

    // What was sent: credentials, and signatures that were made of them.
    let mut sent = BTreeSet::from([MARKER.to_owned()]);
    for heard in receiver.heard() {
        for name in ["authorization", "x-signature", "x-api-key"] {
            let value = heard.header(name);
            let value = value.rsplit([' ', '=']).next().unwrap_or(value);
            sent.extend((value.len() > 8).then(|| value.to_owned()));
        }
    }
    assert!(sent.len() > 6, "{sent:?}");
    assert!(
        receiver.heard().iter().any(|heard| heard.path.contains(MARKER)),
        "the key in the query was sent"
    );

    let metrics = client.text("/metrics").await;
    let (doctor, _) = place.operate(&sandbox, &["doctor"]);
    let told = format!("{metrics}{doctor}");
    assert!(!sent.iter().any(|needle| told.contains(needle)), "{told}");
    assert_eq!(in_redis(&place, &sent), Vec::<String>::new());
    service.terminate();
    for needle in &sent {
        assert_eq!(place.files_with(needle.as_bytes()), Vec::<std::path::PathBuf>::new(), "{needle}");
    }
    let contents = Database::of(&place).await.contents().await;
    assert!(!contents.iter().any(|line| sent.iter().any(|needle| line.contains(needle))));
    let log = std::fs::read_to_string(place.log()).expect("a log");
    assert!(log.contains(r#""level":"TRACE""#), "everything was told");
}

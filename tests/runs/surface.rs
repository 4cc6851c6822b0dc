//! What every answer says of itself, and what no request can make it say.

use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::{Client, PATIENCE, Place};
use serde_json::{Value, json};

use crate::NOOP;

/// Links name the address that the operator gave, or where the API listens; nothing that a client or a proxy sends.
#[tokio::test]
async fn links_do_not_follow_what_a_request_says() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("noop.yaml", NOOP)]);
    let key = place.key(&sandbox, "acme");
    for public in [None, Some("https://rows.example.com/api")] {
        if let Some(public) = public {
            place.set("PENSTOCK_PUBLIC_URL", format!("{public}/"));
        }
        let service = place.start(&sandbox, None);
        let client = Client::new(&service, &key);
        let (_, batch) = client.upload("/v2/pipelines/noop/batches", "id\n1\n").await.expect("an answer");
        let id = batch["id"].as_str().expect("an id").to_owned();
        client.finished(&id).await;
        let base = public.unwrap_or(&service.base);
        for (path, body) in [
            (format!("/v2/batches/{id}/downloads"), json!({ "report": "results.csv" })),
            ("/v2/uploads".into(), Value::Null),
        ] {
            let request = client
                .request("POST", &path)
                .header("host", "evil.example")
                .header("x-forwarded-host", "evil.example")
                .header("x-forwarded-proto", "gopher")
                .header("forwarded", "host=evil.example;proto=gopher");
            let request = if body.is_null() { request } else { request.json(&body) };
            let made: Value = request.send().await.expect("an answer").json().await.expect("JSON");
            let url = made["url"].as_str().expect("a URL");
            // An object store's own address is not ours to name.
            let ours = made.get("authorization").is_none_or(|own| own == true);
            assert!(!ours || url.starts_with(&format!("{base}/v2/")), "{url}");
            assert!(!url.contains("evil") && !url.contains("gopher"), "{url}");
        }
        service.terminate();
    }
}

/// A refusal is the same document for a client that takes compressed answers.
#[tokio::test]
async fn a_compressed_refusal_is_the_same() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    // Long enough to be worth compressing.
    let long = "x".repeat(2000);
    for path in [format!("/v2/batches?status={long}"), format!("/v2/batches?{long}=1")] {
        let path = path.as_str();
        let plain = client.request("GET", path).send().await.expect("an answer");
        let length: usize = plain.bytes().await.expect("a body").len();
        let compressed = client.request("GET", path).header("accept-encoding", "gzip").send().await;
        let compressed = compressed.expect("an answer");
        assert_eq!(compressed.headers()["content-encoding"], "gzip", "{path}");
        let bytes = compressed.bytes().await.expect("a body");
        // Its last four bytes are the length of what was compressed (RFC 1952, 2.3.1).
        let of = u32::from_le_bytes(bytes[bytes.len() - 4..].try_into().expect("four bytes"));
        assert_eq!(of as usize, length, "{path}");
    }
    service.terminate();
}

/// Who has no valid key, who asks for what a key does not allow, and what an admin key reads: each leaves a log line and an
/// audit entry; a flood leaves no more than the first one does.
#[tokio::test]
async fn refusals_and_admin_reads_leave_traces() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let key = place.key(&sandbox, "acme");
    let (made, _) = place.operate(&sandbox, &["keys", "create", "--owner", "ops", "--admin"]);
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let stranger = Client::new(&service, "penstock_nobody_nothing");
    let admin = Client::new(&service, made["key"].as_str().expect("a key"));
    let (_, batch) = client.upload("/v2/pipelines/noop/batches", "id\n1\n").await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    client.finished(&id).await;
    for _ in 0..200 {
        let answer = stranger.request("GET", &format!("/v2/batches/{id}")).send().await.expect("an answer");
        assert_eq!(answer.status(), 401);
    }
    for _ in 0..20 {
        let answer = client.request("GET", "/v2/audit").send().await.expect("an answer");
        assert_eq!(answer.status(), 403);
        admin.get(&format!("/v2/batches/{id}/rows/1")).await;
    }
    let began = Instant::now();
    let entries = loop {
        let page = admin.get("/v2/audit?limit=1000").await;
        let data = page["data"].as_array().expect("entries").clone();
        if data.iter().any(|entry| entry["action"] == "admin.read" && entry["batch"] == id.as_str()) {
            break data;
        }
        assert!(began.elapsed() < PATIENCE, "{page}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let of =
        |action: &str| -> Vec<&Value> { entries.iter().filter(|entry| entry["action"] == action).collect() };
    let strangers = of("request.unauthorized");
    assert_eq!((strangers.len(), &strangers[0]["actor"]), (1, &json!("address:127.0.0.1")), "{strangers:?}");
    let forbidden = of("request.forbidden");
    assert_eq!((forbidden.len(), &forbidden[0]["detail"]), (1, &json!("GET /v2/audit")), "{forbidden:?}");
    assert!(forbidden[0]["actor"].as_str().is_some_and(|actor| actor.starts_with("key:")));
    let read: Vec<&Value> =
        of("admin.read").into_iter().filter(|entry| entry["batch"] == id.as_str()).collect();
    assert_eq!(
        (read.len(), &read[0]["detail"]),
        (1, &json!("GET /v2/batches/{id}/rows/{number}")),
        "{read:?}"
    );
    for line in ["a request had no valid key", "a request was not allowed", "an admin key reads"] {
        place.logged(line).await;
    }
    service.terminate();
}

/// Answers of every kind tell browsers what not to do with them.
#[tokio::test]
async fn every_answer_has_its_headers() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (_, batch) = client.upload("/v2/pipelines/noop/batches", "id\n1\n").await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    client.finished(&id).await;
    for (path, keeping) in [
        ("/v2/batches".to_owned(), "no-store"),
        (format!("/v2/batches/{id}"), "no-store"),
        (format!("/v2/batches/{id}/results.csv"), "no-store"),
        (format!("/v2/batches/{id}/events"), "no-store"),
        ("/v2/batches?limit=0".to_owned(), "no-store"),
        ("/v2/nothing".to_owned(), "no-store"),
        ("/v2/batches/%FF".to_owned(), "no-store"),
        ("/metrics".to_owned(), "no-store"),
        ("/v2/openapi.json".to_owned(), "no-cache"),
        ("/docs/".to_owned(), "no-cache"),
        ("/docs/swagger-ui.css".to_owned(), "no-cache"),
    ] {
        let answer = client.request("GET", &path).header("origin", "https://elsewhere.example").send().await;
        let answer = answer.expect("an answer");
        let allows = answer.headers().keys().find(|name| name.as_str().starts_with("access-control-"));
        assert_eq!(allows, None, "{path}: no other page reads it");
        let header = |name: &str| {
            let all: Vec<&str> =
                answer.headers().get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
            assert_eq!(all.len(), 1, "{path}: {name} {all:?}");
            all[0].to_owned()
        };
        assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(header("cache-control"), keeping, "{path}");
        assert!(header("content-security-policy").contains("default-src 'none'"), "{path}");
    }
    let docs = client.request("GET", "/docs/").send().await.expect("an answer");
    let policy = docs.headers()["content-security-policy"].to_str().expect("text").to_owned();
    assert!(policy.contains("script-src 'self';") && policy.contains("frame-ancestors 'none'"), "{policy}");
    // What the policy allows is all that the page needs: no script stands in it.
    let page = docs.text().await.expect("a page");
    assert!(page.contains("<script src=") && !page.contains("<script>"), "{page}");
}

//! What every answer says of itself, and what no request can make it say.

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::{Client, Place};
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
        let answer = client.request("GET", &path).send().await.expect("an answer");
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

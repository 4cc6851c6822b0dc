//! The OpenAPI document and the guide name whatever is answered.

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::{Client, Place};
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::NOOP;
use crate::http::ROUTE;

/// Whatever is asked for: each refusal is a problem document, and the OpenAPI document has its status and media type.
#[tokio::test]
async fn what_is_answered_is_declared() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", &NOOP.replace("max_rows: 1000", "max_rows: 3"))]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let nobody = Client::new(&service, "psk_0123456789ab_wrong");
    let document = client.get("/v2/openapi.json").await;
    let (_, batch) = client.upload(ROUTE, "id\n1\n2\n").await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    client.finished(&id).await;
    let (_, erased) = client.upload(ROUTE, "id\n1\n").await.expect("an answer");
    let gone = erased["id"].as_str().expect("an id").to_owned();
    client.finished(&gone).await;
    let tag =
        client.request("GET", &format!("/v2/batches/{gone}/results.csv")).send().await.expect("an answer");
    let tag = tag.headers()["etag"].to_str().expect("text").to_owned();
    let erasing = client.request("DELETE", &format!("/v2/batches/{gone}")).send().await.expect("an answer");
    assert_eq!(erasing.status(), 200);
    let (_, upload) = client.post("/v2/uploads", &Value::Null).await;
    let upload = upload["upload_id"].as_str().expect("an id").to_owned();
    let (_, link) =
        client.post(&format!("/v2/batches/{id}/downloads"), &json!({ "report": "results.csv" })).await;
    let link = link["url"].as_str().expect("a URL").strip_prefix(&service.base).expect("ours").to_owned();
    let none = "01a20eb9-5373-77c3-a722-7aca373acbe4";
    let csv =
        |body: &str| client.request("POST", ROUTE).header("content-type", "text/csv").body(body.to_owned());
    let get = |path: &str| client.request("GET", path);
    let post = |path: &str| client.request("POST", path);
    let uploads = "/v2/pipelines/{name}/batches";
    let one = "/v2/batches/{id}";
    let answers: Vec<(&str, RequestBuilder, u16)> = vec![
        (uploads, csv("id\n1\n"), 202),
        (uploads, nobody.request("POST", ROUTE), 401),
        (uploads, post("/v2/pipelines/nothing/batches"), 404),
        (uploads, post(&format!("{ROUTE}?x=1")).header("content-type", "text/csv"), 400),
        (uploads, post(ROUTE), 415),
        (uploads, csv("id\nx\n"), 422),
        (uploads, csv("id\n1\n1\n1\n1\n"), 413),
        (uploads, csv("id\n1\n").header("accept-encoding", "identity;q=0"), 406),
        ("/v2/uploads", post("/v2/uploads?x=1"), 400),
        ("/v2/uploads/{id}/content", client.request("PUT", &format!("/v2/uploads/{none}/content")), 404),
        (
            "/v2/uploads/{id}/content",
            client.request("PUT", &format!("/v2/uploads/{upload}/content")).header("content-encoding", "br"),
            415,
        ),
        (
            "/v2/uploads/{id}/content",
            client.request("PUT", &format!("/v2/uploads/{upload}/content")).body("id\n1\n"),
            204,
        ),
        ("/v2/batches", get("/v2/batches?owner=acme"), 403),
        ("/v2/batches", get("/v2/batches?pipeline=%00"), 400),
        ("/v2/batches", get("/v2/batches?pipeline=%F0%28"), 400),
        ("/v2/batches", get("/v2/batches?created_after=2026-01-01T00:00:00Z"), 400),
        (
            "/v2/batches",
            get("/v2/batches?created_from=2026-01-01T00:00:00Z&created_to=2036-01-01T00:00:00Z"),
            200,
        ),
        (one, get(&format!("/v2/batches/{none}")), 404),
        (one, get(&format!("/v2/batches/{id}?x=1")), 400),
        (one, get(&format!("/v2/batches/{id}")), 200),
        ("/v2/batches/{id}/cancel", post(&format!("/v2/batches/{id}/pause")), 409),
        ("/v2/batches/{id}/retry", post(&format!("/v2/batches/{gone}/retry")), 410),
        ("/v2/batches/{id}/retry", post(&format!("/v2/batches/{id}/retry")).body("x".repeat(300_000)), 413),
        ("/v2/batches/{id}/errors", get(&format!("/v2/batches/{none}/errors")), 404),
        ("/v2/batches/{id}/waiting", get(&format!("/v2/batches/{id}/waiting?row=x")), 400),
        ("/v2/batches/{id}/rows", get(&format!("/v2/batches/{gone}/rows")), 410),
        ("/v2/batches/{id}/rows", get(&format!("/v2/batches/{id}/rows?code=%00")), 400),
        ("/v2/batches/{id}/rows/{number}", get(&format!("/v2/batches/{id}/rows/1")), 200),
        ("/v2/batches/{id}/rows/{number}", get(&format!("/v2/batches/{id}/rows/+1")), 404),
        ("/v2/batches/{id}/rows/{number}", get(&format!("/v2/batches/{id}/rows/01")), 404),
        ("/v2/batches/{id}/rows/{number}", get(&format!("/v2/batches/{id}/rows/3")), 404),
        ("/v2/batches/{id}/{report}", get(&format!("/v2/batches/{id}/results.csv")), 200),
        ("/v2/batches/{id}/{report}", get(&format!("/v2/batches/{id}/results.ndjson")), 200),
        ("/v2/batches/{id}/{report}", get(&format!("/v2/batches/{id}/results.txt")), 404),
        (
            "/v2/batches/{id}/{report}",
            get(&format!("/v2/batches/{id}/results.csv")).header("range", "bytes=9999999-"),
            416,
        ),
        ("/v2/batches/{id}/{report}", get(&format!("/v2/batches/{gone}/results.csv")), 410),
        // What was erased is gone, and not "what you have is still the same".
        (
            "/v2/batches/{id}/{report}",
            get(&format!("/v2/batches/{gone}/results.csv")).header("if-none-match", &tag),
            410,
        ),
        ("/v2/batches/{id}/events", get(&format!("/v2/batches/{id}/events")), 200),
        ("/v2/batches/{id}/events", get(&format!("/v2/batches/{none}/events")), 404),
        ("/v2/batches/{id}/downloads", post(&format!("/v2/batches/{id}/downloads")).body("{"), 400),
        (
            "/v2/batches/{id}/downloads",
            post(&format!("/v2/batches/{id}/downloads")).json(&json!({ "report": "x" })),
            422,
        ),
        (
            "/v2/batches/{id}/downloads",
            post(&format!("/v2/batches/{gone}/downloads")).json(&json!({ "report": "results.csv" })),
            410,
        ),
        ("/v2/downloads/{token}", get("/v2/downloads/x"), 403),
        ("/v2/downloads/{token}", get(&link), 200),
        ("/v2/callbacks", get("/v2/callbacks?cursor=x"), 400),
        ("/v2/callbacks/{id}/redeliver", post(&format!("/v2/callbacks/{none}/redeliver")), 404),
        ("/v2/audit", get("/v2/audit"), 403),
        ("/livez", get("/livez"), 200),
        ("/readyz", get("/readyz"), 200),
        ("/metrics", get("/metrics"), 200),
    ];
    for (template, request, status) in answers {
        let (http, request) = request.build_split();
        let request = request.expect("a request");
        let (method, shown) = (request.method().as_str().to_ascii_lowercase(), request.url().to_string());
        let answer = http.execute(request).await.expect("an answer");
        assert_eq!(answer.status().as_u16(), status, "{method} {shown}");
        let media =
            answer.headers().get("content-type").map(|value| value.to_str().expect("text").to_owned());
        let media = media.as_deref().and_then(|media| media.split(';').next());
        if status >= 400 {
            assert_eq!(media, Some("application/problem+json"), "{method} {shown}");
            let problem: Value = answer.json().await.expect("JSON");
            assert_eq!(problem["status"], status, "{method} {shown}: {problem}");
        }
        let declared = &document["paths"][template][&method]["responses"][status.to_string()];
        assert!(declared.is_object(), "{method} {template}: {status} is not declared");
        if let Some(media) = media {
            assert!(
                declared["content"][media].is_object(),
                "{method} {template} {status}: {media} in {declared}"
            );
        }
    }
    // Fields of a text/csv upload are parameters; a pipeline's own route has them too, and not the pipeline's name.
    let parameters = document["paths"][uploads]["post"]["parameters"].as_array().expect("parameters");
    let named: Vec<(&str, &str)> = parameters
        .iter()
        .map(|one| (one["in"].as_str().expect("text"), one["name"].as_str().expect("text")))
        .collect();
    for name in ["name", "context", "allow_failures", "callback_url", "priority", "canary"] {
        assert!(named.contains(&("query", name)), "{name}: {named:?}");
    }
    assert!(named.contains(&("path", "name")) && named.contains(&("header", "Idempotency-Key")), "{named:?}");
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let open = ["/livez", "/readyz", "/metrics", "/v2/downloads/{token}"].contains(&path.as_str());
            assert_eq!(operation["security"].is_array(), !open, "{method} {path}");
            assert_eq!(operation["responses"]["401"].is_object(), !open, "{method} {path}");
            for (status, response) in operation["responses"].as_object().expect("responses") {
                if status.as_str() >= "400" && path != "/readyz" {
                    let content = response["content"].as_object().expect("a body");
                    assert_eq!(
                        content.keys().collect::<Vec<_>>(),
                        ["application/problem+json"],
                        "{method} {path}"
                    );
                }
            }
        }
    }
}

/// The guide names every code of a file, of a row and of a wait, and every status that the document has.
#[tokio::test]
async fn the_guide_names_every_code() {
    let guide = include_str!("../../docs/rest.md");
    let named =
        |code: &str| assert!(guide.contains(&format!("`{code}`")), "docs/rest.md does not name `{code}`");
    let file = include_str!("../../crates/domain/src/csv/error.rs");
    let table = file
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `"))
        .filter_map(|line| line.split(" |").next());
    let codes: Vec<&str> = table.flat_map(|codes| codes.trim_end_matches('`').split("`, `")).collect();
    assert!(codes.len() > 15, "{codes:?}");
    codes.into_iter().for_each(named);
    let waits = include_str!("../../crates/flow/src/read/waiting.rs");
    let waits: Vec<&str> = waits
        .split("wait(")
        .skip(2)
        .filter_map(|call| call.trim_start().strip_prefix('"')?.split('"').next())
        .collect();
    assert!(waits.len() > 12, "{waits:?}");
    waits.into_iter().for_each(named);
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let document = Client::new(&service, &key).get("/v2/openapi.json").await;
    for operation in document["paths"].as_object().expect("paths").values().filter_map(Value::as_object) {
        for responses in operation.values().filter_map(|operation| operation["responses"].as_object()) {
            for status in responses.keys().filter(|status| status.as_str() >= "400") {
                assert!(guide.contains(&format!("\n| {status} | `")), "docs/rest.md does not name {status}");
            }
        }
    }
}

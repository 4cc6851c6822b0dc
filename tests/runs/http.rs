//! HTTP, to the letter: what is not understood is refused and never guessed at, and every refusal is a problem document.

use std::time::Duration;

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::{Client, Place, Service};
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{NOOP, invite, people};

pub(crate) const ROUTE: &str = "/v2/pipelines/noop/batches";

/// Sends bytes as they are, and reads until the other side closes or has been silent for a while.
pub(crate) async fn raw(service: &Service, request: &str) -> String {
    raw_within(service, request, Duration::from_secs(3)).await
}

/// The same, where the service has to work for its answer: each piece of it may take so long.
pub(crate) async fn raw_within(service: &Service, request: &str, patience: Duration) -> String {
    let address = service.base.trim_start_matches("http://");
    let connection = tokio::net::TcpStream::connect(address).await.expect("it listens");
    let (mut input, mut output) = connection.into_split();
    let request = request.as_bytes().to_vec();
    // It may be answered, and hung up on, before all of it is sent.
    let sending = tokio::spawn(async move {
        let _ = output.write_all(&request).await;
        output
    });
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(Ok(read)) = tokio::time::timeout(patience, input.read(&mut piece)).await {
        if read == 0 {
            break;
        }
        answer.extend_from_slice(&piece[..read]);
    }
    sending.abort();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Status and problem; it is one by its content type too.
pub(crate) async fn refused(request: RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.expect("an answer");
    let status = answer.status().as_u16();
    assert!(status >= 400, "{status}: {}", answer.text().await.unwrap_or_default());
    assert_eq!(answer.headers()["content-type"], "application/problem+json", "{status}");
    let problem: Value = answer.json().await.expect("JSON");
    assert_eq!(problem["status"], status, "{problem}");
    (status, problem)
}

#[tokio::test]
async fn a_retry_takes_what_is_asked_for_and_says_how_much() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("invite.yaml", &crate::invite())]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let mut csv = crate::people(3);
    for number in 0..4 {
        csv.push_str(&format!("taken{number}@example.com,T,T,,AB0001\n"));
    }
    let (_, batch) = client.upload(crate::PEOPLE, csv).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id");
    assert_eq!(client.finished(id).await["counts"]["failed"], 4);
    let path = format!("/v2/batches/{id}/retry");
    for body in [
        json!({ "include": [] }),
        json!({ "codes": [] }),
        json!({ "rows": [] }),
        json!({ "include": ["completed"] }),
        json!({ "include": ["failed", "cancelled"], "codes": ["http_409"] }),
        json!({ "include": ["cancelled"], "rows": [4] }),
        json!({ "codes": ["a\u{0}b"] }),
        json!({ "code": ["http_409"] }),
        json!([1]),
    ] {
        let (status, problem) = refused(client.request("POST", &path).json(&body)).await;
        assert_eq!(status, 400, "{body}: {problem}");
    }
    // Not in the query, where it would be overlooked and everything put back.
    let (status, _) = refused(client.request("POST", &format!("{path}?rows=4"))).await;
    assert_eq!(status, 400);
    let (status, problem) = refused(client.request("POST", &path).body("x".repeat(300_000))).await;
    assert_eq!((status, &problem["code"]), (413, &"body_too_large".into()));
    let (status, problem) = refused(client.request("POST", &path).body("{")).await;
    assert_eq!((status, &problem["code"]), (400, &"bad_json".into()));
    let unchanged = client.get(&format!("/v2/batches/{id}")).await;
    assert_eq!((&unchanged["run"], unchanged.get("retried")), (&1.into(), None));
    for (body, rows) in [
        (json!({ "codes": ["http_500"] }), 0),
        (json!({ "rows": [1, 5, 99] }), 1),
        (json!({ "codes": ["email_taken"], "rows": [4, 5] }), 2),
        (Value::Null, 4),
    ] {
        let request = client.request("POST", &path);
        let request = if body.is_null() { request } else { request.json(&body) };
        let answer: Value = request.send().await.expect("an answer").json().await.expect("JSON");
        assert_eq!((&answer["retried"], &answer["id"]), (&rows.into(), &id.into()), "{body}: {answer}");
        assert_eq!(answer["counts"]["failed"], 4 - rows);
        client.finished(id).await;
    }
    // Each run has its end.
    let history = client.get(&format!("/v2/batches/{id}/history")).await;
    let events: Vec<_> = history["data"].as_array().expect("events").iter().collect();
    let names: Vec<_> = events.iter().map(|event| event["event"].as_str().expect("a name")).collect();
    let once = ["retried", "ended"];
    let expected = [&["uploaded", "started", "extracted", "ended"][..], &once, &once, &once].concat();
    assert_eq!(names, expected, "{history}");
    assert!(
        events
            .iter()
            .filter(|event| event["event"] == "ended")
            .all(|event| event["detail"] == "partial_success")
    );
}

/// An admin key sees everybody's batches and changes none of them, but those of its own owner.
#[tokio::test]
async fn an_admin_key_reads() {
    let receiver = penstock_tests::receiver::Receiver::start().await;
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let key = place.key(&sandbox, "acme");
    let (admin, good) = place.operate(&sandbox, &["keys", "create", "--owner", "ops", "--admin"]);
    assert!(good, "{admin}");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let admin = Client::new(&service, admin["key"].as_str().expect("a key"));
    let upload = format!("{ROUTE}?callback_url={}", receiver.url);
    let (_, theirs) = client.upload(&upload, "id\n1\n").await.expect("an answer");
    let (_, own) = admin.upload(&upload, "id\n2\n").await.expect("an answer");
    let (theirs, own) = (theirs["id"].as_str().expect("an id"), own["id"].as_str().expect("an id"));
    client.finished(theirs).await;
    admin.finished(own).await;
    for path in [
        format!("/v2/batches/{theirs}"),
        format!("/v2/batches/{theirs}/rows"),
        format!("/v2/callbacks?batch={theirs}"),
        format!("/v2/audit?batch={theirs}"),
        "/v2/batches?owner=acme".to_owned(),
    ] {
        assert!(!admin.text(&path).await.is_empty(), "{path}");
    }
    assert_eq!(admin.get("/v2/batches").await["data"].as_array().map(Vec::len), Some(2));
    let callback = client.get("/v2/callbacks").await["data"][0]["id"].as_str().expect("an id").to_owned();
    let before = client.get(&format!("/v2/batches/{theirs}")).await;
    for (method, path) in [
        ("POST", format!("/v2/batches/{theirs}/cancel")),
        ("POST", format!("/v2/batches/{theirs}/pause")),
        ("POST", format!("/v2/batches/{theirs}/resume")),
        ("POST", format!("/v2/batches/{theirs}/retry")),
        ("DELETE", format!("/v2/batches/{theirs}")),
        ("POST", format!("/v2/callbacks/{callback}/redeliver")),
    ] {
        let (status, problem) = refused(admin.request(method, &path)).await;
        assert_eq!((status, &problem["code"]), (403, &"forbidden".into()), "{method} {path}");
        assert!(problem["detail"].as_str().expect("text").contains("key of the owner"), "{problem}");
    }
    assert_eq!(client.get(&format!("/v2/batches/{theirs}")).await, before);
    let (status, _) = admin.post(&format!("/v2/batches/{own}/retry"), &json!({})).await;
    assert_eq!(status, 200);
    let own_callback = admin.get(&format!("/v2/callbacks?batch={own}")).await["data"][0]["id"].clone();
    let redeliver = format!("/v2/callbacks/{}/redeliver", own_callback.as_str().expect("an id"));
    assert_eq!(admin.post(&redeliver, &json!({})).await.0, 202);
    // What is for admins is refused, and never passed over in silence.
    for path in ["/v2/batches?owner=rival", "/v2/batches?owner=acme", "/v2/audit"] {
        let (status, problem) = refused(client.request("GET", path)).await;
        assert_eq!((status, &problem["code"]), (403, &"forbidden".into()), "{path}");
    }
    assert_eq!(refused(admin.request("GET", "/v2/batches?owner=nobody")).await.0, 404);
    // The audit log, page by page: every entry once, also those of one millisecond.
    for number in 0..12 {
        let (_, batch) = client.upload(ROUTE, format!("id\n{number}\n")).await.expect("an answer");
        // What happens to it leaves entries, too.
        client.finished(batch["id"].as_str().expect("an id")).await;
    }
    let whole = admin.get("/v2/audit").await;
    assert_eq!(whole["next_cursor"], Value::Null);
    // Reading it leaves entries of its own.
    let lasting = |page: &Value| -> Vec<Value> {
        let data = page["data"].as_array().expect("entries").iter();
        data.filter(|entry| entry["action"] != "admin.read").cloned().collect()
    };
    let mut paged = Vec::new();
    let mut path = "/v2/audit?limit=3".to_owned();
    loop {
        let page = admin.get(&path).await;
        assert!(page["data"].as_array().expect("entries").len() <= 3);
        paged.extend(lasting(&page));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v2/audit?limit=3&cursor={cursor}");
    }
    assert!(paged.len() > 12);
    assert_eq!(paged, lasting(&whole));
    assert_eq!(refused(admin.request("GET", "/v2/audit?cursor=x")).await.0, 400);
}

/// Framing that breaks in the middle of a body makes no batch. (Actix takes the client for gone and may hang up before
/// the refusal is written.)
#[tokio::test]
async fn broken_framing_leaves_nothing() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let answer = raw(
        &service,
        &format!(
            "POST {ROUTE} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: text/csv\r\n\
             transfer-encoding: chunked\r\n\r\n3\r\nid\n\r\nzz\r\n1\n\r\n0\r\n\r\n"
        ),
    )
    .await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer:?}");
    let client = Client::new(&service, &key);
    assert_eq!(client.get("/v2/batches").await["data"], json!([]));
    assert!(place.objects().is_empty());
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones_and_head_is_get_without_a_body() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("invite.yaml", &invite().replace("{{ context.campaign }}", "autumn"))]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    for (method, path, allowed) in [
        ("DELETE", "/v2/batches", "GET, HEAD"),
        ("PUT", "/v2/batches/01a20eb9-5373-77c3-a722-7aca373acbe4", "GET, HEAD, DELETE"),
        ("GET", "/v2/batches/01a20eb9-5373-77c3-a722-7aca373acbe4/cancel", "POST"),
        ("GET", "/v2/client/users/batch/invite", "POST"),
        ("POST", "/livez", "GET, HEAD"),
    ] {
        let response = client.request(method, path).send().await.expect("an answer");
        assert_eq!(response.status(), 405, "{method} {path}");
        assert_eq!(response.headers()["allow"], allowed, "{method} {path}");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
    }
    // No form field that a browser leaves empty is an error.
    let fields = ["name", "context", "allow_failures", "callback_url", "priority", "canary"];
    let form = fields.into_iter().fold(String::new(), |form, name| {
        form + &format!("--b\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n\r\n")
    });
    let file = "--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.csv\"\r\n\r\n";
    let body = format!("{form}{file}{}\r\n--b--\r\n", people(1));
    let request = client.request("POST", "/v2/pipelines/invite/batches");
    let response = request.header("content-type", "multipart/form-data; boundary=b").body(body).send().await;
    let response = response.expect("an answer");
    assert_eq!(response.status(), 202);
    let batch: Value = response.json().await.expect("a batch");
    let path = format!("/v2/batches/{}", batch["id"].as_str().expect("an id"));
    let head = client.request("HEAD", &path).send().await.expect("an answer");
    assert_eq!(
        (head.status().as_u16(), &head.headers()["content-type"]),
        (200, &"application/json".parse().unwrap())
    );
    assert!(head.bytes().await.expect("nothing").is_empty());
}

//! HTTP, to the letter: what is not understood is refused and never guessed at, every refusal is a problem document, and
//! the OpenAPI document names each of them.

use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::{Client, Place, Service};
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::NOOP;

const ROUTE: &str = "/v2/pipelines/noop/batches";

/// Sends bytes as they are, and reads until the other side closes or has been silent for a while.
async fn raw(service: &Service, request: &str) -> String {
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
    while let Ok(Ok(read)) = tokio::time::timeout(Duration::from_secs(3), input.read(&mut piece)).await {
        if read == 0 {
            break;
        }
        answer.extend_from_slice(&piece[..read]);
    }
    sending.abort();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Status and problem; it is one by its content type too.
async fn refused(request: RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.expect("an answer");
    let status = answer.status().as_u16();
    assert!(status >= 400, "{status}: {}", answer.text().await.unwrap_or_default());
    assert_eq!(answer.headers()["content-type"], "application/problem+json", "{status}");
    let problem: Value = answer.json().await.expect("JSON");
    assert_eq!(problem["status"], status, "{problem}");
    (status, problem)
}

fn form(parts: &[(&str, &str, &str)]) -> String {
    let mut body = String::new();
    for (name, headers, value) in parts {
        body.push_str(&format!(
            "--x\r\nContent-Disposition: form-data; name=\"{name}\"{}\r\n{headers}\r\n{value}\r\n",
            if *name == "file" { "; filename=\"a.csv\"" } else { "" }
        ));
    }
    body + "--x--\r\n"
}

#[tokio::test]
async fn what_an_upload_does_not_say_clearly_is_refused() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let typed = |query: &str, content_type: &str| {
        let request = client.request("POST", &format!("{ROUTE}{query}"));
        request.header("content-type", content_type).body("id\n1\n")
    };
    let csv = |query: &str| typed(query, "text/csv");
    // The query: never read by halves.
    for (query, status, code) in [
        ("?name=%", 400, "bad_query"),
        ("?name=%zz", 400, "bad_query"),
        ("?name=%FF%FE", 400, "bad_query"),
        ("?nam=x", 400, "bad_query"),
        ("?name=a&name=b", 400, "bad_query"),
        ("?upload_id=01a20b64-4c23-7a77-86b0-6a29b5a1007b", 400, "bad_query"),
        ("?name=a%00b", 422, "bad_field"),
        ("?name=a%0Ab", 422, "bad_field"),
        ("?name=a%C2%85b", 422, "bad_field"),
        ("?callback_url=http://127.0.0.1/a%0Ab", 422, "bad_callback_url"),
        ("?priority=10", 422, "bad_field"),
        ("?priority=-1", 422, "bad_field"),
        ("?priority=1.5", 422, "bad_field"),
        ("?context=%5B%5D", 422, "bad_field"),
    ] {
        let (found, problem) = refused(csv(query)).await;
        assert_eq!((found, &problem["code"]), (status, &Value::from(code)), "{query}: {problem}");
    }
    let (status, problem) = refused(csv("").header("idempotency-key", "a\tb")).await;
    assert_eq!((status, &problem["code"]), (422, &"bad_idempotency_key".into()));
    // Content codings, in every place where one can stand.
    for coding in ["gzip", "identity, br", "x"] {
        let (status, problem) = refused(csv("").header("content-encoding", coding)).await;
        assert_eq!((status, &problem["code"]), (415, &"unsupported_encoding".into()), "{coding}");
    }
    let (status, _) = refused(
        client.request("POST", ROUTE).header("content-encoding", "gzip").json(&json!({ "upload_id": null })),
    )
    .await;
    assert_eq!(status, 415);
    let send = |query: &str, body: String| {
        let request = client.request("POST", &format!("{ROUTE}{query}"));
        request.header("content-type", "multipart/form-data; boundary=x").body(body)
    };
    let file = ("file", "", "id\n1\n");
    for headers in [
        "Content-Encoding: gzip\r\n",
        "Content-Transfer-Encoding: base64\r\n",
        "Content-Transfer-Encoding: quoted-printable\r\n",
        "Content-Type: text/csv; charset=iso-8859-1\r\n",
        "Content-Type: text/csv; charset=\"utf-16\"\r\n",
    ] {
        let (status, problem) = refused(send("", form(&[("file", headers, "id\n1\n")]))).await;
        assert_eq!((status, &problem["code"]), (415, &"unsupported_encoding".into()), "{headers}");
    }
    let (status, problem) = refused(typed("", "text/csv; charset=iso-8859-1; x=utf-8")).await;
    assert_eq!(status, 415, "{problem}");
    // A form: the query beside it, a field twice, one that is not known.
    for (query, parts, status, code) in [
        ("?name=x", vec![file], 400, "bad_query"),
        ("", vec![file, file], 400, "two_files"),
        ("", vec![("name", "", "a"), ("name", "", "a"), file], 400, "bad_field"),
        ("", vec![("upload_id", "", "a"), file], 400, "bad_field"),
        ("", vec![file, ("colour", "", "red")], 400, "bad_field"),
        ("", vec![("name", "", "a\u{0}b"), file], 422, "bad_field"),
        ("", vec![("name", "", "a")], 400, "no_file"),
        // The file's own errors are told, whatever else is wrong behind it.
        ("", vec![("priority", "", "77"), ("file", "", "id\nx\n")], 422, "invalid_file"),
        ("", vec![("file", "", "id\nx\n"), ("priority", "", "77")], 422, "invalid_file"),
        ("", vec![("file", "", "id\nx\n"), ("colour", "", "red")], 422, "invalid_file"),
    ] {
        let (found, problem) = refused(send(query, form(&parts))).await;
        assert_eq!((found, &problem["code"]), (status, &Value::from(code)), "{parts:?}: {problem}");
    }
    let (_, problem) = refused(send("", form(&[("file", "", "id\nx\n")]))).await;
    assert_eq!(problem["detail"], "the file has 1 error");
    assert_eq!(client.get("/v2/batches").await["data"], json!([]));
    assert!(place.objects().is_empty(), "{:?}", place.objects());
    // And what is said in another way is taken.
    for (content_type, priority) in
        [("text/csv; header=present; charset=\"UTF-8\"", 0), ("Text/CSV;charset=utf8", 9)]
    {
        let query = format!("?priority={priority}&name=J%C3%B6rg+%26");
        let answer = typed(&query, content_type).header("content-encoding", "identity");
        let batch: Value = answer.send().await.expect("an answer").json().await.expect("JSON");
        assert_eq!(batch["name"], "Jörg &", "{batch}");
    }
    let plain = "Content-Type: text/csv; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n";
    let answer = send("", form(&[("file", plain, "id\n1\n"), ("priority", "", "3")])).send().await;
    assert_eq!(answer.expect("an answer").status(), 202);
}

/// The limit on bytes counts what came, not what was worth storing: a file whose second line has an error is read on
/// for its other errors, but not permanently.
#[tokio::test]
async fn a_file_with_errors_is_not_read_beyond_its_limit() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let definition = NOOP.replace("max_rows: 1000", "max_rows: 100000000, max_bytes: 1000000");
    let place = Place::new(&[("noop.yaml", &definition)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (status, problem) =
        client.upload(ROUTE, format!("id\n{}", "x\n".repeat(499_998))).await.expect("an answer");
    assert_eq!((status, &problem["error_count"]), (422, &499_998.into()));
    // The client promises a gigabyte: it is told after a million bytes, not at the end.
    let head = format!(
        "POST {ROUTE} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: text/csv\r\n\
         content-length: 1000000000\r\n\r\nid\n{}",
        "x\n".repeat(1_500_000)
    );
    let answer = raw(&service, &head).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("file_too_large"), "{answer}");
}

/// A form's fields are refused by their names before anything of them is held, and are bounded all together.
#[tokio::test]
async fn a_forms_fields_cannot_fill_the_memory() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let head = format!(
        "POST {ROUTE} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\
         content-type: multipart/form-data; boundary=x\r\ncontent-length: 1000000000\r\n\r\n"
    );
    let begun = "--x\r\nContent-Disposition: form-data; name=\"colour\"\r\n\r\nr";
    let answer = raw(&service, &format!("{head}{begun}")).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("colour"), "{answer}");
    let half = "y".repeat(150_000);
    let context = format!("{{\"a\":\"{half}\"}}");
    let send = |parts: &[(&str, &str, &str)]| {
        let request = client.request("POST", ROUTE);
        request.header("content-type", "multipart/form-data; boundary=x").body(form(parts))
    };
    let file = ("file", "", "id\n1\n");
    let (status, problem) = refused(send(&[("context", "", &context), ("name", "", &half), file])).await;
    assert_eq!((status, &problem["code"]), (413, &"field_too_large".into()));
    let taken = send(&[("context", "", &context), file]).send().await.expect("an answer");
    assert_eq!(taken.status(), 202);
}

/// A file that stands still on its way to its place ends with 408, and leaves nothing.
#[tokio::test]
async fn a_put_that_stands_still_is_ended() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("noop.yaml", NOOP)]);
    place.set("PENSTOCK_UPLOAD_IDLE_SECONDS", "1".into());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (status, upload) = client.post("/v2/uploads", &Value::Null).await;
    assert_eq!(status, 201, "{upload}");
    let content = format!("/v2/uploads/{}/content", upload["upload_id"].as_str().expect("an id"));
    let began = Instant::now();
    let head = format!(
        "PUT {content} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: 1000\r\n\r\nid\n1\n"
    );
    let answer = raw(&service, &head).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("upload_timeout"), "{answer}");
    assert!(began.elapsed() < Duration::from_secs(20));
    let (status, _) =
        refused(client.request("PUT", &content).header("content-encoding", "gzip").body("id\n1\n")).await;
    assert_eq!(status, 415);
    assert!(place.objects().is_empty(), "{:?}", place.objects());
}

/// What is uploaded with an `Idempotency-Key` by its `upload_id` is answered again; without one it says what became of
/// the upload.
#[tokio::test]
async fn an_upload_by_its_id_can_be_repeated() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let (key, other) = (place.key(&sandbox, "acme"), place.key(&sandbox, "rival"));
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let http = penstock_tests::http().build().expect("a client");
    let mut ids = Vec::new();
    for _ in 0..2 {
        let (_, upload) = client.post("/v2/uploads", &Value::Null).await;
        let id = upload["upload_id"].as_str().expect("an id").to_owned();
        if ids.is_empty() {
            let (status, problem) = client.post(ROUTE, &json!({ "upload_id": id })).await;
            assert_eq!((status, &problem["code"]), (422, &"not_uploaded".into()));
        }
        let put = http.put(upload["url"].as_str().expect("a URL")).body("id\n1\n");
        // An object store of its own has the right to it in the URL, and refuses a second one.
        let put = if upload["authorization"] == true { put.bearer_auth(&key) } else { put };
        assert!(put.send().await.expect("an answer").status().is_success());
        ids.push(id);
    }
    let ask = |id: &str, name: &str, key: Option<&str>| {
        let request = client.request("POST", ROUTE).json(&json!({ "upload_id": id, "name": name }));
        let request = match key {
            Some(key) => request.header("idempotency-key", key),
            None => request,
        };
        request.send()
    };
    let at_once: Vec<_> = (0..8).map(|_| tokio::spawn(ask(&ids[0], "n", Some("once")))).collect();
    let mut answers = Vec::new();
    for answer in at_once {
        answers.push(answer.await.expect("it is asked"));
    }
    answers.push(ask(&ids[0], "n", Some("once")).await);
    let mut batches = Vec::new();
    for answer in answers {
        let answer = answer.expect("an answer");
        assert_eq!(answer.status(), 202);
        batches.push(answer.json::<Value>().await.expect("JSON")["id"].clone());
    }
    batches.dedup();
    assert_eq!(batches.len(), 1, "{batches:?}");
    let batch = batches[0].as_str().expect("an id");
    assert_eq!(client.finished(batch).await["outcome"], "success");
    // Other content under the same key; the same upload without a key, or with another.
    for (id, name, key, status, code) in [
        (&ids[0], "other", Some("once"), 422, "idempotency_key_reused"),
        (&ids[1], "n", Some("once"), 422, "idempotency_key_reused"),
        (&ids[0], "n", None, 409, "upload_used"),
        (&ids[0], "n", Some("twice"), 409, "upload_used"),
    ] {
        let answer = ask(id, name, key).await.expect("an answer");
        assert_eq!(answer.status(), status, "{name} {key:?}");
        let problem: Value = answer.json().await.expect("JSON");
        assert_eq!(problem["code"], code);
        if status == 409 {
            assert!(problem["detail"].as_str().expect("text").contains(batch), "{problem}");
        }
    }
    let rival = Client::new(&service, &other);
    let (status, problem) = rival.post(ROUTE, &json!({ "upload_id": ids[1] })).await;
    assert_eq!((status, &problem["code"]), (422, &"no_such_upload".into()));
    // Two at once, and no key: one of them makes the batch.
    let (a, b) = tokio::join!(ask(&ids[1], "n", None), ask(&ids[1], "n", None));
    let mut statuses = [a.expect("an answer").status().as_u16(), b.expect("an answer").status().as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [202, 409]);
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
        client.upload(ROUTE, format!("id\n{number}\n")).await.expect("an answer");
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
            client
                .request("PUT", &format!("/v2/uploads/{upload}/content"))
                .header("content-encoding", "gzip"),
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

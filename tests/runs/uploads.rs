//! Uploads, to the letter: what is not said clearly is refused, and what is too much is not read.

use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::{Client, PATIENCE, Place};
use serde_json::{Value, json};

use crate::NOOP;
use crate::http::{ROUTE, raw, raw_within, refused};

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
    for coding in ["identity, br", "x", "gzip, gzip"] {
        let (status, problem) = refused(csv("").header("content-encoding", coding)).await;
        assert_eq!((status, &problem["code"]), (415, &"unsupported_encoding".into()), "{coding}");
    }
    let (status, problem) = refused(csv("").header("content-encoding", "gzip")).await;
    assert_eq!((status, &problem["code"]), (422, &"bad_encoding".into()), "it is not what it says");
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
    // Half a million errors are found and listed before.
    let answer = raw_within(&service, &head, PATIENCE).await;
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
        refused(client.request("PUT", &content).header("content-encoding", "br").body("id\n1\n")).await;
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

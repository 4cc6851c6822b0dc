//! Files, good and bad, over the real API: what is refused, where, and that nothing is left behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::{Client, Place};
use serde_json::Value;

use crate::NOOP;

const ROUTE: &str = "/v2/pipelines/noop/batches";

/// What a bad file says: line, column, code.
type Fault = (u64, Option<&'static str>, &'static str);

fn bad() -> Vec<(&'static [u8], Vec<Fault>)> {
    vec![
        (b"", vec![(1, None, "header_missing")]),
        (b"\n\n", vec![(1, None, "header_missing")]),
        (b"id,note\n", vec![(2, None, "no_rows")]),
        (b"id,note", vec![(1, None, "no_rows")]),
        (b"note\nx\n", vec![(1, Some("id"), "missing_column")]),
        (b"_x,_row\nx,1\n", vec![(1, Some("id"), "missing_column")]),
        (b"id,other\n1,x\n", vec![(1, Some("other"), "unknown_column")]),
        (b"ID,note\n1,x\n", vec![(1, Some("ID"), "unknown_column"), (1, Some("id"), "missing_column")]),
        (b"id,id\n1,2\n", vec![(1, Some("id"), "duplicate_column")]),
        (b" id,note\n1,x\n", vec![(1, Some(" id"), "unknown_column"), (1, Some("id"), "missing_column")]),
        (b"id;note\n1;x\n", vec![(1, Some("id;note"), "unknown_column")]),
        (
            b"\xEF\xBB\xBF\xEF\xBB\xBFid,note\n1,x\n",
            vec![(1, Some("\u{feff}id"), "unknown_column"), (1, Some("id"), "missing_column")],
        ),
        (b"id,note\n1,x\n,y\n", vec![(3, Some("id"), "required")]),
        (b"id,note\nx,y\n", vec![(2, Some("id"), "format")]),
        (b"id,note\n1.5,y\n", vec![(2, Some("id"), "format")]),
        (b"id,note\n 1,y\n", vec![(2, Some("id"), "format")]),
        (b"id,note\n1,012345678901234567890\n", vec![(2, Some("note"), "max_length")]),
        (b"id,note\n1\n", vec![(2, None, "field_count")]),
        (b"id,note\n1,2,3\n", vec![(2, None, "field_count")]),
        (b"id,note\n1,2,\n", vec![(2, None, "field_count")]),
        (b"id,note\n1,x\n\n\n2\n", vec![(5, None, "field_count")]),
        (b"id,note\n1,\"x\n", vec![(2, Some("note"), "unclosed_quote")]),
        (b"id,note\n1,\"x\"y\n", vec![(2, Some("note"), "text_after_quote")]),
        (b"id,note\n1,\"x\" \n", vec![(2, Some("note"), "text_after_quote")]),
        (b"id,note\n1,x\"y\n", vec![(2, Some("note"), "quote_in_unquoted_field")]),
        (b"id,note\n1, \"x\"\n", vec![(2, Some("note"), "quote_in_unquoted_field")]),
        (b"id,note\n1,x\ry\n", vec![(2, Some("note"), "bare_cr")]),
        (b"id,note\r1,x\r", vec![(1, None, "bare_cr")]),
        (b"id,note\n1,x\r", vec![(2, Some("note"), "bare_cr")]),
        (b"id,note\n1,x\0y\n", vec![(2, Some("note"), "nul_byte")]),
        (b"id,note\n\0\n", vec![(2, Some("id"), "nul_byte")]),
        (b"id,note\n1,\"x\0y\"\n", vec![(2, Some("note"), "nul_byte")]),
        (b"id,note\n1,\xff\n", vec![(2, Some("note"), "invalid_utf8")]),
        (b"id,note\n\xc3\x28,x\n", vec![(2, Some("id"), "invalid_utf8")]),
        (b"id,note\n1,J\xf6rg\n", vec![(2, Some("note"), "invalid_utf8")]),
        (b"\xff\xfei\0d\0\n\0", vec![(1, None, "nul_byte")]),
        (b"id,note\n1,\"a\nb\nc\"\n2,\"x\"y\n", vec![(5, Some("note"), "text_after_quote")]),
        (b"id,note\n1,\"a\r\nb\"\r\nx,y\r\n", vec![(4, Some("id"), "format")]),
        (b"id,note\nx,1\n1,y\ny,2\n", vec![(2, Some("id"), "format"), (4, Some("id"), "format")]),
        (
            b"id,note\nx,012345678901234567890\n",
            vec![(2, Some("id"), "format"), (2, Some("note"), "max_length")],
        ),
        (b"id,note\n9223372036854775808,x\n", vec![(2, Some("id"), "format")]),
        (b"\"id\"x,note\n1,y\n", vec![(1, None, "text_after_quote")]),
        (b"id,note\n1,x\n2,\"never\nclosed\n3,y\n", vec![(3, Some("note"), "unclosed_quote")]),
        (b"id,\n1,x\n", vec![(1, Some(""), "unknown_column")]),
    ]
}

/// A good file, and its rows as NDJSON shows them: id, note, line.
type Good = (&'static [u8], Vec<(&'static str, &'static str, u64)>);

fn good() -> Vec<Good> {
    vec![
        (b"id,note\n1,x\n", vec![("1", "x", 2)]),
        (b"id,note\n1,x", vec![("1", "x", 2)]),
        (b"id,note\r\n1,x\r\n2,y\r\n", vec![("1", "x", 2), ("2", "y", 3)]),
        (b"\xEF\xBB\xBFid,note\n1,x\n", vec![("1", "x", 2)]),
        (b"note,id\nx,1\n", vec![("1", "x", 2)]),
        (b"id\n1\n", vec![("1", "", 2)]),
        (b"id,note\n1,\n", vec![("1", "", 2)]),
        (b"id,note\n1,\"\"\n", vec![("1", "", 2)]),
        (b"\"id\",\"note\"\n\"1\",\"x\"\n", vec![("1", "x", 2)]),
        (b"id,note\n1,\"a,b\"\n", vec![("1", "a,b", 2)]),
        (b"id,note\n1,\"a\"\"b\"\n", vec![("1", "a\"b", 2)]),
        (b"id,note\n1,\"\"\"\"\n", vec![("1", "\"", 2)]),
        (b"id,note\n1,\"a\nb\"\n2,y\n", vec![("1", "a\nb", 2), ("2", "y", 4)]),
        (b"id,note\n1,\"a\r\nb\"\n2,y\n", vec![("1", "a\r\nb", 2), ("2", "y", 4)]),
        (b"id,note\n1,\"a\rb\"\n", vec![("1", "a\rb", 2)]),
        (b"\n\nid,note\n\n1,x\n\n\n2,y\n\n", vec![("1", "x", 5), ("2", "y", 8)]),
        (b"id,note\n1, x \n", vec![("1", " x ", 2)]),
        (b"id,note\n1,J\xc3\xb6rg \xf0\x9f\x8e\x89\n", vec![("1", "Jörg 🎉", 2)]),
        (b"id,note\n-7,x\n007,y\n", vec![("-7", "x", 2), ("007", "y", 3)]),
        (b"id,note\n1,=1+1\n", vec![("1", "=1+1", 2)]),
        (b"id,note,_row,_status\n1,'=1+1,9,failed\n", vec![("1", "'=1+1", 2)]),
        (b"_a,id,_b,note,_a\nq,1,r,x,s\n", vec![("1", "x", 2)]),
        (b"id,note\n1,'quoted'\n", vec![("1", "'quoted'", 2)]),
        (b"id,note\n1,a;b\tc\n", vec![("1", "a;b\tc", 2)]),
        (b"id,note\n1,\xEF\xBB\xBFx\n", vec![("1", "\u{feff}x", 2)]),
    ]
}

#[tokio::test]
async fn bad_files_are_refused_with_line_and_column_and_leave_nothing() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    for (file, faults) in bad() {
        let shown = String::from_utf8_lossy(file);
        let (status, problem) = client.upload(ROUTE, file).await.expect("an answer");
        assert_eq!(status, 422, "{shown:?}: {problem}");
        let found: Vec<(u64, Option<&str>, &str)> = problem["errors"]
            .as_array()
            .expect("errors")
            .iter()
            .map(|error| {
                (
                    error["line"].as_u64().expect("a line"),
                    error["column"].as_str(),
                    error["code"].as_str().expect("a code"),
                )
            })
            .collect();
        assert_eq!(found, faults, "{shown:?}");
        assert_eq!(problem["error_count"], faults.len(), "{shown:?}");
    }
    let many = format!("id,note\n{}", "x,y\n".repeat(250));
    let (status, problem) = client.upload(ROUTE, many).await.expect("an answer");
    assert_eq!((status, problem["errors"].as_array().map(Vec::len)), (422, Some(100)));
    assert_eq!(problem["error_count"], 250);
    // Limits, as soon as they are passed.
    let rows = format!("id,note\n{}", "1,y\n".repeat(1001));
    let field = format!("id,note\n1,{}", "y".repeat(70_000));
    let record = format!("id,note\n1,\"{}", "é".repeat(2_000_000));
    for file in [rows, field, record] {
        let (status, problem) = client.upload(ROUTE, file).await.expect("an answer");
        assert_eq!((status, &problem["code"]), (413, &Value::from("limit_exceeded")), "{problem}");
    }
    // Content types and forms that are none.
    for (content_type, body, wanted) in [
        ("text/plain", "id\n1\n", 415),
        ("application/octet-stream", "id\n1\n", 415),
        ("text/csv; charset=utf-16", "id\n1\n", 415),
        ("multipart/form-data", "id\n1\n", 400),
        ("multipart/form-data; boundary=x", "--x\r\nnot a part", 400),
        (
            "multipart/form-data; boundary=x",
            "--x\r\nContent-Disposition: form-data; name=\"name\"\r\n\r\nn\r\n--x--\r\n",
            400,
        ),
        ("application/json", "{}", 400),
        ("application/json", "not json", 400),
    ] {
        let answer = client
            .request("POST", ROUTE)
            .header("content-type", content_type)
            .body(body)
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status().as_u16(), wanted, "{content_type} {body:?}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
    }
    // Half an upload: the client promises more than it sends.
    use tokio::io::AsyncWriteExt as _;
    let mut half = tokio::net::TcpStream::connect(service.base.trim_start_matches("http://"))
        .await
        .expect("a connection");
    let head = format!(
        "POST {ROUTE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: text/csv\r\nContent-Length: 1000\r\n\r\nid,note\n1,x\n"
    );
    half.write_all(head.as_bytes()).await.expect("it is sent");
    drop(half);
    let (status, _) = client.upload("/v2/pipelines/nothing/batches", "id\n1\n").await.expect("an answer");
    assert_eq!(status, 404);
    assert_eq!(client.get("/v2/batches").await["data"], serde_json::json!([]));
    assert_eq!(place.objects(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn good_files_are_read_as_they_stand() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let mut waiting = Vec::new();
    for (file, rows) in good() {
        let (status, batch) = client.upload(ROUTE, file).await.expect("an answer");
        assert_eq!(status, 202, "{:?}: {batch}", String::from_utf8_lossy(file));
        waiting.push((batch["id"].as_str().expect("an id").to_owned(), file, rows));
    }
    for (id, file, rows) in waiting {
        client.finished(&id).await;
        let text = client.text(&format!("/v2/batches/{id}/results.ndjson")).await;
        let found: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let found: Vec<(&str, &str, u64)> = found
            .iter()
            .map(|line| {
                let row = &line["row"];
                (row["id"].as_str().unwrap(), row["note"].as_str().unwrap(), line["line"].as_u64().unwrap())
            })
            .collect();
        assert_eq!(found, rows, "{:?}", String::from_utf8_lossy(file));
    }
}

#[tokio::test]
async fn a_form_carries_its_fields_before_or_behind_the_file() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let part = |name: &str, value: &str| {
        format!("--x\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let file = "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.csv\"\r\nContent-Type: text/csv\r\n\r\nid,note\n1,x\n\r\n";
    for body in [
        format!("{}{file}{}--x--\r\n", part("name", "first"), part("allow_failures", "false")),
        format!(
            "{file}{}{}{}--x--\r\n",
            part("name", "first"),
            part("allow_failures", "false"),
            part("context", "{\"a\":1}")
        ),
    ] {
        let answer = client
            .request("POST", ROUTE)
            .header("content-type", "multipart/form-data; boundary=x")
            .body(body)
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status().as_u16(), 202);
        let location = answer.headers()["location"].to_str().expect("text").to_owned();
        let batch: Value = answer.json().await.expect("JSON");
        assert_eq!(location, format!("/v2/batches/{}", batch["id"].as_str().expect("an id")));
        assert_eq!((&batch["name"], &batch["allow_failures"]), (&"first".into(), &false.into()));
        assert_eq!(client.finished(batch["id"].as_str().unwrap()).await["outcome"], "success");
    }
    let bad = format!("{file}{}--x--\r\n", part("context", "[1]"));
    let answer = client
        .request("POST", ROUTE)
        .header("content-type", "multipart/form-data; boundary=x")
        .body(bad)
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status().as_u16(), 422);
    assert_eq!(place.objects().len(), 2);
}

#[tokio::test]
async fn an_idempotency_key_makes_one_batch() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let send = |path: &str, body: &'static str| {
        client
            .request("POST", path)
            .header("content-type", "text/csv")
            .header("idempotency-key", "once")
            .body(body)
            .send()
    };
    let (a, b, c) = tokio::join!(send(ROUTE, "id\n1\n"), send(ROUTE, "id\n1\n"), send(ROUTE, "id\n1\n"));
    let mut ids = Vec::new();
    for answer in [a, b, c, send(ROUTE, "id\n1\n").await] {
        let answer = answer.expect("an answer");
        assert_eq!(answer.status().as_u16(), 202);
        ids.push(answer.json::<Value>().await.expect("JSON")["id"].clone());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    for (path, body) in [(ROUTE.to_owned(), "id\n2\n"), (format!("{ROUTE}?name=other"), "id\n1\n")] {
        let answer = send(&path, body).await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 422);
    }
    assert_eq!(client.get("/v2/batches").await["data"].as_array().map(Vec::len), Some(1));
    assert_eq!(place.objects().len(), 1);
}

/// One field of 2 GB is refused as soon as it passes the limit: the client has sent next to nothing of it, the service
/// has held next to nothing of it, and nothing is left behind.
#[tokio::test]
async fn a_field_of_two_gigabytes_is_refused_at_once() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    const FIELD: u64 = 2 << 30;
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    for quote in ["", "\""] {
        let address = service.base.strip_prefix("http://").expect("an address");
        let connection = tokio::net::TcpStream::connect(address).await.expect("it listens");
        let (mut input, mut output) = connection.into_split();
        let head = format!(
            "POST {ROUTE} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\ncontent-type: text/csv\r\n\
             content-length: {}\r\n\r\nid,note\n1,{quote}",
            FIELD + 10 + quote.len() as u64
        );
        output.write_all(head.as_bytes()).await.expect("it reads");
        let sent = Arc::new(AtomicU64::new(0));
        let sending = tokio::spawn({
            let sent = sent.clone();
            async move {
                let block = vec![b'x'; 64 * 1024];
                while sent.load(Ordering::SeqCst) < FIELD && output.write_all(&block).await.is_ok() {
                    sent.fetch_add(block.len() as u64, Ordering::SeqCst);
                }
            }
        });
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        while !String::from_utf8_lossy(&answer).contains("limit_exceeded") {
            let read = input.read(&mut piece).await.expect("an answer");
            assert!(read > 0, "it hung up without a word: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..read]);
        }
        let sent = sent.load(Ordering::SeqCst);
        sending.abort();
        assert!(sent < 64 << 20, "{sent} bytes of it were taken before the answer");
        let text = String::from_utf8_lossy(&answer);
        assert!(text.starts_with("HTTP/1.1 413"), "{text}");
        assert!(text.contains("\"line\":2") && text.contains("\"column\":\"note\""), "{text}");
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.pid())).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(peak < 256 * 1024, "{peak} KiB");
    assert!(place.objects().is_empty(), "{:?}", place.objects());
}

//! Answers that are complete but odd, and answers that are not: what is said of them, and what is not lost.
#![allow(clippy::unwrap_used, reason = "a test's way to fail")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use penstock_domain::cause::Cause;
use penstock_domain::outcome::{Repetition, Verdict};
use penstock_domain::pipeline::Dependency;
use penstock_downstream::{Called, Caller, Demand, Failure, LocalLimiter, Response, Spend};
use serde_json::{Value, json};
use support::dependency;
use support::hammer::{caller, get};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// A server that answers every request with these bytes; it then closes the connection, or keeps it open in silence.
async fn server(answer: Vec<u8>, closes: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(&answer).await;
                if !closes {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    url
}

fn demand(dependency: &Dependency, repetition: Repetition) -> Demand<'_> {
    Demand {
        dependency,
        owner: "acme",
        spend: Spend::of(1),
        timeout: dependency.timeout,
        answer: Default::default(),
        repetition,
        unanswered_before: false,
        rules: None,
        reads_body: true,
        traceparent: None,
        past: penstock_domain::limit::Past::Clean,
        note: None,
    }
}

fn local() -> Arc<Caller> {
    caller(Arc::new(LocalLimiter::new()), 1)
}

struct Seen {
    verdict: Verdict,
    response: Option<Response>,
    failure: Option<Failure>,
}

/// What a step that says nothing of repetitions makes of such an answer, and what a harmless one does.
async fn seen(answer: impl Into<Vec<u8>>, closes: bool) -> (Seen, Verdict) {
    let mut api = dependency(&server(answer.into(), closes).await);
    api.timeout = Duration::from_millis(400);
    let caller = local();
    let call = async |repetition| {
        let demand = demand(&api, repetition);
        match caller.call(&demand, get("/"), &|| true, &|| Box::new(())).await {
            Called::Answered { verdict, response, failure, .. } => Seen { verdict, response, failure },
            other => panic!("{other:?}"),
        }
    };
    let first = call(Repetition::Unsaid).await;
    (first, call(Repetition::Harmless).await.verdict)
}

fn answered(headers: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

fn header_lines(number: usize) -> String {
    (0..number).map(|n| format!("x-header-{n}: value {n}\r\n")).collect()
}

#[tokio::test]
async fn odd_answers_are_read() {
    let json = "{\"ok\":true}";
    for (what, answer) in [
        ("150 header lines", answered(&header_lines(150), json)),
        ("500 header lines", answered(&header_lines(500), json)),
        ("a folded header", answered("x-folded: one\r\n two\r\n\tthree\r\n", json)),
        ("a space before the colon", answered("x-odd : value\r\n", json)),
        ("a byte order mark", answered("", "\u{FEFF}{\"ok\":true}")),
        ("no reason phrase", "HTTP/1.1 200\r\ncontent-length: 11\r\n\r\n{\"ok\":true}".to_owned()),
        ("no length: until the end", "HTTP/1.1 200 OK\r\n\r\n{\"ok\":true}".to_owned()),
        ("HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\n{\"ok\":true}".to_owned()),
        (
            "chunks",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"ok\"\r\n6\r\n:true}\r\n0\r\n\r\n"
                .to_owned(),
        ),
        ("hints before", format!("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n{}", answered("", json))),
    ] {
        let (seen, _) = seen(answer, true).await;
        let body = seen.response.map(|response| (*response.body).clone());
        assert_eq!(
            (&seen.verdict, body),
            (&Verdict::Success, Some(json!({"ok": true}))),
            "{what}: {:?}",
            seen.failure
        );
    }
    let (folded, _) = seen(answered("x-folded: one\r\n two\r\n", json), true).await;
    let headers = folded.response.unwrap().headers;
    let words: Vec<&str> = headers["x-folded"].split_whitespace().collect();
    assert_eq!(words, ["one", "two"]);
}

#[tokio::test]
async fn of_an_answer_that_cannot_be_used_status_cause_and_size_are_known() {
    let fail = Verdict::Fail { code: "bad_response".into() };
    let retry = Verdict::Retry { code: "bad_response".into() };
    let large = "x".repeat(2 * 1024 * 1024);
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"ok\":true}";
    let cut_chunk = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"ok\"\r\n6\r\n:t";
    for (answer, closes, cause, sentence) in [
        (cut.to_owned(), true, Cause::BodyCut, "its body broke off (11 of 100 bytes came)"),
        (cut.to_owned(), false, Cause::BodyLate, "its body did not come in time (11 of 100 bytes came)"),
        (cut_chunk.to_owned(), true, Cause::BodyCut, "its body broke off (7 bytes came)"),
        (
            answered("", &large),
            true,
            Cause::BodyTooLong,
            "its body is longer than 1048576 bytes (2097152 bytes)",
        ),
        (
            answered("content-encoding: gzip\r\n", "not really"),
            true,
            Cause::BodyEncoded,
            "its body is encoded as `gzip`, which was not asked for (10 bytes)",
        ),
        (
            answered("content-type: text/html\r\n", "<html></html>"),
            true,
            Cause::NotJson,
            "its body is not JSON: expected value at line 1 column 1 (text/html, 13 bytes)",
        ),
        (
            answered(&header_lines(600), "{}"),
            true,
            Cause::BadHeader,
            "its header has more than 512 lines, or is too long",
        ),
        (
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n{}".to_owned(),
            true,
            Cause::BadHeader,
            "its header cannot be read (invalid HTTP header parsed)",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n{}".to_owned(),
            true,
            Cause::BadHeader,
            "its header cannot be read (invalid content-length parsed)",
        ),
        ("HTTP/1.1 200 OK\r\ncontent-le".to_owned(), true, Cause::BadHeader, "its header broke off"),
        (
            "HTTP/1.1 200 OK\r\ncontent-le".to_owned(),
            false,
            Cause::BadHeader,
            "its header did not come in time",
        ),
    ] {
        let shown: String = answer.chars().take(60).collect();
        let (seen, repeatable) = seen(answer, closes).await;
        let failure = seen.failure.unwrap_or_else(|| panic!("{shown:?}: {:?}", seen.verdict));
        assert_eq!((failure.cause, failure.sentence.as_str()), (cause, sentence), "{shown:?}");
        assert_eq!(seen.response.map(|response| response.status), Some(200), "{shown:?}");
        assert_eq!((&seen.verdict, &repeatable), (&fail, &retry), "{shown:?}");
    }
}

#[tokio::test]
async fn a_status_counts_whatever_is_wrong_with_the_rest() {
    let many = format!("HTTP/1.1 429 Slow Down\r\n{}\r\n", header_lines(600));
    let (throttled, _) = seen(many, true).await;
    assert!(matches!(throttled.verdict, Verdict::Throttled { .. }), "{:?}", throttled.verdict);
    let (failed, _) = seen("HTTP/1.1 422 No\r\ncontent-length: 90\r\n\r\n{\"error\"", true).await;
    assert_eq!(failed.verdict, Verdict::Fail { code: "http_422".into() });
    assert_eq!(failed.failure.unwrap().sentence, "its body broke off (8 of 90 bytes came)");
    // What nobody reads may be anything.
    let api = dependency(&server(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_vec(), true).await);
    let unread = Demand { reads_body: false, ..demand(&api, Repetition::Unsaid) };
    let called = local().call(&unread, get("/"), &|| true, &|| Box::new(())).await;
    assert!(matches!(called, Called::Answered { verdict: Verdict::Success, .. }), "{called:?}");
}

#[tokio::test]
async fn without_a_status_nothing_is_known() {
    let unknown = Verdict::Unknown { code: "outcome_unknown".into() };
    for (answer, cause) in [
        ("", Cause::ConnectionLost),
        ("HTTP/1.1 2", Cause::ConnectionLost),
        ("HTTP/1.1 100 Continue\r\n\r\n", Cause::ConnectionLost),
        ("220 smtp.example ESMTP\r\n", Cause::NotHttp),
        ("\u{15}\u{3}\u{1}\0\u{2}\u{2}F", Cause::NotHttp),
    ] {
        let (seen, repeatable) = seen(answer, true).await;
        assert_eq!(seen.failure.map(|failure| failure.cause), Some(cause), "{answer:?}");
        assert_eq!(
            (seen.verdict, repeatable),
            (unknown.clone(), Verdict::Retry { code: "connection_lost".into() })
        );
    }
}

/// A connection that is used again must not give the status of the answer before.
#[tokio::test]
async fn an_answer_before_is_not_taken_for_the_one_that_is_missing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = dependency(&format!("http://{}", listener.local_addr().unwrap()));
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        stream.write_all(answered("", "{}").as_bytes()).await.unwrap();
        let _ = stream.read(&mut request).await;
    });
    let caller = local();
    let demand = demand(&api, Repetition::Unsaid);
    let first = caller.call(&demand, get("/"), &|| true, &|| Box::new(())).await;
    assert!(matches!(first, Called::Answered { verdict: Verdict::Success, .. }), "{first:?}");
    let second = caller.call(&demand, get("/"), &|| true, &|| Box::new(())).await;
    let Called::Answered { verdict, response: None, .. } = second else { panic!("{second:?}") };
    assert_eq!(verdict, Verdict::Unknown { code: "outcome_unknown".into() });
}

#[tokio::test]
async fn a_user_in_the_address_is_sent_as_basic_authentication() {
    let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = dependency(&format!("http://us%40er:pa%3Ass@{}/v1", echo.local_addr().unwrap()));
    tokio::spawn(async move {
        let (mut stream, _) = echo.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let read = stream.read(&mut request).await.unwrap();
        let head = Value::String(String::from_utf8_lossy(&request[..read]).into_owned()).to_string();
        stream.write_all(answered("", &head).as_bytes()).await.unwrap();
    });
    let called = local().call(&demand(&api, Repetition::Unsaid), get("/x"), &|| true, &|| Box::new(())).await;
    let Called::Answered { response: Some(response), .. } = called else { panic!("{called:?}") };
    let head = response.body.as_str().unwrap().to_ascii_lowercase();
    assert!(head.starts_with("get /v1/x http/1.1\r\n"), "{head}");
    // us@er:pa:ss, in small letters as all of it.
    assert!(head.contains("authorization: basic dxnazxi6cge6c3m="), "{head}");
    for line in ["accept: */*", "accept-encoding: identity", "user-agent: penstock/"] {
        assert!(head.contains(line), "{line} is missing in {head}");
    }
}

//! What clients may take at a time: memory of uploads and reports, reads of the database; and what they leave to others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Faults, Sandbox};
use penstock_tests::{Client, PATIENCE, Place, Service};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::NOOP;
use crate::bounds::memory;

/// Rows of any length, which nobody calls anybody for.
pub(crate) const WIDE: &str = "name: wide\ncsv: { max_field_chars: 300000, columns: [ { name: id, required: true }, { name: note } ] }\nsteps: []\ndispatch: { spread: 0s }\n";

fn head(method: &str, path: &str, key: &str, length: usize) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: text/csv\r\ncontent-length: {length}\r\n\r\n"
    )
}

async fn connect(service: &Service) -> TcpStream {
    TcpStream::connect(service.base.trim_start_matches("http://")).await.expect("it listens")
}

/// A file of about so many bytes.
pub(crate) fn file(bytes: usize) -> String {
    let mut csv = "id,note\n".to_owned();
    let mut number = 0;
    while csv.len() < bytes {
        number += 1;
        csv.push_str(&format!("{number},{}\n", "x".repeat(1000)));
    }
    csv
}

/// Uploads that stand still hold what the budget has and no more; who comes later waits, and is told when to come again;
/// another owner finds room, for a small file and for a large one. When they are gone, so is what they held.
#[tokio::test]
async fn uploads_share_a_budget() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("wide.yaml", WIDE)]);
    place.set("PENSTOCK_API_MEMORY_MIB", "32".into());
    let (key, other) = (place.key(&sandbox, "acme"), place.key(&sandbox, "rival"));
    let service = place.start(&sandbox, None);
    let rival = Client::new(&service, &other);
    let large = file(5_000_000);
    let before = memory(&service);
    let mut stalled = Vec::new();
    for _ in 0..34 {
        let mut connection = connect(&service).await;
        let begin = head("POST", "/v2/pipelines/wide/batches", &key, large.len());
        connection.write_all(begin.as_bytes()).await.expect("it is taken");
        // As much as is taken.
        let part = large.as_bytes()[..4_000_000].to_vec();
        stalled.push(tokio::spawn(async move {
            let _ = tokio::time::timeout(Duration::from_secs(60), connection.write_all(&part)).await;
            connection
        }));
    }
    let began = Instant::now();
    let (status, batch) =
        rival.upload("/v2/pipelines/wide/batches", "id,note\n1,x\n").await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let (status, batch) = rival.upload("/v2/pipelines/wide/batches", large.clone()).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    assert!(
        began.elapsed() < Duration::from_secs(9),
        "{:?}: it did not wait for those that stall",
        began.elapsed()
    );
    // One more of the first owner's finds no room.
    let mine = Client::new(&service, &key);
    let refused = mine
        .request("POST", "/v2/pipelines/wide/batches")
        .header("content-type", "text/csv")
        .body(large.clone())
        .send()
        .await;
    // It may be answered while it is still being sent.
    if let Ok(refused) = refused {
        assert_eq!(refused.status(), 503);
        assert!(refused.headers().contains_key("retry-after"));
        assert_eq!(refused.json::<Value>().await.expect("JSON")["code"], "busy");
    }
    let after = memory(&service);
    assert!(after < before + 70, "{before} MiB before, {after} with 34 uploads that stall");
    for connection in stalled {
        connection.abort();
        drop(connection.await);
    }
    let began = Instant::now();
    loop {
        let sent = mine.upload("/v2/pipelines/wide/batches", large.clone()).await;
        if sent.is_some_and(|(status, _)| status == 202) {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "what they held is not free");
    }
    service.terminate();
}

/// Readers of long rows who take nothing hold a page each, and a report is the same for who reads slowly.
#[tokio::test]
async fn readers_hold_a_page_each() {
    const ROWS: usize = 60;
    const READERS: usize = 12;
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("wide.yaml", WIDE)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let mut csv = "id,note\n".to_owned();
    for number in 0..ROWS {
        csv.push_str(&format!("{number},{}\n", "n".repeat(262_000)));
    }
    let (status, batch) = client.upload("/v2/pipelines/wide/batches", csv).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id").to_owned();
    client.finished(&id).await;
    let path = format!("/v2/batches/{id}/results.csv");
    let whole = client.text(&path).await;
    assert_eq!(whole.lines().count(), ROWS + 1);
    let before = memory(&service);
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let mut connection = connect(&service).await;
        connection.write_all(head("GET", &path, &key, 0).as_bytes()).await.expect("it is taken");
        let mut first = [0; 12];
        connection.read_exact(&mut first).await.expect("an answer");
        assert_eq!(&first, b"HTTP/1.1 200");
        readers.push(connection);
    }
    // Each of them could have all of it, sixteen megabytes; what is held is a row or two.
    let page = client.get(&format!("/v2/batches/{id}/rows?limit=1000")).await;
    assert_eq!(page["data"].as_array().expect("rows").len(), ROWS);
    let after = memory(&service);
    assert!(after < before + 4 * READERS as u64, "{before} MiB before, {after} with {READERS} readers");
    // The last of them goes on.
    let mut last = readers.pop().expect("a reader");
    let mut rest = Vec::new();
    let mut piece = vec![0; 100_000];
    while !rest.ends_with(b"0\r\n\r\n") {
        let read =
            tokio::time::timeout(PATIENCE, last.read(&mut piece)).await.expect("in time").expect("more");
        assert!(read > 0, "it broke off after {} bytes", rest.len());
        rest.extend_from_slice(&piece[..read]);
    }
    assert!(rest.len() > whole.len());
}

/// Somebody who asks for rows of few states of a large batch, many times at once, holds up nobody.
#[tokio::test]
async fn many_readers_of_one_owner_hold_up_nobody() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let noop = NOOP.replace("max_rows: 1000", "max_rows: 100000");
    let place = Place::new(&[("noop.yaml", &noop)]);
    let (key, other) = (place.key(&sandbox, "acme"), place.key(&sandbox, "rival"));
    let service = place.start(&sandbox, None);
    let (client, rival) = (Client::new(&service, &key), Client::new(&service, &other));
    let rows = if cfg!(debug_assertions) { 30_000 } else { 100_000 };
    let csv: String =
        std::iter::once("id\n".to_owned()).chain((1..=rows).map(|number| format!("{number}\n"))).collect();
    let (status, batch) = client.upload("/v2/pipelines/noop/batches", csv).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id").to_owned();
    client.post(&format!("/v2/batches/{id}/cancel"), &Value::Null).await;
    client.finished(&id).await;
    let path = format!("/v2/batches/{id}/rows?status=processing&limit=10");
    let reading: Vec<_> = (0..40)
        .map(|_| {
            let request = client.request("GET", &path);
            tokio::spawn(async move {
                let began = Instant::now();
                while began.elapsed() < Duration::from_secs(4) {
                    let answer = request.try_clone().expect("no body").send().await.expect("an answer");
                    assert!([200, 503].contains(&answer.status().as_u16()), "{}", answer.status());
                    let page: Value = answer.json().await.expect("JSON");
                    assert!(page["code"] == "busy" || page["data"] == json!([]), "{page}");
                }
            })
        })
        .collect();
    let mut slowest = Duration::ZERO;
    for _ in 0..15 {
        let began = Instant::now();
        rival.get("/v2/batches").await;
        slowest = slowest.max(began.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(slowest < Duration::from_secs(3), "{slowest:?}");
    for reader in reading {
        reader.await.expect("it was answered each time");
    }
}

/// An API whose answers are lists of so many bytes, which come in two parts with a pause between them.
async fn lists(bytes: usize, pause: Duration) -> String {
    let entry = format!(r#"{{"id":12345,"name":"{}"}}"#, "n".repeat(120));
    let body = format!(r#"{{"first":1,"list":[{}]}}"#, vec![entry; bytes / 145].join(","));
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let answer = Arc::new(format!("{head}{body}"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let (mut request, mut piece) = (Vec::new(), [0; 4096]);
                while !request.ends_with(b"\r\n\r\n") {
                    let Ok(read @ 1..) = connection.read(&mut piece).await else { return };
                    request.extend_from_slice(&piece[..read]);
                }
                let (most, rest) = answer.as_bytes().split_at(answer.len() - 1000);
                let _ = connection.write_all(most).await;
                tokio::time::sleep(pause).await;
                let _ = connection.write_all(rest).await;
            });
        }
    });
    format!("http://{address}")
}

/// Runs a batch to its end. The most memory that was seen meanwhile, in MiB, and the most rows in flight.
async fn run_watched(
    client: &Client,
    service: &Service,
    csv: String,
    rows: usize,
    patience: Duration,
) -> (u64, u64) {
    let (status, batch) = client.upload("/v2/pipelines/wide/batches", csv).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id").to_owned();
    let (mut most, mut in_flight) = (0, 0);
    let began = Instant::now();
    loop {
        let batch = client.get(&format!("/v2/batches/{id}")).await;
        most = most.max(memory(service));
        in_flight = in_flight.max(batch["counts"]["processing"].as_u64().expect("a count"));
        if !batch["finished_at"].is_null() {
            assert_eq!(batch["counts"]["completed"], rows, "{batch}");
            return (most, in_flight);
        }
        assert!(began.elapsed() < patience, "{batch}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Answers of 900 KiB, 256 rows at a time: memory has its bound, and each row is completed by the first call.
#[tokio::test]
async fn long_answers_in_flight_share_memory() {
    const ROWS: usize = 400;
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let calls = format!(
        "dependencies: {{ lists: {{ base_url: \"{}\", timeout: 60s }} }}\n\
        steps: [ {{ name: list, dependency: lists, request: {{ method: GET, path: /list }}, \
        output: {{ first: \"{{{{ body.first }}}}\" }} }} ]\n",
        lists(900 * 1024, Duration::from_millis(300)).await
    );
    let mut place = Place::new(&[("wide.yaml", &WIDE.replace("steps: []\n", &calls))]);
    place.set("PENSTOCK_WORKER_ANSWERS_MIB", "16".into());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let csv =
        std::iter::once("id\n".to_owned()).chain((0..ROWS).map(|row| format!("{row}\n"))).collect::<String>();
    let before = memory(&service);
    let (most, in_flight) = run_watched(&client, &service, csv, ROWS, 2 * PATIENCE).await;
    assert!(in_flight > 100, "{in_flight} at once: the memory is not what bounds them");
    // The connections' own buffers besides. Without the bound it was 1,367 MiB.
    assert!(most < before + 200, "{before} MiB before, {most} at most");
    service.terminate();
}

/// How long a batch of small calls takes, from its upload to its end.
async fn small_calls(client: &Client, rows: usize) -> Duration {
    let csv = std::iter::once("id\n".to_owned()).chain((0..rows).map(|row| format!("{row}\n")));
    let began = Instant::now();
    let (status, batch) =
        client.upload("/v2/pipelines/small/batches", csv.collect::<String>()).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let batch = client.finished(batch["id"].as_str().expect("an id")).await;
    assert_eq!(batch["counts"]["completed"], rows, "{batch}");
    began.elapsed()
}

/// A pipeline whose API answers with lists of 95 KB leaves another its pace: four fifths of what it has alone in a build with
/// optimisation, and less in one without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_answers_leave_other_pipelines_their_pace() {
    const ROWS: usize = 300;
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let pipeline = |name: &str, url: &str, limit: &str| {
        let calls = format!(
            "dependencies: {{ lists: {{ base_url: \"{url}\", {limit} }} }}\n\
            steps: [ {{ name: list, dependency: lists, request: {{ method: GET, path: /list }}, \
            output: {{ first: \"{{{{ body.first }}}}\" }} }} ]\n"
        );
        WIDE.replace("name: wide", &format!("name: {name}")).replace("steps: []\n", &calls)
    };
    let pause = Duration::from_millis(100);
    let (long, short) = (lists(95_000, pause).await, lists(2000, pause).await);
    let place = Place::new(&[
        ("large.yaml", &pipeline("large", &long, "timeout: 60s")),
        // Five at a time of a tenth of a second each: alone the machine is no bound.
        ("small.yaml", &pipeline("small", &short, "timeout: 60s, concurrency: { limit: 5 }")),
    ]);
    let (key, other) = (place.key(&sandbox, "acme"), place.key(&sandbox, "rival"));
    let service = place.start(&sandbox, None);
    let (client, rival) = (Client::new(&service, &key), Client::new(&service, &other));
    let alone = small_calls(&rival, ROWS).await;
    let many = std::iter::once("id\n".to_owned()).chain((0..20_000).map(|row| format!("{row}\n")));
    let (status, batch) =
        client.upload("/v2/pipelines/large/batches", many.collect::<String>()).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id").to_owned();
    let began = Instant::now();
    while client.get(&format!("/v2/batches/{id}")).await["counts"]["completed"].as_u64() < Some(20) {
        assert!(began.elapsed() < PATIENCE, "no long answer was read");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // What else runs on this machine may slow one of them down; and a build without optimisation spends most of two
    // processors on parsing the long answers.
    let wanted = if cfg!(debug_assertions) { 0.3 } else { 0.8 };
    let mut ratios = Vec::new();
    while ratios.len() < 3 && ratios.last().is_none_or(|ratio| *ratio < wanted) {
        let beside = small_calls(&rival, ROWS).await;
        ratios.push(alone.as_secs_f64() / beside.as_secs_f64());
    }
    let large = client.get(&format!("/v2/batches/{id}")).await;
    assert!(large["finished_at"].is_null(), "it ended before the other: {large}");
    eprintln!(
        "{alone:?} alone; beside {} long answers {ratios:.2?} of that pace",
        large["counts"]["completed"]
    );
    assert!(ratios.iter().any(|ratio| *ratio >= wanted), "{ratios:.2?} of its pace alone");
    service.terminate();
}

/// Rows of a quarter of a mebibyte whose calls take a while: as many are in flight as memory allows, not as many as there
/// are slots, and all of them end. Short rows of the same file do not wait for memory.
#[tokio::test]
async fn long_rows_in_flight_share_memory() {
    const ROWS: usize = 120;
    let slow = Faults { latency_ms: 400, ..Faults::default() };
    let sandbox = Sandbox::start(Config { faults: slow, ..Config::default() }).expect("a sandbox");
    let sent = "dependencies: { address: { base_url: \"${ADDRESS_API_URL}\" } }\n\
        steps: [ { name: send, dependency: address, \
        request: { method: POST, path: /address-links, json: { postcode: \"AB1\", note: \"{{ row.note }}\" } } } ]\n";
    let mut place = Place::new(&[("wide.yaml", &WIDE.replace("steps: []\n", sent))]);
    place.set("PENSTOCK_WORKER_MEMORY_MIB", "16".into());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let mut csv = "id,note\n".to_owned();
    for number in 0..ROWS {
        csv.push_str(&format!("{number},{}\n", "n".repeat(260_000)));
    }
    let before = memory(&service);
    let (most, in_flight) = run_watched(&client, &service, csv, ROWS, PATIENCE).await;
    // Half of 16 MiB, in rows of 4 × 260 KB.
    assert!((1..=16).contains(&in_flight), "{in_flight} at once");
    assert!(most < before + 90, "{before} MiB before, {most} at most");
    service.terminate();
}

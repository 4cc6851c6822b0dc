//! No client takes the service down: connections, heads and bodies that mean harm, and what they cost.

use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::{Client, PATIENCE, Place, Service};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::NOOP;

fn address(service: &Service) -> String {
    service.base.trim_start_matches("http://").to_owned()
}

async fn connect(service: &Service) -> TcpStream {
    TcpStream::connect(address(service)).await.expect("it listens")
}

async fn send(connection: &mut TcpStream, bytes: &[u8]) {
    connection.write_all(bytes).await.expect("it is taken");
}

/// Reads one answer with its body, by its `Content-Length`; what came when the other side closed first.
async fn answer(connection: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
            if body.len() >= length.and_then(|length| length.parse().ok()).unwrap_or(usize::MAX) {
                return text;
            }
        }
        match tokio::time::timeout(PATIENCE, connection.read(&mut piece)).await.expect("an answer or an end")
        {
            Ok(read) if read > 0 => bytes.extend_from_slice(&piece[..read]),
            _ => return text,
        }
    }
}

/// Whether the other side closes within the tests' patience, whatever it says before.
async fn closes(connection: &mut TcpStream) -> bool {
    let mut piece = [0; 4096];
    let ended = async { while connection.read(&mut piece).await.is_ok_and(|read| read > 0) {} };
    tokio::time::timeout(PATIENCE, ended).await.is_ok()
}

/// Resident memory of a service, in MiB.
pub fn memory(service: &Service) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.pid())).expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") / 1024
}

/// How long a request of somebody else takes, in milliseconds.
async fn somebody_else(service: &Service) -> u128 {
    let http = penstock_tests::http().pool_max_idle_per_host(0).build().expect("a client");
    let began = Instant::now();
    let answer = http.get(format!("{}/livez", service.base)).timeout(Duration::from_secs(10)).send().await;
    assert_eq!(answer.expect("an answer").status(), 200);
    began.elapsed().as_millis()
}

const HEALTH: &[u8] = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";

/// The first head of a connection and every later one has its time, and takes nobody else's.
#[tokio::test]
async fn a_head_that_never_ends_is_ended() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("noop.yaml", NOOP)]);
    place.set("PENSTOCK_HEAD_SECONDS", "2".into());
    let service = place.start(&sandbox, None);
    // As a proxy keeps one: its next request may come later than a head may take, and later than actix-web would wait.
    let mut kept = connect(&service).await;
    send(&mut kept, HEALTH).await;
    assert!(answer(&mut kept).await.starts_with("HTTP/1.1 200"));
    let kept_since = Instant::now();
    let mut later = Vec::new();
    for _ in 0..50 {
        let mut connection = connect(&service).await;
        send(&mut connection, HEALTH).await;
        assert!(answer(&mut connection).await.starts_with("HTTP/1.1 200"));
        send(&mut connection, b"GET /livez HTTP/1.1\r\nhost: ").await;
        later.push(connection);
    }
    let mut first = connect(&service).await;
    send(&mut first, b"GET /li").await;
    for _ in 0..12 {
        somebody_else(&service).await;
    }
    let said = answer(&mut first).await;
    assert!(said.starts_with("HTTP/1.1 408") && said.contains("\"code\":\"timeout\""), "{said}");
    for connection in &mut later {
        // Trickling does not help.
        let _ = connection.write_all(b"x").await;
        let said = answer(connection).await;
        assert!(said.starts_with("HTTP/1.1 408"), "{said}");
        assert!(closes(connection).await);
    }
    // Who says nothing at all is told nothing.
    let mut silent = connect(&service).await;
    assert_eq!(answer(&mut silent).await, "");
    tokio::time::sleep(Duration::from_secs(6).saturating_sub(kept_since.elapsed())).await;
    send(&mut kept, b"GET /livez HTTP/1.1\r\nhost: ").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    send(&mut kept, b"x\r\n\r\n").await;
    assert!(answer(&mut kept).await.starts_with("HTTP/1.1 200"), "its head has the whole time again");
    // Nobody waits for connections without a request.
    let stopped = Instant::now();
    service.terminate();
    assert!(stopped.elapsed() < Duration::from_secs(5), "{:?}", stopped.elapsed());
}

/// A head is bounded, and what cannot be read as a request is refused like everything else.
#[tokio::test]
async fn a_head_is_bounded() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let service = place.start(&sandbox, None);
    let mut connection = connect(&service).await;
    send(
        &mut connection,
        format!("GET /livez HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(30_000)).as_bytes(),
    )
    .await;
    assert!(answer(&mut connection).await.starts_with("HTTP/1.1 200"));
    let _ =
        connection.write_all(format!("GET /livez HTTP/1.1\r\nx: {}", "y".repeat(40_000)).as_bytes()).await;
    let said = answer(&mut connection).await;
    assert!(said.starts_with("HTTP/1.1 431") && said.contains("head_too_large"), "{said}");
    assert!(closes(&mut connection).await);
    let mut connection = connect(&service).await;
    send(&mut connection, b"GET /livez\x01 HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let said = answer(&mut connection).await;
    assert!(said.starts_with("HTTP/1.1 400") && said.contains("\"code\":\"bad_request\""), "{said}");
}

/// Heads that are not finished take a bounded part of memory, whoever sends how many of them.
#[tokio::test]
async fn unfinished_heads_take_little() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let service = place.start(&sandbox, None);
    somebody_else(&service).await;
    let before = memory(&service);
    let head = format!("GET /livez HTTP/1.1\r\nhost: x\r\nx: {}", "y".repeat(30_000));
    let mut connections = Vec::new();
    for _ in 0..700 {
        let mut connection = connect(&service).await;
        // Those for which there is no room are refused.
        let _ = connection.write_all(head.as_bytes()).await;
        connections.push(connection);
    }
    let took = somebody_else(&service).await;
    let after = memory(&service);
    assert!(after < before + 45, "{before} MiB before, {after} with 700 heads of 30 KB");
    assert!(took < 2000, "{took} ms");
}

/// When the table is full, the connection that waits longest makes room; requests under way are never cut, and who comes
/// when all are busy is told so.
#[tokio::test]
async fn connections_are_counted() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("noop.yaml", NOOP)]);
    place.set("PENSTOCK_MAX_CONNECTIONS", "40".into());
    place.set("PENSTOCK_CONNECTIONS_PER_ADDRESS", "20".into());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let mut idle = Vec::new();
    for _ in 0..60 {
        idle.push(connect(&service).await);
    }
    // Those that wait are closed for those that come, whichever thread took them.
    let began = Instant::now();
    let mut piece = [0; 1];
    while idle.iter().filter(|connection| connection.try_read(&mut piece).is_ok_and(|read| read == 0)).count()
        < 40
    {
        assert!(began.elapsed() < Duration::from_secs(10), "they are closed long before a head is late");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    somebody_else(&service).await;
    drop(idle);
    let mut busy = Vec::new();
    for _ in 0..20 {
        let mut connection = connect(&service).await;
        let upload = format!(
            "POST /v2/pipelines/noop/batches HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: text/csv\r\n\
             content-length: 9\r\nexpect: 100-continue\r\n\r\n"
        );
        send(&mut connection, upload.as_bytes()).await;
        let mut word = [0; 25];
        connection.read_exact(&mut word).await.expect("it may go on");
        assert!(word.starts_with(b"HTTP/1.1 100 Continue"), "{}", String::from_utf8_lossy(&word));
        busy.push(connection);
    }
    let began = Instant::now();
    loop {
        let mut refused = connect(&service).await;
        send(&mut refused, HEALTH).await;
        let said = answer(&mut refused).await;
        if said.starts_with("HTTP/1.1 503") {
            assert!(said.contains("too many connections") && said.contains("retry-after: "), "{said}");
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{said}");
    }
    for connection in &mut busy {
        send(connection, b"id\n1\n2\n3\n").await;
        assert!(answer(connection).await.starts_with("HTTP/1.1 202"));
    }
}

/// What nobody reads is not read from the socket: listeners that go on sending take no more than listeners.
#[tokio::test]
async fn a_body_that_nobody_asked_for_takes_no_memory() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let slow = "name: slow\ncsv: { columns: [ { name: id, required: true } ] }\nsteps: []\ndispatch: { spread: 0s }\n";
    let place = Place::new(&[("slow.yaml", slow)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let to = "/v2/pipelines/slow/batches?canary=%7B%22rows%22%3A1%2C%22max_failure%22%3A%220%20%25%22%7D";
    let (_, batch) = client.upload(to, "id\n1\n2\n").await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    client.post(&format!("/v2/batches/{id}/pause"), &serde_json::Value::Null).await;
    let before = memory(&service);
    let head = format!(
        "GET /v2/batches/{id}/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: 100000000\r\n\r\n"
    );
    let mut listeners = Vec::new();
    for _ in 0..200 {
        let mut connection = connect(&service).await;
        send(&mut connection, head.as_bytes()).await;
        let more = vec![b'x'; 1_000_000];
        let _ = tokio::time::timeout(Duration::from_millis(30), connection.write_all(&more)).await;
        listeners.push(connection);
    }
    let after = memory(&service);
    assert!(after < before + 30, "{before} MiB before, {after} with 200 listeners that send");
    somebody_else(&service).await;
}

/// Forms of strangers take of the memory that there is for requests without a key, and of nobody else's.
#[tokio::test]
async fn sign_in_forms_that_stand_still_leave_owners_their_room() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("noop.yaml", NOOP)]);
    place.set("PENSTOCK_TRUSTED_PROXIES", "127.0.0.0/8".into());
    place.set("PENSTOCK_API_MEMORY_MIB", "32".into());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let mut forms = Vec::new();
    for address in 1..=60 {
        // Each is somebody else's: of one address few may fail.
        let head = format!(
            "POST /console/sign-in HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 203.0.113.{address}\r\n\
             content-type: application/x-www-form-urlencoded\r\ncontent-length: 8000\r\n\r\n"
        );
        let mut connection = connect(&service).await;
        send(&mut connection, head.as_bytes()).await;
        forms.push(connection);
    }
    // For the last ones there is no room: they are told so, however long the others stand still.
    let said = answer(forms.last_mut().expect("a form")).await;
    assert!(said.starts_with("HTTP/1.1 503") && said.contains("busy"), "{said}");
    let client = Client::new(&service, &key);
    let (status, batch) =
        client.upload("/v2/pipelines/noop/batches", "id,note\n1,a\n").await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
}

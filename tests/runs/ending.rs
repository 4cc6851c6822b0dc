//! Downloads end with their key, and break off when their batch is erased. `listening.rs` has the event streams.

use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::{Client, PATIENCE, Place, Service};
use reqwest::Response;
use serde_json::json;

const WIDE: &str = "name: wide\ncsv: { max_field_chars: 10000, columns: [ { name: id, required: true }, { name: note } ] }\nsteps: []\ndispatch: { spread: 0s }\n";

const ROWS: u32 = 4000;

/// More than what lies between a service and a client that does not read: the buffers of both and of the network.
fn wide() -> String {
    let note = "x".repeat(6000);
    std::iter::once("id,note\n".to_owned()).chain((0..ROWS).map(|row| format!("{row},{note}\n"))).collect()
}

struct Run {
    place: Place,
    sandbox: Sandbox,
    service: Service,
    client: Client,
    key_id: String,
    batch: String,
}

impl Run {
    /// A large batch that has ended.
    async fn start() -> Self {
        let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
        let mut place = Place::new(&[("wide.yaml", WIDE)]);
        place.set("ROWS_PER_OWNER", "10000".into());
        let (key, good) = place.operate(&sandbox, &["keys", "create", "--owner", "acme"]);
        assert!(good, "{key}");
        let service = place.start(&sandbox, None);
        let client = Client::new(&service, key["key"].as_str().expect("a key"));
        let (status, batch) = client.upload("/v2/pipelines/wide/batches", wide()).await.expect("an answer");
        assert_eq!(status, 202, "{batch}");
        let batch = batch["id"].as_str().expect("an id").to_owned();
        client.finished(&batch).await;
        let key_id = key["id"].as_str().expect("an id").to_owned();
        Self { place, sandbox, service, client, key_id, batch }
    }

    /// A download of which the first bytes have come.
    async fn begin(&self, report: &str, encoding: &str) -> Response {
        let path = format!("/v2/batches/{}/{report}", self.batch);
        let request = self.client.request("GET", &path).header("accept-encoding", encoding);
        let mut answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        assert!(answer.chunk().await.expect("bytes").is_some());
        answer
    }

    fn revoke(&self) {
        let (said, good) = self.place.operate(&self.sandbox, &["keys", "revoke", &self.key_id]);
        assert!(good, "{said}");
    }
}

/// Reads on until the end; whether it was broken off, and what came.
async fn rest(mut answer: Response, pause: Duration) -> (bool, Vec<u8>) {
    let (began, mut all) = (Instant::now(), Vec::new());
    loop {
        assert!(began.elapsed() < PATIENCE, "it never ends");
        match answer.chunk().await {
            Ok(Some(part)) => all.extend_from_slice(&part),
            Ok(None) => return (false, all),
            Err(_) => return (true, all),
        }
        tokio::time::sleep(pause).await;
    }
}

#[tokio::test]
async fn a_download_whose_batch_is_erased_is_broken_off() {
    let run = Run::start().await;
    let (broken, _) = rest(run.begin("results.csv", "identity").await, Duration::ZERO).await;
    assert!(!broken, "nobody disturbed it");
    let csv = run.begin("results.csv", "identity").await;
    let ndjson = run.begin("results.ndjson", "identity").await;
    let erased = run.client.request("DELETE", &format!("/v2/batches/{}", run.batch)).send().await;
    assert_eq!(erased.expect("an answer").status(), 200);
    for answer in [csv, ndjson] {
        let (broken, came) = rest(answer, Duration::ZERO).await;
        assert!(broken, "{} bytes came, and then an orderly end", came.len());
        let text = String::from_utf8_lossy(&came);
        // Every line that came is whole: its cells, and no error in their place.
        let lines = text.lines().filter(|line| line.contains("completed"));
        assert!(
            lines.clone().count() > 0 && lines.clone().rev().skip(1).all(|line| line.contains("xxxx")),
            "{}",
            came.len()
        );
        assert!(!text.contains("unreadable"));
    }
    let log = std::fs::read_to_string(run.place.log()).expect("a log");
    assert!(!log.contains("what is stored of the row cannot be read"), "no row was taken for damaged");
    drop(run.service);
}

#[tokio::test]
async fn downloads_end_with_their_key() {
    let run = Run::start().await;
    let (status, link) = run
        .client
        .post(&format!("/v2/batches/{}/downloads", run.batch), &json!({ "report": "results.csv" }))
        .await;
    assert_eq!(status, 201, "{link}");
    let direct = run.begin("results.csv", "identity").await;
    let http = penstock_tests::http().build().expect("a client");
    let mut by_link = http.get(link["url"].as_str().expect("a URL")).send().await.expect("an answer");
    assert!(by_link.chunk().await.expect("bytes").is_some());
    run.revoke();
    let pause = Duration::from_millis(20);
    let (direct, by_link) = tokio::join!(rest(direct, pause), rest(by_link, pause));
    assert!(direct.0 && by_link.0, "both are broken off");
    let again = run.client.request("GET", "/v2/batches").send().await.expect("an answer");
    assert_eq!(again.status(), 401);
}

/// Two keys in one request: what stands before the service may have looked at the other one.
#[tokio::test]
async fn two_authorization_headers_are_refused() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", crate::NOOP)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    for other in [format!("Bearer {key}"), "Basic eDp5".to_owned(), String::new()] {
        let request = client.request("GET", "/v2/batches").header("authorization", other);
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), 400);
        let problem: serde_json::Value = answer.json().await.expect("JSON");
        assert_eq!(problem["code"], "two_keys");
    }
}

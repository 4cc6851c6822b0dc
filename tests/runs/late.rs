//! Uploads that come slowly: what becomes of one whose upload or whose key ends while it comes.

use std::time::Duration;

use futures::stream;
use penstock_sandbox::{Config, Sandbox};
use penstock_tests::{Client, Place, Service};
use serde_json::{Value, json};
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinHandle;

use crate::NOOP;

const MARKER: &str = "Zq9late";

/// A request whose body comes as the test wants it.
struct Slow {
    parts: Sender<String>,
    answer: JoinHandle<reqwest::Response>,
}

impl Slow {
    fn start(method: reqwest::Method, url: &str, key: &str) -> Self {
        let (parts, coming) = channel::<String>(1);
        let body = stream::unfold(coming, |mut coming| async move {
            coming.recv().await.map(|part| (Ok::<_, std::io::Error>(part), coming))
        });
        let http = penstock_tests::http().build().expect("a client");
        let request = http.request(method, url).bearer_auth(key).header("content-type", "text/csv");
        let sending = request.body(reqwest::Body::wrap_stream(body)).send();
        Self { parts, answer: tokio::spawn(async move { sending.await.expect("an answer") }) }
    }

    async fn send(&self, part: impl Into<String>) {
        self.parts.send(part.into()).await.expect("the request is under way");
    }

    async fn finish(self) -> (u16, Value) {
        drop(self.parts);
        let answer = self.answer.await.expect("it ends");
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }
}

/// Waits until something is so.
async fn until(what: &str, so: impl Fn() -> bool) {
    for _ in 0..600 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}");
}

/// Lines that name the marker, more than a part.
fn rows() -> String {
    std::iter::once("id,note\n".to_owned()).chain((0..130_000).map(|n| format!("{n},{MARKER}\n"))).collect()
}

async fn place_of(client: &Client) -> (Value, String) {
    let (status, upload) = client.post("/v2/uploads", &json!({})).await;
    assert_eq!(status, 201, "{upload}");
    let url = upload["url"].as_str().expect("a URL").to_owned();
    (upload, url)
}

fn set() -> (Sandbox, Place) {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    (sandbox, Place::new(&[("noop.yaml", NOOP)]))
}

#[tokio::test]
async fn a_file_that_is_complete_after_its_upload_was_used_is_left_nowhere() {
    let (sandbox, place) = set();
    let key = place.key(&sandbox, "acme");
    let service: Service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (upload, url) = place_of(&client).await;
    if upload["authorization"] == false {
        // The object store's own address: nothing of it comes through the API, and the sweep deletes what is there at its end.
        return;
    }
    let late = Slow::start(reqwest::Method::PUT, &url, &key);
    late.send(rows()).await;
    until("a part of the file is there", || !place.files_with(MARKER.as_bytes()).is_empty()).await;
    let http = penstock_tests::http().build().expect("a client");
    let put = http.put(&url).bearer_auth(&key).body("id,note\n1,a\n").send().await.expect("an answer");
    assert_eq!(put.status(), 204);
    let fields = json!({ "upload_id": upload["upload_id"] });
    let (status, batch) = client.post("/v2/pipelines/noop/batches", &fields).await;
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id");
    assert_eq!(client.finished(id).await["status"], "completed");
    let erased = client.request("DELETE", &format!("/v2/batches/{id}")).send().await.expect("an answer");
    assert_eq!(erased.status(), 200);
    let (status, said) = late.finish().await;
    assert_eq!((status, &said["code"]), (404, &json!("not_found")), "{said}");
    until("nothing of the file is left", || place.files_with(MARKER.as_bytes()).is_empty()).await;
    assert_eq!(place.objects(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn an_upload_ends_with_its_key() {
    let (sandbox, place) = set();
    let key = place.key(&sandbox, "acme");
    let service: Service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let made = |name: &str| {
        let (made, good) = place.operate(&sandbox, &["keys", "create", "--owner", name]);
        assert!(good, "{made}");
        let text = |field: &str| made[field].as_str().expect("text").to_owned();
        (text("id"), text("key"))
    };
    let (id, other) = made("acme");
    let (upload, url) = place_of(&client).await;
    let batches = format!("{}/v2/pipelines/noop/batches", service.base);
    let mut late = vec![Slow::start(reqwest::Method::POST, &batches, &other)];
    if upload["authorization"] == true {
        late.push(Slow::start(reqwest::Method::PUT, &url, &other));
    }
    // A part of each is stored: the key was good when they began.
    let wide = "x".repeat(7_000);
    let rows: String = (0..900).map(|n| format!("{n},a,{wide}\n")).collect();
    for slow in &late {
        slow.send(format!("id,note,_wide\n{rows}")).await;
    }
    until("a part of each upload is stored", || place.objects().len() >= late.len()).await;
    let (revoked, good) = place.operate(&sandbox, &["keys", "revoke", &id]);
    assert!(good, "{revoked}");
    for slow in late {
        let (status, said) = slow.finish().await;
        assert_eq!((status, &said["code"]), (401, &json!("unauthorized")), "{said}");
    }
    let listed = client.get("/v2/batches").await;
    assert_eq!(listed["data"], json!([]), "no batch was made");
}

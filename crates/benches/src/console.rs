//! The console beside a running batch: how long pages take, and what open live pages cost.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use penstock_sandbox::{Config, Sandbox};
use penstock_tests::console::Reader;
use penstock_tests::{Client, Place, Service};
use serde_json::Value;

use crate::{Promises, ROUTE, body, head, line, usage};

/// A call that takes a while: its batch runs for as long as pages are measured. The API does not know every second row.
const RUNS: &str = "name: runs\n\
    csv: { columns: [ { name: email, required: true, format: email }, { name: first_name }, { name: last_name }, { name: phone }, { name: postcode } ] }\n\
    dependencies: { invite: { base_url: \"${INVITE_API_URL}\", timeout: 10s, rate: { limit: 200, period: 1s } } }\n\
    steps: [ { name: invite, dependency: invite, request: { method: POST, path: \"/invite/{{ 'create' if row.phone[-1:] in '02468' else 'unknown' }}\", json: { email: \"{{ row.email }}\", campaign: a } } } ]\n\
    dispatch: { spread: 0s, rows_per_owner: 500 }\n";

/// Requests of which the median is taken.
const ASKED: usize = 101;

/// Rows that have failed before pages are measured.
const FAILED: u64 = 2000;

/// Live pages that are open.
const LIVE: usize = 200;

/// How long they are looked at.
const LOOKED: Duration = Duration::from_secs(30);

/// Batches of the list.
const LISTED: u32 = 10_000;

/// Pages beside a batch of that many rows that runs; live pages; a long list.
pub async fn run(rows: u32, kept: &mut Promises) {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("runs.yaml", RUNS), ("noop.yaml", crate::NOOP)]);
    // The batches of the list come faster than anybody uploads.
    place.set("PENSTOCK_KEY_UPLOADS_PER_MINUTE", "1000000".into());
    place.set("PENSTOCK_OWNER_UPLOADS_PER_MINUTE", "1000000".into());
    let key = place.key(&sandbox, "bench");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (_, batch) = client.upload("/v2/pipelines/runs/batches", body(rows)).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    while client.get(&format!("/v2/batches/{id}")).await["counts"]["failed"].as_u64() < Some(FAILED) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let mut reader = Reader::signed_in(&service, &key).await;
    for (what, path) in [
        ("the list", "/console/batches".to_owned()),
        ("the batch", format!("/console/batches/{id}")),
        ("its rows", format!("/console/batches/{id}/rows")),
        ("its failed rows", format!("/console/batches/{id}/rows?status=failed")),
        ("a row", format!("/console/batches/{id}/rows/{}", rows / 2)),
        ("the upload", "/console/upload".to_owned()),
    ] {
        kept.at_most(&format!("{what}, beside {rows} rows, ms"), median(&mut reader, &path).await, 20.0);
    }
    let (admin, _) = place.operate(&sandbox, &["keys", "create", "--owner", "ops", "--admin"]);
    let admin = admin["key"].as_str().expect("a key");
    let mut operator = Reader::signed_in(&service, admin).await;
    for (what, path) in [("operations", "/console/operations"), ("limits", "/console/limits")] {
        kept.at_most(&format!("{what}, beside {rows} rows, ms"), median(&mut operator, path).await, 50.0);
    }
    let without = share(&service).await;
    println!(
        "{:<60} {:>12.2}",
        "processor time of the process without live pages, % of a core",
        without * 100.0
    );
    for (what, reader, asks) in [
        ("live pages of a batch", &reader, vec![format!("batch={id}")]),
        ("live pages of operators", &operator, vec!["page=operations".to_owned(), "page=limits".to_owned()]),
    ] {
        let more = live(&service, reader, &asks).await - without;
        kept.at_most(&format!("{LIVE} {what}, % of a core more"), more.max(0.0) * 100.0, 5.0);
    }
    long_list(&service, &key, &mut reader, kept).await;
}

/// The median time of a page, from the request to the last byte, one at a time, in milliseconds.
async fn median(reader: &mut Reader, path: &str) -> f64 {
    let mut times = Vec::with_capacity(ASKED);
    for _ in 0..ASKED {
        let began = Instant::now();
        reader.page(path).await;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    times[ASKED / 2]
}

/// The share of a core that the process takes while live pages are open that ask for these events, in turn.
async fn live(service: &Service, reader: &Reader, asks: &[String]) -> f64 {
    let http = penstock_tests::http().build().expect("a client");
    let mut open = Vec::new();
    for ask in asks.iter().cycle().take(LIVE) {
        let request = http.get(format!("{}/console/events?{ask}", service.base));
        let answer = request.header("cookie", reader.cookies()).send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        let mut stream = answer.bytes_stream();
        open.push(tokio::spawn(async move { while let Some(Ok(_)) = stream.next().await {} }));
    }
    let share = share(service).await;
    open.into_iter().for_each(|page| page.abort());
    share
}

/// The share of a core that the process takes.
async fn share(service: &Service) -> f64 {
    let (before, began) = (usage(service).1, Instant::now());
    tokio::time::sleep(LOOKED).await;
    (usage(service).1 - before) / began.elapsed().as_secs_f64()
}

/// A list of many batches, its first page and one in the middle.
async fn long_list(service: &Service, key: &str, reader: &mut Reader, kept: &mut Promises) {
    let client = Client::new(service, key);
    let uploads = (0..LISTED).map(|number| {
        let (client, file) = (&client, format!("{}{}", head(), line(number)));
        async move { client.upload(&format!("{ROUTE}?name=list{number}"), file).await.expect("an answer").0 }
    });
    let statuses: Vec<u16> = futures::stream::iter(uploads).buffer_unordered(16).collect().await;
    assert!(statuses.iter().all(|status| *status == 202));
    let mut path = "/v2/batches?limit=100".to_owned();
    for _ in 0..LISTED / 200 {
        let page: Value = client.get(&path).await;
        path = format!("/v2/batches?limit=100&cursor={}", page["next_cursor"].as_str().expect("more"));
    }
    let cursor = path.rsplit_once('=').expect("a cursor").1.to_owned();
    for (what, path) in [
        ("first page", "/console/batches".to_owned()),
        ("page in the middle", format!("/console/batches?cursor={cursor}")),
    ] {
        kept.at_most(&format!("{LISTED} batches, {what}, ms"), median(reader, &path).await, 50.0);
    }
}

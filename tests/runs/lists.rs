//! Lists, page by page, while what they list changes: nothing is left out, nothing comes twice.

use std::collections::BTreeSet;

use penstock_sandbox::{Config, Faults, Sandbox};
use penstock_tests::receiver::Receiver;
use penstock_tests::{Client, Place};
use serde_json::{Value, json};

use crate::{NOOP, PEOPLE, invite, people};

const ROUTE: &str = "/v2/pipelines/noop/batches";

/// One page of a list: what it holds, and where the next one is.
async fn page(client: &Client, path: &str, cursor: Option<&str>) -> (Vec<Value>, Option<String>) {
    let sign = if path.contains('?') { '&' } else { '?' };
    let path = cursor.map_or(path.to_owned(), |cursor| format!("{path}{sign}cursor={cursor}"));
    let page = client.get(&path).await;
    let data = page["data"].as_array().expect("a list").clone();
    (data, page["next_cursor"].as_str().map(str::to_owned))
}

/// All pages of a list.
async fn all(client: &Client, path: &str) -> Vec<Value> {
    let (mut found, mut next) = page(client, path, None).await;
    while let Some(cursor) = next {
        let (more, behind) = page(client, path, Some(&cursor)).await;
        // Rows may have left a state in between.
        assert!(!more.is_empty() || path.contains("status="), "a cursor leads somewhere: {path}");
        found.extend(more);
        next = behind;
    }
    found
}

fn numbers(rows: &[Value]) -> Vec<u64> {
    rows.iter().map(|row| row["number"].as_u64().expect("a number")).collect()
}

fn ids(list: &[Value]) -> Vec<String> {
    list.iter().map(|one| one["id"].as_str().expect("an id").to_owned()).collect()
}

/// Rows are read over and over while they run: each comes once, in the file's order; by status they are what was asked for;
/// and in the end the states share all of them out.
#[tokio::test]
async fn rows_while_they_run() {
    const ROWS: u32 = 400;
    let faults = Faults { latency_ms: 15, error: 0.1, ..Faults::default() };
    let sandbox = Sandbox::start(Config { faults, ..Config::default() }).expect("a sandbox");
    let place = Place::new(&[("invite.yaml", &invite().replace("attempts: 5", "attempts: 50"))]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let mut csv = people(ROWS - 20);
    for number in 0..20 {
        csv.push_str(&format!("taken{number}@example.com,T,T,,AB0001\n"));
    }
    let (_, batch) = client.upload(PEOPLE, csv).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    let path = format!("/v2/batches/{id}/rows");
    while client.get(&format!("/v2/batches/{id}")).await["status"] != "queued" {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let whole: Vec<u64> = (1..=u64::from(ROWS)).collect();
    let mut looks = 0;
    loop {
        let running = client.get(&format!("/v2/batches/{id}")).await["finished_at"].is_null();
        assert_eq!(numbers(&all(&client, &format!("{path}?limit=37")).await), whole);
        for status in ["pending", "queued", "processing", "completed", "failed", "pending,processing"] {
            let some = all(&client, &format!("{path}?limit=53&status={status}")).await;
            assert!(numbers(&some).windows(2).all(|pair| pair[0] < pair[1]), "{status}");
            let wanted = |row: &Value| status.split(',').any(|one| row["status"] == one);
            assert!(some.iter().all(wanted), "{status}: {some:?}");
        }
        looks += 1;
        if !running {
            break;
        }
    }
    assert!(looks > 2, "it was over before it was looked at");
    let ended = client.get(&format!("/v2/batches/{id}")).await;
    let mut shared = BTreeSet::new();
    for status in ["pending", "queued", "processing", "completed", "failed", "cancelled"] {
        let some = all(&client, &format!("{path}?limit=100&status={status}")).await;
        assert_eq!(ended["counts"][status], some.len(), "{status}");
        shared.extend(numbers(&some));
    }
    assert_eq!(shared.into_iter().collect::<Vec<_>>(), whole);
    let refused = all(&client, &format!("{path}?code=email_taken&limit=7")).await;
    assert_eq!(numbers(&refused), whole[whole.len() - 20..]);
    assert!(all(&client, &format!("{path}?code=email_taken&status=completed")).await.is_empty());
}

/// What was cancelled is listed as cancelled, whatever stands in the database, and goes back when it is taken up again.
#[tokio::test]
async fn rows_of_a_cancelled_batch() {
    let faults = Faults { latency_ms: 30, ..Faults::default() };
    let sandbox = Sandbox::start(Config { faults, ..Config::default() }).expect("a sandbox");
    let place =
        Place::new(&[("invite.yaml", &invite().replace("rows_per_owner: 500", "rows_per_owner: 40"))]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (_, batch) = client.upload(PEOPLE, people(200)).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    let path = format!("/v2/batches/{id}/rows");
    while sandbox.stats().effects < 10 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    client.post(&format!("/v2/batches/{id}/cancel"), &json!({})).await;
    let ended = client.finished(&id).await;
    for status in ["pending", "queued", "processing", "completed", "failed", "cancelled"] {
        let some = all(&client, &format!("{path}?limit=60&status={status}")).await;
        assert_eq!(ended["counts"][status], some.len(), "{status}: {ended}");
        assert!(some.iter().all(|row| row["status"] == status && row["not_before"].is_null()));
    }
    assert_eq!(all(&client, &format!("{path}?limit=60")).await.len(), 200);
    let cancelled = numbers(&all(&client, &format!("{path}?status=cancelled")).await);
    let unprocessed = client.text(&format!("/v2/batches/{id}/unprocessed.csv")).await;
    assert_eq!(unprocessed.lines().count(), cancelled.len() + 1);
    client.post(&format!("/v2/batches/{id}/retry"), &json!({ "include": ["cancelled"] })).await;
    assert_eq!(client.finished(&id).await["outcome"], "success");
    assert!(all(&client, &format!("{path}?status=cancelled")).await.is_empty());
    assert_eq!(numbers(&all(&client, &format!("{path}?status=completed&limit=90")).await).len(), 200);
}

/// Batches, callbacks and the audit log while more of them come: a page goes on behind the page before it.
#[tokio::test]
async fn lists_while_more_comes() {
    let receiver = Receiver::start().await;
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let second = NOOP.replace("name: noop", "name: other");
    let place = Place::new(&[("noop.yaml", NOOP), ("other.yaml", &second)]);
    let key = place.key(&sandbox, "acme");
    let (admin, _) = place.operate(&sandbox, &["keys", "create", "--owner", "ops", "--admin"]);
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let admin = Client::new(&service, admin["key"].as_str().expect("a key"));
    let upload = async |route: &str| {
        let to = format!("{route}?callback_url={}", receiver.url);
        let (status, batch) = client.upload(&to, "id\n1\n").await.expect("an answer");
        assert_eq!(status, 202, "{batch}");
        batch
    };
    let mut made = Vec::new();
    for _ in 0..12 {
        made.push(upload(ROUTE).await);
    }
    for batch in &made {
        client.finished(batch["id"].as_str().expect("an id")).await;
    }
    let began = made[6]["created_at"].as_str().expect("a moment").to_owned();
    made.reverse();
    let newest_first = ids(&made);
    for (path, list) in [
        ("/v2/batches?limit=5", "batches"),
        ("/v2/callbacks?limit=5", "callbacks"),
        ("/v2/audit?limit=5", "audit"),
    ] {
        let reader = if list == "audit" { &admin } else { &client };
        let before = all(reader, &path.replace("limit=5", "limit=1000")).await;
        let (mut paged, mut next) = page(reader, path, None).await;
        let mut others = Vec::new();
        while let Some(cursor) = next {
            others.push(upload("/v2/pipelines/other/batches").await);
            let (more, behind) = page(reader, path, Some(&cursor)).await;
            paged.extend(more);
            next = behind;
        }
        // What comes of them is in no list that is read after this one.
        for batch in &others {
            client.finished(batch["id"].as_str().expect("an id")).await;
        }
        if list == "batches" {
            assert_eq!(ids(&paged), ids(&before));
        } else {
            // Reading the audit log leaves entries in it.
            let lasting = |list: &[Value]| -> Vec<String> {
                let lasting = list.iter().filter(|entry| entry["action"] != "admin.read");
                lasting.map(|entry| entry["id"].to_string()).collect()
            };
            assert_eq!(lasting(&paged), lasting(&before), "{list}");
        }
    }
    let of = async |query: &str| ids(&all(&client, &format!("/v2/batches?limit=3&{query}")).await);
    assert_eq!(of("pipeline=noop").await, newest_first);
    assert_eq!(of("pipeline=noop&status=completed,failed").await, newest_first);
    assert!(of("pipeline=noop&status=queued,cancelled").await.is_empty());
    let recent = of(&format!("pipeline=noop&created_from={began}")).await;
    let older = of(&format!("pipeline=noop&created_to={began}")).await;
    assert!(recent.len() >= 6 && !older.is_empty());
    assert_eq!([recent, older].concat(), newest_first, "`from` is in it, `to` is not");
    let of_one = all(&client, &format!("/v2/callbacks?limit=2&batch={}", newest_first[0])).await;
    assert_eq!(of_one.len(), 3, "{of_one:?}");
    let audited = all(&admin, &format!("/v2/audit?limit=1&batch={}", newest_first[0])).await;
    let actions: Vec<_> = audited.iter().map(|entry| entry["action"].clone()).collect();
    assert_eq!(actions, ["batch.extracted", "batch.create"]);
}

//! Erasure: what is left of a batch in the database's own files, and an erasure that is broken off.

use std::path::PathBuf;

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::database::Database;
use penstock_tests::{Client, Place, Service};
use serde_json::json;

use crate::NOOP;

const PATH: &str = "/v2/pipelines/noop/batches";

/// Uploads so many rows; the batch's id once it is done.
async fn done(client: &Client, rows: u32) -> String {
    let mut csv = "id,note\n".to_owned();
    for row in 0..rows {
        csv.push_str(&format!("{row},note of {row}\n"));
    }
    let (status, batch) = client.upload(PATH, csv).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id").to_owned();
    client.finished(&id).await;
    id
}

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal digits");
    (0..hex.len()).step_by(2).map(digit).collect()
}

/// Nothing that an erased batch had is found in the files of SQLite, its log included, while the service runs and afterwards.
#[tokio::test]
async fn an_erasure_overwrites_what_it_deletes() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    if place.is_cluster() {
        // docs/security.md says what PostgreSQL keeps; that its epoch ends is shown in `tampering`.
        return;
    }
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    // Others before and after, so that its records lie among others' in the same pages.
    done(&client, 20).await;
    let id = done(&client, 300).await;
    done(&client, 20).await;
    let mut database = Database::of(&place).await;
    let mut secrets = Vec::new();
    for query in [
        "SELECT hex(wrapped) FROM batch_keys WHERE batch = 2",
        "SELECT hex(header) FROM batch_keys WHERE batch = 2",
        "SELECT hex(payload) FROM row_data WHERE batch = 2 ORDER BY number",
    ] {
        secrets.extend(database.texts(query).await.iter().map(|hex| bytes(hex)));
    }
    assert_eq!(secrets.len(), 302);
    drop(database);
    let found = |what: &str| -> Vec<PathBuf> {
        let mut found: Vec<_> = secrets.iter().flat_map(|secret| place.files_with(secret)).collect();
        found.dedup();
        println!("{what}: {found:?}");
        found
    };
    assert!(!found("before").is_empty());
    let answer = client.request("DELETE", &format!("/v2/batches/{id}")).send().await.expect("an answer");
    assert!(answer.status().is_success(), "{}", answer.status());
    assert_eq!(found("while it runs"), Vec::<PathBuf>::new());
    service.terminate();
    assert_eq!(found("afterwards"), Vec::<PathBuf>::new());
}

/// An erasure whose process dies once the key is gone: the sweep deletes rows and file.
#[tokio::test]
async fn an_erasure_that_breaks_off_is_finished() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let key = place.key(&sandbox, "acme");
    let service: Service = place.start(&sandbox, Some("inside-erasure"));
    let client = Client::new(&service, &key);
    let id = done(&client, 20).await;
    let erased = client.request("DELETE", &format!("/v2/batches/{id}")).send().await;
    assert!(erased.is_err(), "it died");
    service.await_death();
    let mut database = Database::of(&place).await;
    const ROWS: &str = "SELECT count(*) FROM row_data WHERE length(payload) > 0";
    assert_eq!(database.number("SELECT count(*) FROM batch_keys").await, 0);
    assert_eq!((database.number(ROWS).await, place.objects().len()), (20, 1), "what the sweep is for");
    let (pruned, good) = place.operate(&sandbox, &["prune"]);
    assert!(good && pruned == json!({ "erased": 1, "deleted": 0, "uploads": 0 }), "{pruned}");
    assert_eq!((database.number(ROWS).await, place.objects().len()), (0, 0));
    assert_eq!(database.number("SELECT count(*) FROM erasures").await, 0);
    let (pruned, _) = place.operate(&sandbox, &["prune"]);
    assert_eq!(pruned, json!({ "erased": 0, "deleted": 0, "uploads": 0 }));
}

//! Links to reports, for who has no key.

use std::time::Duration;

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::database::Database;
use penstock_tests::{Client, Place, Service};
use serde_json::{Value, json};

use crate::NOOP;

/// Who has nothing but the URL.
async fn anybody(url: &str) -> reqwest::Response {
    let http = penstock_tests::http().build().expect("a client");
    http.get(url).send().await.expect("an answer")
}

async fn problem(url: &str) -> (u16, Value) {
    let answer = anybody(url).await;
    let status = answer.status().as_u16();
    assert_eq!(answer.headers()["content-type"], "application/problem+json", "{status}");
    (status, answer.json().await.expect("JSON"))
}

async fn link(client: &Client, id: &str, body: &Value) -> String {
    let (status, link) = client.post(&format!("/v2/batches/{id}/downloads"), body).await;
    assert_eq!(status, 201, "{link}");
    assert!(link["expires_at"].is_string());
    link["url"].as_str().expect("a URL").to_owned()
}

async fn batch(service: &Service, key: &str) -> (Client, String) {
    let client = Client::new(service, key);
    let file: String =
        std::iter::once("id,note\n".to_owned()).chain((0..300).map(|n| format!("{n},a b\n"))).collect();
    let (_, batch) = client.upload("/v2/pipelines/noop/batches", file).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    client.finished(&id).await;
    (client, id)
}

#[tokio::test]
async fn a_link_opens_one_report_for_a_while() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let (made, good) = place.operate(&sandbox, &["keys", "create", "--owner", "acme"]);
    assert!(good, "{made}");
    let other = place.key(&sandbox, "rival");
    let (admin, _) = place.operate(&sandbox, &["keys", "create", "--owner", "ops", "--admin"]);
    let service = place.start(&sandbox, None);
    let (client, id) = batch(&service, made["key"].as_str().expect("a key")).await;
    let path = format!("/v2/batches/{id}/results.csv");
    let whole = client.text(&path).await;
    let url = link(&client, &id, &json!({ "report": "results.csv" })).await;
    let answer = anybody(&url).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(
        answer.headers()["content-disposition"],
        format!("attachment; filename=\"noop-{id}-results.csv\"")
    );
    let tag = answer.headers()["etag"].to_str().expect("text").to_owned();
    assert_eq!(answer.text().await.expect("a body"), whole);
    // As the report itself: parts, validators, compression.
    let http = penstock_tests::http().build().expect("a client");
    let part = http.get(&url).header("range", "bytes=10-19").header("if-range", &tag).send().await;
    let part = part.expect("an answer");
    assert_eq!(part.status(), 206);
    assert_eq!(part.text().await.expect("a body"), whole[10..20]);
    let same = http.get(&url).header("if-none-match", &tag).send().await.expect("an answer");
    assert_eq!(same.status(), 304);
    let packed = http.get(&url).header("accept-encoding", "gzip").send().await.expect("an answer");
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    let head = http.head(&url).send().await.expect("an answer");
    assert_eq!(head.status(), 200);
    // Another report is another link; nothing in one can be changed.
    let rows = anybody(&link(&client, &id, &json!({ "report": "unprocessed.ndjson" })).await).await;
    assert_eq!(rows.headers()["content-type"], "application/x-ndjson");
    let (front, token) = url.rsplit_once('/').expect("a token");
    let parts: Vec<&str> = token.split('.').collect();
    let [key, said, tag] = parts[..] else { panic!("{token}") };
    let later = link(&client, &id, &json!({ "report": "failed.csv", "expires_in": 86400 })).await;
    let others: Vec<&str> = later.rsplit('/').next().expect("a token").split('.').collect();
    for changed in [
        format!("{key}.{}.{tag}", others[1]),
        format!("{key}.{said}.{}", others[2]),
        format!("{key}.{said}."),
        format!("{key}.{said}"),
        format!("other.{said}.{tag}"),
        "x".to_owned(),
    ] {
        let (status, problem) = problem(&format!("{front}/{changed}")).await;
        assert_eq!((status, &problem["code"]), (403, &"forbidden".into()), "{changed}");
    }
    // It ends by itself.
    let short = link(&client, &id, &json!({ "report": "results.csv", "expires_in": 1 })).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let (status, said) = problem(&short).await;
    assert_eq!(status, 403);
    assert!(said["detail"].as_str().expect("text").contains("expired"), "{said}");
    // Whose batch it is not cannot make one; who may read it can.
    let rival = Client::new(&service, &other);
    let downloads = format!("/v2/batches/{id}/downloads");
    assert_eq!(rival.post(&downloads, &json!({ "report": "results.csv" })).await.0, 404);
    let admin = Client::new(&service, admin["key"].as_str().expect("a key"));
    let by_admin = link(&admin, &id, &json!({ "report": "results.csv" })).await;
    assert_eq!(anybody(&by_admin).await.status(), 200);
    for body in [
        json!({ "report": "results.csv", "expires_in": 0 }),
        json!({ "report": "results.csv", "expires_in": 86_401 }),
        json!({ "report": "../results.csv" }),
    ] {
        assert_eq!(client.post(&downloads, &body).await.0, 422, "{body}");
    }
    for body in [json!({}), json!({ "report": "results.csv", "owner": "x" })] {
        assert_eq!(client.post(&downloads, &body).await.0, 400, "{body}");
    }
    // Who gave what away stands in the audit log; the link itself stands nowhere.
    let audit = admin.get(&format!("/v2/audit?batch={id}")).await;
    let links: Vec<&Value> = audit["data"]
        .as_array()
        .expect("entries")
        .iter()
        .filter(|entry| entry["action"] == "batch.link")
        .collect();
    assert_eq!(links.len(), 5, "{audit}");
    assert!(links.iter().all(|entry| !entry.to_string().contains(tag)));
    assert_eq!(place.files_with(tag.as_bytes()), Vec::<std::path::PathBuf>::new());
    // It ends with the key that made it.
    let (said, good) = place.operate(&sandbox, &["keys", "revoke", made["id"].as_str().expect("an id")]);
    assert!(good, "{said}");
    let (status, said) = problem(&url).await;
    assert_eq!(status, 403);
    assert!(said["detail"].as_str().expect("text").contains("revoked"), "{said}");
    assert_eq!(anybody(&by_admin).await.status(), 200, "that is another key's");
}

/// Who can write to the database takes a revocation back: neither the key nor its links come back, and a link does not
/// follow a key that was given to somebody else.
#[tokio::test]
async fn a_link_stays_revoked_whatever_is_undone_in_the_database() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let (made, good) = place.operate(&sandbox, &["keys", "create", "--owner", "acme"]);
    assert!(good, "{made}");
    place.key(&sandbox, "rival");
    let key_id = made["id"].as_str().expect("an id");
    let service = place.start(&sandbox, None);
    let (client, id) = batch(&service, made["key"].as_str().expect("a key")).await;
    let url = link(&client, &id, &json!({ "report": "results.csv" })).await;
    assert_eq!(anybody(&url).await.status(), 200);
    let mut database = Database::of(&place).await;
    for (change, back) in [
        ("scopes = 15", "scopes = (SELECT scopes FROM copy_of_keys c WHERE c.id = api_keys.id)"),
        ("expires_at = 9000000000000", "expires_at = NULL"),
    ] {
        database.run("DROP TABLE IF EXISTS copy_of_keys").await;
        database.run("CREATE TABLE copy_of_keys AS SELECT * FROM api_keys").await;
        database.run_owned(format!("UPDATE api_keys SET {change} WHERE id = '{key_id}'")).await;
        assert_eq!(problem(&url).await.0, 403, "{change}");
        database.run_owned(format!("UPDATE api_keys SET {back} WHERE id = '{key_id}'")).await;
        assert_eq!(anybody(&url).await.status(), 200, "undone: {change}");
    }
    let (said, good) = place.operate(&sandbox, &["keys", "revoke", key_id]);
    assert!(good, "{said}");
    assert_eq!(problem(&url).await.0, 403);
    database.run_owned(format!("UPDATE api_keys SET revoked_at = NULL WHERE id = '{key_id}'")).await;
    let (status, said) = problem(&url).await;
    assert_eq!(status, 403, "the revocation was taken back in the database");
    assert!(said["detail"].as_str().expect("text").contains("revoked"), "{said}");
}

#[tokio::test]
async fn a_link_outlives_a_rotation_and_not_its_batch() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("noop.yaml", NOOP)]);
    let old = "old:WX9EIDV99ywIg2xC6vzpTAJnAdGLt132YsRseUckGJk=";
    let new = "new:/uCJxTJpisAeedm7CqonBAj9fmoHPHj9Lr0ixtwWPvU=";
    place.set("PENSTOCK_ENCRYPTION_KEYS", old.into());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let (client, id) = batch(&service, &key).await;
    let url = link(&client, &id, &json!({ "report": "results.csv" })).await;
    let token = url.strip_prefix(&service.base).expect("ours").to_owned();
    service.terminate();
    place.set("PENSTOCK_ENCRYPTION_KEYS", format!("{new},{old}"));
    let service = place.start(&sandbox, None);
    let url = format!("{}{token}", service.base);
    assert_eq!(anybody(&url).await.status(), 200, "its key is still in the ring");
    let client = Client::new(&service, &key);
    let by_new = link(&client, &id, &json!({ "report": "results.csv" })).await;
    assert!(by_new.contains("/v2/downloads/new."), "the active key signs: {by_new}");
    let erased = client.request("DELETE", &format!("/v2/batches/{id}")).send().await.expect("an answer");
    assert_eq!(erased.status(), 200);
    for url in [&url, &by_new] {
        let (status, said) = problem(url).await;
        assert_eq!((status, &said["code"]), (410, &"erased".into()));
    }
}

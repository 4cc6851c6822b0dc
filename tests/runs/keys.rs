//! API keys: what they may do, for which pipelines, until when; and that nobody who writes to the database makes or extends one.

use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::database::Database;
use penstock_tests::{Client, Place};
use serde_json::{Value, json};

use crate::NOOP;

const UPLOAD: &str = "/v2/pipelines/noop/batches";
const FILE: &str = "id,note\n1,x\n";

/// A new key of acme: its id, and the key.
fn create(place: &Place, sandbox: &Sandbox, more: &[&str]) -> (String, String) {
    let args = [&["keys", "create", "--owner", "acme"], more].concat();
    let (made, good) = place.operate(sandbox, &args);
    assert!(good, "{made}");
    let text = |name: &str| made[name].as_str().expect("a text").to_owned();
    (text("id"), text("key"))
}

async fn status(client: &Client, method: &str, path: &str) -> u16 {
    client.request(method, path).send().await.expect("an answer").status().as_u16()
}

async fn upload(client: &Client, path: &str) -> (u16, Value) {
    client.upload(path, FILE).await.expect("an answer")
}

#[tokio::test]
async fn a_key_does_what_it_was_made_for_and_nothing_else() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let other = NOOP.replace("name: noop", "name: other");
    let place = Place::new(&[("noop.yaml", NOOP), ("other.yaml", &other)]);
    let (_, all) = create(&place, &sandbox, &[]);
    let (read_id, read) = create(&place, &sandbox, &["--scopes", "read"]);
    let (_, uploads) = create(&place, &sandbox, &["--scopes", "upload"]);
    let (_, commands) = create(&place, &sandbox, &["--scopes", "read,command"]);
    let (_, limited) = create(&place, &sandbox, &["--pipeline", "noop", "--expires-in", "90d"]);
    let service = place.start(&sandbox, None);
    let client = |key: &str| Client::new(&service, key);
    let (all, read, uploads, commands, limited) =
        (client(&all), client(&read), client(&uploads), client(&commands), client(&limited));
    let (code, batch) = upload(&uploads, UPLOAD).await;
    assert_eq!(code, 202, "{batch}");
    let mine = format!("/v2/batches/{}", batch["id"].as_str().expect("an id"));
    let (_, batch) = upload(&all, "/v2/pipelines/other/batches").await;
    let others = format!("/v2/batches/{}", batch["id"].as_str().expect("an id"));
    // Scopes.
    assert_eq!(status(&read, "GET", &mine).await, 200);
    assert_eq!(status(&uploads, "GET", &mine).await, 403);
    assert_eq!((upload(&read, UPLOAD).await.0, upload(&commands, UPLOAD).await.0), (403, 403));
    assert_eq!(status(&read, "POST", "/v2/uploads").await, 403);
    for command in ["/cancel", "/pause", "/resume", "/retry"] {
        let path = format!("{mine}{command}");
        assert_eq!(status(&read, "POST", &path).await, 403, "{command}");
        assert_eq!(status(&uploads, "POST", &path).await, 403, "{command}");
        assert_ne!(status(&commands, "POST", &path).await, 403, "{command}");
    }
    assert_eq!(status(&read, "DELETE", &mine).await, 403);
    let (made, link) = read.post(&format!("{mine}/downloads"), &json!({ "report": "results.csv" })).await;
    assert!(made != 403, "a link reads: {link}");
    assert_eq!(status(&all, "GET", "/v2/audit").await, 403);
    // Pipelines.
    assert_eq!((status(&limited, "GET", &mine).await, status(&limited, "GET", &others).await), (200, 404));
    assert_eq!(status(&limited, "DELETE", &others).await, 404);
    assert_eq!(
        (upload(&limited, UPLOAD).await.0, upload(&limited, "/v2/pipelines/other/batches").await.0),
        (202, 403)
    );
    let listed = limited.get("/v2/batches").await;
    let pipelines: Vec<_> =
        listed["data"].as_array().expect("batches").iter().map(|one| &one["pipeline"]).collect();
    assert_eq!(pipelines, ["noop", "noop"], "{listed}");
    assert_eq!(status(&limited, "GET", "/v2/batches?pipeline=other").await, 403);
    assert_eq!(status(&limited, "GET", "/v2/callbacks").await, 403);
    // What `keys list` shows.
    let (keys, _) = place.operate(&sandbox, &["keys", "list"]);
    let shown =
        keys.as_array().expect("keys").iter().find(|key| key["id"] == json!(read_id)).expect("the key");
    assert_eq!(
        (&shown["scopes"], &shown["pipelines"], &shown["role"]),
        (&json!(["read"]), &Value::Null, &json!("client"))
    );
    assert!(shown["last_used_at"].is_string() && shown["expires_at"].is_null(), "{shown}");
    let until = keys.as_array().expect("keys").iter().find(|key| key["pipelines"] == json!(["noop"]));
    assert!(until.expect("the limited key")["expires_at"].is_string(), "{keys}");
    let (said, good) = place.say(&sandbox, &["keys", "create", "--owner", "acme", "--scopes", "everything"]);
    assert!(!good && said.contains("read, upload, command or admin"), "{said}");
}

/// Rows of `api_keys` that somebody put there or changed are no keys.
#[tokio::test]
async fn a_key_that_was_put_into_the_database_or_changed_there_is_none() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let (id, key) =
        create(&place, &sandbox, &["--scopes", "read", "--pipeline", "noop", "--expires-in", "1d"]);
    let (gone_id, gone) = create(&place, &sandbox, &[]);
    place.key(&sandbox, "rival");
    let service = place.start(&sandbox, None);
    let (client, gone) = (Client::new(&service, &key), Client::new(&service, &gone));
    assert_eq!(status(&client, "GET", "/v2/batches").await, 200);
    let mut database = Database::of(&place).await;
    database.run("CREATE TABLE copy_of_keys AS SELECT * FROM api_keys").await;
    let restore = |id: &str| {
        let columns = ["owner", "role", "scopes", "pipelines", "expires_at", "mac", "revoked_at"];
        let set = columns
            .map(|one| format!("{one} = (SELECT c.{one} FROM copy_of_keys c WHERE c.id = api_keys.id)"));
        format!("UPDATE api_keys SET {} WHERE id = '{id}'", set.join(", "))
    };
    for change in [
        "owner = (SELECT seq FROM owners WHERE name = 'rival')",
        "role = 1",
        "scopes = 7",
        "pipelines = NULL",
        "pipelines = '[\"noop\",\"other\"]'",
        "expires_at = NULL",
        "expires_at = expires_at + 1",
        "mac = NULL",
        "mac = (SELECT mac FROM copy_of_keys WHERE id <> api_keys.id LIMIT 1)",
    ] {
        database.run_owned(format!("UPDATE api_keys SET {change} WHERE id = '{id}'")).await;
        assert_eq!(status(&client, "GET", "/v2/batches").await, 401, "{change}");
        database.run_owned(restore(&id)).await;
        assert_eq!(status(&client, "GET", "/v2/batches").await, 200, "undone: {change}");
    }
    database.run_owned(format!("UPDATE api_keys SET expires_at = 1 WHERE id = '{id}'")).await;
    assert_eq!(status(&client, "GET", "/v2/batches").await, 401, "it is over");
    // A revocation that is taken back is none.
    let (_, good) = place.operate(&sandbox, &["keys", "revoke", &gone_id]);
    assert!(good);
    database.run("UPDATE api_keys SET revoked_at = NULL").await;
    assert_eq!(status(&gone, "GET", "/v2/batches").await, 401);
    // Nor does the database hold what a secret hashes to.
    assert_eq!(database.number("SELECT count(*) FROM api_keys WHERE length(hash) > 0").await, 0);
}

/// Keys: shown once, listed without their secrets, and of no use once revoked.
#[tokio::test]
async fn keys_are_made_listed_and_revoked() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let (made, good) = place.operate(&sandbox, &["keys", "create", "--owner", "acme"]);
    assert!(good, "{made}");
    let (second, _) = place.operate(&sandbox, &["keys", "create", "--owner", "acme"]);
    let (id, key) = (made["id"].as_str().expect("an id"), made["key"].as_str().expect("a key"));
    let service = place.start(&sandbox, None);
    let (client, other) =
        (Client::new(&service, key), Client::new(&service, second["key"].as_str().expect("a key")));
    for client in [&client, &other] {
        client.get("/v2/batches").await;
    }
    let (listed, good) = place.operate(&sandbox, &["keys", "list"]);
    assert!(good && listed.as_array().map(Vec::len) == Some(2), "{listed}");
    let secret = key.splitn(3, '_').nth(2).expect("a secret");
    assert!(!listed.to_string().contains(secret) && listed.to_string().contains(id), "{listed}");
    let (done, good) = place.operate(&sandbox, &["keys", "revoke", id]);
    assert!(good, "{done}");
    let began = Instant::now();
    loop {
        let status = client.request("GET", "/v2/batches").send().await.expect("an answer").status();
        if status == 401 {
            break;
        }
        // It may be remembered for a moment.
        assert!(began.elapsed() < Duration::from_secs(15), "{status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    other.get("/v2/batches").await;
    let (said, _) = place.say(&sandbox, &["keys", "list"]);
    assert!(said.lines().any(|line| line.starts_with(id) && line.contains("revoked ")), "{said}");
    assert_eq!(place.exit_code(&sandbox, &["keys", "revoke", "000000000000"]), Some(1));
    assert_eq!(place.exit_code(&sandbox, &["keys", "create", "--owner", "no such/name"]), Some(2));
}

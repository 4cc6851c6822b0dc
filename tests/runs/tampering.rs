//! Somebody who can write to the database: what binds a batch to its owner and its definition holds, and nothing is called
//! that an operator did not define.

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::database::Database;
use penstock_tests::receiver::Receiver;
use penstock_tests::{Client, Place};
use serde_json::json;

use crate::{NOOP, PEOPLE, invite, people};

const MARKER: &str = "Zq9marker";

/// A file of the noop pipeline with a value that is looked for.
fn marked() -> String {
    format!("id,note\n1,{MARKER}\n")
}

async fn upload(client: &Client, pipeline: &str, csv: String) -> String {
    let path = format!("/v2/pipelines/{pipeline}/batches");
    let (status, batch) = client.upload(&path, csv).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    batch["id"].as_str().expect("an id").to_owned()
}

/// What reads the rows of a batch; whether any of them showed the marker, and whether all of them answered.
async fn read_all(client: &Client, id: &str) -> (bool, bool) {
    let (mut shown, mut good) = (false, true);
    for path in ["results.csv", "results.ndjson", "failed.csv", "unprocessed.ndjson", "rows", "rows/1", ""] {
        let path = format!("/v2/batches/{id}/{path}");
        let answer = client.request("GET", path.trim_end_matches('/')).send().await.expect("an answer");
        good &= answer.status().is_success();
        shown |= answer.text().await.unwrap_or_default().contains(MARKER);
    }
    (shown, good)
}

/// A definition that calls `receiver` for each row, with everything that a worker knows.
fn evil(receiver: &Receiver, name: &str) -> String {
    format!(
        "name: {name}\ncsv: {{ columns: [ {{ name: id, required: true, format: integer }}, {{ name: note, max_length: 20 }} ] }}\n\
         dependencies: {{ d: {{ base_url: \"{}\", headers: {{ X-Path: \"${{PATH}}\" }} }} }}\n\
         steps: [ {{ name: s, dependency: d, request: {{ method: POST, path: /take, json: {{ note: \"{{{{ row.note }}}}\" }} }} }} ]\n",
        receiver.url
    )
}

/// Puts a definition of its own beside a batch, with the MAC of a real one.
async fn plant(database: &mut Database, source: &str, pipeline: &str) {
    const VERSION: &str = "6f2a8d31-5c47-5e0b-9a76-000000000bad";
    let source = source.replace('\'', "''");
    let insert = format!(
        "INSERT INTO definitions (version, name, source, mac, created_at) \
         VALUES ('{VERSION}', '{pipeline}', '{source}', (SELECT mac FROM definitions LIMIT 1), 0)"
    );
    assert_eq!(database.run_owned(insert).await, 1);
    assert!(database.run_owned(format!("UPDATE batches SET version = '{VERSION}'")).await >= 1);
}

/// A batch that is pointed at a definition which somebody put into the database runs no step of it, and runs as it was
/// uploaded once that is undone.
#[tokio::test]
async fn a_definition_that_was_put_into_the_database_is_not_run() {
    let receiver = Receiver::start().await;
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("noop.yaml", NOOP)]);
    place.set("PENSTOCK_LEASE_SECONDS", "6".into());
    place.set("PENSTOCK_LOST_AFTER_SECONDS", "6".into());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let id = upload(&client, "noop", marked()).await;
    client.finished(&id).await;
    service.terminate();
    // Its row is to run once more, under another definition.
    let mut database = Database::of(&place).await;
    let versions = database.texts("SELECT CAST(version AS TEXT) FROM batches").await;
    plant(&mut database, &evil(&receiver, "noop"), "noop").await;
    database
        .run("UPDATE batches SET status = 2, outcome = NULL, finished_at = NULL, pending = 1, completed = 0, next_number = 1, release_end = 2")
        .await;
    database.run("DELETE FROM row_state").await;
    let service = place.start(&sandbox, None);
    place.logged("was not stored by Penstock").await;
    place.logged("the batch's rows cannot be processed here").await;
    assert!(receiver.heard().is_empty(), "nobody was called: {:?}", receiver.heard());
    let client = Client::new(&service, &key);
    let (shown, good) = read_all(&client, &id).await;
    assert!(!shown && !good);
    // Undone, it runs as it was uploaded.
    database.run_owned(format!("UPDATE batches SET version = '{}'", versions[0])).await;
    assert_eq!(client.finished(&id).await["counts"]["completed"], 1);
    assert!(read_all(&client, &id).await.0);
    assert!(receiver.heard().is_empty());
}

/// The text of a definition that is only in the database, because the file has changed since, cannot be changed there.
#[tokio::test]
async fn a_kept_definition_cannot_be_changed() {
    let receiver = Receiver::start().await;
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let id = {
        let client = Client::new(&service, &key);
        let id = upload(&client, "noop", marked()).await;
        client.finished(&id).await;
        id
    };
    place.write("pipelines/noop.yaml", &format!("{NOOP}# Changed since.\n"));
    service.terminate();
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    assert_eq!(read_all(&client, &id).await, (true, true), "an older batch's own definition");
    service.terminate();
    let mut database = Database::of(&place).await;
    let text = evil(&receiver, "noop").replace('\'', "''");
    assert_eq!(database.run_owned(format!("UPDATE definitions SET source = '{text}'")).await, 1);
    // Nor can it be passed off as one of an earlier release, which had no MACs.
    for change in [
        "UPDATE definitions SET name = name",
        "UPDATE definitions SET mac = NULL",
        "INSERT INTO secrets (name, sealed) SELECT 'earlier_forms', sealed FROM secrets WHERE name = 'fingerprint'",
    ] {
        database.run(change).await;
        assert!(place.operate(&sandbox, &["migrate"]).1);
        let service = place.start(&sandbox, None);
        let client = Client::new(&service, &key);
        let (shown, good) = read_all(&client, &id).await;
        assert!(!good && !shown, "{change}");
        service.terminate();
    }
    place.logged("was not stored by Penstock").await;
    assert!(receiver.heard().is_empty());
}

/// A batch that is given to another owner, another pipeline or another id opens for nobody, whether a service has its key
/// in memory or not.
#[tokio::test]
async fn a_batch_cannot_be_given_to_another_owner() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let other = NOOP.replace("name: noop", "name: other");
    let place = Place::new(&[("noop.yaml", NOOP), ("other.yaml", &other)]);
    let (mine, theirs) = (place.key(&sandbox, "acme"), place.key(&sandbox, "rival"));
    let service = place.start(&sandbox, None);
    let (client, rival) = (Client::new(&service, &mine), Client::new(&service, &theirs));
    let id = upload(&client, "noop", marked()).await;
    client.finished(&id).await;
    let own = upload(&rival, "noop", "id,note\n2,x\n".into()).await;
    rival.finished(&own).await;
    assert_eq!(read_all(&client, &id).await, (true, true), "its key is in memory now");
    let mut database = Database::of(&place).await;
    let give = |to: &str| {
        format!(
            "UPDATE batches SET owner = (SELECT seq FROM owners WHERE name = '{to}') WHERE seq = (SELECT min(seq) FROM batches)"
        )
    };
    assert_eq!(database.run_owned(give("rival")).await, 1);
    assert!(!read_all(&rival, &id).await.0, "it was acme's");
    assert!(read_all(&rival, &own).await.1, "its own it reads as before");
    // Owners that change their names take no batches along.
    database.run_owned(give("acme")).await;
    database.run("UPDATE owners SET name = 'nobody' WHERE name = 'acme'").await;
    database.run("UPDATE owners SET name = 'acme' WHERE name = 'rival'").await;
    database.run_owned(give("nobody")).await;
    assert!(!read_all(&client, &id).await.0);
    database.run("UPDATE owners SET name = 'rival' WHERE name = 'acme'").await;
    database.run("UPDATE owners SET name = 'acme' WHERE name = 'nobody'").await;
    assert!(read_all(&client, &id).await.0, "undone, it opens again");
    database
        .run_owned("UPDATE batches SET pipeline = 'other' WHERE seq = (SELECT min(seq) FROM batches)".into())
        .await;
    assert!(!read_all(&client, &id).await.0);
    database
        .run_owned("UPDATE batches SET pipeline = 'noop' WHERE seq = (SELECT min(seq) FROM batches)".into())
        .await;
    // What is sealed of one batch stands for nothing in another one.
    service.terminate();
    database.run("CREATE TABLE copy_of_keys AS SELECT * FROM batch_keys").await;
    for column in ["wrapped", "header"] {
        let first = "SELECT min(batch) FROM batch_keys";
        database
            .run_owned(format!(
                "UPDATE batch_keys SET {column} = (SELECT {column} FROM copy_of_keys WHERE batch <> ({first})) WHERE batch = ({first})"
            ))
            .await;
        let service = place.start(&sandbox, None);
        assert!(!read_all(&Client::new(&service, &mine), &id).await.0, "another batch's {column}");
        assert!(read_all(&Client::new(&service, &theirs), &own).await.1);
        service.terminate();
        database
            .run_owned(format!(
                "UPDATE batch_keys SET {column} = (SELECT c.{column} FROM copy_of_keys c WHERE c.batch = batch_keys.batch)"
            ))
            .await;
    }
    let service = place.start(&sandbox, None);
    assert_eq!(read_all(&Client::new(&service, &mine), &id).await, (true, true));
}

/// Copies of a batch's key that lie in backups, logs and freed pages open nothing once the epoch was dropped.
#[tokio::test]
async fn an_erasure_is_final_when_its_epoch_is_dropped() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("noop.yaml", NOOP)]);
    place.set("PENSTOCK_ENCRYPTION_KEYS", "tests:WX9EIDV99ywIg2xC6vzpTAJnAdGLt132YsRseUckGJk=".into());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (gone, kept) = (upload(&client, "noop", marked()).await, upload(&client, "noop", marked()).await);
    client.finished(&gone).await;
    client.finished(&kept).await;
    service.terminate();
    let mut database = Database::of(&place).await;
    for table in ["batch_keys", "epochs"] {
        database.run_owned(format!("CREATE TABLE copy_of_{table} AS SELECT * FROM {table}")).await;
    }
    database.run("CREATE TABLE copy_of_rows AS SELECT * FROM row_data").await;
    let (erased, good) = place.operate(&sandbox, &["batches", "erase", &gone, "--yes"]);
    assert!(good, "{erased}");
    let restore = [
        "DELETE FROM batch_keys",
        "INSERT INTO batch_keys SELECT * FROM copy_of_batch_keys",
        "DELETE FROM row_data",
        "INSERT INTO row_data SELECT * FROM copy_of_rows",
        "UPDATE batches SET erased_at = NULL",
    ];
    // Before, a backup of these tables brings it back: that is what an epoch is for.
    for statement in restore {
        database.run(statement).await;
    }
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    assert!(read_all(&client, &gone).await.0);
    service.terminate();
    let (erased, good) = place.operate(&sandbox, &["batches", "erase", &gone, "--yes"]);
    assert!(good, "{erased}");
    let (done, good) = place.operate(&sandbox, &["crypto", "rewrap"]);
    assert!(good && done["epochs"] == 1 && done["rewrapped"] == 1, "{done}");
    // The key that wrapped the copy is nowhere, whatever epoch it is given.
    database
        .run(
            "INSERT INTO batch_keys (batch, epoch, key_id, wrapped, context, header) \
             SELECT batch, (SELECT max(id) FROM epochs), key_id, wrapped, context, header FROM copy_of_batch_keys c \
             WHERE NOT EXISTS (SELECT 1 FROM batch_keys k WHERE k.batch = c.batch)",
        )
        .await;
    for statement in &restore[2..] {
        database.run(statement).await;
    }
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    assert!(!read_all(&client, &gone).await.0);
    assert_eq!(read_all(&client, &kept).await, (true, true), "what lives was wrapped anew");
    // Nothing to do: no epoch begins for nothing.
    service.terminate();
    let (done, _) = place.operate(&sandbox, &["crypto", "rewrap"]);
    assert_eq!((&done["epochs"], &done["rewrapped"]), (&json!(0), &json!(0)), "{done}");
}

/// A rotation of the keyring re-authenticates definitions: an older batch goes on when the old key is gone.
#[tokio::test]
async fn kept_definitions_outlive_a_rotation() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let old = "old:WX9EIDV99ywIg2xC6vzpTAJnAdGLt132YsRseUckGJk=";
    let new = "new:/uCJxTJpisAeedm7CqonBAj9fmoHPHj9Lr0ixtwWPvU=";
    let mut place = Place::new(&[("invite.yaml", &invite())]);
    place.set("PENSTOCK_ENCRYPTION_KEYS", old.into());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (_, batch) = client.upload(PEOPLE, people(5)).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    client.finished(&id).await;
    service.terminate();
    place.write("pipelines/invite.yaml", &format!("{}# Changed since.\n", invite()));
    place.set("PENSTOCK_ENCRYPTION_KEYS", format!("{new},{old}"));
    let (done, good) = place.operate(&sandbox, &["crypto", "rewrap"]);
    assert!(good && done["definitions"] == 1, "{done}");
    place.set("PENSTOCK_ENCRYPTION_KEYS", new.into());
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let results = client.text(&format!("/v2/batches/{id}/results.csv")).await;
    assert_eq!(results.lines().count(), 6, "{results}");
}

//! The programs of today on a database of yesterday, with batches in the middle: nothing is lost, nothing is done twice,
//! everything that was there can be read.

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::database::Database;
use penstock_tests::receiver::Receiver;
use penstock_tests::{Client, Place};
use serde_json::{Value, json};

/// A database of the schema's second version: a batch of 7 rows that has ended (one of them failed), one of 70 that was
/// cancelled behind 20 or 40, and one of 60 that was killed behind 20 with more of them in flight. Nobody listens at their
/// callbacks' address.
#[tokio::test]
async fn batches_of_the_second_schema_go_on() {
    let receiver = Receiver::start().await;
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::bare(&[("invite.yaml", &crate::invite())]);
    place.set("PENSTOCK_ENCRYPTION_KEYS", "tests:WX9EIDV99ywIg2xC6vzpTAJnAdGLt132YsRseUckGJk=".into());
    Database::restore(&place, "schema2").await;
    // Whoever comes too early is told what is to be done first.
    let (said, good) = place.say(&sandbox, &["batches", "list"]);
    assert!(!good && said.contains("penstock migrate"), "{said}");
    let (lines, good) = place.operate(&sandbox, &["doctor"]);
    assert!(!good && lines.to_string().contains("penstock migrate"), "{lines}");
    let (migrated, good) = place.operate(&sandbox, &["migrate"]);
    assert!(good && migrated["from"] == 2 && migrated["to"].as_i64() > Some(2), "{migrated}");
    let (again, good) = place.operate(&sandbox, &["migrate"]);
    assert!(good && again["from"] == migrated["to"] && again["to"] == migrated["to"], "{again}");
    let (lines, good) = place.operate(&sandbox, &["doctor"]);
    assert!(good, "{lines}");
    // Nothing is left in a form that a writer to the database could pass something off in.
    let mut database = Database::of(&place).await;
    for left in [
        "SELECT count(*) FROM batch_keys WHERE epoch IS NULL OR header IS NULL",
        "SELECT count(*) FROM definitions WHERE mac IS NULL",
        "SELECT count(*) FROM batches WHERE header IS NOT NULL",
    ] {
        assert_eq!(database.number(left).await, 0, "{left}");
    }
    // What the release before had written of callbacks goes to a receiver that listens.
    let to = format!(
        "UPDATE callbacks SET url = '{0}/hook', attempts = 0, status = 0, next_at = 1, lease_token = NULL, lease_until = NULL",
        receiver.url
    );
    assert_eq!(database.run_owned(to).await, 4);
    database
        .run_owned(format!(
            "UPDATE batches SET callback_url = '{}/hook' WHERE callback_url IS NOT NULL",
            receiver.url
        ))
        .await;
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let listed = client.get("/v2/batches").await;
    let id = |name: &str| {
        let batches = listed["data"].as_array().expect("batches");
        let batch = batches.iter().find(|batch| batch["name"] == name).expect("it is there");
        batch["id"].as_str().expect("an id").to_owned()
    };
    let (ended, cancelled, running) = (id("ended"), id("cancelled"), id("running"));
    let done = client.finished(&running).await;
    assert_eq!(
        (&done["outcome"], &done["counts"]["completed"], &done["counts"]["total"]),
        (&json!("success"), &json!(60), &json!(60)),
        "{done}"
    );
    // Twenty had ended before; nobody else was called for again, and nobody twice.
    let stats = sandbox.stats();
    assert_eq!((stats.effects, stats.doubled, stats.unkeyed), (40, 0, 0), "{stats:?}");
    // What had ended is as it was, readable to the last line.
    let old = client.get(&format!("/v2/batches/{ended}")).await;
    assert_eq!((&old["counts"]["completed"], &old["counts"]["failed"]), (&json!(6), &json!(1)), "{old}");
    for (batch, lines) in [(&ended, 8), (&cancelled, 71), (&running, 61)] {
        let text = client.text(&format!("/v2/batches/{batch}/results.csv")).await;
        assert_eq!(text.lines().count(), lines, "{text}");
        assert!(!text.contains("unreadable"), "{text}");
    }
    let failed = client.get(&format!("/v2/batches/{ended}/rows?status=failed")).await;
    let error = &failed["data"][0]["error"];
    assert_eq!((&error["code"], &error["step"]), (&json!("http_409"), &json!("invite_create")), "{failed}");
    let rest = client.text(&format!("/v2/batches/{cancelled}/unprocessed.csv")).await;
    let left = client.get(&format!("/v2/batches/{cancelled}")).await["counts"]["cancelled"]
        .as_u64()
        .expect("a count");
    assert!(left >= 30 && rest.lines().count() as u64 == left + 1, "{rest}");
    // Callbacks that were written before, and the end that came now.
    for (batch, event) in [
        (&cancelled, "batch.created"),
        (&cancelled, "batch.cancelled"),
        (&cancelled, "batch.finished"),
        (&running, "batch.created"),
        (&running, "batch.succeeded"),
        (&running, "batch.finished"),
    ] {
        let told = receiver
            .until(|heard| heard.json()["type"] == event && heard.json()["data"]["id"] == **batch)
            .await;
        assert!(told.status == 204 && told.json()["data"]["pipeline"] == "invite", "{}", told.body);
    }
    // What was cancelled is taken up again, what had failed as well.
    let (status, _) =
        client.post(&format!("/v2/batches/{cancelled}/retry"), &json!({ "include": ["cancelled"] })).await;
    assert_eq!(status, 200);
    let done = client.finished(&cancelled).await;
    assert_eq!((&done["outcome"], &done["counts"]["completed"]), (&json!("success"), &json!(70)), "{done}");
    client.post(&format!("/v2/batches/{ended}/retry"), &json!({})).await;
    let done = client.finished(&ended).await;
    assert_eq!((&done["counts"]["failed"], &done["run"]), (&json!(1), &json!(2)), "{done}");
    assert_eq!((sandbox.stats().effects, sandbox.stats().doubled), (40 + left, 0));
    // And it takes new ones.
    let (_, new) =
        client.upload(crate::PEOPLE, crate::people(20).replace("person", "new")).await.expect("an answer");
    assert_eq!(client.finished(new["id"].as_str().expect("an id")).await["outcome"], "success");
    let (found, good) = place.operate(&sandbox, &["reconcile"]);
    let stuck = |finding: &&Value| finding["count"].as_u64().is_some_and(|count| count > 0);
    assert_eq!(found["findings"].as_array().expect("findings").iter().filter(stuck).count(), 0, "{found}");
    assert!(good);
    let (erased, good) = place.operate(&sandbox, &["batches", "erase", &ended, "--yes"]);
    assert!(good, "{erased}");
}

//! What an operator's commands do and say beside a running service.

use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Faults, Sandbox};
use penstock_tests::database::Database;
use penstock_tests::{Client, PATIENCE, Place};
use serde_json::{Value, json};

use crate::{NOOP, PEOPLE, invite, people};

/// That no call was made to a dependency yet is not told as a limiter that does not answer, neither by the service nor by a
/// command beside it, which on one machine does not see the service's limits at all. And what is said of when a row moves
/// next is no deadline.
#[tokio::test]
async fn what_was_never_called_is_not_waited_for() {
    let faults = Faults { latency_ms: 2000, ..Faults::default() };
    let sandbox = Sandbox::start(Config { faults, ..Config::default() }).expect("a sandbox");
    let late = "name: late\ncsv: { columns: [ { name: id } ] }\n\
        dependencies: { late: { base_url: \"${ADDRESS_API_URL}\", rate: { limit: 1, period: 1s } } }\n\
        steps: [ { name: one, dependency: late, request: { method: GET, path: /addresses/1 } } ]\n";
    let mut place = Place::new(&[("invite.yaml", &invite()), ("late.yaml", late)]);
    place.set("ROWS_PER_OWNER", "1".into());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (_, first) = client.upload(PEOPLE, people(1)).await.expect("an answer");
    let first = first["id"].as_str().expect("an id").to_owned();
    let began = Instant::now();
    // A call is under way, so that the row is not requeued any more.
    while sandbox.stats().address_links < 1 {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (_, second) = client.upload("/v2/pipelines/late/batches", "id\n1\n").await.expect("an answer");
    let second = second["id"].as_str().expect("an id").to_owned();
    while client.get(&format!("/v2/batches/{second}")).await["status"] != "queued" {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let row = client.get(&format!("/v2/batches/{first}/waiting?row=1")).await;
    let served = client.get(&format!("/v2/batches/{second}/waiting")).await;
    let (operated, good) = place.operate(&sandbox, &["why", &second]);
    assert!(good, "{operated}");
    assert_eq!((&row["data"][0]["reason"], &row["data"][0]["until"]), (&json!("processing"), &Value::Null));
    for waits in [&served["data"], &operated] {
        let reasons: Vec<&Value> =
            waits.as_array().expect("waits").iter().map(|wait| &wait["reason"]).collect();
        assert_eq!(reasons, ["owner_quota"], "{waits}");
    }
}

/// Batches from the command line: found, told, paused, resumed, cancelled, retried in parts, erased.
#[tokio::test]
async fn batches_are_commanded() {
    let faults = Faults { latency_ms: 20, ..Faults::default() };
    let sandbox = Sandbox::start(Config { faults, ..Config::default() }).expect("a sandbox");
    let place = Place::new(&[
        ("invite.yaml", &invite().replace("rows_per_owner: 500", "rows_per_owner: 30")),
        ("noop.yaml", NOOP),
    ]);
    let (key, other) = (place.key(&sandbox, "acme"), place.key(&sandbox, "rival"));
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let rival = Client::new(&service, &other);
    let operate = |args: &[&str]| place.operate(&sandbox, args);
    let mut csv = people(200);
    csv.push_str(
        "taken1@example.com,T,T,,AB0001\nb@blocked.example,T,T,,AB0001\ntaken2@example.com,T,T,,AB0001\n",
    );
    let (_, small) = rival.upload("/v2/pipelines/noop/batches", "id\n1\n2\n").await.expect("an answer");
    let small = small["id"].as_str().expect("an id").to_owned();
    rival.finished(&small).await;
    let (_, batch) = client.upload(PEOPLE, csv).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    while sandbox.stats().effects < 5 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (paused, good) = operate(&["batches", "pause", &id]);
    assert!(good && paused["paused"] == true && paused["owner"] == "acme", "{paused}");
    // What it says is why nothing moves.
    let began = Instant::now();
    loop {
        let (waits, good) = operate(&["why", &id]);
        assert!(good, "{waits}");
        assert_eq!(waits[0]["reason"], "paused", "{waits}");
        let counts = client.get(&format!("/v2/batches/{id}")).await["counts"].clone();
        if counts["queued"] == 0 && counts["processing"] == 0 {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{counts}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (row, good) = operate(&["why", &id, "200"]);
    assert!(good && row[0]["reason"] == "pending" && row[1]["reason"] == "paused", "{row}");
    let (said, good) = place.say(&sandbox, &["why", &id, "999"]);
    assert!(good && said.starts_with("no_such_row: "), "{said}");
    let listed = |args: &[&str]| {
        let (list, good) = place.operate(&sandbox, &[&["batches", "list"], args].concat());
        assert!(good, "{list}");
        let list = list.as_array().expect("a list");
        list.iter().map(|one| one["id"].as_str().expect("an id").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(listed(&[]), [id.as_str(), small.as_str()]);
    assert_eq!(listed(&["--limit", "1"]), [id.as_str()]);
    assert_eq!(listed(&["--before", &id]), [small.as_str()]);
    assert_eq!(listed(&["--owner", "rival"]), [small.as_str()]);
    assert_eq!(listed(&["--status", "queued"]), [id.as_str()]);
    assert_eq!(listed(&["--status", "completed,failed", "--pipeline", "noop"]), [small.as_str()]);
    assert!(listed(&["--created-to", "2020-01-01T00:00:00Z"]).is_empty());
    let (said, good) = place.say(&sandbox, &["batches", "show", &id]);
    assert!(good && said.contains("owner acme") && said.contains(", paused"), "{said}");
    let (resumed, good) = operate(&["batches", "resume", &id]);
    assert!(good && resumed["paused"] == false, "{resumed}");
    let ended = client.finished(&id).await;
    assert_eq!(
        (&ended["counts"]["completed"], &ended["counts"]["failed"]),
        (&json!(200), &json!(3)),
        "{ended}"
    );
    // Parts of what failed.
    for (args, rows) in [
        (&["--code", "http_500"][..], 0),
        (&["--code", "blocked"][..], 1),
        (&["--row", "201", "--row", "1"][..], 1),
        (&["--code", "blocked", "--code", "email_taken", "--row", "201"][..], 1),
        (&["--cancelled", "--no-failed"][..], 0),
        (&[][..], 3),
    ] {
        let (retried, good) = operate(&[&["batches", "retry", &id], args].concat());
        assert!(good && retried["retried"] == rows, "{args:?}: {retried}");
        client.finished(&id).await;
    }
    let (cancelled, good) = operate(&["batches", "cancel", &id]);
    assert!(!good || cancelled["status"] == "completed", "what has ended is not cancelled: {cancelled}");
    let (erased, good) = operate(&["batches", "erase", &small, "--yes"]);
    assert!(good && erased["counts"]["completed"] == 2, "{erased}");
    let gone = rival.request("GET", &format!("/v2/batches/{small}/rows")).send().await.expect("an answer");
    assert_eq!(gone.status(), 410);
    // Misuse is told apart from a no.
    let none = "01a20eb9-5373-77c3-a722-7aca373acbe4";
    for (args, code) in [
        (&["batches", "show", &id][..], 0),
        (&["batches", "show", none][..], 1),
        (&["batches", "show", "x"][..], 2),
        (&["batches", "erase", &small][..], 2),
        (&["batches", "retry", &id, "--no-failed"][..], 2),
        (&["batches", "list", "--status", "odd"][..], 2),
        (&["batches", "list", "--owner", "nobody"][..], 1),
        (&["why", none][..], 1),
        (&["process-row", &id, "0"][..], 2),
        (&["extract", &id][..], 2),
    ] {
        assert_eq!(place.exit_code(&sandbox, args), Some(code), "{args:?}");
    }
    let (said, good) = place.operate(&sandbox, &["batches", "show", none]);
    assert!(!good && said["error"].as_str().is_some_and(|text| text.contains(none)), "{said}");
    // Who did it stands in the audit log.
    let (admin, _) = operate(&["keys", "create", "--owner", "ops", "--admin"]);
    let admin = Client::new(&service, admin["key"].as_str().expect("a key"));
    let audit = admin.get(&format!("/v2/audit?batch={id}")).await;
    let entries = audit["data"].as_array().expect("entries");
    let by_operator =
        |entry: &&Value| entry["actor"].as_str().is_some_and(|actor| actor.starts_with("operator:"));
    let did: Vec<&str> =
        entries.iter().filter(by_operator).filter_map(|entry| entry["action"].as_str()).collect();
    for action in ["batch.pause", "batch.resume", "batch.retry"] {
        assert!(did.contains(&action), "{action}: {audit}");
    }
}

/// One row by hand: its content is shown when it is asked for, and only then; that it was is written down.
#[tokio::test]
async fn a_row_is_processed_by_hand() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("invite.yaml", &invite())]);
    let key = place.key(&sandbox, "acme");
    let (admin, _) = place.operate(&sandbox, &["keys", "create", "--owner", "ops", "--admin"]);
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let taken = "email,first_name,last_name,phone,postcode\ntaken@example.com,T,T,,AB0001\n".to_owned();
    let csv = taken.replace("taken@example.com,T,T,,AB0001\n", "")
        + "a@example.com,A,A,,AB0001\nb@example.com,B,B,,AB0002\ntaken@example.com,T,T,,AB0003\nc@example.com,C,C,,AB0004\n";
    // No row is released by a run.
    let (said, good) = place.operate(&sandbox, &["owners", "set", "acme", "--rows", "1"]);
    assert!(good, "{said}");
    let blocker = {
        sandbox.set_faults(Faults { latency_ms: 2000, ..Faults::default() });
        let (_, blocker) = client.upload(PEOPLE, people(1)).await.expect("an answer");
        let id = blocker["id"].as_str().expect("an id").to_owned();
        while client.get(&format!("/v2/batches/{id}")).await["counts"]["processing"] == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        id
    };
    let (_, batch) = client.upload(PEOPLE, csv).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    client.post(&format!("/v2/batches/{id}/pause"), &Value::Null).await;
    client.finished(&blocker).await;
    sandbox.set_faults(Faults::default());
    let began = Instant::now();
    while client.get(&format!("/v2/batches/{id}")).await["status"] != "queued" {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let row = |number: &'static str, more: &'static [&'static str]| {
        [&["process-row", id.as_str(), number], more].concat()
    };
    let (quiet, good) = place.operate(&sandbox, &row("1", &[]));
    assert!(good && quiet["outcome"] == "completed", "{quiet}");
    assert_eq!(quiet["steps"].as_array().map(Vec::len), Some(3), "{quiet}");
    // The path is shown as the step writes it, and nothing of the row.
    let paths: Vec<&Value> =
        quiet["steps"].as_array().expect("steps").iter().map(|step| &step["path"]).collect();
    assert_eq!(paths, ["/address-links", "/addresses/{{ steps.address_links.link }}", "/invite/create"]);
    let text = quiet.to_string();
    assert!(!text.contains("chk_") && !text.contains("lnk_") && !text.contains("example.com"), "{text}");
    let (open, good) = place.operate(&sandbox, &row("2", &["--reveal"]));
    assert!(
        good && open["row"]["result"]["check_id"].as_str().is_some_and(|id| id.starts_with("chk_")),
        "{open}"
    );
    assert_eq!(open["steps"][2]["path"], "/invite/create", "{open}");
    let (said, good) = place.say(&sandbox, &row("3", &["--reveal"]));
    assert!(!good && said.contains("invite_create: POST /invite/create → 409"), "{said}");
    assert!(said.contains("the row failed: email_taken") && said.contains("email_taken"), "{said}");
    let (again, good) = place.operate(&sandbox, &row("3", &[]));
    assert!(!good && again["outcome"] == "failed" && again["steps"] == json!([]), "{again}");
    let counts = client.get(&format!("/v2/batches/{id}")).await["counts"].clone();
    assert_eq!(
        (&counts["completed"], &counts["failed"], &counts["pending"]),
        (&json!(2), &json!(1), &json!(1))
    );
    let admin = Client::new(&service, admin["key"].as_str().expect("a key"));
    let audit = admin.get(&format!("/v2/audit?batch={id}")).await;
    let told: Vec<(&str, &str)> = audit["data"]
        .as_array()
        .expect("entries")
        .iter()
        .filter_map(|one| Some((one["action"].as_str()?, one["detail"].as_str()?)))
        .filter(|(action, _)| action.starts_with("row."))
        .collect();
    let revealed = "row.process_and_reveal";
    assert_eq!(
        told,
        [("row.process", "row 3"), (revealed, "row 3"), (revealed, "row 2"), ("row.process", "row 1")]
    );
    client.post(&format!("/v2/batches/{id}/resume"), &Value::Null).await;
    let ended = client.finished(&id).await;
    assert_eq!(
        (&ended["counts"]["completed"], &ended["counts"]["failed"]),
        (&json!(3), &json!(1)),
        "{ended}"
    );
    assert_eq!((sandbox.stats().effects, sandbox.stats().doubled), (4, 0));
}

/// The doctor is content with a good installation, and says what is wrong with a bad one.
#[tokio::test]
async fn the_doctor_says_what_is_wrong() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("noop.yaml", NOOP)]);
    place.set("PENSTOCK_ENCRYPTION_KEYS", "tests:WX9EIDV99ywIg2xC6vzpTAJnAdGLt132YsRseUckGJk=".into());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (_, batch) = client.upload("/v2/pipelines/noop/batches", "id\n1\n").await.expect("an answer");
    client.finished(batch["id"].as_str().expect("an id")).await;
    let verdict = |lines: &Value, what: &str| {
        let lines = lines.as_array().expect("lines");
        let line = lines.iter().find(|line| line["what"] == what);
        line.unwrap_or_else(|| panic!("{what}: {lines:?}"))["verdict"].as_str().expect("text").to_owned()
    };
    let (well, good) = place.operate(&sandbox, &["doctor"]);
    assert!(good, "{well}");
    for what in ["database", "schema", "clock", "objects", "queue", "keys", "pipelines", "dispatcher"] {
        assert_eq!(verdict(&well, what), "ok", "{well}");
    }
    // One process reports its background tasks; in a cluster each service logs them.
    if !place.is_cluster() {
        assert_eq!(verdict(&well, "background"), "ok", "{well}");
    }
    service.terminate();
    Database::of(&place).await.run("DELETE FROM runs").await;
    place.set("PENSTOCK_ENCRYPTION_KEYS", "wrong:/uCJxTJpisAeedm7CqonBAj9fmoHPHj9Lr0ixtwWPvU=".into());
    place.write("pipelines/broken.yaml", "name: broken\n");
    let (ill, good) = place.operate(&sandbox, &["doctor"]);
    assert!(!good, "{ill}");
    for (what, verdict_of) in [
        ("database", "ok"),
        ("schema", "ok"),
        ("keys", "fail"),
        ("pipelines", "fail"),
        ("dispatcher", "warn"),
    ] {
        assert_eq!(verdict(&ill, what), verdict_of, "{ill}");
    }
    assert_eq!(place.exit_code(&sandbox, &["doctor"]), Some(1));
}

/// What is past its time goes: payloads first, and all of a batch later; what runs, and what is young, stays.
#[tokio::test]
async fn what_is_past_its_time_goes() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("noop.yaml", NOOP)]);
    place.set("PENSTOCK_ERASE_AFTER_DAYS", "10".into());
    place.set("PENSTOCK_DELETE_AFTER_DAYS", "20".into());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let mut made = Vec::new();
    for number in 0..4 {
        let request = client.request("POST", "/v2/pipelines/noop/batches").header("content-type", "text/csv");
        let request = request.header("idempotency-key", format!("key{number}")).body("id\n1\n2\n");
        let batch: Value = request.send().await.expect("an answer").json().await.expect("JSON");
        let id = batch["id"].as_str().expect("an id").to_owned();
        if number < 3 {
            client.finished(&id).await;
        }
        made.push(id);
    }
    let [old, older, young, running] = &made[..] else { panic!("four") };
    client.post(&format!("/v2/batches/{running}/pause"), &Value::Null).await;
    let (_, upload) = client.post("/v2/uploads", &json!({})).await;
    let mut database = Database::of(&place).await;
    for statement in [
        "UPDATE batches SET created_at = created_at - 86400000 * CAST(40 AS BIGINT)",
        "UPDATE batches SET finished_at = finished_at - 86400000 * CAST(12 AS BIGINT) WHERE seq = 1",
        "UPDATE batches SET finished_at = finished_at - 86400000 * CAST(30 AS BIGINT) WHERE seq = 2",
        "UPDATE batches SET finished_at = finished_at - 86400000 * CAST(9 AS BIGINT) WHERE seq = 3",
        "UPDATE uploads SET expires_at = 1",
    ] {
        assert!(database.run(statement).await > 0, "{statement}");
    }
    assert_eq!(place.objects().len(), 4);
    let (pruned, good) = place.operate(&sandbox, &["prune"]);
    assert!(good, "{pruned}");
    assert_eq!(pruned, json!({ "erased": 2, "deleted": 1, "uploads": 1 }));
    let status =
        async |path: String| client.request("GET", &path).send().await.expect("an answer").status().as_u16();
    assert_eq!(status(format!("/v2/batches/{old}")).await, 200);
    assert_eq!(status(format!("/v2/batches/{old}/rows")).await, 410);
    assert_eq!(status(format!("/v2/batches/{old}/results.csv")).await, 410);
    assert_eq!(status(format!("/v2/batches/{older}")).await, 404);
    assert_eq!(status(format!("/v2/batches/{young}/results.csv")).await, 200);
    assert_eq!(place.objects().len(), 2, "{:?}", place.objects());
    assert!(!upload["upload_id"].is_null());
    // The first one left its lines, to be counted, the second one nothing.
    for query in [
        "SELECT count(*) FROM row_data WHERE batch = 2 OR batch = 1 AND length(payload) > 0",
        "SELECT count(*) FROM row_output WHERE batch IN (1, 2)",
        "SELECT count(*) FROM row_state WHERE batch = 2",
        "SELECT count(*) FROM callbacks WHERE batch = 2",
        "SELECT count(*) FROM batch_keys WHERE batch IN (1, 2)",
    ] {
        let left = database.number(query).await;
        assert_eq!(left, 0, "{query}");
    }
    assert_eq!(place.operate(&sandbox, &["prune"]).0, json!({ "erased": 0, "deleted": 0, "uploads": 0 }));
    assert_eq!(
        place.operate(&sandbox, &["reconcile"]).0["findings"].as_array().map_or(0, |all| {
            all.iter().filter(|finding| finding["count"].as_u64().is_some_and(|count| count > 0)).count()
        }),
        0
    );
    client.post(&format!("/v2/batches/{running}/resume"), &Value::Null).await;
    let ended = client.finished(running).await;
    assert_eq!(ended["outcome"], "success", "{ended}");
}

/// `penstock keys create … | head -n 1`: the reader has gone, which is no failure that anybody should read of.
#[tokio::test]
async fn a_command_whose_output_is_closed_ends_quietly() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    place.key(&sandbox, "acme");
    let create = ["keys", "create", "--owner", "acme"];
    for args in
        [&create[..], &["--json", "keys", "list"], &["keys", "list"], &["doctor"], &["--json", "why", "x"]]
    {
        let (code, stderr) = place.unread(&sandbox, args);
        assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
        assert!(matches!(code, Some(141 | 2)), "{args:?}: {code:?} {stderr}");
    }
    let (keys, _) = place.operate(&sandbox, &["keys", "list"]);
    assert_eq!(keys.as_array().map(Vec::len), Some(2), "what was done stays done: {keys}");
}

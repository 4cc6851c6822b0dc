//! Reports, and what becomes of them when a client corrects one and uploads it.

use std::time::Instant;

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::receiver::Answer;
use penstock_tests::{Client, Place};
use serde_json::{Value, json};

use crate::budgets::{WIDE, file};
use crate::values::{HEAD, ROUTE, Scene};
use crate::{PEOPLE, invite};

#[tokio::test]
async fn failed_csv_is_corrected_and_uploaded_as_it_is() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("invite.yaml", &invite())]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let csv = "email,first_name,last_name,phone,postcode\n\
               a@example.com,\"Ann, the first\",B,+491701234567,AB0001\n\
               taken@example.com,\"=cmd()\",'x,,AB0002\n";
    let (_, batch) = client.upload(PEOPLE, csv).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id");
    client.finished(id).await;
    let results = client.text(&format!("/v2/batches/{id}/results.csv")).await;
    let lines: Vec<&str> = results.split("\r\n").collect();
    assert_eq!(
        lines[0],
        "email,first_name,last_name,phone,postcode,_row,_status,check_id,_code,_message,_ref"
    );
    assert!(
        lines[1].starts_with("a@example.com,\"Ann, the first\",B,+491701234567,AB0001,1,completed,chk_"),
        "{results}"
    );
    assert!(lines[2].starts_with("taken@example.com,'=cmd(),'x,,AB0002,2,failed,,email_taken,"), "{results}");
    let failed = client.text(&format!("/v2/batches/{id}/failed.csv")).await;
    assert_eq!(failed.split("\r\n").count(), 3, "{failed}");
    let fixed = failed.replace("taken@", "free@");
    let (status, batch) = client.upload(PEOPLE, fixed).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id");
    assert_eq!(client.finished(id).await["outcome"], "success");
    let text = client.text(&format!("/v2/batches/{id}/results.ndjson")).await;
    let line: Value = serde_json::from_str(text.trim()).expect("JSON");
    assert_eq!((&line["row"]["first_name"], &line["row"]["last_name"]), (&"=cmd()".into(), &"'x".into()));
    let unprocessed = client.text(&format!("/v2/batches/{id}/unprocessed.csv")).await;
    assert_eq!(unprocessed.split("\r\n").filter(|line| !line.is_empty()).count(), 1);
}

/// A report of a finished batch is the same bytes every time: it can be checked for changes, resumed in the middle, and
/// compressed.
#[tokio::test]
async fn a_report_goes_on_where_it_broke_off() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", crate::NOOP)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let file: String = std::iter::once("id,note\n".to_owned())
        .chain((0..900).map(|number| format!("{number},\"a, b\"\n")))
        .collect();
    let (_, batch) = client.upload("/v2/pipelines/noop/batches", file).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id");
    client.finished(id).await;
    let path = format!("/v2/batches/{id}/results.csv");
    let whole = client.request("GET", &path).send().await.expect("an answer");
    let tag = whole.headers()["etag"].to_str().expect("text").to_owned();
    assert!(tag.starts_with('"'), "{tag} is strong");
    assert_eq!(whole.headers()["accept-ranges"], "bytes");
    let whole = whole.bytes().await.expect("a body");
    let unchanged =
        client.request("GET", &path).header("if-none-match", &tag).send().await.expect("an answer");
    assert_eq!(unchanged.status(), 304);
    let half = whole.len() / 2;
    let ranges = [
        (format!("bytes={half}-"), half, whole.len()),
        ("bytes=0-0".to_owned(), 0, 1),
        ("bytes=-7".to_owned(), whole.len() - 7, whole.len()),
        (format!("bytes=10-{}", whole.len() * 2), 10, whole.len()),
    ];
    for (range, first, end) in ranges {
        let part = client
            .request("GET", &path)
            .header("range", &range)
            .header("if-range", &tag)
            .header("accept-encoding", "gzip")
            .send()
            .await
            .expect("an answer");
        assert_eq!(part.status(), 206, "{range}");
        let said = format!("bytes {first}-{}/{}", end - 1, whole.len());
        assert_eq!(part.headers()["content-range"].to_str().expect("text"), said);
        assert_eq!(part.bytes().await.expect("a body"), whole[first..end], "{range}");
    }
    let beyond = format!("bytes={}-", whole.len());
    let nothing = client.request("GET", &path).header("range", beyond).send().await.expect("an answer");
    assert_eq!(nothing.status(), 416);
    assert_eq!(
        nothing.headers()["content-range"].to_str().expect("text"),
        format!("bytes */{}", whole.len())
    );
    let other = client
        .request("GET", &path)
        .header("range", "bytes=0-5")
        .header("if-range", "\"another\"")
        .send()
        .await
        .expect("an answer");
    assert_eq!(other.status(), 200, "the file is another one by now: all of it");
    let packed =
        client.request("GET", &path).header("accept-encoding", "gzip").send().await.expect("an answer");
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    assert!(packed.headers()["etag"].to_str().expect("text").starts_with("W/"));
    let packed = packed.bytes().await.expect("a body");
    assert!(packed.len() < whole.len() / 2);
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed[..]), &mut plain).expect("gzip");
    assert_eq!(plain, whole);
}

/// However often a report goes round: the API receives what the client wrote, and cells never grow.
#[tokio::test]
async fn apostrophes_of_a_report_come_and_go_with_it() {
    let scene = Scene::of(&format!(
        "{HEAD}steps: [ {{ name: tell, dependency: api, request: {{ method: PUT, path: /tell, json: {{ note: \"{{{{ row.note }}}}\" }} }} }} ]\n"
    ))
    .await;
    scene.receiver.answer(422);
    let mut notes = 0;
    let mut told = async |batch: &str| {
        let heard = scene.receiver.heard();
        let new: Vec<String> = heard[notes..]
            .iter()
            .map(|heard| heard.json()["note"].as_str().expect("text").to_owned())
            .collect();
        notes = heard.len();
        let mut new = new;
        new.sort();
        (new, scene.client.text(&format!("{batch}/failed.csv")).await)
    };
    let written = ["'=B1", "'tis", "+491701234567", "-5", "=SUM(A1)"];
    let file = format!("id,note\n{}", written.iter().map(|note| format!("1,{note}\n")).collect::<String>());
    let (heard, mut report) = told(&scene.run("", &file).await).await;
    assert_eq!(heard, written);
    assert!(report.contains("\r\n1,'=SUM(A1),") && report.contains("\r\n1,'=B1,"), "{report}");
    for _ in 0..2 {
        let (heard, again) = told(&scene.run("", &report).await).await;
        assert_eq!(heard, written, "as they were");
        report = again;
    }
    // Our columns taken out: what stands in the cells is meant, once and for all.
    let tidied = ["'=B1", "'=SUM(A1)", "'tis", "+491701234567", "-5"];
    let mut bare = report;
    for _ in 0..2 {
        bare =
            bare.lines().map(|line| line.split(',').take(2).collect::<Vec<_>>().join(",") + "\n").collect();
        let (heard, again) = told(&scene.run("", &bare).await).await;
        assert_eq!(heard, tidied);
        bare = again;
    }
    // A column of the client's own that is named as one of ours.
    let (heard, _) = told(&scene.run("", "id,note,_status\n1,'=X,new\n").await).await;
    assert_eq!(heard, ["'=X"]);
    // Another owner's references are none.
    let rival = Client::new(&scene.service, &scene.place.key(&scene.sandbox, "rival"));
    let (_, report) = told(&scene.run("", &file).await).await;
    let (status, problem) = rival.upload(ROUTE, report.clone()).await.expect("an answer");
    assert_eq!(status, 422, "{problem}");
    let errors = problem["errors"].as_array().expect("errors");
    assert!(errors.iter().all(|error| error["code"] == "changed_reference"), "{problem}");
    assert_eq!(errors.len(), 2, "the lines with an apostrophe before a formula: {problem}");
    // White space around a reference is none of it; a reference that was cut is an error where an apostrophe depends on it.
    let spaced = report.replace("\r\n", " \r\n").replacen(" \r\n", "\r\n", 1);
    let (heard, _) = told(&scene.run("", &spaced).await).await;
    assert_eq!(heard, written);
    let cut = report.replace("\r\n", "x\r\n").replacen("x\r\n", "\r\n", 1);
    let (status, problem) = scene.client.upload(ROUTE, cut).await.expect("an answer");
    assert_eq!((status, problem["errors"].as_array().map(Vec::len)), (422, Some(2)), "{problem}");
    // A column of the client's own of that name is named.
    let own = "id,note,_ref\n1,'=X,A-17\n";
    let (status, batch) = scene.client.upload(ROUTE, own).await.expect("an answer");
    assert_eq!((status, &batch["ignored_columns"]), (202, &json!(["_ref"])), "{batch}");
    scene.client.finished(batch["id"].as_str().expect("an id")).await;
}

#[tokio::test]
async fn columns_that_are_ignored_are_named_or_kept() {
    let columns = "columns: [ { name: id, required: true }, { name: note }, { name: _tag } ]";
    let pipeline = HEAD.replace("columns: [ { name: id, required: true }, { name: note } ]", columns);
    let scene = Scene::of(&format!("{pipeline}steps: []\n")).await;
    let (status, batch) =
        scene.client.upload(ROUTE, "_id,id,_tag,_status\n7,1,red,open\n").await.expect("an answer");
    assert_eq!((status, &batch["ignored_columns"]), (202, &json!(["_id", "_status"])), "{batch}");
    let id = batch["id"].as_str().expect("an id");
    scene.client.finished(id).await;
    let results = scene.client.text(&format!("/v2/batches/{id}/results.csv")).await;
    assert!(
        results.starts_with("id,_tag,_row,_status,_code,_message,_ref\r\n1,red,1,completed,,,r"),
        "{results}"
    );
    let (status, batch) = scene.client.upload(ROUTE, results).await.expect("an answer");
    assert_eq!(
        (status, &batch["ignored_columns"]),
        (202, &json!([])),
        "a report's own columns are none of the client's"
    );
    assert_eq!(scene.client.finished(batch["id"].as_str().expect("an id")).await["outcome"], "success");
}

/// Five people; a customer is created for each under a key, and may have been although the row failed. Another upload creates nobody
/// twice: unchanged lines keep their keys, however often the file goes round, and changed ones are refused.
#[tokio::test]
async fn who_may_have_been_created_is_created_once() {
    let pipeline = format!(
        "{HEAD}steps:\n\
         \x20 - {{ name: create, dependency: api, request: {{ method: POST, path: /create, idempotency_key: true, json: {{ id: \"{{{{ row.id }}}}\" }} }}, output: {{ id: \"{{{{ body.id }}}}\" }} }}\n\
         \x20 - {{ name: mail, dependency: api, request: {{ method: POST, path: /mail, json: {{ id: \"{{{{ row.id }}}}\" }} }} }}\n"
    )
    .replace("timeout: 8s", "timeout: 1s")
    .replace("attempts: 1", "attempts: 2, backoff: { initial: 10ms, factor: 1, max: 10ms }");
    let scene = Scene::of(&pipeline).await;
    scene.receiver.answer_with(|heard| {
        let status = |status| Answer { status, headers: String::new(), body: String::new() };
        match (heard.path.as_str(), heard.json()["id"].as_str().unwrap_or_default()) {
            ("/create", "refused") => status(422),
            ("/create", "silent") => status(0),
            ("/create", "broken") => status(500),
            ("/create", "odd") => Answer { body: "created!".into(), ..status(200) },
            ("/mail", "unmailed") => status(422),
            _ => Answer::json("{\"id\": 7}"),
        }
    });
    let batch = scene.run("", "id\nrefused\nsilent\nbroken\nodd\nunmailed\nwell\n").await;
    let failed = scene.client.text(&format!("{batch}/failed.csv")).await;
    for (id, code) in
        [("silent", "timeout"), ("broken", "http_500"), ("odd", "bad_response"), ("unmailed", "http_422")]
    {
        assert!(failed.lines().any(|line| line.starts_with(&format!("{id},")) && line.contains(&format!(",failed,{code},"))), "{failed}");
    }
    assert_eq!(failed.lines().count(), 6, "{failed}");
    let rest = scene.client.text(&format!("{batch}/unprocessed.csv")).await;
    assert_eq!(rest.lines().count(), 1, "all of them have keys: {rest}");
    // A line that was corrected is another one; that may not be where it may have been done.
    let (status, problem) =
        scene.client.upload(ROUTE, failed.replace("silent", "mute")).await.expect("an answer");
    let error = &problem["errors"][0];
    assert_eq!(
        (status, &error["code"], &error["line"]),
        (422, &json!("changed_after_effect"), &json!(3)),
        "{problem}"
    );
    // What README recommends.
    let again = scene.run("", &failed.replace("refused", "fixed")).await;
    // A line that failed again keeps the keys of its first row, and what that may have done is still known.
    let failed = scene.client.text(&format!("{again}/failed.csv")).await;
    let (status, problem) =
        scene.client.upload(ROUTE, failed.replace("odd", "even")).await.expect("an answer");
    assert_eq!((status, &problem["errors"][0]["code"]), (422, &json!("changed_after_effect")), "{problem}");
    scene.run("", &failed).await;
    let created = |id: &str| {
        let mut keys: Vec<String> = scene
            .receiver
            .heard()
            .iter()
            .filter(|heard| heard.path == "/create" && heard.json()["id"] == id)
            .map(|heard| heard.header("idempotency-key").to_owned())
            .collect();
        keys.sort();
        keys.dedup();
        keys.len()
    };
    let tries = scene
        .receiver
        .heard()
        .iter()
        .filter(|heard| heard.path == "/create" && heard.json()["id"] == "silent")
        .count();
    assert_eq!(tries, 6, "three uploads of two attempts");
    for id in ["refused", "silent", "broken", "odd", "unmailed", "well", "fixed"] {
        assert_eq!(created(id), 1, "{id} was asked for under one key");
    }
}

/// The end of a report costs its length once, and then what it has.
#[tokio::test]
async fn a_range_costs_what_it_has() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("wide.yaml", WIDE)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (_, batch) = client.upload("/v2/pipelines/wide/batches", file(12_000_000)).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    client.finished(&id).await;
    let path = format!("/v2/batches/{id}/results.csv");
    let range = async |range: &str| {
        let began = Instant::now();
        let answer = client.request("GET", &path).header("range", range).send().await.expect("an answer");
        assert_eq!(answer.status(), 206, "{range}");
        let of = answer.headers()["content-range"].to_str().expect("text").to_owned();
        (answer.bytes().await.expect("a body"), of, began.elapsed())
    };
    // Ten at once measure it once.
    let began = Instant::now();
    let all = futures::future::join_all((0..10).map(|_| range("bytes=-1"))).await;
    let first = began.elapsed();
    let length: usize = all[0].1.rsplit('/').next().and_then(|length| length.parse().ok()).expect("a length");
    assert!(all.iter().all(|(bytes, of, _)| bytes.as_ref() == b"\n" && *of == all[0].1));
    let (_, _, again) = range("bytes=-1").await;
    assert!(again * 4 < first, "{first:?} for the first ten, {again:?} for one more");
    // Parts fit together to the whole, wherever they are cut.
    let whole = client.text(&path).await.into_bytes();
    assert_eq!(whole.len(), length);
    for (from, to) in
        [(0, 10), (1_048_570, 1_048_590), (5_000_000, 5_300_000), (length - 2_000_000, length - 1)]
    {
        let (bytes, _, _) = range(&format!("bytes={from}-{to}")).await;
        assert!(bytes == whole[from..=to], "{from} to {to}");
    }
}

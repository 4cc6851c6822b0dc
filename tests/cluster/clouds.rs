//! Google Cloud Storage and Azure in place of S3.

use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::azurite::Azurite;
use penstock_tests::gcs::Gcs;
use penstock_tests::{Client, PATIENCE, Place};
use serde_json::{Value, json};

use crate::until_ready;

const PIPELINE: &str = "name: notes\ncsv: { columns: [ { name: id, required: true }, { name: note } ] }\n\
    dependencies: { address: { base_url: \"${ADDRESS_API_URL}\", timeout: 5s, concurrency: 20 } }\n\
    steps: [ { name: a, dependency: address, request: { method: GET, path: \"/addresses/lnk_{{ row.id }}\" } } ]\n\
    dispatch: { spread: 0s, rows_per_owner: 1000 }\n";
const ROUTE: &str = "/v2/pipelines/notes/batches";

/// Rows with a note each, of text that gets hardly smaller.
fn notes(rows: u32, bytes: usize) -> String {
    let mut csv = "id,note\n".to_owned();
    let mut state = 7_u64;
    for row in 0..rows {
        csv.push_str(&format!("{row},"));
        for _ in 0..bytes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            csv.push(char::from(b'!' + 14 + u8::try_from(state >> 58).expect("6 bits")));
        }
        csv.push('\n');
    }
    csv
}

fn id(batch: &Value) -> &str {
    batch["id"].as_str().unwrap_or_else(|| panic!("no batch: {batch}"))
}

/// A small file, one of several parts, one that is refused after some parts, and one that is PUT before; their rows, their results,
/// and their end.
async fn whole_run(place: &Place, sandbox: &Sandbox, puts_at: Option<&str>) {
    let (api, _worker) = (place.api(sandbox), place.worker(sandbox));
    let _dispatcher = place.dispatcher(sandbox, "1s");
    until_ready(&api, 200).await;
    let client = Client::new(&api, &place.key(sandbox, "acme"));
    let mut batches = Vec::new();
    for file in [notes(20, 10), notes(420, 30_000)] {
        let (status, batch) = client.upload(ROUTE, file).await.expect("an answer");
        assert_eq!(status, 202, "{batch}");
        batches.push(id(&batch).to_owned());
    }
    let (status, problem) =
        client.upload(ROUTE, format!("{},none\n", notes(420, 30_000))).await.expect("an answer");
    assert_eq!((status, &problem["error_count"]), (422, &1.into()), "{problem}");
    // A file that is PUT before its batch is asked for.
    let (status, upload) = client.post("/v2/uploads", &json!({})).await;
    assert_eq!(status, 201, "{upload}");
    let url = upload["url"].as_str().expect("a URL");
    let http = penstock_tests::http().build().expect("a client");
    let put = match puts_at {
        Some(store) => {
            assert!(url.starts_with(store) && upload["authorization"] == false, "{upload}");
            let refused =
                http.put(url.replace("owners", "owner5")).body("x").send().await.expect("an answer");
            assert_eq!(refused.status(), 403, "a signature is for one object");
            http.put(url)
        }
        None => {
            assert!(url.starts_with(&api.base) && upload["authorization"] == true, "{upload}");
            client.request("PUT", url.strip_prefix(&api.base).expect("the API's"))
        }
    };
    let put = put.body(notes(30, 20)).send().await.expect("an answer");
    assert!(put.status().is_success(), "{}", put.status());
    let (status, batch) = client.post(ROUTE, &json!({ "upload_id": upload["upload_id"] })).await;
    assert_eq!(status, 202, "{batch}");
    batches.push(id(&batch).to_owned());
    for (batch, rows) in batches.iter().zip([20, 420, 30]) {
        let ended = client.finished(batch).await;
        assert_eq!(
            (&ended["outcome"], &ended["counts"]["completed"]),
            (&"success".into(), &rows.into()),
            "{ended}"
        );
        let report = client.text(&format!("/v2/batches/{batch}/results.csv")).await;
        assert_eq!(report.lines().count(), rows + 1);
    }
    for batch in &batches {
        let answer =
            client.request("DELETE", &format!("/v2/batches/{batch}")).send().await.expect("an answer");
        assert!(answer.status().is_success(), "{}", answer.status());
    }
    let (plan, good) = place.operate(sandbox, &["reconcile"]);
    assert!(good && plan["planned"] == 0, "{plan}");
    let findings = plan["findings"].as_array().expect("findings");
    let unlisted =
        |finding: &&Value| finding["what"] == "object stores whose unfinished uploads cannot be listed";
    assert_eq!(findings.iter().find(unlisted).expect("it is looked for")["count"], 0, "{plan}");
}

fn is_list(object: &str) -> bool {
    object.contains("/errors/")
}

#[tokio::test]
async fn google_cloud_storage_holds_files_from_upload_to_erasure() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("notes.yaml", PIPELINE)]);
    let store = Gcs::start(&place.data().with_file_name("gcs"));
    for (name, value) in store.environment() {
        place.set(name, value);
    }
    whole_run(&place, &sandbox, Some(&store.base())).await;
    let left = || -> Vec<_> {
        store.objects().into_iter().filter(|path| !is_list(&path.to_string_lossy())).collect()
    };
    let began = Instant::now();
    while !left().is_empty() {
        assert!(began.elapsed() < PATIENCE, "{:?}", left());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn azure_holds_files_from_upload_to_erasure() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("notes.yaml", PIPELINE)]);
    let store = Azurite::start().await;
    for (name, value) in store.environment() {
        place.set(name, value);
    }
    whole_run(&place, &sandbox, None).await;
    let began = Instant::now();
    loop {
        let mut left = store.objects().await;
        left.retain(|object| !is_list(object));
        if left.is_empty() {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{left:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // A container that is not there is reported as that.
    place.set("OBJECT_STORE_URL", "az://nowhere".into());
    let api = place.api(&sandbox);
    let began = Instant::now();
    loop {
        let reported = until_ready(&api, 503).await;
        if reported.contains("does not exist") {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{reported}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What a store lacks to be reached is named at the start.
#[tokio::test]
async fn a_store_without_its_settings_is_refused() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    for (url, named) in [
        ("az://batches", "AZURE_STORAGE_ACCOUNT_NAME"),
        ("gs://", "the name of a bucket"),
        ("ftp://batches", "s3://, gs:// or az://"),
    ] {
        let mut place = Place::new(&[("notes.yaml", PIPELINE)]);
        place.set("OBJECT_STORE_URL", url.into());
        let refused = place.refusal(&sandbox);
        assert!(refused.contains(named), "{url}: {refused}");
    }
}

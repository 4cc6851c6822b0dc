//! `errors.csv`: the wrong lines of a file that was refused, for its owner and for whoever has the link.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use penstock_domain::time::Timestamp;
use penstock_sandbox::{Config, Sandbox};
use penstock_tests::{Client, Place, Service};
use serde_json::{Value, json};

use crate::dialects::PEOPLE;
use crate::workbooks::workbook;

const ROUTE: &str = "/v2/pipelines/people/batches";

const FILE: &str = "E-Mail;Name;Notiz\r\nx;=1+1;a\r\na@b.de;good;b\r\n;Jörg;c\r\n";

async fn anybody(url: &str) -> (u16, String) {
    let http = penstock_tests::http().build().expect("a client");
    let answer = http.get(url).send().await.expect("an answer");
    (answer.status().as_u16(), answer.text().await.expect("a text"))
}

async fn status(client: &Client, method: &str, path: &str) -> u16 {
    client.request(method, path).send().await.expect("an answer").status().as_u16()
}

/// What a browser is told to save a list as.
async fn file_name(client: &Client, path: &str) -> String {
    let answer = client.request("GET", path).send().await.expect("an answer");
    let name = answer.headers().get("content-disposition").expect("a name");
    name.to_str().expect("ASCII").to_owned()
}

fn start(sandbox: &Sandbox) -> (Place, Service, Client) {
    let taking = PEOPLE.replace("delimiter: auto", "delimiter: auto\n  formats: [csv, xlsx]");
    let place = Place::new(&[("people.yaml", &taking)]);
    let key = place.key(sandbox, "acme");
    let service = place.start(sandbox, None);
    let client = Client::new(&service, &key);
    (place, service, client)
}

/// PUTs a file and asks for its batch; the upload's id, and the batch once it has ended.
async fn put(client: &Client, file: Vec<u8>) -> (String, Value) {
    put_named(client, file, None).await
}

/// The same, with a name for the batch.
async fn put_named(client: &Client, file: Vec<u8>, name: Option<&str>) -> (String, Value) {
    let (_, upload) = client.post("/v2/uploads", &json!({})).await;
    let url = upload["url"].as_str().expect("a URL");
    let request = if upload["authorization"] == true {
        client.request("PUT", &url[url.find("/v2/").expect("a path of the API")..])
    } else {
        penstock_tests::http().build().expect("a client").put(url)
    };
    let answer = request.body(file).send().await.expect("an answer");
    assert!(answer.status().is_success(), "{}", answer.status());
    let id = upload["upload_id"].as_str().expect("an id").to_owned();
    let (status, batch) = client.post(ROUTE, &json!({ "upload_id": id, "name": name })).await;
    assert_eq!(status, 202, "{batch}");
    (id, client.finished(batch["id"].as_str().expect("an id")).await)
}

#[tokio::test]
async fn all_errors_of_a_refused_upload_can_be_read_for_an_hour() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let (place, service, client) = start(&sandbox);
    let (refused, problem) = client.upload(ROUTE, FILE).await.expect("an answer");
    assert_eq!(refused, 422, "{problem}");
    let count = |code: &str| json!({ "column": "email", "code": code, "count": 1 });
    assert_eq!(problem["error_counts"], json!([count("format"), count("required")]), "{problem}");
    let (found, list) = anybody(problem["errors_url"].as_str().expect("a link")).await;
    assert_eq!(found, 200, "{list}");
    let ends: Timestamp = serde_json::from_value(problem["errors_expires_at"].clone()).expect("a moment");
    let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().expect("a clock").as_secs()).expect("a time");
    assert!((3300..=3700).contains(&(ends.seconds() - now)), "{problem}");
    let lines: Vec<&str> = list.split("\r\n").collect();
    assert_eq!(lines[0], "\u{FEFF}E-Mail;Name;Notiz;_line;_column;_code;_message;_ref");
    assert!(lines[1].starts_with("x;'=1+1;a;2;email;format;"), "{list}");
    assert!(lines[2].starts_with(";Jörg;c;4;email;required;"), "{list}");
    assert_eq!(lines.len(), 4, "{list}");
    // For its owner's keys that may use the pipeline, and for nobody else.
    let path = format!("/v2/uploads/{}/errors.csv", problem["upload_id"].as_str().expect("an id"));
    assert_eq!(client.text(&path).await, list);
    let upload_id = problem["upload_id"].as_str().expect("an id");
    assert_eq!(file_name(&client, &path).await, format!("attachment; filename=\"{upload_id}-errors.csv\""));
    let rival = Client::new(&service, &place.key(&sandbox, "rival"));
    assert_eq!(status(&rival, "GET", &path).await, 404);
    let args = ["keys", "create", "--owner", "acme", "--pipeline", "other"];
    let (narrow, made) = place.operate(&sandbox, &args);
    assert!(made, "{narrow}");
    let narrow = Client::new(&service, narrow["key"].as_str().expect("a key"));
    assert_eq!(status(&narrow, "GET", &path).await, 404);
    assert_eq!(anybody(&format!("{}{path}", service.base)).await.0, 401);
    // What is stored shows nothing of it.
    assert_eq!(place.error_lists().len(), 1);
    assert!(place.files_with("Jörg".as_bytes()).is_empty());
    // What was put right is taken with every value as it was.
    let fixed = list.replace("x;'=1+1", "x@y.de;'=1+1").replace("\r\n;J", "\r\nz@y.de;J");
    let (taken, batch) = client.upload(ROUTE, fixed).await.expect("an answer");
    assert_eq!((taken, &batch["ignored_columns"]), (202, &json!([])), "{batch}");
    let id = batch["id"].as_str().expect("an id");
    client.finished(id).await;
    let rows = client.text(&format!("/v2/batches/{id}/results.ndjson")).await;
    assert!(rows.contains("\"name\":\"=1+1\""), "{rows}");
    // All of them, not the first hundred; and nobody fills the object store with them.
    let lines: String = (0..2500).map(|number| format!("x{number};y\n")).collect();
    let many = format!("email;name\n{lines}");
    for _ in 0..21 {
        let (_, problem) = client.upload(ROUTE, many.clone()).await.expect("an answer");
        assert_eq!(problem["error_count"], 2500);
        let (_, list) = anybody(problem["errors_url"].as_str().expect("a link")).await;
        assert_eq!(list.matches("\r\n").count(), 2501);
    }
    assert_eq!(place.error_lists().len(), 20);
}

/// The list as a spreadsheet shows and saves it: opened, put right, saved and uploaded, every value is what it was.
#[tokio::test]
async fn a_list_for_a_spreadsheet_is_changed_by_none() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let (_place, _service, client) = start(&sandbox);
    let file = "E-Mail;Name;Postcode\r\nx;=1+1;00501\r\na@b.de;good;1\r\n;Jörg;2026-11-24\r\n";
    let (_, problem) = client.upload(ROUTE, file).await.expect("an answer");
    let path = format!("/v2/uploads/{}/errors.csv", problem["upload_id"].as_str().expect("an id"));
    let list = client.text(&format!("{path}?for=spreadsheet")).await;
    let lines: Vec<&str> = list.split("\r\n").collect();
    assert_eq!(lines[0], "\u{FEFF}E-Mail;Name;Postcode;_line;_column;_code;_message;_ref");
    assert!(lines[1].starts_with("x;'=1+1;\"=\"\"00501\"\"\";2;email;format;"), "{list}");
    assert!(lines[2].starts_with(";Jörg;\"=\"\"2026-11-24\"\"\";4;email;required;"), "{list}");
    assert_eq!(lines.len(), 4, "{list}");
    let saved = list.replace("\"=\"\"", "").replace("\"\"\"", "");
    for list in [list, saved] {
        let fixed = list.replace("\r\nx;", "\r\nx@y.de;").replace("\r\n;J", "\r\nz@y.de;J");
        let (taken, batch) = client.upload(ROUTE, fixed).await.expect("an answer");
        assert_eq!((taken, &batch["ignored_columns"]), (202, &json!([])), "{batch}");
        let id = batch["id"].as_str().expect("an id");
        client.finished(id).await;
        let rows = client.text(&format!("/v2/batches/{id}/results.ndjson")).await;
        assert!(rows.contains("\"name\":\"=1+1\",\"postcode\":\"00501\""), "{rows}");
        assert!(rows.contains("\"postcode\":\"2026-11-24\""), "{rows}");
    }
    // Of a file that a worker reads, and by a link.
    let (upload, batch) = put(&client, file.into()).await;
    let id = batch["id"].as_str().expect("an id");
    let list = client.text(&format!("/v2/batches/{id}/errors.csv?for=spreadsheet")).await;
    assert!(list.contains(";\"=\"\"00501\"\"\";2;email;format;"), "{list}");
    assert_eq!(client.text(&format!("/v2/uploads/{upload}/errors.csv?for=spreadsheet")).await, list);
    let wanted = json!({ "report": "errors.csv", "for": "spreadsheet" });
    let (_, link) = client.post(&format!("/v2/batches/{id}/downloads"), &wanted).await;
    assert_eq!(anybody(link["url"].as_str().expect("a URL")).await, (200, list));
}

#[tokio::test]
async fn a_file_over_the_limit_of_bytes_lists_the_errors_before_it() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let small = PEOPLE.replace("delimiter: auto", "delimiter: auto\n  max_bytes: 1000");
    let place = Place::new(&[("people.yaml", &small)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let file = format!("{FILE}{}", "a@b.de;good;b\r\n".repeat(100));
    let (status, problem) = client.upload(ROUTE, file).await.expect("an answer");
    assert_eq!((status, &problem["code"]), (413, &json!("file_too_large")), "{problem}");
    let errors = problem["errors"].as_array().expect("errors");
    let codes: Vec<&str> = errors.iter().filter_map(|error| error["code"].as_str()).collect();
    assert_eq!(codes[..3], ["file_too_large", "format", "required"], "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|text| text.contains("1000 bytes")), "{problem}");
    let (found, list) = anybody(problem["errors_url"].as_str().expect("a link")).await;
    assert_eq!(found, 200, "{list}");
    assert!(list.contains(";2;email;format;") && list.contains(";file_too_large;"), "{list}");
    // What is no table at all is called what it is, however long it is.
    let picture = [b"\x89PNG\r\n\x1A\n".as_slice(), &[7; 5000]].concat();
    let (status, problem) = client.upload(ROUTE, picture).await.expect("an answer");
    assert_eq!((status, &problem["errors"][1]["code"]), (413, &json!("not_csv")), "{problem}");
}

#[tokio::test]
async fn a_file_that_a_worker_reads_has_the_same_list() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let (_place, _service, client) = start(&sandbox);
    let name = "Kunden; \"Mai\"/../Ä 2026.";
    let (upload, batch) = put_named(&client, FILE.into(), Some(name)).await;
    let failure = &batch["failure"];
    assert_eq!((&failure["code"], &failure["error_count"]), (&json!("invalid_file"), &json!(2)), "{batch}");
    assert_eq!(failure["error_counts"].as_array().map(Vec::len), Some(2), "{batch}");
    let id = batch["id"].as_str().expect("an id");
    let list = client.text(&format!("/v2/batches/{id}/errors.csv")).await;
    assert!(list.contains("\r\nx;'=1+1;a;2;email;format;"), "{list}");
    assert_eq!(client.text(&format!("/v2/uploads/{upload}/errors.csv")).await, list);
    for path in [format!("/v2/batches/{id}/errors.csv"), format!("/v2/uploads/{upload}/errors.csv")] {
        let saved = file_name(&client, &path).await;
        let whole = format!("filename*=UTF-8''people-Kunden---Mai--..-%C3%84-2026-{id}-errors.csv");
        assert_eq!(
            saved,
            format!("attachment; filename=\"people-Kunden---Mai--..---2026-{id}-errors.csv\"; {whole}")
        );
    }
    let wanted = json!({ "report": "errors.csv" });
    let (_, link) = client.post(&format!("/v2/batches/{id}/downloads"), &wanted).await;
    assert_eq!(anybody(link["url"].as_str().expect("a URL")).await, (200, list));
    // A limit keeps what was found before it.
    let mut far = FILE.as_bytes().to_vec();
    far.extend(format!("a@b.de;{};c\r\n", "y".repeat(70_000)).into_bytes());
    let (_, batch) = put(&client, far).await;
    assert_eq!(batch["failure"]["code"], "file_too_large", "{batch}");
    let errors = batch["failure"]["errors"].as_array().expect("errors");
    let codes: Vec<&Value> = errors.iter().map(|error| &error["code"]).collect();
    assert_eq!(codes, ["field_too_large", "format", "required"], "{batch}");
    // A workbook that is compressed is one all the same.
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&workbook(&[])).expect("memory");
    let (_, batch) = put(&client, packed.finish().expect("memory")).await;
    assert_eq!(
        (&batch["status"], &batch["counts"]["completed"]),
        (&json!("completed"), &json!(1)),
        "{batch}"
    );
    // With the batch goes the list.
    assert_eq!(status(&client, "DELETE", &format!("/v2/batches/{id}")).await, 200);
    assert_eq!(status(&client, "GET", &format!("/v2/batches/{id}/errors.csv")).await, 410);
}

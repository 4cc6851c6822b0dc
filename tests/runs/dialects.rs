//! Files as people have them, over the real API: in their dialect, compressed, by every way; and the way back through reports.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use penstock_sandbox::{Config, Sandbox};
use penstock_tests::{Client, Place};
use serde_json::{Value, json};

const ROUTE: &str = "/v2/pipelines/people/batches";

pub const PEOPLE: &str = "
name: people
csv:
  delimiter: auto
  encoding: auto
  header: { ignore_case: true, trim: true, extra_columns: keep }
  unique: [email]
  columns:
    - { name: email, aliases: [\"E-Mail\"], required: true, trim: true, case: lower, format: email }
    - { name: name, trim: true }
    - { name: postcode }
    - { name: country, default: DE, case: upper }
dependencies:
  nobody: { base_url: \"http://127.0.0.1:9\", timeout: 1s }
steps:
  - name: check
    dependency: nobody
    when: \"{{ row.name == 'fails' }}\"
    request: { method: GET, path: /, idempotent: true }
    otherwise: { greeting: \"{{ row.email }} {{ row.name }} {{ row.country }}\" }
    output: { greeting: \"{{ body }}\" }
result: { greeting: \"{{ steps.check.greeting }}\" }
retry: { attempts: 1 }
";

/// As Excel writes it in Germany: semicolons, Windows-1252, an empty column and an empty row at the end.
const FILE: &[u8] = b"E-Mail; Name ;PostCode;Notiz;\r\n Ada@Example.DE;J\xF6rg \x80;01067;a,b;\r\nx@y.de;fails;00501;=1+1;\r\n;;;;\r\n";

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).expect("memory");
    encoder.finish().expect("memory")
}

fn start(sandbox: &Sandbox) -> (Place, penstock_tests::Service, Client, String) {
    let place = Place::new(&[("people.yaml", PEOPLE)]);
    let key = place.key(sandbox, "acme");
    let service = place.start(sandbox, None);
    let client = Client::new(&service, &key);
    (place, service, client, key)
}

/// Uploads a file by each of the ways that there are; the ids of the batches.
async fn by_every_way(client: &Client, key: &str) -> Vec<String> {
    let form = [
        b"--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.csv.gz\"\r\n\r\n".as_slice(),
        &gzip(FILE),
        b"\r\n--x--\r\n",
    ]
    .concat();
    let post = || client.request("POST", ROUTE);
    let requests = [
        post().header("content-type", "text/csv; charset=windows-1252").body(FILE),
        post().header("content-type", "text/csv").header("content-encoding", "gzip").body(gzip(FILE)),
        post().header("content-type", "multipart/form-data; boundary=x").body(form.clone()),
        post()
            .header("content-type", "multipart/form-data; boundary=x")
            .header("content-encoding", "gzip")
            .body(gzip(&form)),
    ];
    let mut ids = Vec::new();
    for request in requests {
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        let batch: Value = answer.json().await.expect("JSON");
        assert_eq!((status, &batch["counts"]["total"]), (202, &json!(2)), "{batch}");
        ids.push(batch["id"].as_str().expect("an id").to_owned());
    }
    let (_, upload) = client.post("/v2/uploads", &Value::Null).await;
    let put = penstock_tests::http().build().expect("a client").put(upload["url"].as_str().expect("a URL"));
    // In two parts, and with zeros up to the end of a block, as tools that write tapes leave it.
    let (head, rest) = FILE.split_at(30);
    let put = put.body([gzip(head), gzip(rest), vec![0; 700]].concat());
    let put = if upload["authorization"] == true { put.bearer_auth(key) } else { put };
    assert!(put.send().await.expect("an answer").status().is_success());
    let (status, batch) = client.post(ROUTE, &json!({ "upload_id": upload["upload_id"] })).await;
    assert_eq!(status, 202, "{batch}");
    ids.push(batch["id"].as_str().expect("an id").to_owned());
    ids
}

#[tokio::test]
async fn a_file_is_read_the_same_by_every_way_and_given_back_as_it_was() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let (_place, _service, client, key) = start(&sandbox);
    let mut last = String::new();
    for id in by_every_way(&client, &key).await {
        let batch = client.finished(&id).await;
        assert_eq!(batch["counts"]["completed"], 1, "{batch}");
        let report = client.text(&format!("/v2/batches/{id}/results.csv")).await;
        let lines: Vec<&str> = report.lines().collect();
        assert_eq!(
            lines[0],
            "\u{FEFF}E-Mail; Name ;PostCode;Notiz;_row;_status;greeting;_code;_message;_ref"
        );
        assert!(
            lines[1].starts_with(" Ada@Example.DE;Jörg €;01067;a,b;1;completed;ada@example.de Jörg € DE;;;"),
            "{report}"
        );
        assert!(lines[2].starts_with("x@y.de;fails;00501;'=1+1;2;failed;"), "{report}");
        assert_eq!(lines.len(), 3);
        let rows = client.get(&format!("/v2/batches/{id}/rows")).await;
        assert_eq!((&rows["data"][0]["line"], &rows["data"][1]["line"]), (&json!(2), &json!(3)), "{rows}");
        last = id;
    }
    around(&client, &last).await;
}

/// A report goes round: as it is, and as a spreadsheet opens and saves it.
async fn around(client: &Client, id: &str) {
    let failed = client.text(&format!("/v2/batches/{id}/failed.csv")).await;
    let spreadsheet = client.text(&format!("/v2/batches/{id}/failed.csv?for=spreadsheet")).await;
    assert!(spreadsheet.contains("x@y.de;fails;\"=\"\"00501\"\"\";'=1+1;2;failed;"), "{spreadsheet}");
    let saved = spreadsheet.replace("\"=\"\"00501\"\"\"", "00501");
    let of_whom = client.request("GET", &format!("/v2/batches/{id}/failed.ndjson?for=spreadsheet"));
    assert_eq!(of_whom.send().await.expect("an answer").status(), 404);
    for file in [failed, spreadsheet, saved] {
        let (status, batch) = client.upload(ROUTE, file.clone()).await.expect("an answer");
        assert_eq!(status, 202, "{batch} {file}");
        let id = batch["id"].as_str().expect("an id");
        client.finished(id).await;
        let again = client.text(&format!("/v2/batches/{id}/failed.ndjson")).await;
        let row: Value = serde_json::from_str(again.trim()).expect("JSON");
        let own = json!({ "email": "x@y.de", "name": "fails", "postcode": "00501", "Notiz": "=1+1", "country": "" });
        assert_eq!(row["row"], own, "{file}");
        let report = client.text(&format!("/v2/batches/{id}/failed.csv")).await;
        assert!(report.contains("x@y.de;fails;00501;'=1+1;1;failed;"), "{report}");
    }
}

/// Whoever keeps columns of his own may have several of one name.
#[tokio::test]
async fn own_columns_of_one_name_are_all_given_back() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let (_place, _service, client, _) = start(&sandbox);
    let file = "note,E-Mail,note,note (2),note\n1,a@b.de,2,3,4\n";
    let (status, batch) = client.upload(ROUTE, file).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id");
    client.finished(id).await;
    let row: Value =
        serde_json::from_str(client.text(&format!("/v2/batches/{id}/results.ndjson")).await.trim())
            .expect("JSON");
    let mine = json!({
        "email": "a@b.de", "name": "", "postcode": "", "country": "",
        "note": "1", "note (2)": "2", "note (2) (2)": "3", "note (3)": "4"
    });
    assert_eq!(row["row"], mine, "{row}");
    let report = client.text(&format!("/v2/batches/{id}/results.csv")).await;
    assert!(
        report.lines().nth(1).is_some_and(|line| line.starts_with("1,a@b.de,2,3,4,1,completed,")),
        "{report}"
    );
}

/// Names of columns go through reports as cells do.
#[tokio::test]
async fn names_of_own_columns_survive_reports_and_spreadsheets() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let (_place, _service, client, _) = start(&sandbox);
    let mut file = "E-Mail;name;=cmd;01/2025;- Notiz\r\na@b.de;fails;1;2;3\r\n".to_owned();
    for (report, header) in [
        ("failed.csv", "\u{FEFF}E-Mail;name;'=cmd;01/2025;'- Notiz;_row;"),
        ("failed.csv?for=spreadsheet", "\u{FEFF}E-Mail;name;'=cmd;\"=\"\"01/2025\"\"\";'- Notiz;_row;"),
        ("failed.csv", "\u{FEFF}E-Mail;name;'=cmd;01/2025;'- Notiz;_row;"),
    ] {
        let (status, batch) = client.upload(ROUTE, file.clone()).await.expect("an answer");
        assert_eq!(status, 202, "{batch} {file}");
        let id = batch["id"].as_str().expect("an id");
        client.finished(id).await;
        let row = client.text(&format!("/v2/batches/{id}/failed.ndjson")).await;
        let row: Value = serde_json::from_str(row.trim()).expect("JSON");
        let own = (&row["row"]["=cmd"], &row["row"]["01/2025"], &row["row"]["- Notiz"]);
        assert_eq!(own, (&json!("1"), &json!("2"), &json!("3")), "{row}");
        file = client.text(&format!("/v2/batches/{id}/{report}")).await;
        assert!(file.starts_with(header), "{file}");
        // Two reports that somebody has put together have the header twice.
        let (status, problem) = client.upload(ROUTE, [&*file, &*file].concat()).await.expect("an answer");
        assert_eq!((status, &problem["errors"][0]["code"]), (422, &json!("header_again")), "{problem}");
    }
}

/// What a pipeline gives for an encoding and a delimiter of its own is what it takes.
#[tokio::test]
async fn a_pipeline_takes_what_it_gives_in_its_own_dialect() {
    let dialects = ["windows-1252", "utf-16le", "auto"];
    let of = |encoding: &str| {
        let columns = "[ { name: email, required: true, format: email }, { name: name, trim: true, example: \"01067\" } ]";
        format!(
            "name: {encoding}\ncsv: {{ delimiter: \";\", encoding: {encoding}, formats: [csv, xlsx], columns: {columns} }}\nsteps: []\nresult: {{ is: \"{{{{ row.name }}}}\" }}\n"
        )
    };
    let sources: Vec<(String, String)> =
        dialects.iter().map(|name| (format!("{name}.yaml"), of(name))).collect();
    let named: Vec<(&str, &str)> =
        sources.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&named);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    for name in dialects {
        let route = format!("/v2/pipelines/{name}/batches");
        let example = client.text(&format!("/v2/pipelines/{name}/example.csv")).await;
        assert_eq!(example, "\u{FEFF}email;name\r\nname@example.com;01067\r\n");
        let (status, batch) = client.upload(&route, example).await.expect("an answer");
        assert_eq!(status, 202, "{name}: {batch}");
        // The wrong lines of a workbook are read as they are written.
        let sheet: &[&[&str]] = &[&["email", "name"], &["bad", "M\u{FC}ller"]];
        let (_, upload) = client.post("/v2/uploads", &Value::Null).await;
        let put =
            penstock_tests::http().build().expect("a client").put(upload["url"].as_str().expect("a URL"));
        let mut put = put.body(crate::workbooks::workbook_of_sheets(&[("A", sheet)]));
        if upload["authorization"] == true {
            put = put.bearer_auth(&key);
        }
        assert!(put.send().await.expect("an answer").status().is_success());
        let (_, batch) = client.post(&route, &json!({ "upload_id": upload["upload_id"] })).await;
        let id = batch["id"].as_str().expect("an id");
        assert_eq!(client.finished(id).await["failure"]["code"], "invalid_file");
        let list = client.text(&format!("/v2/batches/{id}/errors.csv")).await;
        let (status, batch) =
            client.upload(&route, list.replace("bad;", "a@b.de;")).await.expect("an answer");
        assert_eq!(status, 202, "{name}: {batch} {list}");
        let id = batch["id"].as_str().expect("an id");
        client.finished(id).await;
        let results = client.text(&format!("/v2/batches/{id}/results.ndjson")).await;
        assert!(results.contains("\"is\":\"M\u{FC}ller\""), "{name}: {results}");
    }
}

/// The API takes the bytes of a compressed file, whether or not a header says that they are compressed.
#[tokio::test]
async fn a_compressed_file_is_put_with_and_without_its_header() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let (_place, _service, client, key) = start(&sandbox);
    for coding in ["gzip", "identity"] {
        let (_, upload) = client.post("/v2/uploads", &Value::Null).await;
        let http = penstock_tests::http().build().expect("a client");
        let put = http.put(upload["url"].as_str().expect("a URL"));
        let status = if upload["authorization"] == true {
            let put = |coding| {
                put.try_clone()
                    .expect("no body yet")
                    .bearer_auth(&key)
                    .header("content-encoding", coding)
                    .body(gzip(FILE))
            };
            assert_eq!(put("br").send().await.expect("an answer").status(), 415);
            put(coding).send().await.expect("an answer").status()
        } else {
            // The object store itself takes it, and nobody changes it on its way.
            put.body(gzip(FILE)).send().await.expect("an answer").status()
        };
        assert!(status.is_success(), "{status}");
        let (status, batch) = client.post(ROUTE, &json!({ "upload_id": upload["upload_id"] })).await;
        assert_eq!(status, 202, "{batch}");
        let id = batch["id"].as_str().expect("an id");
        assert_eq!(client.finished(id).await["counts"]["total"], 2);
    }
}

#[tokio::test]
async fn duplicates_and_damage_are_refused_and_leave_nothing() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let (place, _service, client, _) = start(&sandbox);
    let zip = [b"PK\x03\x04".as_slice(), &[0; 26], b"[Content_Types].xml"].concat();
    let tar = [vec![b'x'; 257], b"ustar\0".to_vec(), vec![0; 1000]].concat();
    let whole = gzip(FILE);
    // Blank lines after a header, of which no limit but that on its size speaks.
    let bomb = gzip(&[b"email;name\n".as_slice(), &vec![b'\n'; 36 << 20]].concat());
    let (status, problem) = client.upload(ROUTE, bomb).await.expect("an answer");
    assert_eq!((status, &problem["errors"][0]["code"]), (422, &json!("gzip_ratio")), "{problem}");
    // A compound file (MS-CFB) whose directory has the stream of a document with a password; and one without.
    let name: Vec<u8> = "EncryptedPackage".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let secret = [b"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1".as_slice(), &[7; 100_000], &name, &[0; 3000]].concat();
    let old = [b"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1".as_slice(), &[7; 3000]].concat();
    for (file, line, code) in [
        (secret, 1, "encrypted_workbook"),
        (old, 1, "workbook"),
        (b"email;name\na@b.de;x\nA@B.de;y\n".to_vec(), 3, "not_unique"),
        (whole[..whole.len() - 5].to_vec(), 1, "broken_gzip"),
        (gzip(&gzip(FILE)), 1, "archive"),
        (gzip(&tar), 1, "archive"),
        (zip, 1, "workbook"),
        (b"{\"email\": \"a@b.de\"}\n".to_vec(), 1, "not_csv"),
    ] {
        let (status, problem) = client.upload(ROUTE, file).await.expect("an answer");
        let error = &problem["errors"][0];
        assert_eq!((status, &error["line"], &error["code"]), (422, &json!(line), &json!(code)), "{problem}");
    }
    assert_eq!(place.objects(), Vec::<std::path::PathBuf>::new());
}

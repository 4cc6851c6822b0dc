//! What a pipeline declares of its files in YAML, through a whole run: encodings, delimiters, columns that are left out, values that stand once,
//! and the words of its author.

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::{Client, Place, Service};
use serde_json::{Value, json};

use crate::workbooks::workbook_of_sheets;

/// A pipeline of that name, with these lines in its `csv` block.
fn pipeline(name: &str, dialect: &str) -> String {
    format!(
        "name: {name}
csv:
{dialect}
  unique: [email, year]
  columns:
    - {{ name: email, required: true, format: email }}
    - {{ name: year }}
    - {{ name: city, normalize: nfc, max_length: 6, message: write the city in six letters, example: Köln }}
dependencies: {{ nobody: {{ base_url: \"http://127.0.0.1:9\", timeout: 1s }} }}
steps:
  - name: check
    dependency: nobody
    when: \"{{{{ row.email == 'nobody' }}}}\"
    request: {{ method: GET, path: /, idempotent: true }}
    otherwise: {{ greeting: \"{{{{ row.email }}}} {{{{ row.year }}}} {{{{ row.city }}}}\" }}
    output: {{ greeting: \"{{{{ body }}}}\" }}
result: {{ greeting: \"{{{{ steps.check.greeting }}}}\" }}
"
    )
}

const PIPELINES: [(&str, &str); 6] = [
    ("unicode-text", "  encoding: utf-16le\n  delimiter: tab"),
    ("cyrillic", "  encoding: windows-1251\n  delimiter: \";\""),
    ("japanese", "  encoding: shift_jis"),
    ("bars", "  delimiter: \"|\""),
    ("ignoring", "  header: { extra_columns: ignore }"),
    ("sheets", "  formats: [csv, xlsx]\n  sheet: Second"),
];

fn start(sandbox: &Sandbox) -> (Place, Service, Client) {
    let written = PIPELINES.map(|(name, dialect)| (format!("{name}.yaml"), pipeline(name, dialect)));
    let files: Vec<(&str, &str)> =
        written.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let place = Place::new(&files);
    let key = place.key(sandbox, "acme");
    let service = place.start(sandbox, None);
    let client = Client::new(&service, &key);
    (place, service, client)
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

async fn upload(client: &Client, pipeline: &str, file: Vec<u8>) -> (u16, Value) {
    client.upload(&format!("/v2/pipelines/{pipeline}/batches"), file).await.expect("an answer")
}

/// The report of a file that is taken.
async fn report(client: &Client, pipeline: &str, file: Vec<u8>) -> String {
    let (status, batch) = upload(client, pipeline, file).await;
    assert_eq!(status, 202, "{pipeline}: {batch}");
    let id = batch["id"].as_str().expect("an id");
    let batch = client.finished(id).await;
    assert_eq!(batch["status"], "completed", "{pipeline}: {batch}");
    client.text(&format!("/v2/batches/{id}/results.csv")).await
}

#[tokio::test]
async fn what_yaml_declares_of_a_file_holds_through_a_whole_run() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let (_place, _service, client) = start(&sandbox);
    // `o` with its dots as a letter of its own: six letters are seven characters, until they are written as people count them.
    let apart = "Ko\u{308}ln-1";
    for (pipeline, file, header, row) in [
        (
            "unicode-text",
            utf16(&format!("\u{FEFF}email\tyear\tcity\r\na@b.co\t1\t{apart}\r\na@b.co\t2\t\r\n")),
            "email\tyear\tcity\t_row",
            format!("a@b.co\t1\t{apart}\t1\tcompleted\ta@b.co 1 Köln-1\t"),
        ),
        (
            "unicode-text",
            utf16("email\tyear\tcity\na@b.co\t\"1\t2\"\tx"),
            "email\tyear\tcity\t_row",
            "a@b.co\t\"1\t2\"\tx\t1\tcompleted\t\"a@b.co 1\t2 x\"\t".to_owned(),
        ),
        (
            "cyrillic",
            b"email;year;city\r\na@b.co;1;\xCF\xE5\xF0\xEC\xFC\r\n".to_vec(),
            "email;year;city;_row",
            "a@b.co;1;Пермь;1;completed;a@b.co 1 Пермь;".to_owned(),
        ),
        (
            "japanese",
            b"email,year,city\r\na@b.co,1,\x95\x5C\x94\x5C\r\n".to_vec(),
            "email,year,city,_row",
            "a@b.co,1,表能,1,completed,a@b.co 1 表能,".to_owned(),
        ),
        (
            "bars",
            format!("email|year|city\na@b.co|1|{apart}\n").into_bytes(),
            "email|year|city|_row",
            format!("a@b.co|1|{apart}|1|completed|a@b.co 1 Köln-1|"),
        ),
        (
            "ignoring",
            b"note,email,year,city\nsecret,a@b.co,1,x\n".to_vec(),
            "email,year,city,_row",
            "a@b.co,1,x,1,completed,a@b.co 1 x,".to_owned(),
        ),
        (
            "sheets",
            workbook_of_sheets(&[
                ("First", &[&["mail"], &["x"]]),
                ("SECOND", &[&["email", "year", "city"], &["a@b.co", "1", "x"]]),
            ]),
            "email,year,city,_row",
            "a@b.co,1,x,1,completed,a@b.co 1 x,".to_owned(),
        ),
    ] {
        let report = report(&client, pipeline, file).await;
        let lines: Vec<&str> = report.trim_start_matches('\u{FEFF}').split("\r\n").collect();
        assert!(lines[0].starts_with(header), "{pipeline}: {report}");
        assert!(lines[1].starts_with(&row), "{pipeline}: {report}");
        assert!(!report.contains("secret"), "{report}");
    }
    let (_, missing) =
        upload(&client, "sheets", workbook_of_sheets(&[("First", &[&["email"], &["a@b.co"]])])).await;
    let missing = client.finished(missing["id"].as_str().expect("an id")).await;
    let error = &missing["failure"]["errors"][0];
    assert_eq!(error["code"], "missing_sheet", "{missing}");
    assert!(
        error["message"].as_str().is_some_and(|text| text.contains("no sheet named `Second`")),
        "{error}"
    );
}

/// Two columns together stand once in a file; a rule's own message and example are what a client reads; the list has the file's delimiter.
#[tokio::test]
async fn what_yaml_declares_is_what_a_client_reads() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let (_place, _service, client) = start(&sandbox);
    let file = utf16(
        "\u{FEFF}email\tyear\tcity\r\na@b.co\t1\tx\r\na@b.co\t2\tDüsseldorf\r\nb@b.co\t1\tx\r\na@b.co\t1\t\"x\ty\"\r\n",
    );
    let (status, problem) = upload(&client, "unicode-text", file).await;
    assert_eq!(status, 422, "{problem}");
    let wanted = json!([
        { "line": 3, "column": "city", "code": "max_length", "message": "write the city in six letters, for example Köln" },
        { "line": 5, "column": "email", "code": "not_unique",
          "message": "`email`, `year` have together the same value in line 2 and in line 5; keep one of the two lines" },
    ]);
    assert_eq!(problem["errors"], wanted, "{problem}");
    let path = format!("/v2/uploads/{}/errors.csv", problem["upload_id"].as_str().expect("an id"));
    let list = client.text(&path).await;
    let lines: Vec<&str> = list.split("\r\n").collect();
    assert_eq!(lines[0], "\u{FEFF}email\tyear\tcity\t_line\t_column\t_code\t_message\t_ref");
    assert!(lines[1].starts_with("a@b.co\t2\tDüsseldorf\t3\tcity\tmax_length\twrite the city"), "{list}");
    assert!(lines[2].starts_with("a@b.co\t1\t\"x\ty\"\t5\temail\tnot_unique\t"), "{list}");
    // What is not as it was declared is refused with what it is.
    for (pipeline, file, code, says) in [
        (
            "bars",
            &b"email,year,city\na@b.co,1,x\n"[..],
            "unknown_column",
            "separated by commas, and this pipeline takes vertical bars",
        ),
        ("ignoring", b"email;year\na@b.co;1\n", "unknown_column", "separated by semicolons"),
        (
            "japanese",
            b"email,year,city\na@b.co,1,\x81\xFF\n",
            "invalid_encoding",
            "no characters of Shift_JIS",
        ),
        ("ignoring", b"note\nx\n", "missing_column", "`email` is missing from the header"),
    ] {
        let (status, problem) = upload(&client, pipeline, file.to_vec()).await;
        let error = &problem["errors"][0];
        assert_eq!((status, &error["code"]), (422, &json!(code)), "{pipeline}: {problem}");
        assert!(error["message"].as_str().is_some_and(|text| text.contains(says)), "{pipeline}: {error}");
    }
}

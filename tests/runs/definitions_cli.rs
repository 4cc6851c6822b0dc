//! `penstock pipelines`: definitions that are checked, tried and tested without an installation.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use penstock_tests::program;
use penstock_tests::receiver::{Answer, Receiver};
use serde_json::{Value, json};

const DEFINITION: &str = "name: jobs
csv: { columns: [ { name: id, required: true } ] }
dependencies:
  api:
    base_url: \"${JOBS_URL}\"
    auth: { bearer: \"${JOBS_TOKEN}\" }
steps:
  - name: job
    dependency: api
    request: { method: POST, path: /jobs, idempotency_key: true, json: { id: \"{{ row.id }}\", note: \"{{ context.note }}\" } }
    poll: { until: \"{{ body.state == 'done' }}\", path: \"/jobs/{{ body.id }}\", every: 100ms, timeout: 1m }
    output: { result: \"{{ body.result }}\" }
result: { result: \"{{ steps.job.result }}\" }
";

const ANSWERS: &str = "
- { method: POST, path: /jobs, status: 201, body: { id: 7, state: new } }
- { path: /jobs/*, body: { id: 7, state: new } }
- { path: /jobs/*, body: { id: 7, state: done, result: good } }
";

struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("penstock-{name}-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("tests")).expect("a folder");
        Self(folder)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.0.join(name);
        std::fs::write(&file, text).expect("a file");
        file
    }

    fn run(&self, args: &[&str]) -> (String, bool) {
        let output = Command::new(program("penstock"))
            .args(args)
            .current_dir(&self.0)
            .env_remove("DATABASE_URL")
            .env("JOBS_URL", "https://jobs.invalid/v1")
            .env("JOBS_TOKEN", "very-secret-token")
            .output()
            .expect("it runs");
        let text = String::from_utf8(output.stdout).expect("text");
        (text + &String::from_utf8_lossy(&output.stderr), output.status.success())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn all_mistakes_of_all_files_are_printed_at_once() {
    let place = Place::new("check");
    place.write("good.yaml", DEFINITION);
    place.write("bad.yaml", &DEFINITION.replace("every: 100ms", "every: soon").replace("row.id", "row.ix"));
    let (said, good) = place.run(&["pipelines", "check", "good.yaml"]);
    assert!(good, "{said}");
    let (said, good) = place.run(&["pipelines", "check", "good.yaml", "bad.yaml"]);
    assert!(!good);
    for line in [
        "bad.yaml:1:1: good.yaml:1 defines",
        "bad.yaml:10:86: unknown column `ix`",
        "bad.yaml:11:86: invalid duration `soon`",
    ] {
        assert!(said.lines().any(|said| said.starts_with(line)), "{line} in {said}");
    }
    let (said, _) = place.run(&["pipelines", "check", "--json", "bad.yaml"]);
    let json: Value = serde_json::from_str(said.lines().next().unwrap_or_default()).expect("JSON");
    assert_eq!(json["files"][0]["file"], "bad.yaml", "{json}");
    let problems = json["files"][0]["problems"].as_array().expect("a list");
    assert!(problems.len() == 2 && problems.iter().all(|one| one["hint"].is_string()), "{json}");
}

/// Wherever a secret stands, and however it is encoded; a signature is computed, and nobody's value.
#[test]
fn secrets_and_signatures_are_not_shown() {
    let place = Place::new("masked");
    let definition = DEFINITION
        .replace(
            "bearer: \"${JOBS_TOKEN}\"",
            "hmac: { secret: \"${JOBS_TOKEN}\", algorithm: sha256, message: \"{{ request.body }}\", \
             headers: { X-Timestamp: \"{{ request.timestamp }}\", X-Mark: \"{{ signature | hex }}\" } }",
        )
        .replace("path: /jobs, idem", "path: \"/jobs/${JOBS_TOKEN}\", query: { q: \"${JOBS_TOKEN}\" }, idem")
        .replace(
            "note: \"{{ context.note }}\"",
            "note: \"{{ '${JOBS_TOKEN}' | base64 }} {{ '${JOBS_TOKEN}' | hex }}\"",
        );
    place.write("jobs.yaml", &definition);
    place.write("rows.csv", "id\na\n");
    for more in [&[][..], &["--json"]] {
        let (shown, good) = place.run(&[&["pipelines", "try", "jobs.yaml", "rows.csv"], more].concat());
        assert!(good && shown.contains("/v1/jobs/***?q=***"), "{shown}");
        assert!(!shown.contains("very-secret") && !shown.contains("dmVyeS1zZWNyZX"), "{shown}");
        assert!(!shown.contains("766572792d736563"), "{shown}");
    }
    let (shown, _) = place.run(&["pipelines", "try", "jobs.yaml", "rows.csv"]);
    assert!(shown.lines().any(|line| line == "x-mark: ***"), "{shown}");
    assert!(!shown.lines().any(|line| line == "x-timestamp: ***"), "{shown}");
}

/// Each definition of the gallery has cases, and all of them hold.
#[test]
fn the_cases_of_all_examples_hold() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines/examples");
    let names = |folder: &Path| -> BTreeSet<String> {
        let entries =
            std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
        let definitions = entries.filter(|path| path.extension().is_some_and(|ending| ending == "yaml"));
        definitions.map(|path| path.file_name().expect("a name").to_string_lossy().into_owned()).collect()
    };
    let examples = names(&folder);
    assert_eq!(names(&folder.join("tests")), examples, "each definition has a file of cases with its name");
    assert!(examples.len() >= 13);
    for name in &examples {
        let cases = std::fs::read_to_string(folder.join("tests").join(name)).expect("cases");
        assert!(cases.starts_with(&format!("definition: {name}\n")), "{name}");
    }
    let place = Place::new("examples");
    let (said, good) = place.run(&["pipelines", "test", &folder.display().to_string()]);
    assert!(good && said.contains("failed: 0"), "{said}");
}

#[test]
fn requests_are_shown_as_they_would_be_sent_and_cases_hold() {
    let place = Place::new("try");
    place.write("jobs.yaml", DEFINITION);
    place.write("rows.csv", "id\na\nb\n");
    place.write("answers.yaml", ANSWERS);
    let context = ["--context", "{\"note\": \"hello\"}"];
    let tried = |more: &[&str]| {
        place.run(
            &[&["pipelines", "try", "jobs.yaml", "rows.csv", "--rows", "1"], &context[..], more].concat(),
        )
    };
    let (said, good) = tried(&[]);
    assert!(good, "{said}");
    for line in [
        "POST https://jobs.invalid/v1/jobs",
        "authorization: Bearer ***",
        "{\"id\":\"a\",\"note\":\"hello\"}",
    ] {
        assert!(said.lines().any(|said| said == line), "{line} in {said}");
    }
    assert!(said.contains("idempotency-key: ") && !said.contains("very-secret-token"), "{said}");
    let (said, good) = tried(&["--answers", "answers.yaml"]);
    assert!(good && said.contains("completed: {\"result\":\"good\"}"), "{said}");
    assert_eq!(said.matches("GET https://jobs.invalid/v1/jobs/7").count(), 2, "{said}");
    let cases = |result: &str| {
        format!(
            "definition: jobs.yaml\ncases:\n  - name: a job\n    csv: \"id\\na\\n\"\n    context: {{ note: hello }}\n    answers:\n{}\n    rows:\n\
             \x20     - requests: [ {{ method: POST, path: /jobs, json: {{ id: a, note: hello }} }}, {{ path: /jobs/7 }}, {{ path: /jobs/7 }} ]\n\
             \x20       outcome: completed\n        result: {{ result: {result} }}\n",
            ANSWERS.trim().lines().map(|line| format!("      {line}")).collect::<Vec<_>>().join("\n")
        )
    };
    place.write("tests/jobs.yaml", &cases("good"));
    let (said, good) = place.run(&["pipelines", "test", "."]);
    assert!(good && said.contains("cases: 1, failed: 0"), "{said}");
    place.write("tests/jobs.yaml", &cases("bad"));
    let (said, good) = place.run(&["pipelines", "test", "."]);
    assert!(
        !good && said.contains("the result is {\"result\":\"good\"}, and not {\"result\":\"bad\"}"),
        "{said}"
    );
    assert!(Path::new(&place.0).join("penstock.db").metadata().is_err(), "it leaves nothing behind");
}

/// Neither an owner's values nor the hours and limits of an API are needed to see what would be sent. What an answer gives as the next
/// address may be a path, and leads nowhere else.
#[test]
fn owners_hours_limits_and_relative_addresses_are_tried() {
    let place = Place::new("owners");
    let definition = r#"name: shop
csv: { columns: [ { name: id, required: true } ] }
dependencies:
  shop:
    base_url: "https://{{ owner.vars.shop }}.shops.example/api"
    hosts: ["*.shops.example"]
    headers: { X-Shop-Token: "{{ owner.secrets.token }}" }
    rate: { limit: 1, period: 1h }
    hours: { from: "00:00", to: "00:01" }
steps:
  - name: job
    dependency: shop
    request: { method: POST, path: /jobs, idempotent: true, json: { id: "{{ row.id }}" } }
    poll: { url: "{{ headers.location }}", until: "{{ status == 200 }}", every: 100ms }
    output: { done: "{{ body.done }}" }
result: { done: "{{ steps.job.done }}" }
"#;
    place.write("shop.yaml", definition);
    place.write("rows.csv", "id\na\nb\n");
    let tried = |more: &[&str]| place.run(&[&["pipelines", "try", "shop.yaml", "rows.csv"], more].concat());
    let (said, good) = tried(&[]);
    assert!(good && said.matches("POST https://shop.shops.example/api/jobs").count() == 2, "{said}");
    let answers = |location: &str| {
        let answers = format!(
            "- {{ method: POST, status: 202, headers: {{ location: \"{location}\" }} }}\n- {{ method: GET, body: {{ done: true }} }}\n"
        );
        place.write("answers.yaml", &answers);
        tried(&["--answers", "answers.yaml", "--var", "shop=acme", "--secret", "token=s3cret"])
    };
    let (said, good) = answers("/jobs/7?a=b");
    assert!(good && said.contains("GET https://acme.shops.example/jobs/7?a=b"), "{said}");
    assert!(!said.contains("s3cret"), "{said}");
    let (said, good) = answers("https://evil.example/jobs/7");
    assert!(!good && said.contains("failed: forbidden_url: ") && !said.contains("GET"), "{said}");
    let case = "definition: shop.yaml\ncases:\n  - name: an owner\n    csv: \"id\\na\\n\"\n    owner: { vars: { shop: acme }, secrets: { token: x } }\n\
        \x20   answers: [ { method: POST, body: { done: true } } ]\n    rows: [ { requests: [ { path: /jobs, headers: { X-Shop-Token: x } } ], outcome: completed } ]\n";
    place.write("tests/shop.yaml", case);
    let (said, good) = place.run(&["pipelines", "test", "."]);
    assert!(good && said.contains("failed: 0"), "{said}");
}

/// `--send` makes the calls, and shows what was sent, without secrets, and what came of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_sent_when_somebody_says_so() {
    let receiver = Receiver::start().await;
    receiver.answer_with(|heard| match (heard.method.as_str(), heard.path.as_str()) {
        ("POST", "/v1/jobs") if heard.json()["id"] == "bad" => {
            let body = json!({ "error": "refused", "message": format!("not with {}", heard.header("authorization")) });
            Answer { status: 422, ..Answer::json(body.to_string()) }
        }
        ("POST", "/v1/jobs") => Answer { status: 201, ..Answer::json(r#"{"id": 7, "state": "new"}"#) },
        _ => Answer::json(r#"{"id": 7, "state": "done", "result": "good"}"#),
    });
    let place = Place::new("send");
    place.write("jobs.yaml", &DEFINITION.replace("${JOBS_URL}", &format!("{}/v1", receiver.url)));
    place.write("rows.csv", "id\na\nbad\nc\n");
    let tried = |more: &[&str]| {
        let args =
            ["pipelines", "try", "jobs.yaml", "rows.csv", "--rows", "2", "--context", "{\"note\": \"n\"}"];
        place.run(&[&args[..], more].concat())
    };
    tried(&[]);
    assert_eq!(receiver.heard().len(), 0, "nothing is sent unless it is asked for");
    let (said, good) = tried(&["--send"]);
    assert!(!good, "a row failed: {said}");
    for line in ["authorization: Bearer ***", "{\"id\":\"a\",\"note\":\"n\"}", "→ 201", "→ 200", "→ 422"]
    {
        assert!(said.lines().any(|said| said == line), "{line} in {said}");
    }
    assert!(said.contains("completed: {\"result\":\"good\"}"), "{said}");
    assert!(said.contains("failed: refused: not with Bearer ***"), "{said}");
    assert!(!said.contains("very-secret"), "{said}");
    let heard = receiver.heard();
    let calls: Vec<(&str, &str)> =
        heard.iter().map(|heard| (heard.method.as_str(), heard.path.as_str())).collect();
    assert_eq!(
        calls,
        [("POST", "/v1/jobs"), ("GET", "/v1/jobs/7"), ("POST", "/v1/jobs")],
        "two rows of three"
    );
    assert!(heard.iter().all(|heard| heard.header("authorization") == "Bearer very-secret-token"));
    let (said, _) = tried(&["--send", "--json"]);
    let json: Value = serde_json::from_str(said.lines().next().unwrap_or_default()).expect("JSON");
    assert_eq!(json["rows"][0]["outcome"], "completed", "{json}");
    assert_eq!(json["rows"][0]["requests"][1]["status"], 200, "{json}");
    assert!(!said.contains("very-secret"), "{said}");
    let (said, good) = tried(&["--send", "--answers", "answers.yaml"]);
    assert!(!good && said.contains("--send"), "one or the other: {said}");
}

/// Editors and CI have neither variables nor files that a definition names; other mistakes are found there too.
#[test]
fn definitions_are_checked_without_their_environment() {
    let place = Place::new("without-env");
    let lacking =
        DEFINITION.replace("${JOBS_TOKEN}", "${file:/nowhere/token}").replace("${JOBS_URL}", "${NOT_SET}");
    place.write("lacking.yaml", &lacking);
    let (said, good) = place.run(&["pipelines", "check", "lacking.yaml"]);
    assert!(!good && said.contains("lacking.yaml:5:") && said.contains("NOT_SET"), "{said}");
    assert!(said.contains("/nowhere/token"), "all at once: {said}");
    let (said, good) = place.run(&["pipelines", "check", "--without-env", "lacking.yaml"]);
    assert!(good, "{said}");
    let url = lacking.replace("${NOT_SET}", "${NOT_SET}/v1").replace("row.id", "row.ix");
    place.write("lacking.yaml", &url);
    let (said, good) = place.run(&["pipelines", "check", "--without-env", "--json", "lacking.yaml"]);
    let json: Value = serde_json::from_str(said.lines().next().unwrap_or_default()).expect("JSON");
    let problems = json["files"][0]["problems"].as_array().expect("problems");
    assert!(!good && problems.len() == 1 && problems[0]["line"] == 10, "{json}");
}

/// The schema for editors is one of 2020-12, and has every key that the examples use.
#[test]
fn the_schema_knows_every_key_of_the_examples() {
    let place = Place::new("schema");
    let (said, good) = place.run(&["pipelines", "schema"]);
    assert!(good, "{said}");
    let schema: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!((&schema["type"], &schema["additionalProperties"]), (&json!("object"), &json!(false)));
    let keys = schema["properties"].as_object().expect("properties");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines/examples");
    let mut seen = BTreeSet::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|ending| ending == "yaml") {
            let text = std::fs::read_to_string(&path).expect("a definition");
            let top = text.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_lowercase()));
            seen.extend(top.filter_map(|line| Some(line.split_once(':')?.0.to_owned())));
        }
    }
    assert!(seen.len() >= 5, "{seen:?}");
    let missing: Vec<&String> = seen.iter().filter(|key| !keys.contains_key(*key)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for deep in ["throttled_for", "rows_polling_per_owner", "idempotency_key", "aws_sigv4", "max_bytes"] {
        assert!(said.contains(&format!("\"{deep}\"")), "{deep}");
    }
}

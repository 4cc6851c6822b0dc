//! `penstock pipelines`: definitions that are checked, tried and tested without an installation.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use penstock_tests::program;
use serde_json::Value;

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

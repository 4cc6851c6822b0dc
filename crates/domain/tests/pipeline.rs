//! Definitions: the shipped one, what is refused and where, and what requests look like.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;

use penstock_domain::outcome::Repetition;
use penstock_domain::pipeline::{Body, Pipeline, ResponseView, RowContext, RowValues, Step};
use penstock_domain::time::Timestamp;
use serde_json::{Map, Value, json};

const INVITE: &str = include_str!("../../../pipelines/invite.yaml");

fn vars(name: &str) -> Option<String> {
    match name {
        "ADDRESS_API_URL" | "INVITE_API_URL" => Some("http://127.0.0.1:9/api".into()),
        "INVITE_API_TOKEN" => Some("t0ken".into()),
        _ => None,
    }
}

fn row(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn load(text: &str) -> Result<Pipeline, String> {
    Pipeline::load("p.yaml", text, &vars)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

#[test]
fn the_shipped_pipeline_loads_and_makes_its_three_calls() {
    let pipeline = load(INVITE).unwrap();
    assert_eq!(pipeline.route.as_deref(), Some("/v2/client/users/batch/invite"));
    assert_eq!(pipeline.result_columns(), ["check_id"]);
    let repetitions: Vec<Repetition> = pipeline.steps.iter().map(Step::repetition).collect();
    assert_eq!(repetitions, [Repetition::Unsaid, Repetition::Harmless, Repetition::Harmless]);
    assert!(pipeline.steps[2].keyed);
    let row = row(&[
        ("email", "a@b.co"),
        ("first_name", "A"),
        ("last_name", "B"),
        ("postcode", "12345"),
        ("phone", ""),
    ]);
    let context = json!({ "campaign": { "id": 7 } });
    let mut steps = Map::new();
    let here =
        RowContext { values: &RowValues::new(&row, &context), steps: &steps, now: Timestamp::default() };
    let request = pipeline.steps[0].request(&here).unwrap();
    assert_eq!((request.method.as_str(), request.target.path()), ("POST", "/address-links"));
    assert_eq!(request.body, Some(Body::json(&json!({ "postcode": "12345" }))));
    let headers = BTreeMap::new();
    let body = json!({ "links": [{ "id": 12 }] });
    let output = pipeline.steps[0]
        .output(&here, ResponseView { status: 200, headers: &headers, body: &body })
        .unwrap();
    assert_eq!(output["link"], json!(12), "a single expression keeps its JSON type");
    let nothing = json!({ "links": [] });
    let error = pipeline.steps[0]
        .output(&here, ResponseView { status: 200, headers: &headers, body: &nothing })
        .unwrap_err();
    assert_eq!(error.to_string(), "step `address_links`, output `link`: `body.links[0]` is not there");
    steps.insert("address_links".into(), json!({ "link": "../../admin?x=1/y" }));
    steps.insert("get_addresses".into(), json!({ "address_id": "adr" }));
    let here =
        RowContext { values: &RowValues::new(&row, &context), steps: &steps, now: Timestamp::default() };
    assert_eq!(
        pipeline.steps[1].request(&here).unwrap().target.path(),
        "/addresses/..%2F..%2Fadmin%3Fx%3D1%2Fy"
    );
    let invite = pipeline.steps[2].request(&here).unwrap().body.unwrap();
    let invite: Value = serde_json::from_slice(&invite.bytes).unwrap();
    assert_eq!(invite["name"], "A B");
    assert_eq!(invite["campaign"], json!({ "id": 7 }));
    let empty = Value::Object(Map::new());
    let here = RowContext { values: &RowValues::new(&row, &empty), steps: &steps, now: Timestamp::default() };
    assert!(pipeline.steps[2].request(&here).is_err(), "undefined is an error, not an empty string");
}

const ERRORS: &[(&str, &str, &str)] = &[
    (
        "row.postcode }}",
        "row.postcod }}",
        "p.yaml:20: unknown column `postcod` in a template; did you mean `postcode`?",
    ),
    (
        "steps.address_links.link }}",
        "steps.address_link.link }}",
        "p.yaml:24: no earlier step is named `address_link`; did you mean `address_links`?",
    ),
    (
        "steps.get_addresses.address_id",
        "steps.get_addresses.id",
        "p.yaml:30: step `get_addresses` has no output `id`; there are: address_id",
    ),
    (
        "${INVITE_API_TOKEN}",
        "${TOKEN}",
        "p.yaml:15: the environment has no variable TOKEN; set it, or take ${TOKEN} out",
    ),
    (
        "dependency: invite",
        "dependency: invit",
        "p.yaml:27: step `invite_create`: there is no dependency `invit`; did you mean `invite`?",
    ),
    (
        "\"^[A-Z0-9 ]{5,8}$\"",
        "\"^[A-Z\"",
        "p.yaml:12: column `postcode`: the pattern cannot be read: error: unclosed character class",
    ),
    ("attempts: 5", "attempts: 0", "p.yaml:33: retry.attempts is 1 or more; 1 means that nothing is retried"),
    (
        "{{ body.check_id }}",
        "{{ bdy.check_id }}",
        "p.yaml:31: unknown variable `bdy` in a template; did you mean `body`?",
    ),
    (
        "campaign: \"{{ context.campaign }}\"",
        "campaign: \"{{ body.campaign }}\"",
        "p.yaml:30: `body` is the answer's, and only known in a step's `output`",
    ),
    (
        "route: /v2/client/users/batch/invite",
        "route: /v2/batches/x",
        "p.yaml:4: route `/v2/batches/x` is one of Penstock's own; choose another",
    ),
];

#[test]
fn errors_name_the_line_and_the_fix() {
    for (from, to, wanted) in ERRORS {
        assert!(INVITE.contains(from), "{from}");
        let error = load(&INVITE.replacen(from, to, 1)).unwrap_err();
        assert_eq!(error, *wanted);
    }
    for (from, to, line, words) in [
        ("max_rows:", "max_row:", 6, "max_row"),
        ("format: e164", "format: phone", 11, "phone"),
        ("method: GET", "method: FETCH", 24, "FETCH"),
        ("period: 1s, burst: 10", "period: 1, burst: 10", 14, "duration"),
    ] {
        let error = load(&INVITE.replacen(from, to, 1)).unwrap_err();
        assert!(error.starts_with(&format!("p.yaml:{line}: ")) && error.contains(words), "{error}");
    }
}

#[test]
fn all_errors_are_told_at_once() {
    let text = INVITE.replace("row.postcode", "row.postcod").replace("attempts: 5", "attempts: 0");
    assert_eq!(load(&text).unwrap_err().lines().count(), 2);
}

#[test]
fn a_variable_can_hold_anything_and_a_pipeline_can_have_no_steps() {
    let text = "name: noop\ncsv: { columns: [ { name: id, required: true } ] }\nsteps: []\n";
    let pipeline = load(text).unwrap();
    assert!(pipeline.steps.is_empty() && pipeline.route.is_none());
    let quoted = |_: &str| Some("http://h/\"},x:\"".to_owned());
    assert!(Pipeline::load("p.yaml", INVITE, &quoted).is_ok(), "a value cannot change the structure");
}

#[test]
fn order_minus_signs_and_what_is_read_are_as_written() {
    let text = "name: p\ncsv: { columns: [ { name: id, format: integer } ] }\n\
        dependencies: { d: { base_url: \"http://h\" } }\n\
        steps:\n\
        \x20 - { name: a, dependency: d, request: { method: GET, path: /a }, output: { n: \"{{ -status }}\", s: \"{{- status -}}\" } }\n\
        \x20 - { name: b, dependency: d, request: { method: GET, path: /b, query: { z: 1, a: 2 } }, output: { all: [ { x: \"<{{ body.x }}>\" } ] } }\n\
        result: { z: 1, m: 2, a: 3 }\n";
    let pipeline = load(text).unwrap();
    assert_eq!(pipeline.result_columns(), ["z", "m", "a"], "the definition's order");
    assert!(!pipeline.steps[0].reads_body && pipeline.steps[1].reads_body);
    let (row, context, steps) = (row(&[("id", "1")]), json!({}), Map::new());
    let here =
        RowContext { values: &RowValues::new(&row, &context), steps: &steps, now: Timestamp::default() };
    let query = pipeline.steps[1].request(&here).unwrap().query;
    assert_eq!(query, [("z".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())]);
    let headers = BTreeMap::new();
    let answer = ResponseView { status: 200, headers: &headers, body: &Value::Null };
    let output = pipeline.steps[0].output(&here, answer).unwrap();
    assert_eq!((&output["n"], &output["s"]), (&json!(-200), &json!(200)));
}

#[test]
fn a_value_never_leads_to_another_path() {
    let path = |template: &str, value: &str| {
        let text = format!(
            "name: p\ncsv: {{ columns: [ {{ name: a }} ] }}\ndependencies: {{ d: {{ base_url: \"http://d.example\" }} }}\n\
             steps: [ {{ name: s, dependency: d, request: {{ method: DELETE, path: \"{template}\" }} }} ]\n"
        );
        let pipeline = load(&text).unwrap();
        let (row, steps) = (row(&[("a", value)]), Map::new());
        let here = RowContext {
            values: &RowValues::new(&row, &json!({})),
            steps: &steps,
            now: Timestamp::default(),
        };
        pipeline.steps[0]
            .request(&here)
            .map(|request| request.target.path().to_owned())
            .map_err(|error| error.to_string())
    };
    for (template, value, wanted) in [
        ("/people/{{ row.a }}", "7", "/people/7"),
        ("/people/{{ row.a }}", "a/b", "/people/a%2Fb"),
        ("/people/{{ row.a }}", "../x", "/people/..%2Fx"),
        ("/people/{{ row.a }}", "...", "/people/..."),
        ("/people/{{ row.a }}", "%2e", "/people/%252e"),
        ("/people/{{ row.a }}", "\\", "/people/%5C"),
        ("/people/{{ row.a }}.json", "", "/people/.json"),
        ("/people/x{{ row.a }}/y", "", "/people/x/y"),
        ("/people/{{ row.a }}{{ row.a }}", "a.", "/people/a.a."),
        ("/people/{% if row.a %}{{ row.a }}{% endif %}", "", "/people/"),
    ] {
        assert_eq!(path(template, value).as_deref(), Ok(wanted), "{template} {value}");
    }
    let empty =
        "step `s`, path: a value is empty and would leave a segment of the path empty, which is another path";
    let dots = "step `s`, path: a value makes a segment of the path `.` or `..`, which is another path";
    for (template, value, wanted) in [
        ("/people/{{ row.a }}", "", empty),
        ("/people/{{ row.a }}/mails", "", empty),
        ("/people/{{ row.a }}{{ row.a }}", "", empty),
        ("/people/{{ row.a }}", ".", dots),
        ("/people/{{ row.a }}", "..", dots),
        ("/people/{{ row.a }}/mails", "..", dots),
        ("/people/{{ row.a }}{{ row.a }}", ".", dots),
        ("/people/.{{ row.a }}", ".", dots),
        ("/people/.{{ row.a }}", "", dots),
        ("/people/%2E{{ row.a }}", ".", dots),
    ] {
        assert_eq!(path(template, value), Err(wanted.to_owned()), "{template} {value}");
    }
}

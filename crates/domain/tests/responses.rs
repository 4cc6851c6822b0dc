//! `responses`: rulings on answers, and the words of errors, by definitions as they are written.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::time::Duration;

use penstock_domain::pipeline::{ApiError, Pipeline, ResponseView, RowContext, RowValues};
use penstock_domain::ruling::Ruling;
use penstock_domain::time::Timestamp;
use serde_json::{Map, Value, json};

/// 2027-01-15T08:00:00Z
const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn definition(dependency: &str, step: &str) -> String {
    let of = |responses: &str| {
        if responses.is_empty() { String::new() } else { format!(", responses: {{ {responses} }}") }
    };
    format!(
        "name: p\ncsv: {{ columns: [ {{ name: a }} ] }}\ndependencies: {{ d: {{ base_url: \"http://d.example\"{} }} }}\n\
         steps:\n- {{ name: s, dependency: d, request: {{ method: POST, path: /a }}{} }}\n",
        of(dependency),
        of(step)
    )
}

fn load(dependency: &str, step: &str) -> Pipeline {
    let text = definition(dependency, step);
    Pipeline::load("p.yaml", &text, &|_| None).unwrap_or_else(|errors| panic!("{text}\n{errors:#?}"))
}

/// What is said of an answer.
fn judged(
    pipeline: &Pipeline,
    status: u16,
    headers: &[(&str, &str)],
    body: &Value,
) -> (Option<Ruling>, ApiError) {
    let headers: BTreeMap<String, String> =
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let row = BTreeMap::from([("a".to_owned(), "x@y.z".to_owned())]);
    let values = RowValues::new(&row, &json!({ "limit": 3 }));
    let steps = Map::new();
    let row = RowContext { values: &values, steps: &steps, now: NOW };
    let view = ResponseView { status, headers: &headers, body };
    let step = &pipeline.steps[0];
    (step.ruling(&row, view), step.api_error(&row, view))
}

fn ruling(responses: &str, status: u16, headers: &[(&str, &str)], body: &Value) -> Option<Ruling> {
    judged(&load(responses, ""), status, headers, body).0
}

fn seconds(seconds: f64) -> Option<Ruling> {
    Some(Ruling::Throttled { wait: Some(Duration::from_secs_f64(seconds)) })
}

#[test]
fn statuses_and_conditions_rule_in_their_order() {
    let all =
        "throttled: [420], hold: [401, 402], retry: [\"404\", 5xx], fail: [409, 503], success: [2xx, 409]";
    for (status, expected) in [
        (420, Some(Ruling::Throttled { wait: None })),
        (401, Some(Ruling::Hold)),
        (404, Some(Ruling::Retry)),
        (503, Some(Ruling::Retry)),
        (409, Some(Ruling::Fail)),
        (204, Some(Ruling::Success)),
        (400, None),
        (429, None),
    ] {
        assert_eq!(ruling(all, status, &[], &Value::Null), expected, "{status}");
    }
    let fail = "fail: \"{{ body.ok == false }}\"";
    assert_eq!(ruling(fail, 200, &[], &json!({ "ok": false })), Some(Ruling::Fail));
    for body in [json!({ "ok": true }), json!({}), json!([]), json!("ok"), Value::Null] {
        assert_eq!(ruling(fail, 200, &[], &body), None, "{body}");
    }
}

#[test]
fn what_is_not_there_is_false_and_never_an_error() {
    let object = json!({ "errors": [{ "code": "x" }], "n": 5, "text": "abc", "none": null });
    for (condition, holds) in [
        ("body[0].errorCode == 'X'", false),
        ("body.a.b.c.d", false),
        ("body.a[0].b == 'x'", false),
        ("body.errors[0].code == 'x'", true),
        ("body.errors[7].code == 'x'", false),
        ("body.none.code == 'x'", false),
        ("body.text.code == 'x'", false),
        ("body.n.code == 'x'", false),
        ("body.missing > 3", false),
        ("body.missing > 3 or body.n == 5", true),
        ("3 < body.missing < 9", false),
        ("body.missing + 1 == 2", false),
        ("body.missing in ['a', 'b']", false),
        ("'a' in body.missing", false),
        ("body.missing not in ['a']", true),
        ("body.missing | length > 0", false),
        ("body.missing | lower == 'a'", false),
        ("not body.missing", true),
        ("body.missing is defined", false),
        ("body.text > 3", false),
        ("body.text.foo.bar", false),
        ("headers['x-left'] == '0'", false),
        ("headers['x-left'] | int == 0", true),
        ("headers.retry", false),
        ("context.limit == 3", true),
        ("context.other == 3", false),
        ("row.a == 'x@y.z'", true),
        ("status in [403, 429] and (headers['retry-after'] or headers['x-left'] == '0')", false),
        ("now() == 1800000000", true),
        ("body.errors | selectattr('code', 'eq', 'x') | list", true),
        ("body.errors | map(attribute='nope') | first == 'x'", false),
    ] {
        let responses = format!("fail: \"{{{{ {condition} }}}}\"");
        let expected = holds.then_some(Ruling::Fail);
        assert_eq!(ruling(&responses, 200, &[], &object), expected, "{condition}");
    }
    let text = "fail: \"{% if body.a.b %}true{% endif %}\"";
    assert_eq!(ruling(text, 200, &[], &json!({ "a": { "b": 1 } })), Some(Ruling::Fail));
    assert_eq!(ruling(text, 200, &[], &json!({ "a": 1 })), None);
}

#[test]
fn a_wait_is_seconds() {
    let wait = |wait: &str, headers: &[(&str, &str)], body: &Value| {
        ruling(&format!("throttled: [403], wait: {wait}"), 403, headers, body)
    };
    let unknown = Some(Ruling::Throttled { wait: None });
    let reset = "\"{{ headers['x-reset'] | int - now() }}\"";
    assert_eq!(wait(reset, &[("x-reset", "1800000030")], &Value::Null), seconds(30.0));
    assert_eq!(wait(reset, &[("x-reset", "1799999999")], &Value::Null), unknown);
    assert_eq!(wait(reset, &[("x-reset", "soon")], &Value::Null), unknown);
    assert_eq!(wait(reset, &[], &Value::Null), unknown);
    assert_eq!(wait("\"{{ 1 }}\"", &[], &Value::Null), seconds(1.0));
    assert_eq!(wait("0.35", &[], &Value::Null), seconds(0.35));
    assert_eq!(wait("\"{{ body.wait }}\"", &[], &json!({ "wait": "2.5" })), seconds(2.5));
    assert_eq!(
        wait("\"{{ body.wait }}\"", &[], &json!({ "wait": 99999999999_i64 })),
        seconds(31.0 * 86_400.0)
    );
    let github = "\"{{ headers['retry-after'] | default(headers['x-reset'] | int - now()) | int }}\"";
    assert_eq!(wait(github, &[("retry-after", "7")], &Value::Null), seconds(7.0));
    assert_eq!(wait(github, &[("x-reset", "1800000009")], &Value::Null), seconds(9.0));
    assert_eq!(wait(github, &[], &Value::Null), unknown);
}

#[test]
fn a_steps_own_keys_take_precedence_one_by_one() {
    let dependency = "throttled: [420], wait: 5, hold: [401], error: { code: \"{{ body.c }}\", message: \"{{ body.m }}\" }";
    let pipeline = load(dependency, "hold: [402], error: { message: \"Step says {{ body.m }}\" }");
    let body = json!({ "c": "Code!", "m": "words" });
    let of = |status| judged(&pipeline, status, &[], &body);
    assert_eq!(of(420).0, seconds(5.0));
    assert_eq!(of(401).0, None);
    assert_eq!(of(402).0, Some(Ruling::Hold));
    let ApiError { code, message } = of(402).1;
    assert_eq!((code.as_deref(), message.as_deref()), (Some("code_"), Some("Step says words")));
    load("", "throttled: [403]");
    load("throttled: [403]", "wait: 3");
}

#[test]
fn the_words_of_an_error_are_the_apis_own() {
    let error = |error: &str, body: &Value| {
        let ApiError { code, message } =
            judged(&load(&format!("error: {{ {error} }}"), ""), 400, &[], body).1;
        (code, message)
    };
    let owned =
        |code: Option<&str>, message: Option<&str>| (code.map(str::to_owned), message.map(str::to_owned));
    let both = "code: \"{{ body.error.code }}\", message: \"{{ body.error.message }}\"";
    assert_eq!(
        error(both, &json!({ "error": { "code": 42, "message": "No." } })),
        owned(Some("42"), Some("No."))
    );
    assert_eq!(error(both, &json!({ "message": "Other" })), owned(None, Some("Other")), "its usual place");
    let salesforce = "code: \"{{ body.errors[0].statusCode or body[0].errorCode }}\"";
    assert_eq!(error(salesforce, &json!([{ "errorCode": "DUPLICATE" }])), owned(Some("duplicate"), None));
    assert_eq!(
        error("message: \"Slack says {{ body.error }}\"", &json!({ "error": "fatal" })),
        owned(None, Some("Slack says fatal"))
    );
    assert_eq!(error("message: \"Slack says {{ body.error }}\"", &json!("<html>")), owned(None, None));
    assert_eq!(
        error("message: \"{{ body.a }}: {{ body.b }}\"", &json!({ "a": "A" })),
        owned(None, Some("A:"))
    );
    assert_eq!(error("message: \"{{ body.a or 'unknown' }}\"", &json!({})), owned(None, Some("unknown")));
    assert_eq!(error("message: Gone", &json!({})), owned(None, Some("Gone")));
    assert_eq!(
        error("code: \"invitation_{{ body.status }}\"", &json!({ "status": "expired" })),
        owned(Some("invitation_expired"), None)
    );
}

#[test]
fn what_can_never_be_right_is_refused() {
    for (dependency, step, expected) in [
        ("hold: [40]", "", "`40` is not a status"),
        ("hold: [6xx]", "", "`6xx` is not a status"),
        ("hold: []", "", "empty list"),
        ("hold: 401", "", "write [401]"),
        ("hold: always", "", "`always` is no condition"),
        ("fail: \"{{ body.ok == }}\"", "", "cannot be read"),
        ("fail: \"{{ row.nope }}\"", "", "unknown column `nope`"),
        ("", "fail: \"{{ row.nope }}\"", "unknown column `nope`"),
        ("fail: \"{{ bdy.ok }}\"", "", "unknown variable `bdy`"),
        ("fail: \"{{ body.ok | nope }}\"", "", "nope"),
        ("wait: 3", "", "goes with `throttled`"),
        ("throttled: [403], wait: soon", "", "`soon` is no time"),
        ("throttled: [403], wait: -1", "", "`-1` is no time"),
        ("error: { code: [1] }", "", "is a text"),
        ("error: { kode: x }", "", "kode"),
        ("halt: [401]", "", "halt"),
    ] {
        let text = definition(dependency, step);
        let errors = Pipeline::load("p.yaml", &text, &|_| None).err().unwrap_or_else(|| panic!("{text}"));
        let found = errors.iter().any(|error| error.to_string().contains(expected));
        assert!(found, "{dependency} {step}: {errors:#?}");
        assert_eq!(errors.len(), 1, "{errors:#?}");
    }
}

#[test]
fn the_context_that_a_condition_reads_need_not_be_there() {
    assert!(load("fail: \"{{ context.limit == 3 }}\"", "").context_keys().is_empty());
}

#[test]
fn a_body_is_read_where_a_condition_reads_it() {
    assert!(load("fail: \"{{ body.ok }}\"", "").steps[0].responses.conditions_read_body());
    assert!(!load("error: { code: \"{{ body.ok }}\" }", "").steps[0].responses.conditions_read_body());
}

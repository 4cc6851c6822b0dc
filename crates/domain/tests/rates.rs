//! `rate`: one limit, or a list of limits that hold together.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::time::Duration;

use penstock_domain::pipeline::poll::PollStatus;
use penstock_domain::pipeline::{Pipeline, ResponseView, RowContext, RowValues, Target, Window};
use penstock_domain::time::Timestamp;
use serde_json::{Map, json};

fn load(rate: &str) -> Result<Pipeline, String> {
    let text = format!(
        "name: p\ncsv: {{ columns: [ {{ name: a }} ] }}\ndependencies:\n  d:\n    base_url: http://d.example\n    rate: {rate}\n\
         steps:\n  - {{ name: s, dependency: d, cost: 2, request: {{ method: GET, path: /x }} }}\n"
    );
    Pipeline::load("p.yaml", &text, &|_| None)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

#[test]
fn the_limit_of_all_calls_paces_them_and_the_others_hold_beside_it() {
    let pipeline = load(
        "[{ limit: 9, period: 1s, burst: 2, per: \"{{ row.a }}\" }, { limit: 2900, period: 1h, window: calendar, timezone: Europe/Berlin },\n\
         \x20     { limit: 400, period: 30s, burst: 50, window: sliding }, { name: tokens, limit: 5, period: 1m }]",
    )
    .unwrap();
    let api = &pipeline.dependencies[0];
    let first = api.rate.as_ref().unwrap();
    assert_eq!((first.limit, first.window, first.id.as_str()), (400, Window::Sliding, ""));
    let limits: Vec<u32> = api.more.iter().map(|rate| rate.limit).collect();
    assert_eq!(limits, [9, 2900, 5]);
    assert!(api.more[0].per.is_some() && api.more[2].name.as_deref() == Some("tokens"));
    let ids: std::collections::BTreeSet<&str> = api.more.iter().map(|rate| rate.id.as_str()).collect();
    assert_eq!(ids.len(), 3, "each has a name of its own");
}

#[test]
fn a_single_limit_is_what_it_was() {
    let pipeline = load("{ limit: 50, period: 1s, burst: 10, per_owner: true }").unwrap();
    let api = &pipeline.dependencies[0];
    assert!(api.more.is_empty());
    let rate = api.rate.as_ref().unwrap();
    assert_eq!((rate.limit, rate.period, rate.burst, rate.per_owner), (50, Duration::from_secs(1), 10, true));
}

#[test]
fn a_limits_name_does_not_depend_on_its_numbers() {
    let ids = |rate: &str| -> Vec<String> {
        load(rate).unwrap().dependencies[0].more.iter().map(|rate| rate.id.clone()).collect()
    };
    let before = ids(
        "[{ limit: 5, period: 1s, burst: 5 }, { limit: 90, period: 1m, burst: 3 }, { limit: 100, period: 1d, window: calendar }]",
    );
    let after = ids(
        "[{ limit: 5, period: 1s, burst: 5 }, { limit: 200, period: 1d, window: calendar }, { limit: 30, period: 1m, burst: 2 }]",
    );
    assert_eq!(before, [after[1].clone(), after[0].clone()]);
}

#[test]
fn what_a_list_of_limits_can_get_wrong() {
    let whom = "p.yaml:6: dependency `d`: ";
    for (rate, expected) in [
        ("[]", "a list of rates has 1 to 16 limits"),
        ("{ limit: 5, period: 1s, burst: 5, window: sliding }", "a sliding rate's burst is below its limit"),
        ("{ limit: 5, period: 1s, burst: 2, spread: true }", "`timezone` and `spread` are a calendar's"),
        ("{ limit: 5, period: 1d, window: calendar, burst: 2 }", "a rate by the calendar has no burst"),
        ("{ limit: 5, period: 100m, window: calendar }", "a period of the calendar is 1m, 1h, 1d or 7d"),
        ("{ limit: 5, period: 1d, window: calendar, timezone: Berlin }", "`Berlin` is not a time zone"),
        ("{ limit: 1, period: 1d, window: calendar }", "above the limit of `d`, which is 1"),
        ("[{ name: t, limit: 5, period: 1s }, { name: t, limit: 6, period: 1m }]", "two rates are named `t`"),
        ("{ limit: 5, period: 1s, burst: 2, per: \"{{ row.b }}\" }", "unknown column `b`"),
        (
            "{ limit: 5, period: 1s, burst: 2, per: row.a }",
            "per: `row.a` is a text as it stands; write `{{ row.a }}`",
        ),
        ("{ limit: 5, period: 1s, burst: 2, per: \"{{ body.b }}\" }", "`body` is the answer's"),
        ("{ limit: 5, period: 1s, burst: 2, window: daily }", "daily"),
        ("{ limit: 5, period: 1s, burst: 2, pre: x }", "unknown key `pre`"),
        ("[{ limit: 5, perod: 1s }]", "unknown key `perod`"),
        ("often", "a limit such as"),
    ] {
        let error = load(rate).unwrap_err();
        assert!(error.contains(expected), "{rate}: {error}");
        assert!(error.starts_with(whom) || error.contains("p.yaml:"), "{error}");
    }
}

#[test]
fn costs_and_looks_of_a_keyed_step_read_its_key() {
    let text = "name: p\ncsv: { columns: [ { name: a } ] }\ndependencies:\n  d:\n    base_url: http://d.example\n\
        \x20   rate: [ { limit: 100, period: 1s, burst: 50 }, { name: t, limit: 100, period: 1m, burst: 90 } ]\nsteps:\n  - name: s\n    dependency: d\n\
        \x20   cost: { t: { estimate: \"{{ idempotency_key | length }}\", actual: \"{{ (idempotency_key | length) + 1 }}\" } }\n\
        \x20   request: { method: POST, path: /x, json: {}, idempotency_key: { header: K, value: \"{{ row.a }}\" } }\n\
        \x20   poll: { until: \"{{ body.key == idempotency_key }}\", path: \"/jobs/{{ idempotency_key }}\" }\n";
    let pipeline = Pipeline::load("p.yaml", text, &|_| None).unwrap();
    let step = &pipeline.steps[0];
    let values = RowValues::new(&BTreeMap::from([("a".to_owned(), "four".to_owned())]), &json!({}));
    let outputs = Map::new();
    let row = RowContext { values: &values, steps: &outputs, now: Timestamp::from_millis(0) };
    let (headers, body) = (BTreeMap::new(), json!({ "key": "four" }));
    let answer = ResponseView { status: 200, headers: &headers, body: &body };
    assert_eq!(step.call_cost(&row).unwrap().named, [("t".to_owned(), 4)]);
    assert_eq!(step.actual_costs(&row, answer), [("t".to_owned(), 5)]);
    assert_eq!(step.poll_status(&row, answer), PollStatus::Ready);
    assert_eq!(step.look_target(&row, answer).unwrap(), Some(Target::Path("/jobs/four".into())));
}

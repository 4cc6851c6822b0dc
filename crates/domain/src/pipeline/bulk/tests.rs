use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::*;
use crate::pipeline::{Pipeline, RowAbout, RowInCall, RowValues};
use crate::time::Timestamp;

fn load(bulk: &str, request: &str) -> Result<Pipeline, String> {
    let text = format!(
        "name: p\ncsv: {{ columns: [ {{ name: email }} ] }}\ndependencies: {{ d: {{ base_url: http://d.example }} }}\nsteps:\n\
         \x20 - name: s\n    dependency: d\n    request: {request}\n    bulk: {bulk}\n    output: {{ id: \"{{{{ body.id }}}}\" }}\n"
    );
    Pipeline::load("p.yaml", &text, &|_| None)
        .map_err(|errors| errors.iter().map(|error| error.message.clone()).collect::<Vec<_>>().join("\n"))
}

const BY_EMAIL: &str = "{ result: \"{{ result.email | lower }}\", row: \"{{ row.email | lower }}\" }";
const UPSERT: &str = "{ method: POST, path: /batch, json: { inputs: { each: { email: \"{{ row.email }}\", n: \"{{ item.index }}\" } } } }";

/// Rows with these addresses, in one call.
fn rows(emails: &[&str]) -> Vec<RowValues> {
    let row = |(index, email): (usize, &&str)| {
        let columns = BTreeMap::from([("email".to_owned(), (*email).to_owned())]);
        let number = u32::try_from(index).unwrap() + 1;
        let about = RowAbout { number, ..RowAbout::default() };
        let call = RowInCall { index, ..RowInCall::default() };
        RowValues::new(&columns, &json!({})).about(about).in_call(call)
    };
    emails.iter().enumerate().map(row).collect()
}

/// What each of these rows gets of an answer.
fn results(pipeline: &Pipeline, emails: &[&str], status: u16, body: &Json) -> Option<Vec<ItemResult>> {
    let (step, rows, steps, headers) = (&pipeline.steps[0], rows(emails), Map::new(), BTreeMap::new());
    let contexts: Vec<_> =
        rows.iter().map(|values| RowContext { values, steps: &steps, now: Timestamp::default() }).collect();
    let entries: Vec<Entry> = contexts.iter().map(|row| step.entry(row).unwrap()).collect();
    step.distribute(&contexts[0], &entries, ResponseView { status, headers: &headers, body })
}

fn found(body: Json) -> ItemResult {
    ItemResult::Found(ItemAnswer { body, ..ItemAnswer::default() })
}

fn rejected(body: Json) -> ItemResult {
    ItemResult::Rejected(ItemAnswer { body, ..ItemAnswer::default() })
}

#[test]
fn a_call_has_an_entry_for_each_row() {
    let bodies = |request: &str| {
        let pipeline = load("{ max_rows: 2, match: order }", request).unwrap();
        let (step, rows, steps) = (&pipeline.steps[0], rows(&["a", "b"]), Map::new());
        let context = |values| RowContext { values, steps: &steps, now: Timestamp::default() };
        let entries: Vec<Entry> = rows.iter().map(|values| step.entry(&context(values)).unwrap()).collect();
        let request = step.bulk_request(&context(&rows[0]), &entries).unwrap();
        String::from_utf8(request.body.unwrap().bytes).unwrap()
    };
    assert_eq!(bodies(UPSERT), r#"{"inputs":[{"email":"a","n":0},{"email":"b","n":1}]}"#);
    assert_eq!(bodies("{ method: POST, path: /batch, json: { each: \"{{ item.id }}\" } }"), r#"["1","2"]"#);
    assert_eq!(
        bodies("{ method: POST, path: /batch, form: { to: { each: \"{{ row.email }}\" } } }"),
        "to=a&to=b"
    );
}

#[test]
fn results_are_matched_by_what_both_sides_are_called() {
    let pipeline =
        load(&format!("{{ max_rows: 5, results: \"{{{{ body.results }}}}\", match: {BY_EMAIL} }}"), UPSERT)
            .unwrap();
    let body = json!({ "results": [{ "email": "B", "id": 2 }, { "email": "a", "id": 1 }, { "id": 9 }, { "email": "a", "id": 3 }] });
    let (a, b, third) = (body["results"][1].clone(), body["results"][0].clone(), body["results"][3].clone());
    assert_eq!(
        results(&pipeline, &["A", "b", "c", "a", "a"], 200, &body).unwrap(),
        [found(a), found(b), ItemResult::Missing, found(third.clone()), found(third)],
        "rows of one name take results of their own, then share the last"
    );
    assert_eq!(results(&pipeline, &["a"], 200, &json!({ "state": "busy" })), None, "it speaks for all rows");
}

#[test]
fn results_stand_in_the_order_of_the_rows_or_are_shared() {
    let order = load("{ max_rows: 5, match: order }", UPSERT).unwrap();
    let list = json!([{ "id": 1 }, { "id": 2 }]);
    assert_eq!(
        results(&order, &["a", "b", "c"], 200, &list).unwrap(),
        [found(list[0].clone()), found(list[1].clone()), ItemResult::Missing]
    );
    let whole = load("{ max_rows: 5, match: whole }", UPSERT).unwrap();
    assert_eq!(
        results(&whole, &["a", "b"], 200, &json!({ "id": 7 })).unwrap(),
        [ItemResult::Whole, ItemResult::Whole]
    );
}

#[test]
fn a_second_list_names_the_rows_that_failed() {
    let bulk = format!(
        "{{ max_rows: 5, results: \"{{{{ body.results }}}}\", match: {BY_EMAIL}, errors: {{ results: \"{{{{ body.errors }}}}\", \
         match: {{ result: \"{{{{ result.emails }}}}\", row: \"{{{{ row.email }}}}\" }} }} }}"
    );
    let pipeline = load(&bulk, UPSERT).unwrap();
    let body = json!({ "results": [{ "email": "a" }], "errors": [{ "emails": ["b", "c"], "why": "no" }] });
    let (error, good) = (body["errors"][0].clone(), body["results"][0].clone());
    assert_eq!(
        results(&pipeline, &["a", "b", "c"], 207, &body).unwrap(),
        [found(good), rejected(error.clone()), rejected(error)]
    );
    let only_errors = json!({ "errors": [{ "emails": "a" }] });
    assert_eq!(
        results(&pipeline, &["a", "b"], 207, &only_errors).unwrap(),
        [rejected(only_errors["errors"][0].clone()), ItemResult::Missing]
    );
}

/// XML has no lists: one element is what several would be a list of.
#[test]
fn one_result_in_xml_is_a_list_of_one() {
    let bulk = format!(
        "{{ max_rows: 5, results: \"{{{{ body.R.Ok }}}}\", match: {BY_EMAIL}, errors: {{ results: \"{{{{ body.R.Bad }}}}\", \
         match: {{ result: \"{{{{ result.email }}}}\", row: \"{{{{ row.email }}}}\" }} }} }}"
    );
    let (ok, bad) = (json!({ "email": "a" }), json!({ "email": "b", "why": "no" }));
    let body = json!({ "R": { "Ok": ok, "Bad": bad } });
    let json_answer = load(&bulk, UPSERT).unwrap();
    assert_eq!(results(&json_answer, &["a", "b"], 200, &body), None, "in JSON it is no list");
    let xml = load(&format!("{bulk}\n    response: {{ as: xml }}"), UPSERT).unwrap();
    assert_eq!(results(&xml, &["a", "b"], 200, &body).unwrap(), [found(ok), rejected(bad.clone())]);
    let only_bad = json!({ "R": { "Bad": bad } });
    assert_eq!(results(&xml, &["b", "c"], 200, &only_bad).unwrap(), [rejected(bad), ItemResult::Missing]);
    assert_eq!(results(&xml, &["a"], 200, &json!({ "R": "" })), None);
}

#[test]
fn a_result_may_be_an_answer_of_its_own() {
    let bulk = "{ max_rows: 5, results: \"{{ body.responses }}\", match: { result: \"{{ result.id }}\", row: \"{{ item.id }}\" }, \
        response: { status: \"{{ result.status }}\", headers: \"{{ result.headers }}\", body: \"{{ result.body }}\" } }";
    let pipeline = load(bulk, UPSERT).unwrap();
    let body = json!({ "responses": [
        { "id": 2, "status": "429 Too Many", "headers": { "Retry-After": 7 }, "body": { "e": 1 } },
        { "id": "1", "status": 201, "headers": [{ "name": "ETag", "value": "x" }] },
        { "id": 3, "status": "soon" },
    ] });
    let headers = |name: &str, value: &str| Some(BTreeMap::from([(name.to_owned(), value.to_owned())]));
    assert_eq!(
        results(&pipeline, &["a", "b", "c"], 200, &body).unwrap(),
        [
            ItemResult::Found(ItemAnswer {
                status: Some(201),
                headers: headers("etag", "x"),
                body: Json::Null
            }),
            ItemResult::Found(ItemAnswer {
                status: Some(429),
                headers: headers("retry-after", "7"),
                body: json!({ "e": 1 })
            }),
            ItemResult::Missing,
        ]
    );
}

#[test]
fn what_cannot_work_is_refused() {
    let plain = "{ method: POST, path: /batch, json: { email: \"{{ context.a }}\" } }";
    for (bulk, request, wanted) in [
        ("{ max_rows: 2 }", UPSERT, "the key `match` is missing here"),
        ("{ max_rows: 1, match: order }", UPSERT, "step `s`: bulk.max_rows is between 2 and 1000"),
        ("{ max_rows: 1001, match: order }", UPSERT, "step `s`: bulk.max_rows is between 2 and 1000"),
        ("{ max_rows: 2, max_wait: 6s, match: order }", UPSERT, "step `s`: bulk.max_wait is at most 5s"),
        ("{ max_rows: 2, match: order }", plain, "step `s`: `bulk` sends an entry for each row"),
        (
            "{ max_rows: 2, match: whole, results: \"{{ body.x }}\" }",
            UPSERT,
            "step `s`: with `match: whole` all rows share the answer",
        ),
        (
            "{ max_rows: 2, match: order, results: body.x }",
            UPSERT,
            "step `s`: bulk.results: `body.x` reads nothing of the answer",
        ),
        (
            "{ max_rows: 2, match: order }",
            "{ method: POST, path: \"/batch/{{ row.email }}\", json: { each: \"{{ row.email }}\" } }",
            "`row` is each row's own, and a bulk call is made for many rows",
        ),
        (
            "{ max_rows: 2, match: order }",
            "{ method: POST, path: /batch, json: { each: { each: \"{{ row.email }}\" } } }",
            "`each` stands within `each`",
        ),
        (
            "{ max_rows: 2, match: { result: \"{{ result.x }}\", row: \"{{ item.idd }}\" } }",
            UPSERT,
            "`item` has no `idd`; did you mean `id`?",
        ),
        (
            "{ max_rows: 2, match: { result: \"{{ result.x }}\", row: constant } }",
            UPSERT,
            "step `s`: bulk.match.row is the same for each row",
        ),
        (
            "{ max_rows: 2, match: order }",
            "{ method: POST, path: /batch, idempotency_key: { header: X, value: \"{{ batch.id }}\" }, json: { each: \"{{ row.email }}\" } }",
            "step `s`: the key of a bulk call belongs to all of its rows",
        ),
    ] {
        let error = load(bulk, request).map(|_| ()).unwrap_err();
        assert!(error.starts_with(wanted), "{bulk} {request}: {error}");
    }
    let without = "name: p\ncsv: { columns: [ { name: a } ] }\ndependencies: { d: { base_url: http://d.example } }\nsteps:\n\
        - { name: s, dependency: d, request: { method: POST, path: /x, json: { l: { each: \"{{ row.a }}\" } } } }\n";
    let errors = Pipeline::load("p.yaml", without, &|_| None).unwrap_err();
    assert_eq!(errors[0].message, "`each` is for a step with `bulk`, whose calls carry many rows");
}

//! The filters that are documented, by the examples of docs/write-a-pipeline.md and docs/how-to/recipes.md; and what is not called.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;

use penstock_domain::pipeline::{Pipeline, RowContext, RowValues};
use penstock_domain::time::Timestamp;
use serde_json::{Map, Value, json};

const RECIPES: &str = include_str!("../../../docs/how-to/recipes.md");

fn value(template: &str) -> Result<Value, String> {
    let text = format!(
        "name: p\ncsv: {{ columns: [ {{ name: a }}, {{ name: amount }}, {{ name: empty }}, {{ name: email }} ] }}\nresult: {{ v: {} }}\n",
        json!(template)
    );
    let pipeline = Pipeline::load("p.yaml", &text, &|_| None)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    let row: BTreeMap<String, String> =
        [("a", "Zürich & co"), ("amount", "12.30"), ("empty", ""), ("email", " Ada@Example.com ")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
    let context = json!({ "json": "{\"n\": 12345678901234567890.50}", "big": 12345678901234567890123_i128 });
    let values = RowValues::new(&row, &context);
    let steps = Map::new();
    let here = RowContext { values: &values, steps: &steps, now: Timestamp::from_millis(1_700_000_000_000) };
    pipeline.result(&here).map(|result| result["v"].clone()).map_err(|error| error.to_string())
}

#[test]
fn every_example_of_the_recipes_gives_what_it_says() {
    let mut examples = 0;
    for line in RECIPES.lines().filter(|line| line.starts_with("| `{{")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | `").collect();
        let template = cells[0].trim().trim_matches('`').replace("\\|", "|");
        let wanted = cells[1].split('`').next().unwrap();
        let wanted: Value = serde_json::from_str(wanted).unwrap_or_else(|_| panic!("{line}"));
        let made = value(&template).unwrap_or_else(|error| panic!("{template}: {error}"));
        assert_eq!(made.to_string(), wanted.to_string(), "{template}");
        examples += 1;
    }
    assert!(examples >= 30, "{examples}");
}

#[test]
fn a_hash_is_hexadecimal_and_its_bytes_are_encoded() {
    for (template, wanted) in [
        ("{{ 'abc' | md5 }}", "900150983cd24fb0d6963f7d28e17f72"),
        ("{{ 'abc' | sha1 }}", "a9993e364706816aba3e25717850c26c9cd0d89d"),
        ("{{ 'abc' | sha256 }}", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ("{{ 'abc' | md5 | hex }}", "900150983cd24fb0d6963f7d28e17f72"),
        ("{{ 'abc' | md5 | base64 }}", "kAFQmDzST7DWlj99KOF/cg=="),
        ("{{ 'abc' | md5 | upper }}", "900150983CD24FB0D6963F7D28E17F72"),
        ("{{ 'abc' | md5 | string | base64 }}", "OTAwMTUwOTgzY2QyNGZiMGQ2OTYzZjdkMjhlMTdmNzI="),
        // RFC 4231, test case 2.
        (
            "{{ 'what do ya want for nothing?' | hmac_sha256('Jefe') }}",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        ("{{ 'a' | hex }}", "61"),
        ("{{ 'PDw_Pz8-Pg' | base64decode }}", "<<???>>"),
        ("{{ 'a b&c/d' | urlencode }}", "a%20b%26c%2Fd"),
        ("{{ {'a': 'x y', 'b': 1} | urlencode }}", "a=x%20y&b=1"),
        ("{{ 'x' | uuid }}", "60e2ebd5-5bfc-5d0c-8f0d-6e8c0e2ebb5d"),
    ] {
        if template.contains("uuid") {
            let made = value(template).unwrap();
            assert_eq!((&made, made.as_str().map(str::len)), (&value(template).unwrap(), Some(36)));
            continue;
        }
        assert_eq!(value(template), Ok(json!(wanted)), "{template}");
    }
    assert_eq!(value("{{ 'python.org' | uuid('dns') }}"), Ok(json!("886313e1-3b8a-5372-9b90-0c9aee199e5d")));
    assert_eq!(value("{{ 'abc' | md5 == '900150983cd24fb0d6963f7d28e17f72' }}"), Ok(json!(true)));
    assert_eq!(value("{{ ('abc' | sha256)[:8] }}"), Ok(json!("ba7816bf")));
}

#[test]
fn dates_are_read_in_several_forms() {
    for (template, wanted) in [
        ("{{ 0 | date }}", "1970-01-01T00:00:00Z"),
        ("{{ '1700000000' | date }}", "2023-11-14T22:13:20Z"),
        ("{{ 1700000000.5 | date('%s.%3f') }}", "1700000000.500"),
        ("{{ '2024-02-29' | date('%d.%m.%Y') }}", "29.02.2024"),
        ("{{ '2024-02-29T23:30:00-02:00' | date }}", "2024-03-01T01:30:00Z"),
        ("{{ '2024-02-29 12:00' | date('%H:%M') }}", "12:00"),
        ("{{ now() | date('%Y') }}", "2023"),
    ] {
        assert_eq!(value(template), Ok(json!(wanted)), "{template}");
    }
    for template in
        ["{{ 'x' | date }}", "{{ 1e30 | date }}", "{{ 0 | date('%Q') }}", "{{ '99999999999999' | date }}"]
    {
        let error = value(template).unwrap_err();
        assert!(error.contains("cannot be applied"), "{template}: {error}");
    }
}

#[test]
fn wrong_uses_are_found_when_a_definition_is_loaded() {
    for (template, wanted) in [
        ("{{ row.a | sha265 }}", "did you mean `sha256`?"),
        ("{{ row.a | hmac_sha256 }}", "filter `hmac_sha256` in a template: an argument is missing"),
        ("{{ row.a | md5(1) }}", "filter `md5` in a template"),
        ("{{ row.a | date(1, 2) }}", "filter `date` in a template"),
        ("{{ row.b | sha256 }}", "unknown column `b`"),
    ] {
        let error = value(template).unwrap_err();
        assert!(error.contains(wanted), "{template}: {error}");
    }
}

fn skips(when: &str, more: &str) -> Result<Pipeline, String> {
    let text = format!(
        "name: p\ncsv: {{ columns: [ {{ name: a }}, {{ name: empty }} ] }}\n\
         dependencies: {{ d: {{ base_url: \"http://d.example\" }} }}\n\
         steps:\n\
         \x20 - {{ name: find, dependency: d, request: {{ method: GET, path: /f }}, output: {{ id: \"{{{{ body.id }}}}\", n: \"{{{{ body.n }}}}\" }} }}\n\
         \x20 - {{ name: s, dependency: d, request: {{ method: GET, path: /s, query: {{ q: \"{{{{ context.needed }}}}\" }} }}, output: {{ id: \"{{{{ body.id }}}}\" }}{}{more} }}\n\
         result: {{ id: \"{{{{ steps.s.id | default('none') }}}}\" }}\n",
        if when.is_empty() { String::new() } else { format!(", when: {when}") }
    );
    Pipeline::load("p.yaml", &text, &|_| None)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

#[test]
fn a_step_is_called_when_its_condition_is_true() {
    let row = [("a", "x"), ("empty", "")].map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let context = json!({ "needed": 1 });
    let values = RowValues::new(&row, &context);
    for (when, find, called) in [
        ("true", json!({}), true),
        ("false", json!({}), false),
        ("\"{{ steps.find.id is none }}\"", json!({ "id": null }), true),
        ("\"{{ steps.find.id is none }}\"", json!({ "id": 7 }), false),
        ("\"{{ steps.find.id is none }}\"", json!({}), false),
        ("\"{{ steps.find.id is defined }}\"", json!({}), false),
        ("\"{{ steps.find.id is defined }}\"", json!({ "id": null }), true),
        ("\"{{ steps.find.id }}\"", json!({ "id": 0 }), false),
        ("\"{{ steps.find.id }}\"", json!({ "id": 0.10 }), true),
        ("\"{{ steps.find.id }}\"", json!({ "id": [] }), false),
        ("\"{{ row.empty }}\"", json!({}), false),
        ("\"{{ row.a }}\"", json!({}), true),
        ("\"{% if row.empty %}true{% else %}false{% endif %}\"", json!({}), false),
        ("\"{% if row.a %}yes{% endif %}\"", json!({}), true),
    ] {
        let pipeline = skips(when, "").unwrap();
        let steps = json!({ "find": find }).as_object().unwrap().clone();
        let here = RowContext { values: &values, steps: &steps, now: Timestamp::default() };
        assert_eq!(pipeline.steps[1].skipped(&here).unwrap().is_none(), called, "{when} {steps:?}");
    }
    let pipeline =
        skips("\"{{ steps.find.n > 1 }}\"", ", otherwise: { id: \"{{ steps.find.id }}\", why: known }")
            .unwrap();
    let steps =
        json!({ "find": { "id": 12345678901234567890123_i128, "n": 1 } }).as_object().unwrap().clone();
    let here = RowContext { values: &values, steps: &steps, now: Timestamp::default() };
    let outputs = pipeline.steps[1].skipped(&here).unwrap().unwrap();
    assert_eq!(Value::Object(outputs).to_string(), "{\"id\":12345678901234567890123,\"why\":\"known\"}");
    assert!(pipeline.context_keys().is_empty(), "not every row comes to it");
    assert_eq!(skips("", "").unwrap().context_keys().len(), 1);
    let missing = RowContext { steps: &json!({ "find": {} }).as_object().unwrap().clone(), ..here };
    assert!(pipeline.steps[1].skipped(&missing).unwrap_err().to_string().starts_with("step `s`, when:"));
    let skipped = RowContext { steps: &json!({ "s": {} }).as_object().unwrap().clone(), ..here };
    assert_eq!(pipeline.result(&skipped).unwrap()["id"], json!("none"));
    for (when, more, wanted) in [
        (
            "true",
            ", otherwise: { id: row.a }",
            "otherwise `id`: `row.a` is a text as it stands; write `{{ row.a }}`",
        ),
        ("\"row.country == 'x'\"", "", "`row.country == 'x'` is no condition; write `{{ … }}`"),
        ("", ", otherwise: { id: 1 }", "`otherwise` is for a step that has `when`"),
        ("7", "", "`when` is a condition"),
        ("\"{{ body.id }}\"", "", "`body` is the answer's"),
        ("\"{{ steps.s.id }}\"", "", "no earlier step is named `s`"),
        ("\"{{ steps.find.nope }}\"", "", "step `find` has no output `nope`"),
        ("", ", response: { as: yaml }", "yaml"),
        ("", ", response: { max_bytes: 67108865 }", "response.max_bytes is between 1 and 67108864"),
        ("", ", response: { max_bytes: 0 }", "response.max_bytes is between 1 and 67108864"),
    ] {
        let error = skips(when, more).map(|_| format!("{when} {more}")).unwrap_err();
        assert!(error.contains(wanted), "{when} {more}: {error}");
    }
}

//! Variables of a definition, and who goes without them.

use super::*;

#[test]
fn a_variable_never_becomes_a_template() {
    let text = WHOLE
        .replace("{{ row.b }}", "${TOKEN} {{ row.b }}")
        .replace("/x/{{ row.a }}", "/x/${BRACES}/{{ row.a }}")
        .replace("X-A: \"{{ row.a }}\"", "X-A: \"{{ '${TOKEN}' ~ row.a }}\"")
        .replace("idempotency_key: true", "json: { plain: \"${TOKEN}\", number: \"{{ 2 }}\" }");
    let pipeline = load(&text).unwrap();
    let header = &pipeline.dependencies[0].headers[0].1;
    assert_eq!(header.text(&NoFiles).unwrap(), "Bearer {{ row.a }}");
    let row = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())].into();
    let (context, steps) = (serde_json::json!({}), serde_json::Map::new());
    let here = penstock_domain::pipeline::RowContext {
        values: &penstock_domain::pipeline::RowValues::new(&row, &context),
        steps: &steps,
        now: penstock_domain::time::Timestamp::default(),
    };
    let request = pipeline.steps[0].request(&here).unwrap();
    assert_eq!(request.query, [("q".to_owned(), "{{ row.a }} 2".to_owned())]);
    assert_eq!(request.target.path(), "/x/%7B%7Brow.a}}%7B%/1");
    assert_eq!(request.headers, [("X-A".to_owned(), "{{ row.a }}1".to_owned())]);
    assert_eq!(request.body.unwrap().bytes, br#"{"number":2,"plain":"{{ row.a }}"}"#);
}

/// A program that finds fault with more than an older one still runs what was uploaded under it.
#[test]
fn what_was_accepted_before_is_loaded_again_as_long_as_it_can_run() {
    let accepted = |text: &str| Pipeline::load_accepted("p.yaml", text, &vars, Unset::Refused).is_ok();
    for (from, to, runs) in [
        ("{ rows: 5,", "{ rows: 0,", true),
        ("/x/{{ row.a }}", "/x?a={{ row.a }}", true),
        ("  id: \"{{ steps.s.id }}\"", "  b: \"{{ row.zzz }}\"", true),
        ("\"${URL}\"", "\"${NONE}\"", false),
        ("Bearer ${TOKEN}", "Bearer ${NONE}", false),
        ("{{ row.b }}", "{{ row.b", false),
        ("dependency: d", "dependency: e", false),
        ("{ name: b }", "{ name: b, pattern: \"[\" }", false),
    ] {
        let text = WHOLE.replacen(from, to, 1);
        assert!(load(&text).is_err(), "{to}");
        assert_eq!(accepted(&text), runs, "{to}");
    }
}

/// A definition whose every place for a variable has one.
const OPEN: &str = r#"name: p
csv: { columns: [ { name: a } ] }
dependencies:
  d: { base_url: "https://${HOST}/v1", headers: { Authorization: "Bearer ${TOKEN}" } }
  e: { base_url: "https://e.example" }
steps:
  - name: s
    dependency: d
    request:
      method: POST
      path: "/${PREFIX}/{{ row.a }}"
      query: { key: "${KEY}", n: "{{ ${NUMBER} * 2 }}", t: "{{ '${TEXT}' | upper }}" }
      json: { c: "{{ context.campaign }}-${SALT}" }
    output: { id: "{{ body.id }}" }
result: { id: "{{ steps.s.id }}" }
"#;

#[test]
fn a_service_that_makes_no_calls_needs_none_of_the_values() {
    let nothing = |_: &str| None;
    let open = Pipeline::load_with("p.yaml", OPEN, &nothing, Unset::Allowed).unwrap();
    assert_eq!(open.open_addresses(), ["d"]);
    assert_eq!(open.result_columns(), ["id"]);
    assert!(open.context_keys().contains("campaign"), "what templates read is known");
    let all = |name: &str| Some(if name == "NUMBER" { "3".into() } else { "x".to_owned() });
    let filled = Pipeline::load("p.yaml", OPEN, &all).unwrap();
    assert!(filled.open_addresses().is_empty());
    assert_eq!((filled.version, filled.context_keys()), (open.version, open.context_keys()));
    assert_eq!(
        Pipeline::load("p.yaml", OPEN, &nothing).unwrap_err().len(),
        7,
        "and each is missed elsewhere"
    );
    let wrong = OPEN.replace("method: POST", "method: MAIL");
    assert!(
        Pipeline::load_with("p.yaml", &wrong, &nothing, Unset::Allowed).is_err(),
        "other errors are errors"
    );
}

#[test]
fn a_setting_of_penstocks_own_is_read_only_where_it_was_listed() {
    let text = |name: &str| {
        format!(
            "name: p\ncsv: {{ columns: [ {{ name: a }} ] }}\nsteps: []\ndependencies: {{ d: {{ base_url: \"https://d.example\", headers: {{ X: \"${{{name}}}\" }} }} }}\n"
        )
    };
    for name in [
        "PENSTOCK_ENCRYPTION_KEYS",
        "PENSTOCK_ENCRYPTION_KEYS_FILE",
        "PENSTOCK_ANYTHING",
        "DATABASE_URL",
        "DATABASE_URL_FILE",
        "REDIS_URL",
        "OBJECT_STORE_URL",
        "OTEL_EXPORTER_OTLP_HEADERS",
        "PGPASSWORD",
        "PGSSLKEY",
    ] {
        // The lookup has none of them unless the operator listed it.
        for unset in [Unset::Refused, Unset::Allowed] {
            let errors = Pipeline::load_with("p.yaml", &text(name), &|_| None, unset).unwrap_err();
            let said = errors[0].to_string();
            assert!(said.starts_with("p.yaml:4: ") && said.contains(&format!("list {name} in")), "{said}");
            assert!(said.contains("PENSTOCK_PIPELINE_VARIABLES"), "{said}");
        }
        assert!(Pipeline::load("p.yaml", &text(name), &|_| Some("x".into())).is_ok(), "it was listed");
    }
    assert!(refused(&text("CRM_TOKEN")).contains("the environment has no variable CRM_TOKEN"));
}

#[test]
fn a_variable_that_is_missing_in_a_path_is_the_only_mistake() {
    for header in
        ["${file:${NONE}/token}", "Bearer ${file:${FOLDER}/${NONE}}", "${NONE} ${file:/${NONE}/${FOLDER}}"]
    {
        let text = format!(
            "name: p\ncsv: {{ columns: [ {{ name: a }} ] }}\nsteps: []\ndependencies: {{ d: {{ base_url: \"https://d.example\", headers: {{ X: \"{header}\" }} }} }}\n"
        );
        let found = |name: &str| (name == "FOLDER").then(|| "secrets".to_owned());
        let errors = Pipeline::load("p.yaml", &text, &found).unwrap_err();
        let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert!(said.iter().all(|one| one.contains("no variable NONE")), "{said:?}");
        let whole = text.replace("${NONE}", "here");
        let errors = Pipeline::load("p.yaml", &whole, &found).unwrap_err();
        assert!(errors[0].to_string().contains("cannot be read; create it"), "{}", errors[0]);
    }
}

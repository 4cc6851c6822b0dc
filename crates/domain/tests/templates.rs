//! Templates: what can never be right is refused before there are rows, what depends on data never is, and a row's error
//! names what it lacks.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;

use penstock_domain::pipeline::{Pipeline, ResponseView, RowContext, RowValues};
use penstock_domain::time::Timestamp;
use serde_json::{Map, Value, json};

/// Two steps; the templates stand in the second one's body and output, and in the result.
fn definition(json: &str, output: &str, result: &str) -> String {
    format!(
        "name: p\ncsv: {{ columns: [ {{ name: code }}, {{ name: first-name }} ] }}\n\
         dependencies: {{ d: {{ base_url: \"http://d.example\" }} }}\n\
         steps:\n\
         \x20 - name: get-user\n    dependency: d\n    request: {{ method: GET, path: /a }}\n    output: {{ id: \"{{{{ body.id }}}}\" }}\n\
         \x20 - name: b\n    dependency: d\n    request:\n      method: POST\n      path: /b\n      json: {{ v: {json} }}\n    output: {{ v: {output} }}\n\
         result: {{ v: {result} }}\n"
    )
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

fn load(text: &str) -> Result<Pipeline, String> {
    Pipeline::load("p.yaml", text, &|_| None)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

fn in_json(template: &str) -> Result<Pipeline, String> {
    load(&definition(&quoted(template), "1", "1"))
}

const NEVER_RIGHT: &[(&str, &str)] = &[
    (
        "{{ 007 }}",
        "a template cannot be read: the number `007` begins with a zero; quote it if it is a text, or take the zero out",
    ),
    (
        "a {{ row.code ~ 010.5 }}",
        "a template cannot be read: the number `010.5` begins with a zero; quote it if it is a text, or take the zero out",
    ),
    ("{{ row['cod'] }}", "unknown column `cod` in a template; did you mean `code`?"),
    ("{{ row[\"cod\"] | upper }}", "unknown column `cod` in a template; did you mean `code`?"),
    ("{{ row.cod[:2] }}", "unknown column `cod` in a template; did you mean `code`?"),
    ("{{ row | attr('cod') }}", "unknown column `cod` in a template; did you mean `code`?"),
    ("{% set r = row %}{{ r.cod }}", "unknown column `cod` in a template; did you mean `code`?"),
    (
        "{% with r = row %}{{ r['cod'] }}{% endwith %}",
        "unknown column `cod` in a template; did you mean `code`?",
    ),
    (
        "{% if context.x %}{{ row.cod }}{% endif %}",
        "unknown column `cod` in a template; did you mean `code`?",
    ),
    ("{{ 1 if context.x else row.cod }}", "unknown column `cod` in a template; did you mean `code`?"),
    (
        "{% for x in context.all %}{{ row.cod }}{% endfor %}",
        "unknown column `cod` in a template; did you mean `code`?",
    ),
    ("{{ row.cod | default('') }}", "unknown column `cod` in a template; did you mean `code`?"),
    ("{{ [row.cod] }}", "unknown column `cod` in a template; did you mean `code`?"),
    (
        "{{ row.first-name }}",
        "unknown column `first` in a template; write `row['first-name']`\np.yaml:14: unknown variable `name` in a template; there are: row, context, steps, owner, batch, row_number",
    ),
    ("{{ row[0] }}", "`row` has names and no places: `row[0]` is never there"),
    ("{{ row.code.x }}", "a value of the row is text, and has no `x`"),
    ("{{ steps['zzz'].a }}", "no earlier step is named `zzz`; there are: get-user"),
    ("{{ steps.b.v }}", "no earlier step is named `b`; there are: get-user"),
    (
        "{{ steps.get-user.id }}",
        "no earlier step is named `get`; write `steps['get-user']`\np.yaml:14: unknown variable `user` in a template; there are: row, context, steps, owner, batch, row_number",
    ),
    ("{{ steps['get-user'].ip }}", "step `get-user` has no output `ip`; did you mean `id`?"),
    ("{{ steps['get-user']['ip'] }}", "step `get-user` has no output `ip`; did you mean `id`?"),
    ("{% set s = steps['get-user'] %}{{ s.ip }}", "step `get-user` has no output `ip`; did you mean `id`?"),
    ("{{ body.id }}", "`body` is the answer's, and only known in a step's `output`"),
    (
        "{{ ctx.id }}",
        "unknown variable `ctx` in a template; there are: row, context, steps, owner, batch, row_number",
    ),
    ("{{ row.code | uper }}", "unknown filter `uper` in a template; did you mean `upper`?"),
    (
        "{{ 1 if context.x else (row.code | checksum) }}",
        "unknown filter `checksum` in a template; minijinja's built-in ones can be used",
    ),
    ("{% filter uper %}x{% endfilter %}", "unknown filter `uper` in a template; did you mean `upper`?"),
    ("{{ context.all | map('uper') | list }}", "unknown filter `uper` in a template; did you mean `upper`?"),
    (
        "{{ context.all | selectattr('a', 'definde') | list }}",
        "unknown test `definde` in a template; did you mean `defined`?",
    ),
    ("{{ context.x is defind }}", "unknown test `defind` in a template; did you mean `defined`?"),
    (
        "{{ today() }}",
        "unknown function `today` in a template; there are: debug, dict, namespace, now, range",
    ),
    ("{{ row('code') }}", "`row` is a value, and cannot be called"),
    (
        "{{ row.code.upper() }}",
        "values have no methods, and `row.code` no `upper()`; write `row.code | upper`",
    ),
    (
        "{{ context.get('x') }}",
        "values have no methods, and `context` no `get()`; write `context.key | default('')`",
    ),
    (
        "{% for x in context.all %}{{ x.id.strip() }}{% endfor %}",
        "values have no methods, and `x.id` no `strip()`; use a filter, such as `x.id | trim`",
    ),
    (
        "{% for x in context.all %}{{ loop.cycle() }}{% endfor %}",
        "`loop` has the methods `changed(value)` and `cycle(one, two)`",
    ),
    ("{{ row.code | replace('a') }}", "filter `replace` in a template: an argument is missing"),
    ("{{ row.code | upper(1) }}", "filter `upper` in a template: it takes no such argument"),
    ("{{ row.code | round(metod='up') }}", "filter `round` in a template: unknown keyword argument 'metod'"),
    ("{{ context.n is divisibleby }}", "test `divisibleby` in a template: an argument is missing"),
    ("{{ range() }}", "function `range` in a template: an argument is missing"),
    ("{% do range(1, 2, 3, 4) %}", "function `range` in a template: it takes no such argument"),
    ("{{ row.code", "a template cannot be read: unexpected end of input, expected end of variable block"),
];

#[test]
fn what_can_never_be_right_is_refused_with_line_and_fix() {
    for (template, wanted) in NEVER_RIGHT {
        let error = in_json(template).map(|_| template).unwrap_err();
        assert_eq!(error, format!("p.yaml:14: {wanted}"), "{template}");
    }
    for (output, wanted) in [
        (
            "{{ body.id.strip() }}",
            "values have no methods, and `body.id` no `strip()`; use a filter, such as `body.id | trim`",
        ),
        ("{{ bdy.id }}", "unknown variable `bdy` in a template; did you mean `body`?"),
        ("{{ steps.b.v }}", "no earlier step is named `b`; there are: get-user"),
    ] {
        let error = load(&definition("1", &quoted(output), "1")).map(|_| output).unwrap_err();
        assert_eq!(error, format!("p.yaml:15: {wanted}"), "{output}");
    }
    let error = load(&definition("1", "1", &quoted("{{ steps['b'].w }}"))).map(drop).unwrap_err();
    assert_eq!(error, "p.yaml:16: step `b` has no output `w`; there are: v");
}

#[test]
fn a_template_of_several_lines_names_its_line() {
    let block = "\n        |\n        Dear {{ row.code }},\n        {% if context.x %}\n        {{ row.cod }}\n        {% endif %}\n     ";
    let error =
        load(&definition("1", "1", "1").replace("json: { v: 1 }", &format!("json:\n       v:{block}")))
            .map(drop);
    assert_eq!(error.unwrap_err(), "p.yaml:19: unknown column `cod` in a template; did you mean `code`?");
}

#[test]
fn what_depends_on_data_is_never_refused() {
    let legal = [
        "{{ row.code | int }}",
        "{{ row['first-name'] }}",
        "{{ row[context.column] }}",
        "{{ row.code[0] }} {{ row.code[1:3] }} {{ row.code[-1] }}",
        "{{ row.code * 2 }} {{ row.code ~ 1 }}",
        "{{ context.a.b.c[0]['d'] }}",
        "{{ context['any thing'] }}",
        "{{ context.x | default('none') | upper }}",
        "{{ context.x.y is defined and context.x.y > 3 }}",
        "{{ steps['get-user'].id.x[0].y }}",
        "{{ steps['get-user'].id | length > 0 }}",
        "{{ steps[context.step] }}",
        "{% for key, value in row | items %}{{ key }}={{ value }}{{ ',' if not loop.last }}{% endfor %}",
        "{% for x in context.all if x.good %}{{ loop.cycle('a', 'b') }}{{ loop.changed(x) }}{{ x.id }}{% else %}-{% endfor %}",
        "{% set ns = namespace(n=0) %}{% for x in context.all %}{% set ns.n = ns.n + x.n %}{% endfor %}{{ ns.n }}",
        "{% set r = row if context.x else steps %}{{ r.anything }}",
        "{% if context.x %}{% set r = row %}{% else %}{% set r = context %}{% endif %}{{ r.anything }}",
        "{% set row = context %}{{ row.anything }}",
        "{{ dict(a=row.code, b=1).a }} {{ range(3) | join(',') }}",
        "{{ {'a': {'b': 1}}['a']['b'] }}",
        "{{ context.all | map(attribute='id') | list }} {{ context.all | selectattr('n', 'gt', 3) | list }}",
        "{{ context.all | sort(attribute='n') | first }} {{ context.all | groupby('n') | list }}",
        "{{ '%s-%s' | format(row.code, 1) }} {{ context.pattern | format(row.code) }}",
        "{{ row.code | replace('a', 'b') | trim | title }}",
        "{{ row.code is in ['a', 'b'] }} {{ row.code in context.all }} {{ context.n is divisibleby(3) }}",
        "{{ row.code | batch(context.n) | list }} {{ context.f | round(2) }}",
        "{{ row.code | replace(*context.two) }}",
        "{% filter upper %}{{ row.code }}{% endfilter %}{% set x %}{{ row.code }}{% endset %}{{ x }}",
        "{% raw %}{{ row.cod | uper }}{% endraw %}{# {{ row.cod }} #}",
        "{{ row | tojson }} {{ context | length }}",
        "{{ 'row.cod' }} }} { {",
        "",
    ];
    for template in legal {
        assert_eq!(in_json(template).map(drop), Ok(()), "{template}");
    }
    for output in [
        "{{ body.links[0].id }}",
        "{{ body[0]['a'].b | default(none) }}",
        "{{ headers['content-type'] }} {{ headers.etag }}",
        "{{ status == 201 }}",
        "{{ body.people | length > 0 }}",
        "{{ body.amount * 100 + 1 }}",
        "{% for link in body.links %}{{ link.id }}{% endfor %}",
        "{{ (body.items | first).id }}",
    ] {
        assert_eq!(load(&definition("1", &quoted(output), "1")).map(drop), Ok(()), "{output}");
    }
}

#[test]
fn keys_of_the_context_are_known_where_they_are_needed_for_certain() {
    let keys = |template: &str| {
        let pipeline = in_json(template).unwrap();
        pipeline.context_keys().iter().cloned().collect::<Vec<_>>().join(",")
    };
    for (template, wanted) in [
        ("{{ context.a }}", "a"),
        ("x{{ context['a b'] }}", "a b"),
        ("{{ context.a.b.c }}", "a"),
        ("{{ context.a.b | default('x') }}", "a"),
        ("{{ context.a | upper }}", "a"),
        ("{{ context.a ~ context.b + context.c }}", "a,b,c"),
        ("{{ context.a == 1 }}", "a"),
        ("{{ context.a and context.b }}", "a"),
        ("{{ context.b if context.a else context.c }}", "a"),
        ("{% if context.a %}{{ context.b }}{% endif %}{{ context.c }}", "a,c"),
        ("{% for x in context.a %}{{ context.b }}{% endfor %}", "a"),
        ("{{ context | attr('a') }}", "a"),
        ("{% set c = context %}{{ c.a }}", "a"),
        // What may be missing, or cannot be known.
        ("{{ context.a | default('x') }}", ""),
        ("{{ context.a | d(context.b) }}", ""),
        ("{{ context.a is defined }}", ""),
        ("{{ context.a is none }}", ""),
        ("{{ [context.a] }}", ""),
        ("{{ context.a | tojson }}", ""),
        ("{{ context[row.code] }}", ""),
        ("{% set a = context.a %}", ""),
        ("{{ 'context.a' }} {# context.a #}", ""),
        ("{{ context }}", ""),
    ] {
        assert_eq!(keys(template), wanted, "{template}");
    }
    let text = definition("1", &quoted("{{ context.out }}"), &quoted("{{ context.res }}")).replace(
        "path: /a",
        "path: \"/{{ context.p }}\", query: { q: \"{{ context.q }}\" }, headers: { X: \"{{ context.h }}\" }",
    );
    let all: Vec<String> = load(&text).unwrap().context_keys().iter().cloned().collect();
    assert_eq!(all, ["h", "out", "p", "q", "res"]);
    let invite = include_str!("../../../pipelines/invite.yaml");
    let invite = Pipeline::load("p.yaml", invite, &|_| Some("http://h".into())).unwrap();
    assert_eq!(invite.context_keys().iter().collect::<Vec<_>>(), ["campaign"]);
}

/// What is certain is certain: without such a key the row fails, with it (and whatever else is asked for) it does not.
#[test]
fn a_row_without_a_needed_key_fails() {
    for template in [
        "{{ context.a }}",
        "{{ context.a.b | default('x') }}",
        "{{ context.a and context.b }}",
        "{{ context.a in [1] }}",
        "{{ context.a | upper }}",
        "{% for x in context.a %}{% endfor %}",
        "{{ not context.a }}",
        "{{ context.a[1:] }}",
        "{{ 1 < context.a }}",
        "{{ context | attr('a') }}",
        "{{ context.a ~ '' }}",
        "{{ 0 - context.a }}",
    ] {
        let pipeline = in_json(template).unwrap();
        assert_eq!(pipeline.context_keys().len(), 1, "{template}");
        let (row, context, steps) = (row(), json!({}), steps());
        let here =
            RowContext { values: &RowValues::new(&row, &context), steps: &steps, now: Timestamp::default() };
        let error = pipeline.steps[1].request(&here).unwrap_err().to_string();
        assert!(
            error.contains("`context.a` is not there") || template.contains("attr"),
            "{template}: {error}"
        );
    }
}

fn row() -> BTreeMap<String, String> {
    [("code".to_owned(), "secret".to_owned()), ("first-name".to_owned(), "7".to_owned())].into()
}

fn steps() -> Map<String, Value> {
    [("get-user".to_owned(), json!({ "id": [] }))].into_iter().collect()
}

#[test]
fn a_rows_error_names_what_is_missing_and_never_what_is_there() {
    let said = |template: &str| {
        let pipeline = in_json(template).unwrap();
        let (row, context, steps) = (row(), json!({ "there": { "x": "secret" }, "n": "secret" }), steps());
        let here =
            RowContext { values: &RowValues::new(&row, &context), steps: &steps, now: Timestamp::default() };
        pipeline.steps[1].request(&here).map(|_| template.to_owned()).unwrap_err().to_string()
    };
    for (template, wanted) in [
        ("{{ context.campaign }}", "`context.campaign` is not there"),
        ("no {{ context.campaign }}", "`context.campaign` is not there"),
        ("{{ context.campaign.id }}", "`context.campaign` is not there"),
        ("{{ context.there.y }}", "`context.there.y` is not there"),
        ("{{ context['the campaign'] }}", "`context['the campaign']` is not there"),
        ("{{ context.campaign | upper }}", "`context.campaign` is not there"),
        ("{{ context.campaign + 1 }}", "`context.campaign` is not there"),
        ("{{ 1 if context.campaign else 2 }}", "`context.campaign` is not there"),
        ("{{ steps['get-user'].id[0].x }}", "`steps['get-user'].id[0]` is not there"),
        ("{{ steps['get-user'].id | first }}", "`steps['get-user'].id | first` is not there"),
        ("{% set c = context %}{{ c.campaign }}", "`c.campaign` is not there"),
        ("{{ [row.code, context.campaign] }}", "`[row.code, context.campaign]` is not there"),
        ("{{ {'a': {'b': [context.campaign]}} }}", "`{'a': {'b': [context.campaign]}}` is not there"),
        ("x{{ dict(a=context.campaign) }}", "a value that it reads is not there"),
        ("{{ row.code | int }}", "`int` cannot be applied to what it is given: this is not a number"),
        ("{{ row.code % 2 }}", "`row.code % 2` cannot be applied to what it is given"),
        ("x{{ context.n - 1 }}", "`context.n - 1` cannot be applied to what it is given"),
        ("{% for x in range(100000) %}{{ row.code }}{% endfor %}", "the template takes too long"),
    ] {
        assert_eq!(said(template), format!("step `b`, json: {wanted}"), "{template}");
    }
    let pipeline = load(&definition("1", &quoted("{{ body.check.id }}"), "1")).unwrap();
    let (row, context, steps, headers) = (row(), json!({}), steps(), BTreeMap::new());
    let here =
        RowContext { values: &RowValues::new(&row, &context), steps: &steps, now: Timestamp::default() };
    let body = json!({ "other": "secret" });
    let answer = ResponseView { status: 200, headers: &headers, body: &body };
    let error = pipeline.steps[1].output(&here, answer).unwrap_err();
    assert_eq!(error.to_string(), "step `b`, output `v`: `body.check` is not there");
}

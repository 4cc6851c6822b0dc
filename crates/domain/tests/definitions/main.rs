//! Definitions that are refused: each with its line, in words for people, and with a hint.

#![allow(clippy::unwrap_used, reason = "a test")]

mod files;
mod problems;
mod variables;

use penstock_domain::pipeline::{Catalog, NoFiles, Pipeline, Unset, utf8};

fn vars(name: &str) -> Option<String> {
    match name {
        "URL" => Some("http://d.example/v1".into()),
        "TOKEN" => Some("{{ row.a }}".into()),
        "BRACES" => Some("{{row.a}}{%".into()),
        _ => None,
    }
}

fn load(text: &str) -> Result<Pipeline, String> {
    Pipeline::load("p.yaml", text, &vars)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

fn refused(text: &str) -> String {
    load(text).map(|_| text.to_owned()).unwrap_err()
}

/// Line 3 of a definition that is good otherwise.
fn with(line: &str) -> String {
    refused(&format!("name: p\ncsv: {{ columns: [ {{ name: a }}, {{ name: b }} ] }}\n{line}\n"))
}

#[test]
fn what_the_yaml_lacks_is_said_without_a_word_of_rust() {
    let list = "a list belongs here, such as `[one, two]`; `[]` is an empty one";
    let keys = "keys and values belong here, such as `{ key: value }`; `{}` is an empty set";
    let text = "a text belongs here; put it in quotes when it holds `{`, `[`, `: ` or ` #`";
    let count = "a whole number belongs here, not below 0 and not too large, such as 10";
    let calls = "a number of calls such as 20, or `{ limit: 5, per_owner: true }`, belongs here";
    let cases = [
        ("steps:", format!("`steps:`: {list}")),
        ("steps: x", format!("`steps: x`: {list}")),
        ("result:", format!("`result:`: {keys}")),
        ("dependencies: []", format!("`dependencies: […]`: {keys}")),
        ("dependencies: { d: }", format!("`d:`: {keys}")),
        ("route: [x]", format!("`route: […]`: {text}")),
        ("result: { a: {{ row.a }} }", format!("`{{…}}`: {text}")),
        ("retry: { attempts: many }", format!("`attempts: many`: {count}")),
        ("retry: { attempts: -5 }", format!("`attempts: -5`: {count}")),
        ("retry: { attempts: 99999999999 }", format!("`attempts: 99999999999`: {count}")),
        ("retry: { backoff: { factor: x } }", "`factor: x`: a number belongs here, such as 1.5".into()),
        ("retry: { backoff: { jitter: 3 } }", "`jitter: 3`: true or false belongs here".into()),
        ("retry: { attempts: 5, attempts: 6 }", "duplicate key `attempts`; remove one of them".into()),
        ("name: q", "duplicate key `name`; remove one of them".into()),
        ("spred: 1s", "unknown key `spred`; there are: name, route, csv, dependencies, steps, result, retry, dispatch, canary, dedupe".into()),
        ("retry: { attempt: 3 }", "unknown key `attempt`; did you mean `attempts`?".into()),
        ("canary: { rows: 5 }", "the key `max_failure` is missing here; add it".into()),
        ("canary: { rows: 5, max_failure: lots }", "invalid share `lots`: use `10 %` or 0.1".into()),
        ("canary: { rows: 5, max_failure: 120 % }", "invalid share `120 %`: use `10 %` or 0.1".into()),
        ("dispatch: { spread: 5 }", "invalid duration `5`: use 250ms, 1s, 5m, 1h or 1d".into()),
        ("dispatch: { spread: -5s }", "invalid duration `-5s`: use 250ms, 1s, 5m, 1h or 1d".into()),
        ("dispatch: { spread: 900d }", "`900d` is longer than a year; write 365d at most".into()),
        ("dependencies: { d: { base_url: } }", "`base_url:` has no value; write one, or take the key out".into()),
        ("dependencies: { d: { base_url: \"${URL}\", headers: { A: ~ } } }", "`A: ~` has no value; write one, or take the key out".into()),
        ("dependencies: { d: { base_url: \"${URL}\", concurrency: lots } }", format!("`concurrency: lots`: {calls}")),
        ("dependencies: { d: { base_url: \"${URL}\", concurrency: -1 } }", format!("`concurrency: -1`: {calls}")),
        ("dependencies: { d: { base_url: \"${URL}\", concurrency: [5] } }", format!("`concurrency: […]`: {calls}")),
        ("dependencies: { d: { base_url: \"${URL}\", concurrency: { limt: 5 } } }", "unknown key `limt`; did you mean `limit`?".into()),
        ("dependencies: { d: { base_url: \"${URL}\", concurrency: { limit: 5, per_owner: 3 } } }", "`per_owner: 3`: true or false belongs here".into()),
        ("steps: [ { name: s, dependency: d, request: { method: get, path: /x } } ]", "step `s`: there is no dependency `d`; there is none\np.yaml:3: `method: get` is unknown; did you mean `GET`?".into()),
        ("result: { a: *x }", "`a: *x` names no anchor; quote it, if a text begins with `*`".into()),
        ("---", "a second YAML document begins here; keep one in a file, and take the line `---` out".into()),
        ("result: { a: \"x }", "this is no YAML that can be read: unclosed quote".into()),
    ];
    for (line, wanted) in cases {
        let (line, at) = if line == "---" { ("---\nname: q", 4) } else { (line, 3) };
        let error = with(line);
        let at = if error.starts_with("p.yaml:3") { 3 } else { at };
        assert_eq!(error, format!("p.yaml:{at}: {wanted}"), "{line}");
    }
    let columns = |column: &str| refused(&format!("name: p\ncsv:\n  columns:\n    - {column}\n"));
    assert_eq!(columns("{ name: ~ }"), "p.yaml:4: `name: ~` has no value; write one, or take the key out");
    assert!(
        columns("{ name: a, format: phone }")
            .starts_with("p.yaml:4: `format: phone` is unknown; there are: email, e164,")
    );
    assert_eq!(columns("{ name: a, enum: x }"), format!("p.yaml:4: `enum: x`: {list}"));
    assert_eq!(refused(""), "p.yaml:1: the file is empty; write `name`, `csv` and `steps`");
    assert_eq!(refused("name: p\n"), "p.yaml:1: the key `csv` is missing here; add it");
    assert_eq!(refused("just text"), format!("p.yaml:1: `just text`: {keys}"));
    let csv = "name: p\ncsv:\n  columns:\n";
    assert_eq!(refused(csv), format!("p.yaml:3: `columns:`: {list}"));
}

#[test]
fn a_file_that_is_not_utf8_is_told_by_its_line() {
    assert_eq!(utf8("p.yaml", b"name: p\n"), Ok("name: p\n"));
    let error = utf8("p.yaml", b"name: p\n# J\xf6rg\n").unwrap_err();
    assert_eq!(error.to_string(), "p.yaml:2: the file is not UTF-8 from here on; save it as UTF-8");
}

#[test]
fn two_pipelines_of_a_name_or_a_route_are_told_with_both_places() {
    let pipeline = |file: &str, name: &str, route: &str| {
        let text = format!("# first\nname: {name}\nroute: {route}\ncsv: {{ columns: [ {{ name: a }} ] }}\n");
        Pipeline::load(file, &text, &vars).unwrap()
    };
    let errors = Catalog::new(vec![
        pipeline("a.yaml", "one", "/v2/one"),
        pipeline("b.yaml", "one", "/v2/other"),
        pipeline("c.yaml", "two", "/v2/one"),
        pipeline("d.yaml", "three", "/v2/three"),
    ])
    .unwrap_err();
    let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "b.yaml:2: a.yaml:2 defines a pipeline `one` as well; rename one of them",
            "c.yaml:3: `one` at a.yaml:3 has the route /v2/one as well; change one of them",
        ]
    );
}

#[test]
fn two_pipelines_with_other_limits_for_one_dependency_are_told_with_both_places() {
    let pipeline = |name: &str, dependency: &str, url: &str, limits: &str| {
        let text = format!(
            "name: {name}\ncsv: {{ columns: [ {{ name: a }} ] }}\ndependencies:\n  other: {{ base_url: https://other.example }}\n\
             \x20 {dependency}: {{ base_url: \"{url}\"{limits} }}\n"
        );
        Pipeline::load(&format!("{name}.yaml"), &text, &vars).unwrap()
    };
    let twenty = ", rate: { limit: 20, period: 1s }, timeout: 5s";
    let fifty = ", rate: { limit: 50, period: 1s }, concurrency: 3";
    let errors = Catalog::new(vec![
        pipeline("a", "crm", "https://api.example/v1", twenty),
        // The same limits, whatever else differs; other names and other addresses.
        pipeline(
            "b",
            "crm",
            "https://API.example:443/v1/",
            ", rate: { limit: 20, period: 1000ms, burst: 1 }",
        ),
        pipeline("c", "crm2", "https://api.example/v1", fifty),
        pipeline("d", "crm", "https://api.example/v2", fifty),
        pipeline("e", "crm", "https://api.example/v1", fifty),
        pipeline("f", "crm", "https://api.example/v1", ""),
    ])
    .unwrap_err();
    let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let told = |keys: &str| {
        format!(
            "dependency `crm` has another {keys} at a.yaml:5, and both share one limit, because they name the same API; write the \
             same in both, or rename one of them"
        )
    };
    assert_eq!(
        said,
        [
            format!("e.yaml:5: {}", told("`rate` and another `concurrency`")),
            format!("f.yaml:5: {}", told("`rate`"))
        ]
    );
}

/// One dependency, one step, one result, each line by itself.
const WHOLE: &str = "name: p
csv:
  max_rows: 10
  max_bytes: 1000
  max_field_chars: 100
  max_record_bytes: 1000
  columns:
    - { name: a, min_length: 1, max_length: 9, enum: [x, yy] }
    - { name: b }
dependencies:
  d:
    base_url: \"${URL}\"
    headers:
      Authorization: \"Bearer ${TOKEN}\"
    timeout: 10s
    rate: { limit: 5, period: 1s, burst: 2 }
    concurrency: { limit: 3 }
    breaker:
      min_calls: 20
      window: 30s
      open_for: 10s
      probes: 3
steps:
  - name: s
    dependency: d
    cost: 2
    request:
      method: POST
      path: \"/x/{{ row.a }}\"
      query: { q: \"{{ row.b }}\" }
      idempotency_key: true
      headers:
        X-A: \"{{ row.a }}\"
    output: { id: \"{{ body.id }}\" }
result:
  id: \"{{ steps.s.id }}\"
retry:
  attempts: 3
  backoff:
    initial: 1s
    factor: 2
    max: 5m
  deadline: 1h
dispatch:
  rows_per_owner: 5
canary:
  { rows: 5, max_failure: 10 %, stop_after: 100 }
";

#[test]
fn what_would_fail_each_row_or_mislead_is_refused_where_it_stands() {
    assert!(load(WHOLE).is_ok(), "{:?}", load(WHOLE).err());
    let whom = "dependency `d`";
    let cases: Vec<(&str, &str, u64, String)> = vec![
        ("max_rows: 10", "max_rows: 0", 3, "csv.max_rows is between 1 and 2000000000".into()),
        ("max_rows: 10", "max_rows: 3000000000", 3, "csv.max_rows is between 1 and 2000000000".into()),
        ("max_bytes: 1000", "max_bytes: 0", 4, "csv.max_bytes is 0, so no file would pass; take it out for the default".into()),
        ("max_field_chars: 100", "max_field_chars: 0", 5, "csv.max_field_chars is 0, so no file would pass; take it out for the default".into()),
        ("max_record_bytes: 1000", "max_record_bytes: 0", 6, "csv.max_record_bytes is between 1 and 67108864: a record is held in memory".into()),
        ("max_record_bytes: 1000", "max_record_bytes: 99999999999", 6, "csv.max_record_bytes is between 1 and 67108864: a record is held in memory".into()),
        ("min_length: 1,", "min_length: 10,", 8, "column `a`: min_length is above max_length; change one of them\np.yaml:8: column `a`: its other rules refuse `x` of its enum; change one of them\np.yaml:8: column `a`: its other rules refuse `yy` of its enum; change one of them".into()),
        ("min_length: 1, max_length: 9, enum: [x, yy]", "max_length: 0", 8, "column `a`: max_length is 0, so only empty values would pass; take the column out".into()),
        ("min_length: 1, max_length: 9, enum: [x, yy]", "min_length: 101", 8, "column `a`: min_length is above csv.max_field_chars, so no value would pass; change one of them".into()),
        ("enum: [x, yy]", "enum: []", 8, "column `a`: enum lists no value; name some, or take it out".into()),
        ("enum: [x, yy]", "format: integer, enum: [x, 5]", 8, "column `a`: its other rules refuse `x` of its enum; change one of them".into()),
        ("name: b }", "name: a }", 9, "duplicate column `a`; remove one of them\np.yaml:30: unknown column `b` in a template; there are: a, a".into()),
        ("name: b }", "name: _row }", 9, "column `_row`: reports have a column of that name; rename it\np.yaml:30: unknown column `b` in a template; there are: a, _row".into()),
        ("\"${URL}\"", "\"http:/d.example\"", 12, format!("{whom}: base_url is not an absolute http or https URL, such as https://api.example.com/v1")),
        ("\"${URL}\"", "\"${NONE}\"", 12, "the environment has no variable NONE; set it, or take ${NONE} out".into()),
        ("Authorization:", "\"A b\":", 14, format!("{whom}: `A b` is not a header that can be sent; a name has letters, digits and `-`")),
        ("Authorization:", "\"\":", 14, format!("{whom}: `` is not a header that can be sent; a name has letters, digits and `-`")),
        ("Authorization:", "Content-Length:", 14, format!("{whom}: `Content-Length` says how a message is sent, which is not a definition's; remove it")),
        ("\"Bearer ${TOKEN}\"", "\"a\\u0001\"", 14, format!("{whom}: the value of `Authorization` has a control character, which no header may have")),
        ("timeout: 10s", "timeout: 0s", 15, format!("{whom}: timeout is 1ms or more")),
        ("limit: 5, period", "limit: 0, period", 16, format!("{whom}: a rate's limit and burst are above 0; without `rate` there is none")),
        ("period: 1s, burst: 2", "period: 0s, burst: 2", 16, format!("{whom}: a rate's period is 1ms or more")),
        ("concurrency: { limit: 3 }", "concurrency: 0", 17, format!("{whom}: concurrency is above 0; without it there is no limit")),
        ("min_calls: 20", "min_calls: 0", 19, format!("{whom}: breaker.min_calls is above 0")),
        ("window: 30s", "window: 0s", 20, format!("{whom}: breaker.window is 1ms or more")),
        ("open_for: 10s", "open_for: 0s", 21, format!("{whom}: breaker.open_for is 1ms or more")),
        ("probes: 3", "probes: 0", 22, format!("{whom}: breaker.probes is above 0")),
        ("dependency: d", "dependency: e", 25, "step `s`: there is no dependency `e`; there are: d".into()),
        ("cost: 2", "cost: 0", 26, "step `s`: cost is 1 or more".into()),
        ("cost: 2", "cost: 3", 26, "step `s`: cost 3 is above the burst of `d`, which is 2, so no call could ever be made; set rate.burst to 3 or more".into()),
        ("path: \"/x/", "path: \"x/", 29, "step `s`: path begins with `/`".into()),
        ("/x/{{ row.a }}", "/x?a={{ row.a }}", 29, "step `s`: `?` and `#` would be encoded as parts of the path; write `query: { key: value }` for what follows `?`".into()),
        ("/x/{{ row.a }}", "/x#a", 29, "step `s`: `?` and `#` would be encoded as parts of the path; write `query: { key: value }` for what follows `?`".into()),
        ("/x/{{ row.a }}", "/x y", 29, "step `s`: a path has no white space, control characters or backslashes; encode them, such as %20".into()),
        ("/x/{{ row.a }}", "/x/../{{ row.a }}", 29, "step `s`: `.` and `..` in a path would lead elsewhere; write the path itself".into()),
        ("/x/{{ row.a }}", "/x/%2E./y", 29, "step `s`: `.` and `..` in a path would lead elsewhere; write the path itself".into()),
        ("X-A:", "\"X A\":", 33, "step `s`: `X A` is not a header that can be sent; a name has letters, digits and `-`".into()),
        ("X-A:", "idempotency-KEY:", 33, "step `s`: `idempotency_key: true` sends this header; remove one of the two".into()),
        ("method: POST", "method: HEAD", 34, "step `s`: an answer to HEAD has no body; use GET, or read `headers`".into()),
        ("  id: \"{{ steps.s.id }}\"", "  b: 1", 36, "result `b` is a column of the file as well, and results.csv would have two of that name; rename it".into()),
        ("  id: \"{{ steps.s.id }}\"", "  _id: 1", 36, "result `_id`: names that begin with `_` are Penstock's own; rename it".into()),
        ("attempts: 3", "attempts: 0", 38, "retry.attempts is 1 or more; 1 means that nothing is retried".into()),
        ("attempts: 3", "attempts: 4000000000", 38, "retry.attempts is at most 1000".into()),
        ("factor: 2", "factor: 0.5", 41, "retry.backoff.factor is between 1 and 100".into()),
        ("max: 5m", "max: 0s", 42, "retry.backoff.max (0ns) is below its initial (1s)".into()),
        ("deadline: 1h", "deadline: 0s", 43, "retry.deadline is 0, so every row would fail; take it out for none".into()),
        (
            "deadline: 1h",
            "throttled_for: 0s",
            43,
            "retry.throttled_for is 0, so a row would fail at its first 429; give it a time, or take it out for 1d".into(),
        ),
        ("rows_per_owner: 5", "rows_per_owner: 0", 45, "dispatch.rows_per_owner is 0, so no row would ever run".into()),
        ("{ rows: 5,", "{ rows: 0,", 47, "canary.rows is 0, so no row would ever run; take `canary` out for no trial".into()),
        ("stop_after: 100", "stop_after: 0", 47, "canary.stop_after is above 0; without it the share holds the first rows only".into()),
    ];
    for (from, to, line, wanted) in cases {
        assert!(WHOLE.contains(from), "{from}");
        assert_eq!(refused(&WHOLE.replacen(from, to, 1)), format!("p.yaml:{line}: {wanted}"), "{to}");
    }
    let twice = WHOLE
        .replace("result:\n", "  - { name: s, dependency: d, request: { method: GET, path: / } }\nresult:\n");
    assert_eq!(refused(&twice), "p.yaml:35: two steps are named `s`; rename one of them");
    let cheap = WHOLE.replace(", burst: 2", "").replace("    cost: 2\n", "");
    assert!(load(&cheap).is_ok(), "a cost of 1 is within a burst of 1");
}

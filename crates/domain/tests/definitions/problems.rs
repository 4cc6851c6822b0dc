//! All problems of definitions at once, as `penstock pipelines check` shows them.

use penstock_domain::pipeline::{DefinitionError, Unset, check_files, utf8};

use crate::{WHOLE, vars};

/// What is reported of one file: `line:column code message`.
fn problems(text: &str, unset: Unset) -> Vec<String> {
    let checked = check_files(&[("p.yaml".into(), Ok(text.into()))], &vars, unset);
    let one = |error: &DefinitionError| {
        format!("{}:{} {} {}", error.line, error.column, error.code.as_str(), error.message)
    };
    checked[0].1.iter().map(one).collect()
}

#[test]
fn all_errors_of_a_file_are_reported_at_once_each_with_its_place() {
    let text = "name: p
name: q
rotue: /v2/p
csv:
  columns:
    - { name: a, requierd: true }
    - { name: b, format: phone }
    - { name: ~ }
dependencies:
  d:
    base_url: \"${URL}\"
    timeout: 5sec
    rate: { limit: many, period: 1s }
  e:
    headers: { A: b }
steps:
  - name: s
    dependency: d
    request: { method: get, path: \"/x/{{ row.c }}\" }
    ouput: { id: \"{{ body.id }}\" }
  - name: t
    dependency: f
    request: { method: GET, path: \"/{{ steps.s.id }}/{{ row.a | uper }}\", headers: { \"A B\": \"${NONE}\" } }
  - dependency: d
    request: { method: GET, path: / }
retry: { attempts: 0, backoff: { jitter: 3 } }
";
    let wanted = [
        "2:1 duplicate_key duplicate key `name`; remove one of them",
        "3:1 unknown_key unknown key `rotue`; did you mean `route`?",
        "6:18 unknown_key unknown key `requierd`; did you mean `required`?",
        "7:26 invalid_type `format: phone` is unknown; there are: ",
        "8:15 invalid_type `name: ~` has no value; write one, or take the key out",
        "12:14 invalid_value invalid duration `5sec`: use 250ms, 1s, 5m, 1h or 1d",
        "13:20 invalid_type `limit: many`: a whole number belongs here",
        "15:5 missing_key the key `base_url` is missing here; add it",
        "19:24 invalid_type `method: get` is unknown; did you mean `GET`?",
        "20:5 unknown_key unknown key `ouput`; did you mean `output`?",
        "22:17 invalid_value step `t`: there is no dependency `f`",
        "23:65 invalid_template unknown filter `uper` in a template; did you mean `upper`?",
        "23:87 invalid_value step `t`: `A B` is not a header that can be sent",
        "23:94 missing_variable the environment has no variable NONE",
        "24:5 missing_key the key `name` is missing here; add it",
        "26:10 invalid_value retry.attempts is 1 or more",
        "26:42 invalid_type `jitter: 3`: true or false belongs here",
    ];
    let found = problems(text, Unset::Refused);
    println!("{}", found.join("\n"));
    for (found, wanted) in found.iter().zip(wanted) {
        assert!(found.starts_with(wanted), "{found}, and not {wanted}");
    }
    assert_eq!(found.len(), wanted.len());
}

#[test]
fn without_the_environment_everything_but_its_values_is_checked() {
    let text = WHOLE.replace("${URL}", "${NOBODY}").replace("{{ row.b }}", "${NOBODY} {{ row.nope }}");
    let found = problems(&text, Unset::Allowed);
    assert_eq!(found, ["30:37 invalid_template unknown column `nope` in a template; there are: a, b"]);
    assert_eq!(problems(&text, Unset::Refused).len(), 3);
}

#[test]
fn a_name_that_an_earlier_file_has_is_a_problem_of_the_later_one() {
    let broken = WHOLE.replace("attempts: 3", "attempts: 0");
    let files = [
        ("a.yaml".to_owned(), Ok(broken.clone())),
        ("b.yaml".to_owned(), Ok(broken)),
        ("c.yaml".to_owned(), utf8("c.yaml", b"\xff").map(str::to_owned)),
    ];
    let checked = check_files(&files, &vars, Unset::Refused);
    let lines: Vec<Vec<String>> = checked
        .iter()
        .map(|(_, errors)| {
            errors.iter().map(|error| format!("{}:{}", error.line, error.code.as_str())).collect()
        })
        .collect();
    assert_eq!(
        lines,
        [vec!["38:invalid_value"], vec!["1:conflict", "38:invalid_value"], vec!["1:unreadable"]]
    );
}

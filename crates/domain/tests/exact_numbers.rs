//! Numbers reach an API, a result and the next request as they were: digit by digit, whatever their length.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;

use penstock_domain::pipeline::{Pipeline, ResponseView, RowContext, RowValues};
use penstock_domain::time::Timestamp;
use serde_json::{Map, Value};

const BODY: &str = r#"{
    "id": 1234567890123456789012345678901234567890123456789,
    "order": 12345678901234567890,
    "price": 19.90,
    "rate": 0.12345678901234567890123456789,
    "tiny": -1.5e-9,
    "small": 7,
    "half": 2.5,
    "two": 2.0,
    "none": -0,
    "items": [{"n": 3, "p": 10.10}, {"n": 10, "p": 9.99}, {"n": 2, "p": 100}],
    "list": [2, 10.0, 9.5, 12345678901234567890123456789012345678901234567890]
}"#;

fn pipeline(request: &str, output: &str) -> Pipeline {
    let text = format!(
        "name: p\ncsv: {{ columns: [ {{ name: amount }} ] }}\n\
         dependencies: {{ d: {{ base_url: \"http://d.example\" }} }}\n\
         steps:\n\
         \x20 - name: a\n    dependency: d\n    request:\n      method: POST\n{request}\n    output:\n{output}\n"
    );
    Pipeline::load("p.yaml", &text, &|_| None).unwrap_or_else(|errors| {
        panic!("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })
}

/// What `output` makes of the answer, for one expression or text.
fn made(template: &str) -> Result<String, String> {
    let pipeline =
        pipeline("      path: /a", &format!("      v: {}", serde_json::to_string(template).unwrap()));
    let row: BTreeMap<String, String> = [("amount".to_owned(), "1234567.8900".to_owned())].into();
    let (context, steps, headers): (Value, _, _) = (parsed("{}"), Map::new(), BTreeMap::new());
    let body = parsed(BODY);
    let here =
        RowContext { values: &RowValues::new(&row, &context), steps: &steps, now: Timestamp::default() };
    let answer = ResponseView { status: 200, headers: &headers, body: &body };
    let output = pipeline.steps[0].output(&here, answer).map_err(|error| error.to_string())?;
    Ok(output["v"].to_string())
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_number_passes_through_unchanged() {
    for (template, wanted) in [
        ("{{ body.id }}", "1234567890123456789012345678901234567890123456789"),
        ("{{ body.order }}", "12345678901234567890"),
        ("{{ body.price }}", "19.90"),
        ("{{ body.rate }}", "0.12345678901234567890123456789"),
        ("{{ body.tiny }}", "-1.5e-9"),
        ("{{ body.none }}", "-0"),
        (
            "{{ [body.price, {'x': body.id}] }}",
            "[19.90,{\"x\":1234567890123456789012345678901234567890123456789}]",
        ),
        ("{{ body.list }}", "[2,10.0,9.5,12345678901234567890123456789012345678901234567890]"),
        (
            "id {{ body.id }} costs {{ body.price }}",
            "\"id 1234567890123456789012345678901234567890123456789 costs 19.90\"",
        ),
        ("{{ body.price ~ '/' ~ body.order }}", "\"19.90/12345678901234567890\""),
        ("{{ body.rate | string }}", "\"0.12345678901234567890123456789\""),
        ("{{ body.price | default(0) }}", "19.90"),
        ("{{ body.price if body.none == 0 else 1 }}", "19.90"),
        ("{{ body.list | last }}", "12345678901234567890123456789012345678901234567890"),
        ("{{ body.list | join('|') }}", "\"2|10.0|9.5|12345678901234567890123456789012345678901234567890\""),
        ("{{ body.items[0].p | replace('.', ',') }}", "\"10,10\""),
        ("{% set x = body.price %}{{ x }}", "\"19.90\""),
        (
            "{% for x in body.list %}{{ x }};{% endfor %}",
            "\"2;10.0;9.5;12345678901234567890123456789012345678901234567890;\"",
        ),
        ("{{ body.items | map(attribute='p') | list }}", "[10.10,9.99,100]"),
        ("{{ {'a': body.price} | tojson }}", "\"{\\\"a\\\": 19.90}\""),
        ("{{ 0.12345678901234567890 }}", "0.12345678901234567890"),
    ] {
        assert_eq!(made(template).as_deref(), Ok(wanted), "{template}");
    }
}

#[test]
fn what_is_computed_is_exact() {
    for (template, wanted) in [
        ("{{ body.id + 1 }}", "1234567890123456789012345678901234567890123456790"),
        ("{{ 1 - body.id }}", "-1234567890123456789012345678901234567890123456788"),
        ("{{ body.order * 10 }}", "123456789012345678900"),
        ("{{ body.order + 0.5 }}", "12345678901234567890.5"),
        ("{{ -body.rate }}", "-0.12345678901234567890123456789"),
        ("{{ -body.small }}", "-7"),
        ("{{ (body.price * 100) | int }}", "1990"),
        ("{{ 0.1 + 0.2 }}", "0.3"),
        ("{{ body.id % 10 }} {{ body.id // 10 ** 48 }}", "\"9 1\""),
        ("{{ body.id / 1 }}", "1234567890123456789012345678901234567890123456789.0"),
        ("{{ 10 / 4 }}", "2.5"),
        ("{{ range(10 / 2) | list }}", "[0,1,2,3,4]"),
        ("{{ body.small / 3 }}", "2.3333333333333335"),
        ("{{ row.amount | float }}", "1234567.8900"),
        ("{{ (row.amount | float * 100) | int }}", "123456789"),
        (
            "{{ '12345678901234567890123456789012345678901234567890' | int + 1 }}",
            "12345678901234567890123456789012345678901234567891",
        ),
        ("{{ '12' | float }}", "12.0"),
        ("{{ 'x' | float(0) }} {{ 'x' | int(default=3) }}", "\"0 3\""),
        ("{{ '0x1f' | int(base=16) }}", "31"),
        ("{{ body.rate | round(3) }}", "0.123"),
        ("{{ 2.675 | round(2) }}", "2.68"),
        ("{{ body.price | round(method='ceil') }}", "20.0"),
        ("{{ body.tiny | abs }}", "0.0000000015"),
        ("{{ body.items | sum(attribute='p') }}", "120.09"),
        ("{{ body.list | sum }}", "12345678901234567890123456789012345678901234567911.5"),
        ("{{ body.list | max }}", "12345678901234567890123456789012345678901234567890"),
        ("{{ body.list | min }}", "2"),
        ("{{ body.list | sort }}", "[2,9.5,10.0,12345678901234567890123456789012345678901234567890]"),
        (
            "{{ body.list | sort(reverse=true) | first }}",
            "12345678901234567890123456789012345678901234567890",
        ),
        ("{{ body.items | sort(attribute='p') | map(attribute='n') | list }}", "[10,3,2]"),
        ("{{ (body.items | min(attribute='p')).n }}", "10"),
        ("{{ [1, 1.0, body.price, 19.9] | unique | list }}", "[1,19.90]"),
        ("{{ body.items | groupby('p') | map(attribute='grouper') | list }}", "[9.99,10.10,100]"),
        ("{{ {'b': 2.50, 'a': body.price} | dictsort(by='value') | first | first }}", "\"b\""),
        ("{{ '%s %.1f' | format(body.price, body.price) }}", "\"19.90 19.9\""),
        ("{{ 'ab' * 2 }}{{ [1] + [2] }}{{ 'x' + 'y' }}", "\"abab[1,2]xy\""),
    ] {
        assert_eq!(made(template).as_deref(), Ok(wanted), "{template}");
    }
}

#[test]
fn what_is_compared_is_compared_exactly() {
    for (template, wanted) in [
        ("{{ body.order == 12345678901234567891 }}", false),
        ("{{ body.order == 12345678901234567890 }}", true),
        ("{{ body.price == 19.9 }}", true),
        ("{{ body.price == '19.90' }}", false),
        ("{{ body.rate > 0.12345678901234567890123456788 }}", true),
        ("{{ body.id > body.order }}", true),
        ("{{ body.tiny < 0 }}", true),
        ("{{ 10 < body.price <= 19.90 }}", true),
        ("{{ 10 < body.price < 19.90 }}", false),
        ("{{ 'a' < 'b' < 'c' and [1, 2] < [1, 3] }}", true),
        ("{{ row.amount | float > 100 }}", true),
        ("{{ 10.0 in body.list }}", true),
        ("{{ 10 in body.list and 10.5 not in body.list }}", true),
        ("{{ [1, 2.0] == [1.0, 2] }}", true),
        ("{{ {'a': 1.50} == {'a': 1.5} }}", true),
        ("{{ body.list == [2, 10, 9.5, body.list[3]] }}", true),
        ("{{ body.price is number and body.price is float and body.price is not integer }}", true),
        ("{{ body.id is integer and body.id is odd and body.id is not even }}", true),
        ("{{ body.id is divisibleby(3) and body.id is not divisibleby(7) }}", true),
        ("{{ body.items | selectattr('p', 'gt', 10) | list | length == 2 }}", true),
        ("{{ body.none is none or not body.none }}", true),
        ("{{ 'a' in 'abc' and 'x' not in ['y'] and 'small' in body }}", true),
    ] {
        assert_eq!(made(template), Ok(wanted.to_string()), "{template}");
    }
}

#[test]
fn format_is_decimal_and_exact() {
    for (template, wanted) in [
        ("{{ '%.2f' | format(2.675) }}", "2.68"),
        ("{{ '%.2f' | format(2.665) }}", "2.66"),
        ("{{ '%.20f' | format(0.1) }}", "0.10000000000000000000"),
        ("{{ '%f' | format(body.id) }}", "1234567890123456789012345678901234567890123456789.000000"),
        ("{{ '%d|%i' | format(body.id, -7.9) }}", "1234567890123456789012345678901234567890123456789|-7"),
        (
            "{{ '%s|%s|%s' | format(body.rate, none, [true, 'a']) }}",
            "0.12345678901234567890123456789||[true,\"a\"]",
        ),
        (
            "{{ '%8.2f|%-8.1f|%08.3f|%+d|% d' | format(1.005, 2, -3.14159, 5, 5) }}",
            "    1.00|2.0     |-003.142|+5| 5",
        ),
        ("{{ '%*d|%.*f' | format(5, 42, 1, 0.25) }}", "   42|0.2"),
        ("{{ '%e|%.2E|%.0e' | format(1234.5, 0.00999, 9.5) }}", "1.234500e+03|9.99E-03|1e+01"),
        ("{{ '%e' | format(0) }}", "0.000000e+00"),
        ("{{ '%g|%g|%g|%#.3g' | format(0.0001, 1000000, 123456.7, 1.0) }}", "0.0001|1e+06|123457|1.00"),
        ("{{ '%x|%#X|%o' | format(255, 255, 8) }}", "ff|0XFF|10"),
        ("{{ '%(a)s-%(b).1f%%' | format({'a': 'x', 'b': 0.25}) }}", "x-0.2%"),
        ("{{ '%5s|%-5s|%.2s|%c' | format('ab', 'ab', 'abc', 65) }}", "   ab|ab   |ab|A"),
    ] {
        let made = made(template);
        let text: Option<String> = made.as_ref().ok().and_then(|json| serde_json::from_str(json).ok());
        assert_eq!(text.as_deref(), Some(wanted), "{template}: {made:?}");
    }
    for (template, why) in [
        ("{{ '%d' | format('x') }}", "`%d` takes a number"),
        ("{{ '%d %d' | format(1) }}", "takes more values than there are"),
        ("{{ '%2000d' | format(1) }}", "at most 1000"),
        ("{{ '%y' | format(1) }}", "`%y` is not a conversion"),
        ("{{ '%x' | format(1.5) }}", "takes a whole number"),
    ] {
        let error = made(template).unwrap_err();
        assert!(error.contains(why), "{template}: {error}");
    }
}

#[test]
fn values_in_text_are_json_and_null_is_nothing() {
    for (template, wanted) in [
        ("a {{ none }} b", "a  b"),
        ("{{ true }} {{ false }}", "true false"),
        ("{{ [1, 'a', none, 1.50] }} {{ {'k': true} }}", r#"[1,"a",null,1.50] {"k":true}"#),
        ("{{ 'x' ~ none ~ true ~ [1, 'a'] ~ 19.90 }}", r#"xtrue[1,"a"]19.90"#),
        ("{{ [true, none, 'a', 1.0] | join('-') }}", "true--a-1.0"),
        ("{{ body.items | join(', ', attribute='p') }}", "10.10, 9.99, 100"),
        ("{{ none | upper }}{{ true | upper }}{{ true | string }}{{ none | string }}", "TRUEtrue"),
        ("{{ 'a-b' | replace('-', none) }}{{ 'aTrueb' | replace(true, '-') }}", "abaTrueb"),
        ("{{ none | trim }}{{ [true] | title }}", "[True]"),
        ("{{ ('a,b' | split(','))[1.0] }}{{ body.list[1.0] }}{{ 'abcd'[1.0:3.0] }}", "b10.0bc"),
        ("{% for i in range(body.two) %}{{ i }}{% endfor %}", "01"),
    ] {
        let made = made(template);
        let text: Option<String> = made.as_ref().ok().and_then(|json| serde_json::from_str(json).ok());
        assert_eq!(text.as_deref(), Some(wanted), "{template}: {made:?}");
    }
}

#[test]
fn a_null_in_a_path_is_an_error_and_other_values_are_json() {
    let path = |path: &str, context: &str| {
        let pipeline = pipeline(&format!("      path: \"{path}\""), "      v: 1");
        let (row, steps, context) = (BTreeMap::new(), Map::new(), parsed(context));
        let here =
            RowContext { values: &RowValues::new(&row, &context), steps: &steps, now: Timestamp::default() };
        pipeline.steps[0]
            .request(&here)
            .map(|request| request.target.path().to_owned())
            .map_err(|error| error.to_string())
    };
    for (template, context, wanted) in [
        ("/u/{{ context.v }}", r#"{"v":true}"#, "/u/true"),
        ("/u/{{ context.v }}", r#"{"v":[1,"a"]}"#, "/u/%5B1%2C%22a%22%5D"),
        ("/u/x{{ context.v }}", r#"{"v":1.50}"#, "/u/x1.50"),
    ] {
        assert_eq!(path(template, context).as_deref(), Ok(wanted), "{template}");
    }
    for template in ["/u/{{ context.v }}", "/u/x-{{ context.v }}", "/u/{{ context.v if true }}/y"] {
        let error = path(template, r#"{"v":null}"#).unwrap_err();
        assert!(error.contains("a value is null"), "{template}: {error}");
    }
}

#[test]
fn a_number_in_an_expression_keeps_its_digits() {
    for (template, wanted) in [
        ("{{ 19.90 }}", "19.90"),
        ("{{ 100.00 }}", "100.00"),
        ("{{ -19.90 }}", "-19.90"),
        ("{{ 1e-400 }}", "1e-400"),
        ("{{ 1E400 }}", "1e+400"),
        ("{{ -1E400 }}", "-1e+400"),
        ("{{ 1_000.50 }}", "1000.50"),
        ("{{ [1.10, {'a': 2.0}] }}", "[1.10,{\"a\":2.0}]"),
        ("{{ body.missing | default(0.50) }}", "0.50"),
        ("{{ 19.90 + 0.10 }}", "20.00"),
    ] {
        assert_eq!(made(template).as_deref(), Ok(wanted), "{template}");
    }
}

#[test]
fn a_sentence_says_why_nothing_can_be_computed() {
    for (template, why) in [
        ("{{ 1 / 0 }}", "a division by zero"),
        ("{{ body.id / 7 }}", "the quotient of numbers of more than 15 digits has no end"),
        ("{{ body.rate * (10 / 3) }}", "meets a quotient or power that was rounded"),
        ("{{ row.amount > 100 }}", "`float` or `int` makes a number of a text"),
        ("{{ 10 ** 100000 }}", "too many digits"),
        ("{{ 'x' | indent(100000000, true) }}", "the template takes too long"),
        ("{{ ('x' * 100) | replace('x', 'y' * 4000) | length }}", "the template takes too long"),
    ] {
        let error = made(template).unwrap_err();
        assert!(error.contains(why), "{template}: {error}");
    }
}

#[test]
fn what_cannot_be_exact_is_an_error() {
    for (template, part) in [
        ("{{ body.id / 7 }}", "body.id / 7"),
        ("{{ body.rate * (10 / 3) }}", "body.rate * (10 / 3"),
        ("{{ body.order ** 0.5 }}", "body.order ** 0.5"),
        ("{{ 10 ** 100000 }}", "10 ** 100000"),
        ("{{ 1 / 0 }}", "1 / 0"),
        ("{{ body.id + 'x' }}", "body.id + 'x'"),
        ("{{ '%f' | format(body.id ~ 'x') }}", "format"),
        ("{{ body.price > '5' }}", "body.price > '5'"),
        ("{{ row.amount > 100 }}", "row.amount > 100"),
        ("{{ 1 < 'a' < 'b' }}", "1 < 'a' < 'b'"),
        ("{{ 'x' | int }}", "int"),
    ] {
        let error = made(template).unwrap_err();
        assert!(error.contains(part) && error.contains("cannot be applied"), "{template}: {error}");
        assert!(!error.contains("12345"), "an error shows no values: {error}");
    }
}

#[test]
fn a_request_carries_every_digit() {
    let request = "      # Straße, für alle\n\
                   \x20     path: \"/orders/{{ context.id }}/{{ context.price }}\"\n\
                   \x20     query: { id: \"{{ context.id }}\", n: 123456789012345678901234567890, d: 1.10 }\n\
                   \x20     headers: { X-Id: \"{{ context.id }}\", X-Price: \"EUR {{ context.price }}\" }\n\
                   \x20     json:\n        id: \"{{ context.id }}\"\n        earlier: \"{{ steps.before.rate }}\"\n\
                   \x20       written: [123456789012345678901234567890, 1.10, 0.12345678901234567890, 5, -3, 1.5]\n";
    let pipeline =
        pipeline(&request.replace("steps.before.rate", "context.rate"), "      v: \"{{ status }}\"");
    let (row, steps) = (BTreeMap::new(), Map::new());
    let context = parsed(
        r#"{"id": 1234567890123456789012345678901234567890, "price": 19.90, "rate": 0.12345678901234567890}"#,
    );
    let here =
        RowContext { values: &RowValues::new(&row, &context), steps: &steps, now: Timestamp::default() };
    let request = pipeline.steps[0].request(&here).unwrap();
    assert_eq!(request.target.path(), "/orders/1234567890123456789012345678901234567890/19.90");
    let pairs: Vec<String> = request.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(
        pairs,
        ["id=1234567890123456789012345678901234567890", "n=123456789012345678901234567890", "d=1.10"]
    );
    let headers: Vec<&str> = request.headers.iter().map(|(_, value)| value.as_str()).collect();
    assert_eq!(headers, ["1234567890123456789012345678901234567890", "EUR 19.90"]);
    assert_eq!(
        String::from_utf8(request.body.unwrap().bytes).unwrap(),
        "{\"earlier\":0.12345678901234567890,\"id\":1234567890123456789012345678901234567890,\
         \"written\":[123456789012345678901234567890,1.10,0.12345678901234567890,5,-3,1.5]}"
    );
}

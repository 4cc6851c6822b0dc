//! What a request looks like: its body of each kind, its key, what is left out of it.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;

use penstock_domain::pipeline::{
    Pipeline, RenderedRequest, ResponseView, RowAbout, RowContext, RowValues, Target,
};
use penstock_domain::time::Timestamp;
use serde_json::{Map, Value, json};
use uuid::Uuid;

fn vars(name: &str) -> Option<String> {
    (name == "TOKEN").then(|| "a&b<c".to_owned())
}

fn load(text: &str) -> Result<Pipeline, String> {
    Pipeline::load("p.yaml", text, &vars)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

/// A pipeline whose second step makes this request; the first one has the output `id`, and can be left out.
fn of_request(request: &str) -> String {
    format!(
        "name: p\ncsv: {{ columns: [ {{ name: a }}, {{ name: amount }}, {{ name: empty }} ] }}\n\
         dependencies: {{ d: {{ base_url: \"https://api.example/v1\", hosts: [\"*.files.example\"] }} }}\n\
         steps:\n\
         \x20 - {{ name: first, dependency: d, request: {{ method: GET, path: /first }}, output: {{ id: \"{{{{ body.id }}}}\", at: \"{{{{ body.at }}}}\" }} }}\n\
         \x20 - name: s\n\
         \x20   dependency: d\n\
         \x20   request:\n{}\n\
         \x20   output: {{ key: \"{{{{ body.x | default(1) }}}}\" }}\n",
        request.lines().map(|line| format!("      {line}")).collect::<Vec<_>>().join("\n")
    )
}

const BATCH: Uuid = Uuid::from_u128(0x0198_c0de);

fn row() -> BTreeMap<String, String> {
    [("a", "ä & <b> \"c\" 'd' =+%\r\ne"), ("amount", "12.50"), ("empty", "")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

fn rendered(request: &str) -> Result<RenderedRequest, String> {
    let pipeline = load(&of_request(request))?;
    let context = json!({ "list": [1, null, "x"], "map": { "b": true, "a": 12345678901234567890123_i128 }, "no": null });
    let steps: Map<String, Value> =
        json!({ "first": { "id": "id 1", "at": "https://up.files.example:8443/jobs/1?token=x" } })
            .as_object()
            .unwrap()
            .clone();
    let about = RowAbout {
        owner: "acme".into(),
        batch: BATCH,
        batch_name: Some("march".into()),
        number: 7,
        keys_of: None,
    };
    let values = RowValues::new(&row(), &context).about(about);
    let here = RowContext { values: &values, steps: &steps, now: Timestamp::from_millis(1_700_000_000_999) };
    pipeline.steps[1].request(&here).map_err(|error| error.to_string())
}

/// The body as it is sent, and its content type.
fn body(request: &str) -> (String, String) {
    let body = rendered(&format!("method: POST\npath: /x\n{request}")).unwrap().body.unwrap();
    (String::from_utf8(body.bytes).unwrap(), body.content_type)
}

#[test]
fn forms_are_encoded_as_browsers_do() {
    for (form, wanted) in [
        ("{ a: \"{{ row.a }}\" }", "a=%C3%A4+%26+%3Cb%3E+%22c%22+%27d%27+%3D%2B%25%0D%0Ae"),
        ("{ z: 1, b: two, a: \"{{ 3 }}\" }", "z=1&b=two&a=3"),
        ("{ m: { b: 1, a: { x: 2 } } }", "m%5Bb%5D=1&m%5Ba%5D%5Bx%5D=2"),
        ("{ l: [1, \"{{ row.amount }}\", x] }", "l=1&l=12.50&l=x"),
        ("{ \"l[]\": [1, 2] }", "l%5B%5D=1&l%5B%5D=2"),
        (
            "{ items: [ { p: 1, q: 2 }, { p: 3 } ] }",
            "items%5B0%5D%5Bp%5D=1&items%5B0%5D%5Bq%5D=2&items%5B1%5D%5Bp%5D=3",
        ),
        (
            "{ n: 12345678901234567890123, d: 19.90, t: true, f: false, x: null }",
            "n=12345678901234567890123&d=19.90&t=true&f=false",
        ),
        (
            "{ l: \"{{ context.list }}\", m: \"{{ context.map }}\" }",
            "l=1&l=x&m%5Ba%5D=12345678901234567890123&m%5Bb%5D=true",
        ),
        (
            "{ a: \"{{ omit }}\", b: \"{{ row.empty or omit }}\", c: \"{{ row.empty }}\", d: \"{{ context.no }}\", e: [\"{{ omit }}\", 1], f: 2 }",
            "c=&e=1&f=2",
        ),
        ("{ e: [], m: {} }", ""),
        ("\"{{ context.map }}\"", "a=12345678901234567890123&b=true"),
        ("{ amount: \"{{ (row.amount | float * 100) | round | int }}\" }", "amount=1250"),
    ] {
        let wanted = (wanted.to_owned(), "application/x-www-form-urlencoded".to_owned());
        assert_eq!(body(&format!("form: {form}")), wanted, "{form}");
    }
}

#[test]
fn texts_and_xml_are_sent_as_they_are_written_with_values_escaped() {
    assert_eq!(body("text: \"{{ row.a }}!\"").0, "ä & <b> \"c\" 'd' =+%\r\ne!");
    // The last line break is sent as well, and so is one around a single expression.
    assert_eq!(body("text: |\n  a {{ row.amount }}\n").0, "a 12.50\n");
    assert_eq!(body("text: \"{{ row.amount }}\\n\"").0, "12.50\n");
    assert_eq!(body("text: \"{{ row.amount }}\"").0, "12.50");
    assert_eq!(body("text: plain").1, "text/plain; charset=utf-8");
    let xml = "xml: |\n  <?xml version=\"1.0\"?>\n  <e a=\"{{ row.a }}\" b='${TOKEN}'>{{ row.a }}{% if row.empty %}no{% endif %}</e>";
    let escaped = "ä &amp; &lt;b&gt; &quot;c&quot; &apos;d&apos; =+%&#13;&#10;e";
    let wanted = format!("<?xml version=\"1.0\"?>\n<e a=\"{escaped}\" b='a&amp;b&lt;c'>{escaped}</e>\n");
    assert_eq!(body(xml), (wanted, "application/xml; charset=utf-8".to_owned()));
    assert_eq!(body("xml: \"<e>${TOKEN}</e>\"").0, "<e>a&amp;b&lt;c</e>", "no expression at all");
    let control = rendered("method: POST\npath: /x\nxml: \"<e>{{ '\\u0001' }}</e>\"").unwrap_err();
    assert!(control.contains("control character"), "{control}");
    let typed = "text: x\ncontent_type: \"text/csv; header={{ row.amount }}\"";
    assert_eq!(body(typed).1, "text/csv; header=12.50");
    assert_eq!(body("json: { a: 1 }\ncontent_type: application/vnd.api+json").1, "application/vnd.api+json");
}

#[test]
fn multipart_is_form_data() {
    let (text, kind) = body(
        "multipart:\n  file: { content: \"{{ row.a }}\", filename: \"r\\\"1\\r\\n.csv\", type: text/csv }\n  note: \"{{ row.amount }}\"\n  tags: [a, \"{{ omit }}\", 2]\n  meta: \"{{ context.map }}\"\n  none: \"{{ context.no }}\"\n  gone: { content: \"{{ omit }}\" }",
    );
    let boundary = kind.strip_prefix("multipart/form-data; boundary=").unwrap();
    let part = |head: &str, content: &str| {
        format!("--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n")
    };
    let wanted = [
        part("name=\"file\"; filename=\"r%221%0D%0A.csv\"\r\nContent-Type: text/csv", &row()["a"]),
        part("name=\"note\"", "12.50"),
        part("name=\"tags\"", "a"),
        part("name=\"tags\"", "2"),
        part("name=\"meta\"\r\nContent-Type: application/json", "{\"a\":12345678901234567890123,\"b\":true}"),
        format!("--{boundary}--\r\n"),
    ];
    assert_eq!(text, wanted.concat());
    assert!(!row()["a"].contains(boundary));
    let (_, kind) = body("multipart: { a: x }\ncontent_type: multipart/related");
    assert!(kind.starts_with("multipart/related; boundary="), "{kind}");
}

#[test]
fn omit_leaves_out_what_it_is_the_value_of() {
    let request = rendered(
        "method: POST\npath: /x\nquery: { a: \"{{ omit }}\", b: \"{{ row.empty or omit }}\", c: \"{{ row.amount }}\" }\n\
         headers: { X-A: \"Bearer {{ row.empty or omit }}\", X-B: \"{% if row.empty %}1{% else %}{{ omit }}{% endif %}\", X-C: \"{{ 1 }}\" }\n\
         json: { a: \"{{ omit }}\", b: [\"{{ row.empty or omit }}\", 1], c: \"{{ [omit, 2] }}\", d: \"{{ {'x': omit, 'y': 3} }}\", e: \"{{ row.amount if row.empty else omit }}\", f: { g: \"{{ omit }}\" } }",
    )
    .unwrap();
    assert_eq!(request.query, [("c".to_owned(), "12.50".to_owned())]);
    assert_eq!(request.headers, [("X-C".to_owned(), "1".to_owned())]);
    assert_eq!(request.body.unwrap().bytes, br#"{"b":[1],"c":[2],"d":{"y":3},"f":{}}"#);
    assert!(rendered("method: POST\npath: /x\njson: \"{{ omit }}\"").unwrap().body.is_none());
    for (request, place) in [
        ("method: GET\npath: \"/x/{{ row.empty or omit }}\"", "path"),
        ("method: GET\nurl: \"{{ row.empty or omit }}\"", "url"),
    ] {
        let error = rendered(request).unwrap_err();
        assert_eq!(error, format!("step `s`, {place}: `omit` cannot stand here, where a value is needed"));
    }
    let computed = rendered("method: GET\npath: /x\nquery: { a: \"{{ omit ~ 'x' }}\" }").unwrap_err();
    assert!(computed.contains("`omit` cannot be computed with"), "{computed}");
}

#[test]
fn a_list_in_a_query_repeats_its_name() {
    let request = rendered(
        "method: GET\npath: /x\nquery: { id: [1, \"{{ row_number }}\", \"{{ omit }}\"], f: { a: b } }",
    );
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(request.unwrap().query, [pair("id", "1"), pair("id", "7"), pair("f[a]", "b")]);
}

#[test]
fn every_template_reads_its_owner_batch_row_and_time() {
    let request = rendered(
        "method: POST\npath: \"/{{ owner.name }}/{{ row_number }}\"\nquery: { b: \"{{ batch.name }}\" }\n\
         headers: { X-B: \"{{ batch.id }}\" }\njson: { at: \"{{ now() }}\", number: \"{{ row_number }}\", later: \"{{ now() + 60 }}\" }",
    )
    .unwrap();
    assert_eq!(request.target, Target::Path("/acme/7".into()));
    assert_eq!(request.query, [("b".to_owned(), "march".to_owned())]);
    assert_eq!(request.headers, [("X-B".to_owned(), BATCH.to_string())]);
    assert_eq!(request.body.unwrap().bytes, br#"{"at":1700000000,"later":1700000060,"number":7}"#);
}

#[test]
fn a_key_is_sent_where_the_definition_says() {
    let own = penstock_domain::outcome::idempotency_key(BATCH, 7, "s");
    let sent = |key: &str| {
        rendered(&format!("method: POST\npath: /x\nheaders: {{ X-K: \"{{{{ idempotency_key }}}}\" }}\n{key}"))
            .unwrap()
    };
    let request = sent("idempotency_key: true");
    assert_eq!(request.headers[0].1, own, "it can be read");
    assert_eq!(request.headers[1], ("Idempotency-Key".to_owned(), own.clone()));
    let request = sent("idempotency_key: { header: X-Request-Id }");
    assert_eq!(request.headers[1], ("X-Request-Id".to_owned(), own.clone()));
    let request =
        sent("idempotency_key: { query: request_id, value: \"r-{{ row.amount }}\" }\nquery: { a: 1 }");
    assert_eq!(request.headers[0].1, "r-12.50");
    assert_eq!(request.query[1], ("request_id".to_owned(), "r-12.50".to_owned()));
    let request = sent("idempotency_key: { value: \"{{ steps.first.id }}\" }");
    assert_eq!(request.headers[1], ("Idempotency-Key".to_owned(), "id 1".to_owned()));
    let bytes = |key: &str| String::from_utf8(sent(key).body.unwrap().bytes).unwrap();
    assert_eq!(
        bytes("idempotency_key: { json: ref }\njson: { b: 1 }"),
        format!("{{\"b\":1,\"ref\":\"{own}\"}}")
    );
    assert_eq!(
        bytes("idempotency_key: { json: ref, value: \"{{ row_number }}\" }\nform: { b: 1 }"),
        "b=1&ref=7"
    );
    let no_object =
        rendered("method: POST\npath: /x\njson: \"{{ context.list }}\"\nidempotency_key: { json: k }")
            .unwrap_err();
    assert!(no_object.contains("the body is no object"), "{no_object}");
    let empty =
        rendered("method: POST\npath: /x\nidempotency_key: { value: \"{{ row.empty }}\" }").unwrap_err();
    assert!(empty.contains("it is empty"), "{empty}");
    let pipeline = load(&of_request("method: POST\npath: /x\nidempotency_key: false")).unwrap();
    assert!(!pipeline.steps[1].keyed);
}

#[test]
fn a_key_is_readable_in_the_output_of_a_keyed_step() {
    let text = of_request("method: POST\npath: /x\nidempotency_key: true")
        .replace("{{ body.x | default(1) }}", "{{ idempotency_key }}");
    let pipeline = load(&text).unwrap();
    let values =
        RowValues::new(&row(), &json!({})).about(RowAbout { batch: BATCH, number: 7, ..RowAbout::default() });
    let (steps, headers) = (Map::new(), BTreeMap::new());
    let here = RowContext { values: &values, steps: &steps, now: Timestamp::default() };
    let answer = ResponseView { status: 200, headers: &headers, body: &Value::Null };
    let output = pipeline.steps[1].output(&here, answer).unwrap();
    assert_eq!(output["key"], penstock_domain::outcome::idempotency_key(BATCH, 7, "s"));
}

#[test]
fn a_url_is_the_dependencys_own_or_one_of_its_hosts() {
    let request = rendered("method: GET\nurl: \"{{ steps.first.at }}\"\nquery: { a: 1 }").unwrap();
    let Target::Url(url) = &request.target else { panic!("{request:?}") };
    assert_eq!(url.as_str(), "https://up.files.example:8443/jobs/1?token=x");
    let pipeline = load(&of_request("method: GET\npath: /x")).unwrap();
    assert!(pipeline.dependencies[0].admits(url));
    let request = rendered("method: GET\nurl: \"https://user@api.example/{{ row.amount }}\"").unwrap();
    assert_eq!(request.target, Target::Forbidden("it names a user"));
}

#[test]
fn mistakes_in_a_request_are_found_when_it_is_loaded() {
    for (request, wanted) in [
        (
            "method: POST\npath: /x\njson: { a: 1 }\nform: { a: 1 }",
            "a request has one body; `json` and `form` are two",
        ),
        ("method: GET\npath: /x\nform: { a: 1 }", "a GET request has no body"),
        ("method: HEAD\npath: /x\ntext: a", "a HEAD request has no body"),
        ("method: POST\npath: /x\nform: [1]", "`form` is a map of names and values"),
        (
            "method: POST\npath: /x\ncontent_type: a/b",
            "`content_type` is that of a body, and the request has none",
        ),
        (
            "method: POST\npath: /x\ntext: a\ncontent_type: a/b\nheaders: { content-type: c/d }",
            "sends the header `Content-Type`",
        ),
        (
            "method: POST\npath: /x\nmultipart: { f: { content: a, name: b } }",
            "multipart `f`: unknown key `name`",
        ),
        ("method: POST\npath: /x\nmultipart: { f: { filename: a } }", "a part that is a file has `content`"),
        ("method: POST\npath: /x\nmultipart: { f: a }\ncontent_type: text/plain", "begins with `multipart/`"),
        ("method: POST", "`request` has no `path`"),
        ("method: POST\npath: /x\nurl: \"{{ steps.first.at }}\"", "`path` and `url` both say"),
        ("method: POST\nurl: https://api.example/x", "`url` is for an address that an earlier answer gave"),
        ("method: POST\npath: /x\nidempotency_key: { header: X-A, query: b }", "is sent in one place"),
        (
            "method: POST\npath: /x\nidempotency_key: { header: X-A }\nheaders: { x-a: b }",
            "`idempotency_key` sends this header",
        ),
        (
            "method: POST\npath: /x\nidempotency_key: { query: k }\nquery: { k: b }",
            "sends this pair of the query",
        ),
        (
            "method: POST\npath: /x\nidempotency_key: { json: k }",
            "needs a body of `json`, `form` or `multipart`",
        ),
        ("method: POST\npath: /x\nidempotency_key: { json: k }\njson: [1]", "the body is no map"),
        (
            "method: POST\npath: /x\nidempotency_key: { json: k }\njson: { k: 1 }",
            "is sent as this field of the body",
        ),
        ("method: POST\npath: /x\nidempotency_key: { value: \"{{ now() }}\" }", "the same for each attempt"),
        ("method: POST\npath: /x\nidempotency_key: { value: fixed }", "would be the same for each row"),
        (
            "method: POST\npath: /x\nidempotency_key: { body: k }",
            "unknown key `body`; there are: header, query, json, value",
        ),
        ("method: POST\npath: /x\nidempotency_key: 7", "true, or a place such as"),
        (
            "method: POST\npath: /x\njson: { a: \"{{ idempotency_key }}\" }",
            "`idempotency_key` is known only in a step whose request says",
        ),
        ("method: POST\npath: /x\nxml: \"<a>{{ row.b }}</a>\"", "unknown column `b`"),
        ("method: POST\npath: /x\nform: { a: { b: [\"{{ row.b }}\"] } }", "unknown column `b`"),
        (
            "method: POST\npath: /x\njson: { a: \"{{ owner.nam }}\", b: \"{{ batch.nr }}\" }",
            "`owner` has no `nam`; did you mean `name`?",
        ),
        ("method: POST\npath: /x\njson: { a: \"{{ now(1) }}\" }", "function `now` in a template"),
    ] {
        let error = load(&of_request(request)).map(|_| request.to_owned()).unwrap_err();
        assert!(error.contains(wanted), "{request}:\n{error}");
    }
    for (timeout, is_good) in [("1ms", true), ("10m", true), ("601s", false), ("0s", false)] {
        let text = of_request("method: GET\npath: /x")
            .replace("    output: { key", &format!("    timeout: {timeout}\n    output: {{ key"));
        assert_eq!(load(&text).is_ok(), is_good, "{timeout}: {:?}", load(&text).map(|_| ()));
    }
}

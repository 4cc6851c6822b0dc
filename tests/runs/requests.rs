//! What leaves: bodies of each kind to the byte, keys, addresses that an answer gave, steps that are not called; and what comes
//! back as XML.

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::receiver::{Answer, Heard, Receiver};
use penstock_tests::{Client, Place};

const ROUTE: &str = "/v2/pipelines/requests/batches";

const PIPELINE: &str = r#"
name: requests
csv: { columns: [ { name: id, required: true }, { name: note }, { name: amount, format: decimal } ] }
dependencies: { api: { base_url: "${INVITE_API_URL}/v1", timeout: 5s } }
retry: { attempts: 1 }
dispatch: { spread: 0s }
steps:
  - name: find
    dependency: api
    request:
      method: POST
      path: /find
      query: { $filter: "note eq '{{ row.note }}'" }
      idempotent: true
      headers: { X-Campaign: "{{ context.campaign }}" }
      content_type: text/xml; charset=utf-8
      xml: |
        <?xml version="1.0"?>
        <find note="{{ row.note }}"><id>{{ row.id }}</id></find>
    response: { as: xml, max_bytes: 4096 }
    output: { person: "{{ body.found.person | default(none) }}" }
  - name: create
    dependency: api
    when: "{{ steps.find.person is none }}"
    otherwise: { id: "{{ steps.find.person }}", at: "${INVITE_API_URL}/files/known?of={{ row.id }}" }
    request:
      method: POST
      path: /create
      idempotency_key: { header: X-Request-Id, value: "{{ batch.name }}-{{ row.id }}" }
      form:
        note: "{{ row.note }}"
        cents: "{{ (row.amount | float * 100) | round | int }}"
        by: { owner: "{{ owner.name }}", row: "{{ row_number }}", key: "{{ idempotency_key }}" }
        tags: ["{{ context.campaign }}", "{{ omit }}", last]
        empty: "{{ row.id if row.id == 'none' else omit }}"
    output: { id: "{{ body.id }}", at: "{{ headers.location }}" }
  - name: upload
    dependency: api
    timeout: 3s
    request:
      method: PUT
      url: "{{ steps.create.at }}"
      multipart: { file: { content: "{{ row.note }}", filename: "{{ row.id }}.txt", type: text/plain }, id: "{{ steps.create.id }}" }
result: { person: "{{ steps.create.id }}" }
"#;

fn answer(heard: &Heard, url: &str) -> Answer {
    let is_row = |id: &str| heard.body.contains(&format!("<id>{id}</id>"));
    match heard.path.split('?').next().unwrap_or_default() {
        "/v1/find" => Answer {
            status: 200,
            headers: "content-type: text/xml; charset=ISO-8859-1\r\n".into(),
            body: if is_row("2") {
                "<n:found xmlns:n='u'><n:person>p2</n:person></n:found>"
            } else {
                "<found/>"
            }
            .into(),
        },
        "/v1/create" => {
            let id = heard.header("x-request-id").rsplit('-').next().unwrap_or_default().to_owned();
            let elsewhere = id == "3";
            let at = if elsewhere { "http://127.0.0.1:1/x".to_owned() } else { format!("{url}/files/{id}") };
            Answer {
                headers: format!("location: {at}\r\n"),
                ..Answer::json(format!("{{\"id\": \"new{id}\"}}"))
            }
        }
        _ => Answer { status: 204, headers: String::new(), body: String::new() },
    }
}

#[tokio::test]
async fn requests_leave_as_they_are_written_and_steps_are_skipped() {
    let receiver = Receiver::start().await;
    let url = receiver.url.clone();
    receiver.answer_with(move |heard| answer(heard, &url));
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("requests.yaml", PIPELINE)]);
    place.set("INVITE_API_URL", receiver.url.clone());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let csv = "id,note,amount\n1,a&b <c>,19.99\n2,known,1\n3,elsewhere,1.10\n".to_owned();
    let (status, problem) = client.upload(ROUTE, csv.clone()).await.expect("an answer");
    assert_eq!((status, problem["code"].as_str()), (422, Some("missing_context")), "{problem}");
    let route = format!("{ROUTE}?name=march&context=%7B%22campaign%22%3A%22x%20y%22%7D");
    let (status, batch) = client.upload(&route, csv).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id").to_owned();
    client.finished(&id).await;

    let heard = receiver.heard();
    let of = |path: &str| heard.iter().filter(|one| one.path.starts_with(path)).collect::<Vec<_>>();
    let find = of("/v1/find").into_iter().find(|find| find.body.contains("<id>1</id>")).expect("row 1");
    assert_eq!(
        find.path, "/v1/find?%24filter=note%20eq%20%27a%26b%20%3Cc%3E%27",
        "a space of a query is no plus"
    );
    assert_eq!(find.header("content-type"), "text/xml; charset=utf-8");
    assert_eq!(find.body, "<?xml version=\"1.0\"?>\n<find note=\"a&amp;b &lt;c&gt;\"><id>1</id></find>\n");
    let creates = of("/v1/create");
    assert_eq!(creates.len(), 2, "row 2 is known");
    let create = creates.iter().find(|create| create.header("x-request-id") == "march-1").expect("row 1");
    assert_eq!(create.header("content-type"), "application/x-www-form-urlencoded");
    assert_eq!(create.header("idempotency-key"), "", "the key goes under another name");
    assert_eq!(
        create.body,
        "note=a%26b+%3Cc%3E&cents=1999&by%5Bowner%5D=acme&by%5Brow%5D=1&by%5Bkey%5D=march-1&tags=x+y&tags=last"
    );
    let uploads = of("/files");
    let mut paths: Vec<&str> = uploads.iter().map(|upload| upload.path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/files/1", "/files/known?of=2"], "nobody is called elsewhere");
    let upload = uploads.iter().find(|upload| upload.path == "/files/1").expect("row 1");
    let boundary =
        upload.header("content-type").strip_prefix("multipart/form-data; boundary=").expect("a boundary");
    let part = |head: &str, content: &str| {
        format!("--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n")
    };
    let file = part("name=\"file\"; filename=\"1.txt\"\r\nContent-Type: text/plain", "a&b <c>");
    assert_eq!(upload.body, format!("{file}{}--{boundary}--\r\n", part("name=\"id\"", "new1")));

    let results = client.text(&format!("/v2/batches/{id}/results.ndjson")).await;
    for person in ["new1", "p2"] {
        assert!(results.contains(&format!("\"result\":{{\"person\":\"{person}\"}}")), "{results}");
    }
    let row = client.get(&format!("/v2/batches/{id}/rows/3")).await;
    assert_eq!(row["error"]["code"], "forbidden_url", "{row}");
    assert!(!row["error"]["message"].to_string().contains("127.0.0.1:1"), "{row}");
}

//! Values arrive as they were: from a file and an upload's context to the API, and from its answers to the client.

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::receiver::{Answer, Receiver};
use penstock_tests::{Client, Place, Service};
use serde_json::json;

/// A place whose pipeline `values` calls the receiver, and its client.
struct Scene {
    receiver: Receiver,
    place: Place,
    service: Service,
    client: Client,
    _sandbox: Sandbox,
}

impl Scene {
    async fn of(pipeline: &str) -> Self {
        let receiver = Receiver::start().await;
        let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
        let mut place = Place::new(&[("values.yaml", pipeline)]);
        place.set("INVITE_API_URL", receiver.url.clone());
        let key = place.key(&sandbox, "acme");
        let service = place.start(&sandbox, None);
        let client = Client::new(&service, &key);
        Self { receiver, place, service, client, _sandbox: sandbox }
    }

    /// Uploads a file and waits for its end; the batch's path.
    async fn run(&self, query: &str, csv: &str) -> String {
        let (status, batch) =
            self.client.upload(&format!("{ROUTE}{query}"), csv.to_owned()).await.expect("an answer");
        assert_eq!(status, 202, "{batch}");
        let id = batch["id"].as_str().expect("an id").to_owned();
        self.client.finished(&id).await;
        format!("/v2/batches/{id}")
    }
}

const ROUTE: &str = "/v2/pipelines/values/batches";

const HEAD: &str = "name: values\ncsv: { columns: [ { name: id, required: true }, { name: note } ] }\n\
    dependencies: { api: { base_url: \"${INVITE_API_URL}\", timeout: 8s } }\n\
    retry: { attempts: 1 }\ndispatch: { spread: 0s }\n";

#[tokio::test]
async fn numbers_keep_every_digit() {
    let pipeline = format!(
        "{HEAD}steps:\n\
         \x20 - name: find\n    dependency: api\n    request:\n      method: GET\n      path: /find/{{{{ row.id }}}}\n\
         \x20   output: {{ id: \"{{{{ body.id }}}}\", price: \"{{{{ body.price }}}}\", more: \"{{{{ body.more }}}}\" }}\n\
         \x20 - name: book\n    dependency: api\n    request:\n      method: POST\n\
         \x20     path: \"/book/{{{{ steps.find.id }}}}/{{{{ context.number }}}}\"\n\
         \x20     query: {{ id: \"{{{{ steps.find.id }}}}\", price: \"{{{{ steps.find.price }}}}\" }}\n\
         \x20     headers: {{ X-Id: \"{{{{ steps.find.id }}}}\" }}\n\
         \x20     json: {{ id: \"{{{{ steps.find.id }}}}\", price: \"{{{{ steps.find.price }}}}\", cents: \"{{{{ (steps.find.price * 100) | int }}}}\", number: \"{{{{ context.number }}}}\" }}\n\
         \x20   output: {{ tiny: \"{{{{ body.tiny }}}}\" }}\n\
         result: {{ found: \"{{{{ steps.find.id }}}}\", more: \"{{{{ steps.find.more }}}}\", tiny: \"{{{{ steps.book.tiny }}}}\", next: \"{{{{ steps.find.id + 1 }}}}\" }}\n"
    )
    .replace("path: /find/{{ row.id }}", "path: \"/find/{{ row.id }}\"");
    let scene = Scene::of(&pipeline).await;
    scene.receiver.answer_with(|heard| {
        Answer::json(if heard.path.starts_with("/find") {
            r#"{"id": 12345678901234567891, "price": 0.12345678901234567890, "more": [19.90, 123456789012345678901234567890123456789012]}"#
        } else {
            r#"{"tiny": -1.5e-9}"#
        })
    });
    let batch = scene
        .run("?context=%7B%22number%22%3A98765432109876543210.50%7D", "id\n12345678901234567891\n")
        .await;
    let heard = scene.receiver.until(|heard| heard.path.starts_with("/book")).await;
    assert_eq!(
        heard.path,
        "/book/12345678901234567891/98765432109876543210.50?id=12345678901234567891&price=0.12345678901234567890"
    );
    assert_eq!(heard.header("x-id"), "12345678901234567891");
    assert_eq!(
        heard.body,
        r#"{"cents":12,"id":12345678901234567891,"number":98765432109876543210.50,"price":0.12345678901234567890}"#
    );
    let result = r#""result":{"found":12345678901234567891,"more":[19.90,123456789012345678901234567890123456789012],"next":12345678901234567892,"tiny":-1.5e-9}"#;
    let row = scene.client.text(&format!("{batch}/rows/1")).await;
    assert!(row.contains(result), "{row}");
    let lines = scene.client.text(&format!("{batch}/results.ndjson")).await;
    assert!(lines.contains(result), "{lines}");
    let csv = scene.client.text(&format!("{batch}/results.csv")).await;
    assert_eq!(
        csv.lines().nth(1),
        Some(
            "12345678901234567891,1,completed,12345678901234567891,\"[19.90,123456789012345678901234567890123456789012]\",-1.5e-9,12345678901234567892,,"
        ),
        "{csv}"
    );
}

/// Two contexts that differ beyond what 64 bits hold are two contents; so are two spellings of a number, because it is the
/// spelling that reaches the API.
#[tokio::test]
async fn an_idempotency_key_tells_numbers_apart() {
    let scene = Scene::of(&format!("{HEAD}steps: []\n")).await;
    let upload = async |context: &str| {
        let form = format!(
            "--b\r\ncontent-disposition: form-data; name=\"context\"\r\n\r\n{context}\r\n\
             --b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.csv\"\r\n\r\nid\n1\n\r\n--b--\r\n"
        );
        let request = scene.client.request("POST", ROUTE).header("idempotency-key", "k1");
        let request = request.header("content-type", "multipart/form-data; boundary=b").body(form);
        request.send().await.expect("an answer").status().as_u16()
    };
    assert_eq!(upload(r#"{"n": 12345678901234567890}"#).await, 202);
    assert_eq!(upload(r#"{"n": 12345678901234567890}"#).await, 202);
    assert_eq!(upload(r#"{"n":12345678901234567890}"#).await, 202, "white space is none of it");
    assert_eq!(upload(r#"{"n": 12345678901234567891}"#).await, 422);
    assert_eq!(upload(r#"{"n": 12345678901234567890.0}"#).await, 422);
    let batches = scene.client.get("/v2/batches").await;
    assert_eq!(batches["data"].as_array().map(Vec::len), Some(1), "{batches}");
    drop((scene.service, scene.place));
}

#[tokio::test]
async fn a_value_never_leads_to_another_path() {
    let scene = Scene::of(&format!(
        "{HEAD}steps: [ {{ name: remove, dependency: api, request: {{ method: DELETE, path: \"/people/{{{{ row.note }}}}\" }} }} ]\n"
    ))
    .await;
    let batch = scene.run("", "id,note\n1,..\n2,.\n3,\n4,a/b\n5,x\n").await;
    let mut paths: Vec<String> = scene.receiver.heard().into_iter().map(|heard| heard.path).collect();
    paths.sort();
    assert_eq!(paths, ["/people/a%2Fb", "/people/x"]);
    let rows = scene.client.get(&format!("{batch}/rows?code=template_error")).await;
    let messages: Vec<&str> = rows["data"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|row| row["error"]["message"].as_str())
        .collect();
    assert_eq!(messages.len(), 3, "{rows}");
    assert!(messages[0].contains("`.` or `..`") && messages[2].contains("is empty"), "{messages:?}");
    assert_eq!(rows["data"][0]["number"], json!(1));
}

/// Forms as clients write them: none loses a row, or is taken for what it is not.
#[tokio::test]
async fn forms_of_all_kinds_keep_every_row() {
    let scene = Scene::of(&format!("{HEAD}steps: []\n")).await;
    let send = async |content_type: &str, body: Vec<u8>| {
        let request = scene.client.request("POST", ROUTE).header("content-type", content_type).body(body);
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.json::<serde_json::Value>().await.expect("JSON"))
    };
    let rows = "id\n1\n2\n3\n";
    let plain = "multipart/form-data; boundary=b";
    let part = |head: &str, content: &str| {
        format!("--b\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n")
    };
    let file = part("name=\"file\"; filename=\"a.csv\"", rows);
    let with = |more: &str| part(&format!("name=\"file\"; filename=\"a.csv\"\r\n{more}"), rows);
    let taken: [(&str, Vec<u8>); 18] = [
        (plain, format!("{file}--b--\r\n").into()),
        (plain, format!("{}--b--\r\n", with("Content-Length: 5")).into()),
        (plain, format!("{}--b--\r\n", with("Content-Length: 5000")).into()),
        (plain, format!("{}--b--\r\n", with("Content-Type: text/csv; charset=us-ascii")).into()),
        (plain, format!("{}--b--\r\n", with("Content-Transfer-Encoding: 8bit")).into()),
        (plain, format!("{file}--b--").into()),
        (plain, format!("preamble\r\n{file}--b--\r\nepilogue\r\n--b\r\n").into()),
        (plain, format!("{}--b-- \r\n", file.replacen("--b\r\n", "--b \t\r\n", 1)).into()),
        (plain, format!("{file}--b--\r\n").replace("\r\n", "\n").into()),
        (plain, format!("{}--b--\r\n", part("name=file", rows)).into()),
        (plain, format!("{}--b--\r\n", part("name=\"file\"; filename*=iso-8859-1''M%E4rz.csv", rows)).into()),
        (
            plain,
            [
                b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"M\xe4rz.csv\"\r\n\r\n",
                rows.as_bytes(),
                b"\r\n--b--\r\n",
            ]
            .concat(),
        ),
        (plain, format!("{}{file}--b--\r\n", part("name=\"_charset_\"", "utf-8")).into()),
        (
            plain,
            format!(
                "{}{file}--b--\r\n",
                part("name=\"name\"\r\nContent-Type: text/plain; charset=ISO-8859-1", "x")
            )
            .into(),
        ),
        ("multipart/form-data; boundary=\"b\"", format!("{file}--b--\r\n").into()),
        ("multipart/form-data; charset=UTF-8; boundary=\"b\"", format!("{file}--b--\r\n").into()),
        (
            "multipart/form-data; boundary=----=_Part_1.2",
            format!("{file}--b--\r\n").replace("--b", "------=_Part_1.2").into(),
        ),
        (
            plain,
            format!("{}--b--\r\n", part("name=\"file\"", "id,note\r\n1,--b\r\n2,\"x\r\n--bc\"\r\n3,--\r\n"))
                .into(),
        ),
    ];
    for (content_type, body) in taken {
        let shown = String::from_utf8_lossy(&body).into_owned();
        let (status, batch) = send(content_type, body).await;
        assert_eq!(status, 202, "{shown}: {batch}");
        let ended = scene.client.finished(batch["id"].as_str().expect("an id")).await;
        assert_eq!(ended["counts"]["completed"], 3, "{shown}: {ended}");
    }
    let latin1 = [b"--b\r\nContent-Disposition: form-data; name=\"name\"\r\nContent-Type: text/plain; charset=ISO-8859-1\r\n\r\nM\xe4rz\r\n", file.as_bytes(), b"--b--"];
    assert_eq!(send(plain, latin1.concat()).await.1["name"], "M\u{e4}rz");
    for (body, status, code) in [
        (file.clone(), 400, "bad_multipart"),
        (format!("{file}--b-"), 400, "bad_multipart"),
        (format!("{file}--b x\r\n"), 400, "bad_multipart"),
        (format!("--b x\r\n{file}--b--"), 400, "bad_multipart"),
        (format!("{file}{file}--b--"), 400, "two_files"),
        (format!("{file}{}--b--", part("name=\"name\"", "x").repeat(2)), 400, "bad_field"),
        (format!("{}--b--", with("Content-Type: text/csv; charset=utf-16")), 415, "unsupported_encoding"),
        (format!("{}--b--", with("Content-Transfer-Encoding: base64")), 415, "unsupported_encoding"),
        (format!("{}{file}--b--", part("name=\"_charset_\"", "utf-16")), 415, "unsupported_encoding"),
        ("--b--\r\n".to_owned(), 400, "no_file"),
    ] {
        let (got, problem) = send(plain, body.clone().into_bytes()).await;
        assert_eq!((got, &problem["code"]), (status, &json!(code)), "{body}: {problem}");
    }
    let batches = scene.client.get("/v2/batches?limit=100").await;
    assert_eq!(batches["data"].as_array().map(Vec::len), Some(19), "a refused form makes no batch");
}

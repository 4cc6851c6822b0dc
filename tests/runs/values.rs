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

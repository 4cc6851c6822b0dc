//! Values arrive as they were: from a file and an upload's context to the API, and from its answers to the client.

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::receiver::{Answer, Receiver};
use penstock_tests::{Client, Place, Service};
use serde_json::json;

/// A place whose pipeline `values` calls the receiver, and its client.
pub(crate) struct Scene {
    pub(crate) receiver: Receiver,
    pub(crate) place: Place,
    pub(crate) service: Service,
    pub(crate) client: Client,
    pub(crate) sandbox: Sandbox,
}

impl Scene {
    pub(crate) async fn of(pipeline: &str) -> Self {
        let receiver = Receiver::start().await;
        let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
        let mut place = Place::new(&[("values.yaml", pipeline)]);
        place.set("INVITE_API_URL", receiver.url.clone());
        let key = place.key(&sandbox, "acme");
        let service = place.start(&sandbox, None);
        let client = Client::new(&service, &key);
        Self { receiver, place, service, client, sandbox }
    }

    /// The same place after its definition was edited and the service restarted.
    pub(crate) async fn under(self, pipeline: &str) -> Self {
        let Self { receiver, place, service, client, sandbox } = self;
        drop((service, client));
        place.write("pipelines/values.yaml", pipeline);
        let service = place.start(&sandbox, None);
        let client = Client::new(&service, &place.key(&sandbox, "acme"));
        Self { receiver, place, service, client, sandbox }
    }

    /// Uploads a file and waits for its end; the batch's path.
    pub(crate) async fn run(&self, query: &str, csv: &str) -> String {
        let (status, batch) =
            self.client.upload(&format!("{ROUTE}{query}"), csv.to_owned()).await.expect("an answer");
        assert_eq!(status, 202, "{batch}");
        let id = batch["id"].as_str().expect("an id").to_owned();
        self.client.finished(&id).await;
        format!("/v2/batches/{id}")
    }
}

pub(crate) const ROUTE: &str = "/v2/pipelines/values/batches";

pub(crate) const HEAD: &str = "name: values\ncsv: { columns: [ { name: id, required: true }, { name: note } ] }\n\
    dependencies: { api: { base_url: \"${INVITE_API_URL}\", timeout: 8s } }\n\
    retry: { attempts: 1 }\ndispatch: { spread: 0s }\n";

#[tokio::test]
async fn numbers_keep_every_digit() {
    let pipeline = format!(
        "{HEAD}steps:\n\
         \x20 - name: find\n    dependency: api\n    request:\n      method: GET\n      path: /find/{{{{ row.id }}}}\n\
         \x20   output: {{ id: \"{{{{ body.id }}}}\", price: \"{{{{ body.price }}}}\", more: \"{{{{ body.more }}}}\" }}\n\
         \x20 - name: order\n    dependency: api\n    request:\n      method: POST\n\
         \x20     path: \"/orders/{{{{ steps.find.id }}}}/{{{{ context.number }}}}\"\n\
         \x20     query: {{ id: \"{{{{ steps.find.id }}}}\", price: \"{{{{ steps.find.price }}}}\" }}\n\
         \x20     headers: {{ X-Id: \"{{{{ steps.find.id }}}}\" }}\n\
         \x20     json: {{ id: \"{{{{ steps.find.id }}}}\", price: \"{{{{ steps.find.price }}}}\", cents: \"{{{{ (steps.find.price * 100) | int }}}}\", number: \"{{{{ context.number }}}}\" }}\n\
         \x20   output: {{ tiny: \"{{{{ body.tiny }}}}\" }}\n\
         result: {{ found: \"{{{{ steps.find.id }}}}\", more: \"{{{{ steps.find.more }}}}\", tiny: \"{{{{ steps.order.tiny }}}}\", next: \"{{{{ steps.find.id + 1 }}}}\" }}\n"
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
    let heard = scene.receiver.until(|heard| heard.path.starts_with("/orders")).await;
    assert_eq!(
        heard.path,
        "/orders/12345678901234567891/98765432109876543210.50?id=12345678901234567891&price=0.12345678901234567890"
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
    let line = "12345678901234567891,1,completed,12345678901234567891,\"[19.90,123456789012345678901234567890123456789012]\",-1.5e-9,12345678901234567892,,,r";
    assert!(csv.lines().nth(1).is_some_and(|written| written.starts_with(line)), "{csv}");
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

/// JSON that serde_json would parse anew, each level with a stack of its own.
fn nested_in_strings() -> String {
    (0..10).fold("1".to_owned(), |inner, _| {
        let escaped = inner.replace('\\', "\\u005c").replace('"', "\\u0022");
        let (open, close) = ("[".repeat(120), "]".repeat(120));
        format!("{open}{{\"$serde_json::private::RawValue\":\"{escaped}\"}}{close}")
    })
}

#[tokio::test]
async fn json_of_strangers_is_bounded_and_what_is_accepted_can_be_read_back() {
    let scene = Scene::of(&format!(
        "{HEAD}steps: [ {{ name: get, dependency: api, request: {{ method: GET, path: \"/{{{{ row.id }}}}\" }}, \
         output: {{ v: \"{{{{ body.v }}}}\" }} }} ]\n\
         result: {{ v: {{ w: [ \"{{{{ steps.get.v }}}}\" ] }}, c: \"{{{{ context.n }}}}\" }}\n"
    ))
    .await;
    let deep = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    let refused = async |context: &str, why: &str| {
        let request = scene.client.request("POST", ROUTE).query(&[("context", context)]);
        let answer =
            request.header("content-type", "text/csv").body("id\n1\n").send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 422);
        let text = answer.text().await.expect("a text");
        assert!(text.contains(why), "{text}");
    };
    refused(r#"{"n":{"$serde_json::private::Number":"5"}}"#, "is not accepted").await;
    refused(r#"{"n":{"\u0024serde_json::private::RawValue":"[1]"}}"#, "is not accepted").await;
    refused(&format!("{{\"n\":{}}}", deep(64)), "more than 64 levels deep").await;
    let json = format!("{{\"upload_id\":null,\"context\":{{\"n\":{}}}}}", nested_in_strings());
    let request = scene.client.request("POST", ROUTE).header("content-type", "application/json").body(json);
    assert_eq!(request.send().await.expect("an answer").status().as_u16(), 400);
    let nested = nested_in_strings();
    scene.receiver.answer_with(move |heard| {
        Answer::json(match heard.path.as_str() {
            "/1" => format!("{{\"v\":{}}}", deep(63)),
            "/2" => format!("{{\"v\":{nested}}}"),
            "/3" => format!("{{\"v\":{}}}", deep(64)),
            _ => r#"{"v":{"$serde_json::private::Number":"5"}}"#.to_owned(),
        })
    });
    let canary = "%7B%22rows%22%3A20%2C%22max_failure%22%3A0.1%7D";
    let context = "%7B%22n%22%3A%5B%5B7%5D%5D%7D";
    let batch = scene.run(&format!("?context={context}&canary={canary}"), "id\n1\n2\n3\n4\n").await;
    let row = scene.client.text(&format!("{batch}/rows/1")).await;
    assert!(row.contains(&format!("\"result\":{{\"c\":[[7]],\"v\":{{\"w\":[{}]}}}}", deep(63))), "{row}");
    for (row, why) in
        [(2, "more than 64 levels deep"), (3, "more than 64 levels deep"), (4, "is not accepted")]
    {
        let row = scene.client.get(&format!("{batch}/rows/{row}")).await;
        assert_eq!(row["status"], "failed", "{row}");
        assert!(row["error"]["message"].as_str().is_some_and(|message| message.contains(why)), "{row}");
    }
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

/// A success that `output` cannot read had its effect: its answer is kept, and a retry reads it and calls nobody. What is
/// harmless to ask again is asked again. A typo in `result` calls nobody again either.
#[tokio::test]
async fn a_success_that_cannot_be_read_is_not_asked_for_again() {
    let pipeline = |create: &str, find: &str, result: &str| {
        format!(
            "{HEAD}steps:\n\
             \x20 - {{ name: mail, dependency: api, request: {{ method: POST, path: /mail, json: {{ id: \"{{{{ row.id }}}}\" }} }}, output: {{ id: \"{{{{ body.{create} }}}}\" }} }}\n\
             \x20 - {{ name: find, dependency: api, request: {{ method: GET, path: /find }}, output: {{ n: \"{{{{ body.{find} }}}}\" }} }}\n\
             result: {{ mail: \"{{{{ steps.mail.id }}}}\", n: \"{{{{ steps.find.n }}}}\", more: \"{{{{ {result} }}}}\" }}\n"
        )
    };
    let scene = Scene::of(&pipeline("uid", "n", "1")).await;
    let late = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    scene.receiver.answer_with({
        let late = late.clone();
        move |heard| {
            Answer::json(match heard.path.as_str() {
                "/mail" => r#"{"id": 12345678901234567891.50}"#,
                _ if late.load(std::sync::atomic::Ordering::SeqCst) => r#"{"n": 2}"#,
                _ => "{}",
            })
        }
    });
    let calls = |path: &str| scene.receiver.heard().iter().filter(|heard| heard.path == path).count();
    let batch = scene.run("", "id\n1\n2\n").await;
    let id = batch.rsplit('/').next().expect("an id");
    let retried = async || {
        let (status, answer) = scene.client.post(&format!("{batch}/retry"), &json!({})).await;
        assert_eq!((status, &answer["retried"]), (200, &json!(2)), "{answer}");
        scene.client.finished(id).await
    };
    let error = scene.client.get(&format!("{batch}/rows/1")).await["error"].clone();
    assert_eq!((&error["code"], &error["step"]), (&json!("bad_response"), &json!("mail")), "{error}");
    assert_eq!(calls("/mail"), 2);
    assert_eq!(retried().await["counts"]["failed"], 2, "the typo is still there");
    assert_eq!(calls("/mail"), 2, "and nobody gets a second mail");
    let error = scene.client.get(&format!("{batch}/rows/1")).await["error"].clone();
    assert!(error["message"].as_str().is_some_and(|text| text.contains("`body.uid`")), "{error}");
    assert_eq!(error["attempts"].as_array().map(Vec::len), Some(2), "{error}");
    let rest = scene.client.text(&format!("{batch}/unprocessed.csv")).await;
    assert_eq!(rest.lines().count(), 3, "{rest}");
    // Corrected, and retried under today's definition: the kept answers are read, digit by digit.
    let scene = scene.under(&pipeline("id", "n", "steps.mail.id.x")).await;
    let ask = async |body: serde_json::Value| scene.client.post(&format!("{batch}/retry"), &body).await;
    let (status, problem) = ask(json!({ "definition": "today" })).await;
    assert_eq!((status, &problem["code"]), (400, &json!("bad_selection")), "{problem}");
    let (status, answer) = ask(json!({ "definition": "current" })).await;
    assert_eq!((status, &answer["retried"]), (200, &json!(2)), "{answer}");
    scene.client.finished(id).await;
    let calls = |path: &str| scene.receiver.heard().iter().filter(|heard| heard.path == path).count();
    assert_eq!((calls("/mail"), calls("/find")), (2, 2), "nobody got a second mail");
    // The lookup's answer lacks what is read of it. It is harmless to ask again, and by now it has it.
    late.store(true, std::sync::atomic::Ordering::SeqCst);
    let error = scene.client.get(&format!("{batch}/rows/1")).await["error"].clone();
    assert_eq!((&error["code"], &error["step"]), (&json!("bad_response"), &json!("find")), "{error}");
    let (status, answer) = ask(json!({})).await;
    assert_eq!((status, &answer["retried"]), (200, &json!(2)), "{answer}");
    let ended = scene.client.finished(id).await;
    assert_eq!((calls("/mail"), calls("/find")), (2, 4), "{ended}");
    // All steps are done, and the result cannot be made: that calls nobody again either.
    let error = scene.client.get(&format!("{batch}/rows/1")).await["error"].clone();
    assert_eq!((&error["code"], &error["step"]), (&json!("template_error"), &json!(null)), "{error}");
    // A definition that what was done does not fit is refused, and changes nothing.
    let other =
        pipeline("id", "n", "1").replace("name: find", "name: look").replace("steps.find", "steps.look");
    let scene = scene.under(&other).await;
    let (status, problem) =
        scene.client.post(&format!("{batch}/retry"), &json!({ "definition": "current" })).await;
    assert_eq!((status, &problem["code"]), (409, &json!("definition_does_not_fit")), "{problem}");
    assert!(
        problem["detail"].as_str().is_some_and(|text| text.contains("step 2 (`find`), which is `look`")),
        "{problem}"
    );
    let scene = scene.under(&pipeline("id", "n", "steps.mail.id + 1")).await;
    let (said, good) = scene.place.say(&scene.sandbox, &["batches", "retry", id, "--current-definition"]);
    assert!(good && said.contains("2 rows go back"), "{said}");
    assert_eq!(scene.client.finished(id).await["outcome"], "success");
    let calls = |path: &str| scene.receiver.heard().iter().filter(|heard| heard.path == path).count();
    assert_eq!((calls("/mail"), calls("/find")), (2, 4));
    let row = scene.client.text(&format!("{batch}/rows/1")).await;
    assert!(
        row.contains(r#"{"mail":12345678901234567891.50,"more":12345678901234567892.50,"n":2}"#),
        "{row}"
    );
}

//! No plaintext at rest.

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::database::Database;
use penstock_tests::receiver::{Answer, Receiver};
use penstock_tests::{Client, Place};
use serde_json::json;

use crate::invite;

#[tokio::test]
async fn a_marker_in_every_field_is_found_nowhere() {
    const MARKER: &str = "Zq7marker";
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    // A value in an address too.
    let definition = invite().replace("^[A-Z0-9 ]{5,8}$", "^[A-Za-z0-9 ]{5,20}$").replace(
        "steps.address_links.link }}\" }",
        "steps.address_links.link }}\", query: { who: \"{{ row.first_name }}\" } }",
    );
    assert!(definition.contains("who:"), "{definition}");
    let mut place = Place::new(&[("invite.yaml", &definition)]);
    // Whatever an operator asks the log for, other people's crates included.
    place.set("RUST_LOG", "trace".into());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let mut csv = "email,first_name,last_name,phone,postcode\n".to_owned();
    for number in 0..60 {
        let taken = if number % 3 == 0 { "taken" } else { "" };
        csv.push_str(&format!(
            "{taken}{MARKER}{number}@{MARKER}.example,{MARKER},{MARKER}{number},,ZA{MARKER}{number}\n"
        ));
    }
    let path = format!("/v2/client/users/batch/invite?context=%7B%22campaign%22%3A%22{MARKER}%22%7D");
    let (status, batch) = client.upload(&path, csv).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id");
    let batch = client.finished(id).await;
    assert_eq!(
        (&batch["counts"]["completed"], &batch["counts"]["failed"]),
        (&40.into(), &20.into()),
        "{batch}"
    );
    let results = client.text(&format!("/v2/batches/{id}/results.csv")).await;
    assert!(results.contains(MARKER), "its owner can read it");
    // A refused upload leaves no trace either.
    let (status, _) = client.upload(&path, format!("email,nope\n{MARKER},x\n")).await.expect("an answer");
    assert_eq!(status, 422);
    assert_eq!(place.files_with(MARKER.as_bytes()), Vec::<std::path::PathBuf>::new(), "while it runs");
    service.terminate();
    assert_eq!(place.files_with(MARKER.as_bytes()), Vec::<std::path::PathBuf>::new(), "afterwards");
    let log = std::fs::read_to_string(place.log()).expect("a log");
    assert!(log.contains(r#""level":"TRACE""#), "everything was told");
}

/// Files whose first row is a person, because they have no header, through the API and by a presigned upload, with every kind
/// of error that quotes something. Whoever uploaded it reads all of it; the database, callbacks and logs have codes and
/// counts.
#[tokio::test]
async fn a_file_without_a_header_is_quoted_to_nobody_else() {
    const MARKER: &str = "Zq8marker";
    let receiver = Receiver::start().await;
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("invite.yaml", &invite())]);
    place.set("RUST_LOG", "trace".into());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let files = [
        format!("{MARKER}@{MARKER}.example,{MARKER},{MARKER},,AB1234\nb@b.example,B,B,,AB1234\n"),
        format!("email,first_name,last_name,phone,{MARKER}\na@a.example,A,A,,AB1234\n"),
        format!("{MARKER},{MARKER}\n"),
        format!("email,first_name,last_name,phone,postcode\n{MARKER},{MARKER},{MARKER},{MARKER},{MARKER}\n"),
        format!("email,first_name,last_name,phone,postcode\n\"a@a.example\"{MARKER},A,A,,AB1234\n"),
        format!(
            "email,first_name,last_name,phone,postcode\na@a.example,{MARKER}{},A,,AB1234\n",
            "x".repeat(70_000)
        ),
        format!("{MARKER}{}", ",x".repeat(20_000)),
    ];
    for file in files {
        let (status, refused) = client.upload(crate::PEOPLE, file.clone()).await.expect("an answer");
        assert!(status == 422 || status == 413, "{refused}");
        let (_, upload) = client.post("/v2/uploads", &json!({})).await;
        let url = upload["url"].as_str().expect("a URL");
        let put = penstock_tests::http().build().expect("a client").put(url).body(file);
        let put = if upload["authorization"] == true { put.bearer_auth(&key) } else { put };
        assert!(put.send().await.expect("an answer").status().is_success());
        let fields = json!({
            "upload_id": upload["upload_id"],
            "context": { "campaign": "x" },
            "callback_url": format!("{}/hook", receiver.url),
        });
        let (status, batch) = client.post("/v2/pipelines/invite/batches", &fields).await;
        assert_eq!(status, 202, "{batch}");
        let id = batch["id"].as_str().expect("an id").to_owned();
        let failed = client.finished(&id).await;
        assert_eq!(failed["status"], "failed", "{failed}");
        // Its owner reads why, line by line, until the batch is erased.
        let failure = &failed["failure"];
        let code = failure["code"].as_str().expect("a code");
        let told =
            code == "file_too_large" || failure["errors"].as_array().is_some_and(|all| !all.is_empty());
        assert!(told && failure["message"].is_string(), "{failure}");
        let heard = receiver
            .until(|heard| heard.json()["type"] == "batch.finished" && heard.json()["data"]["id"] == *id)
            .await;
        let told = &heard.json()["data"]["failure"];
        assert_eq!((&told["code"], &told["error_count"]), (&json!(code), &failure["error_count"]), "{told}");
        assert!(!heard.body.contains(MARKER) && told["errors"].is_null(), "{}", heard.body);
        let listed = client.get("/v2/batches?limit=1").await["data"][0]["failure"].to_string();
        assert!(!listed.contains(MARKER) && listed.contains(code), "{listed}");
        let erased = client.request("DELETE", &format!("/v2/batches/{id}")).send().await.expect("an answer");
        assert_eq!(erased.status(), 200);
        let left = client.get(&format!("/v2/batches/{id}")).await["failure"].clone();
        assert!(left["errors"].is_null() && left["code"] == code, "{left}");
    }
    service.terminate();
    assert_eq!(place.files_with(MARKER.as_bytes()), Vec::<std::path::PathBuf>::new());
    let mut database = Database::of(&place).await;
    let contents = database.contents().await;
    assert!(!contents.iter().any(|line| line.contains(MARKER)), "nothing of a file lies in a table");
}

/// Secrets of all kinds stand in a request's path, query, header and body, and the API quotes what it was sent. Clients and operators
/// are shown none of it.
#[tokio::test]
async fn a_secret_that_a_template_sends_and_an_api_quotes_is_shown_to_nobody() {
    const SECRETS: [&str; 3] = ["s3cret&of=variable", "s3cret/of a file", "s3cret-of-acme-7"];
    let receiver = Receiver::start().await;
    receiver.answer_with(|heard| {
        let quoted = json!({ "code": "refused", "message": format!("not with {} {} {}", SECRETS[0], SECRETS[1], SECRETS[2]),
            "sent": heard.body, "path": heard.path, "key": heard.header("x-mark") });
        Answer { status: 422, ..Answer::json(quoted.to_string()) }
    });
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let definition = "name: quoting\ncsv: { columns: [ { name: id, required: true } ] }\ndependencies:\n  api:\n\
        \x20   base_url: \"${INVITE_API_URL}\"\n    headers: { X-Mark: \"{{ owner.secrets.mark }}\", X-File: \"${file:../secret}\" }\n\
        steps:\n  - name: post\n    dependency: api\n    request:\n      method: POST\n      path: \"/post/${HOOK}/x\"\n\
        \x20     query: { plain: \"${HOOK}\" }\n      headers: { X-Plain: \"${HOOK}\" }\n\
        \x20     json: { id: \"{{ row.id }}\", key: \"${HOOK}\", coded: \"{{ ('u:' ~ '${HOOK}') | base64 }}\" }\n\
        retry: { attempts: 1 }\n";
    let mut place = Place::new(&[("quoting.yaml", definition)]);
    place.set("INVITE_API_URL", receiver.url.clone());
    place.set("HOOK", SECRETS[0].into());
    place.set("RUST_LOG", "trace".into());
    place.write("secret", SECRETS[1]);
    let key = place.key(&sandbox, "acme");
    let (_, done) =
        place.operate(&sandbox, &["owners", "set", "acme", "--secret", &format!("mark={}", SECRETS[2])]);
    assert!(done);
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (_, batch) = client.upload("/v2/pipelines/quoting/batches", "id\na\n").await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    client.finished(&id).await;
    let row = client.get(&format!("/v2/batches/{id}/rows/1?reveal=true")).await;
    assert_eq!(row["sent"]["target"], "/post/***/x?plain=***", "{row}");
    assert_eq!(row["error"]["message"], "not with *** *** ***", "{row}");
    let sent = row["sent"]["body"].as_str().expect("a body");
    assert!(sent.contains(r#""id":"a""#) && sent.contains(r#""key":"***""#), "{row}");
    let mut shown = vec![row.to_string()];
    for path in ["rows", "failed.csv", "errors", "waiting"] {
        shown.push(client.text(&format!("/v2/batches/{id}/{path}")).await);
    }
    service.terminate();
    shown.push(std::fs::read_to_string(place.log()).expect("a log"));
    for text in &shown {
        let coded = "czNjcmV0Jm9mPXZhcmlhYm";
        let found = ["s3cret", "s3cret%26", coded].into_iter().find(|secret| text.contains(secret));
        assert_eq!(found, None, "{text}");
    }
}

#[tokio::test]
async fn an_erased_batch_keeps_its_counts_and_nothing_else() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("invite.yaml", &invite())]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let (_, batch) = client.upload(crate::PEOPLE, crate::people(20)).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id");
    client.finished(id).await;
    assert_eq!(place.objects().len(), 1);
    let erased = client.request("DELETE", &format!("/v2/batches/{id}")).send().await.expect("an answer");
    assert_eq!(erased.status().as_u16(), 200);
    assert_eq!(place.objects(), Vec::<std::path::PathBuf>::new());
    let batch = client.get(&format!("/v2/batches/{id}")).await;
    assert_eq!(batch["counts"]["completed"], 20);
    let results =
        client.request("GET", &format!("/v2/batches/{id}/results.csv")).send().await.expect("an answer");
    assert_eq!(results.status().as_u16(), 410);
}

#[tokio::test]
async fn another_owners_batch_is_not_there() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", crate::NOOP)]);
    let (mine, theirs) = (place.key(&sandbox, "acme"), place.key(&sandbox, "rival"));
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &mine);
    let (status, batch) =
        client.upload("/v2/pipelines/noop/batches", "id,note\n1,x\n").await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let id = batch["id"].as_str().expect("an id");
    let rival = Client::new(&service, &theirs);
    for (method, path) in [
        ("GET", format!("/v2/batches/{id}")),
        ("GET", format!("/v2/batches/{id}/rows")),
        ("GET", format!("/v2/batches/{id}/rows/1")),
        ("GET", format!("/v2/batches/{id}/results.csv")),
        ("GET", format!("/v2/batches/{id}/events")),
        ("POST", format!("/v2/batches/{id}/cancel")),
        ("POST", format!("/v2/batches/{id}/retry")),
        ("DELETE", format!("/v2/batches/{id}")),
    ] {
        let answer = rival.request(method, &path).send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 404, "{method} {path}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
    }
    assert_eq!(rival.get("/v2/batches").await["data"], serde_json::json!([]));
    let nobody = Client::new(&service, "psk_0123456789ab_wrong");
    let answer = nobody.request("GET", "/v2/batches").send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 401);
}

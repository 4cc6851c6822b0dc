//! Rows whose key another batch has completed: nobody is called for them.

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::database::Database;
use penstock_tests::receiver::Receiver;
use penstock_tests::{Client, Place, Service};
use serde_json::{Value, json};

const ROUTE: &str = "/v2/pipelines/once/batches";

fn definition(then: &str) -> String {
    format!(
        "name: once\ncsv: {{ columns: [ {{ name: email, required: true }} ] }}\n\
        dedupe: {{ key: \"{{{{ row.email | lower }}}}\", within: 30d{then} }}\n\
        dependencies: {{ api: {{ base_url: \"${{INVITE_API_URL}}\" }} }}\nsteps:\n\
        \x20 - {{ name: make, dependency: api, request: {{ method: POST, path: /make, idempotency_key: true, json: {{ email: \"{{{{ row.email }}}}\" }} }} }}\n\
        retry: {{ attempts: 1 }}\ndispatch: {{ spread: 0s }}\n"
    )
}

struct Scene {
    sandbox: Sandbox,
    receiver: Receiver,
    place: Place,
}

impl Scene {
    /// An API that refuses whoever is `bad`.
    async fn of(then: &str) -> Self {
        let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
        let receiver = Receiver::start().await;
        receiver.answer_by(|heard| (if heard.body.contains("bad") { 422 } else { 204 }, String::new()));
        let mut place = Place::new(&[("once.yaml", &definition(then))]);
        place.set("INVITE_API_URL", receiver.url.clone());
        Self { sandbox, receiver, place }
    }

    fn client(&self, service: &Service, owner: &str) -> Client {
        Client::new(service, &self.place.key(&self.sandbox, owner))
    }

    /// For whom the API was called, in order of their names.
    fn called(&self) -> Vec<String> {
        let heard = self.receiver.heard();
        let mut called: Vec<String> =
            heard.iter().filter_map(|heard| Some(heard.json()["email"].as_str()?.to_owned())).collect();
        called.sort();
        called
    }
}

async fn uploaded(client: &Client, csv: &'static str) -> String {
    let (status, batch) = client.upload(ROUTE, csv).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    batch["id"].as_str().expect("an id").to_owned()
}

async fn run(client: &Client, csv: &'static str) -> (String, Value) {
    let id = uploaded(client, csv).await;
    let ended = client.finished(&id).await;
    (id, ended)
}

#[tokio::test]
async fn a_file_uploaded_twice_is_called_for_once() {
    let scene = Scene::of("").await;
    let service = scene.place.start(&scene.sandbox, None);
    let client = scene.client(&service, "acme");
    // A key within a file is nobody else's; a row that fails leaves none.
    let (first, ended) = run(&client, "email\na@x\nbad@x\nA@x\nb@x\n").await;
    assert_eq!((&ended["counts"]["completed"], &ended["counts"]["failed"]), (&json!(3), &json!(1)));
    assert_eq!(scene.called(), ["A@x", "a@x", "b@x", "bad@x"]);
    let (second, ended) = run(&client, "email\nB@X\nbad@x\nc@x\n").await;
    assert_eq!((&ended["counts"]["completed"], &ended["counts"]["failed"]), (&json!(2), &json!(1)));
    assert_eq!(scene.called(), ["A@x", "a@x", "b@x", "bad@x", "bad@x", "c@x"]);
    // The row says of which one it is a duplicate, wherever rows are shown.
    let row = client.get(&format!("/v2/batches/{second}/rows/1")).await;
    assert_eq!((&row["status"], &row["result"]), (&json!("completed"), &Value::Null), "{row}");
    let error = &row["error"];
    assert_eq!(
        (&error["code"], &error["detail"]["batch"], &error["detail"]["row"]),
        (&json!("duplicate"), &json!(first), &json!(4)),
        "{row}"
    );
    let message = error["message"].as_str().expect("a sentence");
    assert!(message.contains(&format!("row 4 of batch {first}")), "{message}");
    let listed = client.get(&format!("/v2/batches/{second}/rows?code=duplicate")).await;
    assert_eq!(listed["data"], json!([row]));
    let groups = client.get(&format!("/v2/batches/{second}/errors")).await;
    let duplicates =
        json!({ "code": "duplicate", "step": null, "count": 1, "sample": [1], "message": message });
    assert!(groups["data"].as_array().is_some_and(|groups| groups.contains(&duplicates)), "{groups}");
    let results = client.text(&format!("/v2/batches/{second}/results.csv")).await;
    assert!(
        results.contains("B@X,1,completed,duplicate,\"row 4 of batch")
            || results.contains("B@X,1,completed,duplicate,row 4 of batch"),
        "{results}"
    );
    // Another owner's rows are its own.
    let other = scene.client(&service, "globex");
    run(&other, "email\na@x\n").await;
    assert_eq!(scene.called().iter().filter(|email| *email == "a@x").count(), 2);
    // A key that was forgotten is called for again; so are those of a batch that was erased.
    let forget = ["dedupe", "forget", "--owner", "acme", "--pipeline", "once", "b@x"];
    assert_eq!(scene.place.operate(&scene.sandbox, &forget).0["forgotten"], true);
    assert_eq!(scene.place.operate(&scene.sandbox, &forget).0["forgotten"], false);
    let erased = client.request("DELETE", &format!("/v2/batches/{second}")).send().await.expect("an answer");
    assert!(erased.status().is_success());
    run(&client, "email\na@x\nb@x\nc@x\n").await;
    let called = scene.called();
    let of = |wanted: &str| called.iter().filter(|email| email.eq_ignore_ascii_case(wanted)).count();
    assert_eq!((of("a@x"), of("b@x"), of("c@x")), (3, 2, 2), "{called:?}");
    let stored = Database::of(&scene.place).await.contents().await;
    assert!(stored.iter().any(|line| line.starts_with("completed_keys: ")));
    assert!(!stored.iter().any(|line| line.contains("@x")), "no key is in the clear");
}

/// The key is recorded with the row's end, or neither is: whoever dies in between, the next batch knows.
// Whoever waits for a death blocks a thread, and the receiver answers on another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_recorded_with_its_row_whenever_the_worker_dies() {
    for crash_at in ["before-settlement", "inside-settlement", "after-settlement"] {
        let scene = Scene::of(", then: fail").await;
        let service = scene.place.start(&scene.sandbox, Some(crash_at));
        let client = scene.client(&service, "acme");
        let _answered_before_death = client.upload(ROUTE, "email\na@x\n").await;
        service.await_death();
        let id = scene.place.accepted(&scene.sandbox).expect("a batch");
        let service = scene.place.start(&scene.sandbox, None);
        let client = scene.client(&service, "acme");
        assert_eq!(client.finished(&id).await["counts"]["completed"], 1, "{crash_at}");
        let (again, ended) = run(&client, "email\nA@x\n").await;
        assert_eq!(ended["counts"]["failed"], 1, "{crash_at}: {ended}");
        let row = client.get(&format!("/v2/batches/{again}/rows/1")).await;
        assert_eq!(
            (&row["error"]["code"], &row["error"]["detail"]["batch"]),
            (&json!("duplicate"), &json!(id)),
            "{row}"
        );
        // It is a failure that may be uploaded again: nothing was done for it.
        let failed = client.text(&format!("/v2/batches/{again}/failed.csv")).await;
        assert_eq!(failed.lines().count(), 2, "{failed}");
        let heard = scene.receiver.heard();
        assert!(heard.iter().all(|one| one.json()["email"] == "a@x"), "nobody was called for the duplicate");
        let keys: std::collections::BTreeSet<&str> =
            heard.iter().map(|one| one.header("idempotency-key")).collect();
        assert_eq!(keys.len(), 1, "{crash_at}");
    }
}

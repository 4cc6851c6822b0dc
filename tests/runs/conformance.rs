//! The API and its own OpenAPI document, by schemathesis with all its checks.

use std::process::Command;

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::{Client, Place, Service};

/// Like [`crate::NOOP`], with a route of its own.
const ROUTED: &str = "name: routed\nroute: /v2/client/noop\ncsv: { max_rows: 1000, columns: [ { name: id, required: true, format: integer } ] }\nsteps: []\ndispatch: { spread: 0s }\n";

/// Runs schemathesis with a key; what it found.
fn schemathesis(place: &Place, service: &Service, key: &str, args: &[&str]) {
    let tools = std::env::var("PENSTOCK_TEST_TOOLS").expect("`cargo xtask test` names where its tools are");
    let config = place.write("schemathesis.toml", include_str!("../fixtures/schemathesis.toml"));
    let mut run = Command::new(format!("{tools}/schemathesis"));
    run.args(["--config-file", &config, "run"]);
    run.arg(format!("{}/v2/openapi.json", service.base)).args(["--url", &service.base]);
    run.args(["--header", &format!("Authorization: Bearer {key}")]);
    // The same cases each time; a case that fails is shown as it is.
    run.args(["--checks", "all", "--seed", "20261128", "--generation-database", "none", "--no-shrink"]);
    run.args(["--continue-on-failure", "--warnings", "off", "--no-color"]).args(args);
    // It writes its cache where it runs.
    let output = run.current_dir(place.data()).output().expect("schemathesis runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains(" passed"), "it tested something: {said}");
}

/// Whatever is asked, valid by the document or not: every status, header, type and body is one that the document declares;
/// what it allows is accepted, what it does not is refused.
#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_as_the_document_says() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", crate::NOOP), ("routed.yaml", ROUTED)]);
    let key = place.key(&sandbox, "acme");
    let (admin, _) = place.operate(&sandbox, &["keys", "create", "--owner", "ops", "--admin"]);
    let service = place.start(&sandbox, None);
    std::fs::create_dir_all(place.data()).expect("a folder");
    let client = Client::new(&service, &key);
    let (_, batch) = client.upload("/v2/pipelines/noop/batches", "id\n1\n2\n").await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    client.finished(&id).await;
    schemathesis(&place, &service, admin["key"].as_str().expect("a key"), &["--max-examples", "10"]);
    service.terminate();
}

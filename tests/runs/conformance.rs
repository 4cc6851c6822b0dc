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

/// A client that is generated from the document puts a file and has it processed.
const PUT: &str = r#"
import os
from penstock_client import AuthenticatedClient
from penstock_client.api.batches import create_upload, put_upload, upload_to_pipeline
from penstock_client.models import UploadedBefore
from penstock_client.types import File

client = AuthenticatedClient(os.environ["API"], os.environ["KEY"])
place = create_upload.sync(client=client)
with open("rows.csv", "rb") as rows:
    put = put_upload.sync_detailed(str(place.upload_id), client=client, body=File(rows))
assert put.status_code == 204, put
batch = upload_to_pipeline.sync("noop", client=client, body=UploadedBefore(upload_id=place.upload_id))
print(batch.id)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_client_puts_a_file() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", crate::NOOP)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let tools = std::env::var("PENSTOCK_TEST_TOOLS").expect("`cargo xtask test` names where its tools are");
    let path = format!("{tools}:{}", std::env::var("PATH").unwrap_or_default());
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
    file("openapi.json", &client.text("/v2/openapi.json").await);
    file("put.py", PUT);
    file("rows.csv", "id\n1\n2\n3\n");
    let run = |program: &str, args: &[&str]| {
        let mut command = Command::new(format!("{tools}/{program}"));
        command.args(args).current_dir(folder.path()).env("PATH", &path);
        let output = command.env("API", &service.base).env("KEY", &key).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        said
    };
    let options = ["--path", "openapi.json", "--meta", "none", "--output-path", "penstock_client"];
    run("openapi-python-client", &[&["generate"], &options[..]].concat());
    let id = run("python3", &["put.py"]);
    let batch = client.finished(id.trim()).await;
    assert_eq!(batch["counts"]["completed"], 3, "{batch}");
    service.terminate();
}

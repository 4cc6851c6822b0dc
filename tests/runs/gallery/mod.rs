//! The examples of the gallery against strict stand-ins of their APIs: what is not sent as the API's documentation wants it is a fault.

mod forms;
mod json;
mod signed;
mod tokens;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use penstock_sandbox::{Config, Sandbox};
use penstock_tests::receiver::{Answer, Heard, Receiver};
use penstock_tests::{Client, Place, Service};
use serde_json::{Value, json};

/// What a stand-in answers, and the effects that the call had, a line each; or why the API would not have understood it.
type Answered = Result<(Answer, Option<String>), String>;

/// An API and what is uploaded for it.
struct Vendor {
    /// The example's file.
    file: &'static str,
    /// Variables that the definition names besides its address.
    variables: &'static [(&'static str, &'static str)],
    /// The variable with the address.
    address: &'static str,
    csv: &'static str,
    /// The upload's context, in JSON; empty: none.
    context: &'static str,
    /// Answers a call, by its path without the vendor's prefix and how many calls came before it.
    answer: fn(&Heard, &str, usize) -> Answered,
    /// What happened at the API, once each.
    effects: &'static [&'static str],
    /// Rows that fail: their number, code, and message.
    failed: &'static [(usize, &'static str, &'static str)],
    /// A column of `results.csv` and what it holds of each completed row, in order.
    result: (&'static str, &'static [&'static str]),
}

impl Vendor {
    fn name(&self) -> &'static str {
        self.file.trim_end_matches(".yaml")
    }

    fn definition(&self) -> String {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines/examples");
        std::fs::read_to_string(folder.join(self.file)).expect("an example")
    }
}

fn ok(body: Value) -> Answer {
    Answer::json(body.to_string())
}

fn with(status: u16, body: Value) -> Answer {
    Answer { status, ..ok(body) }
}

/// # Errors
/// Unless it holds.
fn must(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

/// User and password of basic authentication, as `user:password`.
fn basic(heard: &Heard) -> String {
    let sent = heard.header("authorization").strip_prefix("Basic ").unwrap_or_default();
    String::from_utf8(BASE64_STANDARD.decode(sent).unwrap_or_default()).unwrap_or_default()
}

fn media(heard: &Heard) -> &str {
    heard.header("content-type").split(';').next().unwrap_or_default()
}

fn json_body(heard: &Heard) -> Result<Value, String> {
    must(media(heard) == "application/json", || format!("it is {}", media(heard)))?;
    serde_json::from_str(&heard.body).map_err(|error| error.to_string())
}

/// Pairs of a query or a form.
fn pairs(encoded: &str) -> Vec<(String, String)> {
    let url = reqwest::Url::parse(&format!("http://x/?{encoded}")).expect("a query");
    url.query_pairs().into_owned().collect()
}

fn form_body(heard: &Heard) -> Result<Vec<(String, String)>, String> {
    must(media(heard) == "application/x-www-form-urlencoded", || format!("it is {}", media(heard)))?;
    Ok(pairs(&heard.body))
}

fn field<'a>(pairs: &'a [(String, String)], name: &str) -> &'a str {
    pairs.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
}

/// The API behind a path: everything that it heard, what happened there, and what it did not understand.
#[derive(Default)]
struct Seen {
    calls: usize,
    effects: Vec<String>,
    faults: Vec<String>,
}

fn stand_in(
    vendors: &'static [&'static Vendor],
    receiver: &Receiver,
) -> Arc<Mutex<BTreeMap<&'static str, Seen>>> {
    let all = Arc::new(Mutex::new(BTreeMap::<&'static str, Seen>::new()));
    let seen = all.clone();
    receiver.answer_with(move |heard| {
        let mut all = seen.lock().expect("no test panics here");
        let found = vendors.iter().find_map(|vendor| {
            let rest = heard.path.strip_prefix(&format!("/{}", vendor.name()))?;
            rest.starts_with('/').then_some((vendor, rest))
        });
        let Some((vendor, path)) = found else {
            all.entry("nobody").or_default().faults.push(heard.path.clone());
            return with(404, json!({}));
        };
        let seen = all.entry(vendor.name()).or_default();
        seen.calls += 1;
        match (vendor.answer)(heard, path, seen.calls - 1) {
            Ok((answer, effect)) => {
                seen.effects.extend(effect.iter().flat_map(|effect| effect.lines()).map(str::to_owned));
                answer
            }
            Err(fault) => {
                seen.faults.push(format!("{} {path}: {fault}", heard.method));
                with(400, json!({ "message": fault }))
            }
        }
    });
    all
}

/// Uploads a vendor's file, and compares what its client reads in the end.
async fn run(vendor: &Vendor, client: &Client) {
    let definition = vendor.definition();
    assert!(definition.lines().count() <= 40, "{}", vendor.file);
    let name = definition.lines().find_map(|line| line.strip_prefix("name: ")).expect("a name");
    let path = format!("/v2/pipelines/{name}/batches{}", query_with(vendor.context));
    let (status, batch) = client.upload(&path, vendor.csv).await.expect("an answer");
    assert_eq!(status, 202, "{name}: {batch}");
    let batch = format!("/v2/batches/{}", batch["id"].as_str().expect("an id"));
    let ended = client.finished(batch.rsplit('/').next().expect("an id")).await;
    let rows = client.get(&format!("{batch}/rows")).await;
    let total = vendor.csv.lines().count() - 1;
    assert_eq!(ended["counts"]["completed"], total - vendor.failed.len(), "{name}: {rows}");
    for (number, code, message) in vendor.failed {
        let error = &rows["data"][number - 1]["error"];
        assert_eq!((&error["code"], &error["message"]), (&json!(code), &json!(message)), "{name}: {rows}");
    }
    let (column, wanted) = vendor.result;
    let completed = rows["data"].as_array().expect("rows").iter().filter(|row| row["status"] == "completed");
    let found: Vec<String> = completed
        .map(|row| {
            row["result"][column].as_str().map_or_else(|| row["result"][column].to_string(), str::to_owned)
        })
        .collect();
    assert_eq!(found, wanted, "{name}: {rows}");
}

fn query_with(context: &str) -> String {
    if context.is_empty() {
        return String::new();
    }
    let mut url = reqwest::Url::parse("http://x/").expect("a URL");
    url.query_pairs_mut().append_pair("context", context);
    format!("?{}", url.query().expect("a query"))
}

static VENDORS: [&Vendor; 12] = [
    &forms::STRIPE,
    &forms::TWILIO,
    &forms::VIES,
    &json::GEOCODING,
    &json::SLACK,
    &json::GITHUB,
    &json::HUBSPOT,
    &json::COMPANIES_HOUSE,
    &json::CHECKR,
    &signed::SES,
    &tokens::SALESFORCE,
    &tokens::DOCUSIGN,
];

static BANKS: [&Vendor; 1] = [&signed::BANK];

fn start(place: &Place, sandbox: &Sandbox) -> (Service, Client) {
    let key = place.key(sandbox, "acme");
    let service = place.start(sandbox, None);
    let client = Client::new(&service, &key);
    (service, client)
}

#[tokio::test]
async fn examples_do_at_their_apis_what_they_say() {
    let receiver = Receiver::start().await;
    let seen = stand_in(&VENDORS, &receiver);
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let definitions: Vec<(&str, String)> =
        VENDORS.iter().map(|vendor| (vendor.file, vendor.definition())).collect();
    let files: Vec<(&str, &str)> = definitions.iter().map(|(file, text)| (*file, text.as_str())).collect();
    let mut place = Place::new(&files);
    for vendor in VENDORS {
        place.set(vendor.address, format!("{}/{}", receiver.url, vendor.name()));
        for (name, value) in vendor.variables {
            place.set(name, (*value).to_owned());
        }
    }
    let secrets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines/examples/tests/secrets");
    place.set("DOCUSIGN_SECRETS", secrets.display().to_string());
    let (service, client) = start(&place, &sandbox);
    futures::future::join_all(VENDORS.iter().map(|vendor| run(vendor, &client))).await;
    service.terminate();
    let seen = seen.lock().expect("no test panics here");
    for vendor in VENDORS {
        let seen = &seen[vendor.name()];
        assert_eq!(seen.faults, Vec::<String>::new(), "{}", vendor.file);
        let mut effects = seen.effects.clone();
        effects.sort_unstable();
        assert_eq!(effects, vendor.effects, "{}: each once", vendor.file);
    }
    assert!(!seen.contains_key("nobody"), "calls that no API has");
}

#[tokio::test]
async fn the_bank_sees_a_client_certificate() {
    let (acceptor, files) = signed::bank();
    let receiver = Receiver::behind_tls(acceptor).await;
    let seen = stand_in(&BANKS, &receiver);
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[(signed::BANK.file, &signed::BANK.definition())]);
    let mut folder = String::new();
    for (name, text) in &files {
        let path = place.write(name, text);
        folder = path.trim_end_matches(name).trim_end_matches('/').to_owned();
    }
    place.set("BANK_SECRETS", folder);
    place.set("BANK_URL", format!("{}/bank", receiver.url));
    place.set("BANK_KEY", "k-1".into());
    let (service, client) = start(&place, &sandbox);
    run(&signed::BANK, &client).await;
    service.terminate();
    let seen = seen.lock().expect("no test panics here");
    assert_eq!(seen["bank"].faults, Vec::<String>::new());
    assert_eq!(seen["bank"].effects, signed::BANK.effects);
}

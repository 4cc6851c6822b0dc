//! Steps whose answers rows have in common: each key is asked for once, whatever happens meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::database::Database;
use penstock_tests::receiver::{Answer, Receiver};
use penstock_tests::{Client, Place, Service};
use serde_json::{Value, json};

use crate::storage::until;

/// A lookup whose answers are kept, and a call of each row's own.
fn definition(name: &str, cache: &str) -> String {
    format!(
        "name: {name}\ncsv: {{ columns: [ {{ name: id, required: true }}, {{ name: place, required: true }} ] }}\n\
        dependencies: {{ api: {{ base_url: \"${{INVITE_API_URL}}\", timeout: 8s, responses: {{ success: [2xx, 404] }} }} }}\nsteps:\n\
        \x20 - name: find\n    dependency: api\n    request: {{ method: GET, path: \"/find/{{{{ row.place }}}}\" }}\n\
        \x20   cache: {{ key: \"{{{{ row.place | upper }}}}\", {cache} }}\n\
        \x20   output: {{ city: \"{{{{ body.city }}}}\", status: \"{{{{ status }}}}\" }}\n\
        \x20 - {{ name: put, dependency: api, request: {{ method: PUT, path: \"/put/{{{{ row.id }}}}\", json: {{ city: \"{{{{ steps.find.city }}}}\" }} }} }}\n\
        result: {{ city: \"{{{{ steps.find.city }}}}\", status: \"{{{{ steps.find.status }}}}\" }}\n\
        retry: {{ attempts: 2, backoff: {{ initial: 10ms, max: 10ms }} }}\ndispatch: {{ spread: 0s }}\n"
    )
}

struct Scene {
    sandbox: Sandbox,
    receiver: Receiver,
    place: Place,
}

impl Scene {
    /// An API that knows the city of each place, but not of `none`, and refuses `bad`.
    async fn of(definitions: &[(&str, &str)]) -> Self {
        let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
        let receiver = Receiver::start().await;
        receiver.answer_with(|heard| {
            let Some(place) = heard.path.strip_prefix("/find/") else { return Answer::json("{}") };
            let body = json!({ "city": format!("city-of-{}", place.to_uppercase()) }).to_string();
            let status = match place {
                "none" => 404,
                "bad" => 422,
                _ => 200,
            };
            Answer { status, ..Answer::json(body) }
        });
        let texts: Vec<(String, String)> = definitions
            .iter()
            .map(|(name, cache)| (format!("{name}.yaml"), definition(name, cache)))
            .collect();
        let files: Vec<(&str, &str)> =
            texts.iter().map(|(file, text)| (file.as_str(), text.as_str())).collect();
        let mut place = Place::new(&files);
        place.set("INVITE_API_URL", receiver.url.clone());
        Self { sandbox, receiver, place }
    }

    fn client(&self, service: &Service, owner: &str) -> Client {
        Client::new(service, &self.place.key(&self.sandbox, owner))
    }

    /// How often each place was asked for.
    fn asked(&self) -> BTreeMap<String, usize> {
        let mut asked = BTreeMap::new();
        for heard in self.receiver.heard() {
            if let Some(place) = heard.path.strip_prefix("/find/") {
                *asked.entry(place.to_uppercase()).or_default() += 1;
            }
        }
        asked
    }
}

async fn uploaded(client: &Client, pipeline: &str, csv: &str) -> String {
    let path = format!("/v2/pipelines/{pipeline}/batches");
    let (status, batch) = client.upload(&path, csv.to_owned()).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    batch["id"].as_str().expect("an id").to_owned()
}

async fn run(client: &Client, pipeline: &str, csv: &str) -> (String, Value) {
    let id = uploaded(client, pipeline, csv).await;
    let ended = client.finished(&id).await;
    (id, ended)
}

/// Rows of some places, in capitals or not.
fn rows(places: &[&str], each: usize) -> String {
    let lines = (0..places.len() * each).map(|number| {
        let place = places[number % places.len()];
        let place = if number % 2 == 0 { place.to_owned() } else { place.to_lowercase() };
        format!("{number},{place}\n")
    });
    format!("id,place\n{}", lines.collect::<String>())
}

#[tokio::test]
async fn each_place_is_asked_for_once_in_its_scope() {
    let scene = Scene::of(&[
        ("own", "ttl: 1d"),
        ("owners", "ttl: 1d, scope: owner"),
        ("all", "ttl: 1d, scope: pipeline"),
    ])
    .await;
    let service = scene.place.start(&scene.sandbox, None);
    let (acme, globex) = (scene.client(&service, "acme"), scene.client(&service, "globex"));
    let csv = rows(&["A", "B", "none"], 10);
    let (first, ended) = run(&acme, "own", &csv).await;
    assert_eq!(ended["counts"]["completed"], 30, "{ended}");
    let times = |times: usize| ["A", "B", "NONE"].map(|place| (place.to_owned(), times)).into();
    assert_eq!(scene.asked(), times(1));
    // Every row has the answer, and made its own call with it.
    let results = acme.get(&format!("/v2/batches/{first}/rows?limit=3")).await;
    let of = |row: usize| results["data"][row]["result"].clone();
    assert_eq!(of(0), json!({ "city": "city-of-A", "status": 200 }));
    assert_eq!(of(1), json!({ "city": "city-of-B", "status": 200 }));
    assert_eq!(of(2)["status"], 404, "a success that the definition names is kept");
    let put = scene.receiver.heard().iter().filter(|heard| heard.path.starts_with("/put/")).count();
    assert_eq!(put, 30);
    // It is told how many rows found an answer, a moment later.
    until("the rows are counted", || async {
        let waiting = acme.get(&format!("/v2/batches/{first}/waiting")).await;
        let counted =
            waiting["data"].as_array().and_then(|waits| waits.iter().find(|wait| wait["reason"] == "cache"));
        counted.is_some_and(|wait| {
            wait["sentence"] == "step `find`: 27 rows found a kept answer, 3 asked for one"
        })
    })
    .await;
    // Another batch asks for itself; the wider scopes do not.
    run(&acme, "own", &csv).await;
    assert_eq!(scene.asked(), times(2));
    run(&acme, "owners", &csv).await;
    run(&acme, "owners", &csv).await;
    assert_eq!(scene.asked(), times(3));
    run(&globex, "owners", &csv).await;
    assert_eq!(scene.asked(), times(4));
    run(&acme, "all", &csv).await;
    run(&globex, "all", &csv).await;
    assert_eq!(scene.asked(), times(5));
    let metrics = acme.text("/metrics").await;
    let hits: f64 = metrics
        .lines()
        .filter(|line| line.starts_with("penstock_cache_lookups_total{") && !line.contains("\"asked\""))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum();
    assert!((hits - (7.0 * 30.0 - 5.0 * 3.0)).abs() < 0.5, "{hits}");
    // Nothing of it is in the clear, and an erased batch's answers are gone.
    let mut database = Database::of(&scene.place).await;
    let stored = database.contents().await;
    assert!(stored.iter().filter(|line| line.starts_with("cached_answers: ")).count() >= 15);
    assert!(!stored.iter().any(|line| line.contains("city-of")), "an answer is in the clear");
    let kept = database.number("SELECT count(*) FROM cached_answers WHERE batch IS NOT NULL").await;
    let erased = acme.request("DELETE", &format!("/v2/batches/{first}")).send().await.expect("an answer");
    assert!(erased.status().is_success());
    let left = database.number("SELECT count(*) FROM cached_answers WHERE batch IS NOT NULL").await;
    assert_eq!((kept, left), (6, 3));
}

/// An answer is over after its time, and rows that waited for a call that fails share that.
#[tokio::test]
async fn answers_end_and_failures_are_shared() {
    let scene = Scene::of(&[("short", "ttl: 100ms, scope: owner")]).await;
    let service = scene.place.start(&scene.sandbox, None);
    let client = scene.client(&service, "acme");
    run(&client, "short", "id,place\n1,A\n").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    run(&client, "short", "id,place\n1,A\n").await;
    assert_eq!(scene.asked()["A"], 2);
    // Rows start together, and the call takes a while.
    scene.receiver.answer_after(Duration::from_millis(1500));
    let (id, ended) = run(&client, "short", &rows(&["bad"], 40)).await;
    assert_eq!(ended["counts"]["failed"], 40, "{ended}");
    let asked = scene.asked()["BAD"];
    assert!(asked <= 10, "{asked} calls for 40 rows that started together");
    let groups = client.get(&format!("/v2/batches/{id}/errors")).await;
    assert_eq!(groups["data"][0]["count"], 40, "one group: {groups}");
    assert_eq!(groups["data"][0]["code"], "http_422", "{groups}");
    // Later ones ask again.
    scene.receiver.answer_after(Duration::ZERO);
    run(&client, "short", "id,place\n1,bad\n").await;
    assert_eq!(scene.asked()["BAD"], asked + 1);
}

/// The worker dies in the middle of the call: another one asks again, once.
#[tokio::test]
async fn a_kill_costs_one_more_call_at_most() {
    let scene = Scene::of(&[("own", "ttl: 1d")]).await;
    let held = |path: &str| path == "/find/a";
    scene.receiver.answer_by(move |heard| (if held(&heard.path) { 0 } else { 200 }, String::new()));
    let service = scene.place.start(&scene.sandbox, None);
    let client = scene.client(&service, "acme");
    let id = uploaded(&client, "own", "id,place\n1,a\n2,a\n3,a\n4,a\n").await;
    scene.receiver.until(|heard| heard.path == "/find/a").await;
    service.kill();
    scene.receiver.answer_with(|_| Answer::json(r#"{"city": "x"}"#));
    let service = scene.place.start(&scene.sandbox, None);
    let client = scene.client(&service, "acme");
    assert_eq!(client.finished(&id).await["counts"]["completed"], 4);
    assert_eq!(scene.asked()["A"], 2, "the one that died, and one more");
}

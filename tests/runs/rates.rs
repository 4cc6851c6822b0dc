//! How often keys and owners may ask, and how much they may keep.

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::{Client, Place};
use serde_json::Value;

use crate::NOOP;

async fn refused(answer: reqwest::Response, code: &str) -> u64 {
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let after = answer.headers()["retry-after"].to_str().expect("text").parse().expect("seconds");
    let problem: Value = answer.json().await.expect("JSON");
    assert_eq!(problem["code"], code, "{problem}");
    after
}

/// A key's requests beyond its quota are refused with what tells it when to come again; another key of the owner has what
/// the owner has left, and another owner everything.
#[tokio::test]
async fn a_key_that_asks_too_often_is_refused_for_a_while() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("noop.yaml", NOOP)]);
    place.set("PENSTOCK_KEY_REQUESTS_PER_MINUTE", "10".into());
    place.set("PENSTOCK_OWNER_REQUESTS_PER_MINUTE", "15".into());
    let keys = [place.key(&sandbox, "acme"), place.key(&sandbox, "acme"), place.key(&sandbox, "rival")];
    let service = place.start(&sandbox, None);
    let [first, second, rival] = keys.map(|key| Client::new(&service, &key));
    let list = |client: &Client| client.request("GET", "/v2/batches").send();
    let accepted = list(&first).await.expect("an answer");
    assert_eq!(accepted.status(), 200);
    assert_eq!(accepted.headers()["ratelimit-policy"], "\"key\";q=10;w=60, \"owner\";q=15;w=60");
    assert_eq!(accepted.headers()["ratelimit"], "\"key\";r=9;t=6, \"owner\";r=14;t=4");
    let mut answers = Vec::new();
    for _ in 0..30 {
        answers.push(list(&first).await.expect("an answer"));
    }
    let accepted = answers.iter().filter(|answer| answer.status() == 200).count();
    assert!((9..20).contains(&accepted), "{accepted}");
    let last = answers.into_iter().rfind(|answer| answer.status() == 429).expect("a refusal");
    assert!(last.headers()["ratelimit"].to_str().expect("text").starts_with("\"key\";r=0;t="));
    let after = refused(last, "rate_limited").await;
    assert!((1..=6).contains(&after), "{after}");
    let mut accepted = 0;
    for _ in 0..10 {
        accepted += usize::from(list(&second).await.expect("an answer").status() == 200);
    }
    assert!((4..10).contains(&accepted), "{accepted}: what the owner has left");
    assert_eq!(list(&rival).await.expect("an answer").status(), 200);
    service.terminate();
}

/// Uploads have buckets of their own; who keeps too many batches or bytes uploads again after an erasure.
#[tokio::test]
async fn uploads_and_what_is_kept_have_limits() {
    const PATH: &str = "/v2/pipelines/noop/batches";
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("noop.yaml", NOOP)]);
    place.set("PENSTOCK_OWNER_BATCHES", "3".into());
    place.set("PENSTOCK_OWNER_STORED_MIB", "1".into());
    place.set("PENSTOCK_OWNER_UPLOADS_PER_MINUTE", "8".into());
    let (key, other) = (place.key(&sandbox, "acme"), place.key(&sandbox, "rival"));
    let service = place.start(&sandbox, None);
    let (client, rival) = (Client::new(&service, &key), Client::new(&service, &other));
    let upload = |client: &Client, csv: String| {
        client.request("POST", PATH).header("content-type", "text/csv").body(csv).send()
    };
    let mut ids = Vec::new();
    for _ in 0..3 {
        let (status, batch) = client.upload(PATH, "id\n1\n").await.expect("an answer");
        assert_eq!(status, 202, "{batch}");
        ids.push(batch["id"].as_str().expect("an id").to_owned());
    }
    refused(upload(&client, "id\n1\n".into()).await.expect("an answer"), "too_many_batches").await;
    // What is erased is no longer kept; a file that is too large for what is left is refused by what it announces.
    client.finished(&ids[0]).await;
    let erased =
        client.request("DELETE", &format!("/v2/batches/{}", ids[0])).send().await.expect("an answer");
    assert!(erased.status().is_success(), "{}", erased.status());
    let large = format!("id,note\n1,{}\n", "x".repeat(1_100_000));
    refused(upload(&client, large).await.expect("an answer"), "storage_full").await;
    let answer = upload(&client, "id\n1\n".into()).await.expect("an answer");
    assert_eq!(answer.status(), 202);
    assert!(answer.headers()["ratelimit-policy"].to_str().expect("text").contains("\"owner-uploads\";q=8"));
    let mut refusals = Vec::new();
    for _ in 0..4 {
        refusals.push(upload(&client, "id\n1\n".into()).await.expect("an answer"));
    }
    refused(refusals.pop().expect("one"), "rate_limited").await;
    assert_eq!(upload(&rival, "id\n1\n".into()).await.expect("an answer").status(), 202);
    // Reading goes on.
    assert_eq!(client.get("/v2/batches").await["data"].as_array().expect("a list").len(), 4);
    service.terminate();
}

/// Whoever tries keys is refused before a key is looked for; who has one goes on from the same address, and other addresses
/// are not concerned.
#[tokio::test]
async fn requests_without_a_valid_key_are_limited_by_address() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("noop.yaml", NOOP)]);
    place.set("PENSTOCK_KEYLESS_REQUESTS_PER_MINUTE", "20".into());
    place.set("PENSTOCK_TRUSTED_PROXIES", "127.0.0.0/8".into());
    let (key, late) = (place.key(&sandbox, "acme"), place.key(&sandbox, "acme"));
    let service = place.start(&sandbox, None);
    let http = penstock_tests::http().build().expect("a client");
    let ask = async |path: &str, key: &str, address: &str| {
        let request = http.get(format!("{}{path}", service.base)).header("x-forwarded-for", address);
        request.bearer_auth(key).send().await.expect("an answer")
    };
    assert_eq!(ask("/v2/batches", &key, "192.0.2.1").await.status(), 200);
    let (mut refused_keys, mut last) = (0, None);
    // One key in about sixty ends in two such digits itself, and would be guessed.
    let guesses = (0..61).map(|number| format!("{}{number:02}", &key[..key.len() - 2]));
    for guess in guesses.filter(|guess| *guess != key).take(60) {
        let answer = ask("/v2/batches", &guess, "192.0.2.1").await;
        match answer.status().as_u16() {
            401 => refused_keys += 1,
            429 => last = Some(answer),
            other => panic!("{other}"),
        }
    }
    // One more every three seconds.
    assert!((20..35).contains(&refused_keys), "{refused_keys}");
    let after = refused(last.expect("a refusal"), "rate_limited").await;
    assert!((1..=3).contains(&after), "{after}");
    for _ in 0..30 {
        assert_eq!(ask("/v2/batches", &key, "192.0.2.1").await.status(), 200, "it was good before");
    }
    assert_eq!(ask("/v2/batches", "nonsense", "192.0.2.2").await.status(), 401, "another address");
    assert_eq!(ask("/v2/batches", &late, "192.0.2.2").await.status(), 200);
    // What needs no key does not count, and links that are none do.
    for _ in 0..30 {
        assert_eq!(ask("/livez", "nonsense", "192.0.2.1").await.status(), 200);
    }
    let links = futures::future::join_all((0..40).map(|_| ask("/v2/downloads/x", "", "192.0.2.3"))).await;
    let links: Vec<u16> = links.iter().map(|answer| answer.status().as_u16()).collect();
    assert!(links.contains(&403) && links.contains(&429), "{links:?}");
    service.terminate();
}

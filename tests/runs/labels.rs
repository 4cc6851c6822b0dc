//! Labels of a batch, retries of some of its rows, and how fast it went.

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::{Client, Place};
use serde_json::{Value, json};

use crate::{NOOP, PEOPLE, invite, people};

const ROUTE: &str = "/v2/pipelines/noop/batches";
const FILE: &str = "id,note\n1,a\n";

fn found(page: &Value) -> Vec<&str> {
    let data = page["data"].as_array().expect("a list");
    data.iter().map(|batch| batch["name"].as_str().expect("a name")).collect()
}

#[tokio::test]
async fn labels_are_shown_and_found() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    for (name, labels) in [("one", "Autumn%20sale,%20vip,vip"), ("two", "vip"), ("three", "")] {
        let path = format!("{ROUTE}?name={name}&labels={labels}");
        let (status, batch) = client.upload(&path, FILE).await.expect("an answer");
        assert_eq!(status, 202, "{batch}");
        if name == "one" {
            assert_eq!(batch["labels"], json!(["Autumn sale", "vip"]));
            let id = batch["id"].as_str().expect("an id");
            assert_eq!(client.get(&format!("/v2/batches/{id}")).await["labels"], batch["labels"]);
        }
    }
    for (query, names) in [
        ("label=vip", vec!["two", "one"]),
        ("label=vip,Autumn%20sale", vec!["one"]),
        ("label=VIP", vec![]),
        ("label=sale", vec![]),
        ("search=AUTUMN", vec!["one"]),
        ("search=tw", vec!["two"]),
    ] {
        assert_eq!(found(&client.get(&format!("/v2/batches?{query}")).await), names, "{query}");
    }
    let many = (0..17).map(|number| number.to_string()).collect::<Vec<_>>().join(",");
    for labels in [many.as_str(), &"x".repeat(65), "a%0Ab"] {
        let answer = client.upload(&format!("{ROUTE}?labels={labels}"), FILE).await.expect("an answer");
        assert_eq!((answer.0, &answer.1["code"]), (422, &json!("bad_field")), "{}", answer.1);
    }
    // An upload in two parts has them as a list.
    let (_, upload) = client.post("/v2/uploads", &json!({})).await;
    let body = json!({ "upload_id": upload["upload_id"], "labels": ["a", 1] });
    let (status, refused) = client.post(ROUTE, &body).await;
    assert_eq!((status, &refused["code"]), (422, &json!("bad_field")), "{refused}");
}

#[tokio::test]
async fn some_failed_rows_go_back() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("invite.yaml", &invite())]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let file = people(40).replace("person3@", "taken3@").replace("person7@", "taken7@");
    let (status, batch) = client.upload(PEOPLE, file).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    let sentence = batch["estimate"]["sentence"].as_str().expect("an estimate");
    assert!(sentence.contains("; the limit is "), "{sentence}");
    let id = batch["id"].as_str().expect("an id");
    client.finished(id).await;
    let fast = client.get(&format!("/v2/batches/{id}/throughput")).await;
    let points = fast["data"].as_array().expect("a list");
    assert!(points.len() >= 2 && points.last().is_some_and(|point| point["ended"] == 40), "{fast}");
    assert!(points.iter().any(|point| point["rows_per_second"].as_f64() > Some(0.0)), "{fast}");
    let errors = client.get(&format!("/v2/batches/{id}/errors")).await;
    let step = &errors["data"][0]["step"];
    assert_eq!(errors["data"][0]["count"], 2, "{errors}");
    let retry = format!("/v2/batches/{id}/retry");
    for bad in [
        json!({ "steps": ["nobody"] }),
        json!({ "steps": [] }),
        json!({ "steps": [step], "include": ["cancelled"] }),
        json!({ "from_row": 1, "include": ["cancelled"] }),
    ] {
        let (status, refused) = client.post(&retry, &bad).await;
        assert_eq!((status, &refused["code"]), (400, &json!("bad_selection")), "{refused}");
    }
    for (some, rows) in [
        (json!({ "steps": [null] }), 0),
        (json!({ "steps": [step], "from_row": 9 }), 0),
        (json!({ "steps": [null, step], "from_row": 5, "to_row": 20 }), 1),
        (json!({ "to_row": 4 }), 1),
    ] {
        let (status, done) = client.post(&retry, &some).await;
        assert_eq!((status, &done["retried"]), (200, &json!(rows)), "{some}: {done}");
        client.finished(id).await;
    }
}

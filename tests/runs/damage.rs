//! Ciphertexts that were damaged in the database: the rows fail, everything else goes on.

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::database::Database;
use penstock_tests::{Client, Place};
use serde_json::{Value, json};

use crate::{PEOPLE, invite, people};

#[tokio::test]
async fn a_row_that_cannot_be_read_fails_and_stands_in_the_reports_as_what_it_is() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("invite.yaml", &invite())]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let mut csv = people(2);
    csv.push_str("taken@example.com,T,T,,AB0001\ntaken@example.com,U,U,,AB0001\n");
    let (_, batch) = client.upload(PEOPLE, csv).await.expect("an answer");
    let id = batch["id"].as_str().expect("an id").to_owned();
    assert_eq!(client.finished(&id).await["counts"]["failed"], 2);

    // Another row's ciphertexts: whole, and not what was sealed there.
    let mut database = Database::of(&place).await;
    let damaged = [
        "UPDATE row_data SET payload = (SELECT o.payload FROM row_data o WHERE o.batch = row_data.batch AND o.number = 1) \
         WHERE number = 3",
        "UPDATE row_output SET result = (SELECT o.result FROM row_output o WHERE o.batch = row_output.batch AND o.number = 1) \
         WHERE number = 2",
        "UPDATE row_output SET error = (SELECT o.error FROM row_output o WHERE o.batch = row_output.batch AND o.number = 3) \
         WHERE number = 4",
    ];
    for statement in damaged {
        assert_eq!(database.run(statement).await, 1, "{statement}");
    }
    let rows = client.get(&format!("/v2/batches/{id}/rows")).await;
    let codes: Vec<&Value> =
        rows["data"].as_array().expect("rows").iter().map(|row| &row["error"]["code"]).collect();
    assert_eq!(codes, [&Value::Null, &json!("unreadable"), &json!("email_taken"), &json!("email_taken")]);

    let (status, _) = client.post(&format!("/v2/batches/{id}/retry"), &json!({})).await;
    assert_eq!(status, 200);
    let batch = client.finished(&id).await;
    assert_eq!((&batch["counts"]["completed"], &batch["counts"]["failed"]), (&json!(2), &json!(2)));
    let row = client.get(&format!("/v2/batches/{id}/rows/3")).await;
    assert_eq!((&row["status"], &row["error"]["code"]), (&json!("failed"), &json!("unreadable")), "{row}");

    let text = client.text(&format!("/v2/batches/{id}/results.csv")).await;
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[1].starts_with("person0@example.com,First0,Last,,AB0000,1,completed,chk_"), "{text}");
    assert!(
        lines[2].starts_with("person1@example.com,First1,Last,,AB0001,2,completed,,unreadable,"),
        "{text}"
    );
    assert!(lines[3].starts_with(",,,,,3,failed,,unreadable,"), "{text}");
    assert!(lines[4].starts_with("taken@example.com,U,U,,AB0001,4,failed,,email_taken,"), "{text}");
    let text = client.text(&format!("/v2/batches/{id}/results.ndjson")).await;
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&lines[2]["row"], &lines[2]["error"]["code"]), (&Value::Null, &json!("unreadable")));
    assert_eq!((lines.len(), &lines[3]["row"]["first_name"]), (4, &json!("U")));
}

//! Receivers that refuse, are gone, or ask for time; secrets that change.

use std::time::{Duration, Instant};

use penstock_domain::time::Timestamp;
use penstock_sandbox::{Config, Sandbox};
use penstock_tests::database::Database;
use penstock_tests::receiver::{Heard, Receiver};
use penstock_tests::{Client, PATIENCE, Place, Service};
use serde_json::{Value, json};

use crate::NOOP;

const ROUTE: &str = "/v2/pipelines/noop/batches";

/// Uploads a file of one row that is told of at this path of the receiver; the batch's id.
async fn upload(client: &Client, receiver: &Receiver, path: &str) -> String {
    let to = format!("{ROUTE}?callback_url={}{path}", receiver.url);
    let (status, batch) = client.upload(&to, "id\n1\n").await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    batch["id"].as_str().expect("an id").to_owned()
}

/// A batch's callbacks, as soon as there are so many and all of them are as wanted.
async fn until(client: &Client, batch: &str, count: usize, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
    let began = Instant::now();
    loop {
        let listed = client.get(&format!("/v2/callbacks?batch={batch}")).await;
        let all = listed["data"].as_array().expect("callbacks").clone();
        if all.len() == count && all.iter().all(&wanted) {
            return all;
        }
        assert!(began.elapsed() < PATIENCE, "{listed}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn told(heard: &Heard, path: &str, event: &str) -> bool {
    heard.path == path && heard.json()["type"] == event
}

/// 410 is the end of an address: nothing more goes there, of this batch or of the next one, until somebody names it again.
#[tokio::test]
async fn an_address_that_is_gone_is_left_alone() {
    let receiver = Receiver::start().await;
    receiver.answer_by(|heard| (if heard.path == "/gone" { 410 } else { 204 }, String::new()));
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let gone = upload(&client, &receiver, "/gone").await;
    client.finished(&gone).await;
    let all = until(&client, &gone, 3, |one| one["status"] == "disabled").await;
    assert!(all.iter().all(|one| one["next_at"] == Value::Null), "{all:?}");
    let asked: Vec<&Value> = all.iter().filter(|one| one["attempts"] == 1).collect();
    assert_eq!((asked.len(), &asked[0]["last_status"]), (1, &json!(410)), "{all:?}");
    // Another address of the same receiver is none of it; what it hears comes behind what the other one would have.
    let other = upload(&client, &receiver, "/there").await;
    until(&client, &other, 3, |one| one["status"] == "delivered").await;
    let times = |path: &str| receiver.heard().iter().filter(|heard| heard.path == path).count();
    assert_eq!((times("/gone"), times("/there")), (1, 3));
    // One is sent again by hand, and refused again: still nothing by itself.
    let again = format!("/v2/callbacks/{}/redeliver", all[0]["id"].as_str().expect("an id"));
    assert_eq!(client.post(&again, &Value::Null).await.0, 202);
    until(&client, &gone, 3, |one| one["status"] == "disabled").await;
    assert_eq!(times("/gone"), 2);
    // An upload names it: it is there, and hears of that batch, not of the ones before.
    receiver.answer(204);
    let named = upload(&client, &receiver, "/gone").await;
    until(&client, &named, 3, |one| one["status"] == "delivered").await;
    assert_eq!(times("/gone"), 5);
    until(&client, &gone, 3, |one| one["status"] == "disabled").await;
}

/// How long a receiver asks to be left alone is heeded, in seconds or as a date, and not permanently.
#[tokio::test]
async fn a_receiver_that_asks_for_time_gets_it() {
    let receiver = Receiver::start().await;
    let in_an_hour = || {
        let seconds =
            i64::try_from(std::time::UNIX_EPOCH.elapsed().expect("a clock").as_secs()).expect("a time");
        http_date(seconds + 3600)
    };
    receiver.answer_by(move |heard| match heard.path.as_str() {
        "/soon" => (429, "retry-after: 8\r\n".to_owned()),
        "/date" => (503, format!("retry-after: {}\r\n", in_an_hour())),
        "/never" => (503, "retry-after: 99999999\r\n".to_owned()),
        "/hasty" => (503, "retry-after: 0\r\n".to_owned()),
        _ => (500, String::new()),
    });
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let soon = upload(&client, &receiver, "/soon").await;
    let first = receiver.until(|heard| told(heard, "/soon", "batch.created")).await;
    let heard_at = Instant::now();
    // The schedule's first pause is five seconds, give or take a fifth.
    for (path, at_least, at_most) in
        [("/date", 3595, 3605), ("/never", 7 * 86400 - 5, 7 * 86400 + 5), ("/hasty", 3, 7), ("/plain", 3, 7)]
    {
        let before = now();
        let id = upload(&client, &receiver, path).await;
        let all = until(&client, &id, 3, |one| one["attempts"] == 1).await;
        for one in &all {
            assert_eq!(one["status"], "pending", "{one}");
            let next: Timestamp = serde_json::from_value(one["next_at"].clone()).expect("a moment");
            let pause = (next.millis() - before.millis()) / 1000;
            assert!((at_least..=at_most + 3).contains(&pause), "{path}: {pause} s: {one}");
        }
    }
    let again = |heard: &Heard| heard.header("webhook-id") == first.header("webhook-id");
    let began = Instant::now();
    while receiver.heard().iter().filter(|heard| again(heard)).count() < 2 {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let paused = heard_at.elapsed();
    assert!(paused > Duration::from_millis(7900), "{paused:?}");
    // It changed nothing about the batches.
    assert_eq!(client.finished(&soon).await["outcome"], "success");
}

fn now() -> Timestamp {
    let elapsed = std::time::UNIX_EPOCH.elapsed().expect("a clock").as_millis();
    Timestamp::from_millis(i64::try_from(elapsed).expect("a time"))
}

/// An HTTP date (RFC 9110, 5.6.7), by the sandbox's own way to write one.
fn http_date(seconds: i64) -> String {
    let then = std::time::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).expect("after 1970"));
    let waits = then.duration_since(std::time::SystemTime::now()).expect("later").as_secs();
    let headers = penstock_sandbox::faults::Wait::Date.headers(waits);
    headers.into_iter().next().expect("a date").1
}

/// After the tenth refusal a callback is given up: it is told as that wherever one looks, an alert says so and says when it
/// is over, and by hand it is sent again under the same id.
#[tokio::test]
async fn what_is_refused_to_the_end_is_given_up_and_told() {
    let receiver = Receiver::start().await;
    receiver.answer_by(|heard| (if heard.path == "/hook" { 500 } else { 204 }, String::new()));
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("noop.yaml", NOOP)]);
    let rules = format!(
        "every: 300ms\nreceivers: [ {{ name: pager, kind: webhook, url: \"{}/pager\" }} ]\n\
         rules: [ {{ rule: callbacks_exhausted, to: [pager] }} ]\n",
        receiver.url
    );
    let file = place.write("alerts.yaml", &rules);
    place.set("PENSTOCK_ALERTS", file);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let id = upload(&client, &receiver, "/hook").await;
    assert_eq!(client.finished(&id).await["outcome"], "success");
    until(&client, &id, 3, |one| one["attempts"] == 1).await;
    // Three days go by.
    let mut database = Database::of(&place).await;
    assert_eq!(database.run("UPDATE callbacks SET attempts = 8, next_at = 1").await, 3);
    let all = until(&client, &id, 3, |one| one["attempts"] == 9).await;
    assert!(all.iter().all(|one| one["status"] == "pending"), "one try is left: {all:?}");
    assert_eq!(database.run("UPDATE callbacks SET next_at = 1").await, 3);
    let all = until(&client, &id, 3, |one| one["status"] == "exhausted").await;
    for one in &all {
        assert_eq!(
            (&one["attempts"], &one["last_status"], &one["next_at"]),
            (&json!(10), &json!(500), &Value::Null),
            "{one}"
        );
    }
    let firing = receiver.until(|heard| told(heard, "/pager", "alert.firing")).await;
    assert_eq!(firing.json()["data"]["rule"], "callbacks_exhausted");
    let metrics = client.text("/metrics").await;
    assert!(metrics.contains("penstock_callbacks{state=\"exhausted\"} 3"), "{metrics}");
    let (said, good) = place.say(&sandbox, &["reconcile"]);
    assert!(good && said.contains("callbacks that were given up"), "{said}");
    let tries = receiver.heard().iter().filter(|heard| heard.path == "/hook").count();
    assert_eq!(tries, 9, "three of each");
    // The receiver is fixed. One is sent again; the others are not.
    receiver.answer(204);
    let one = all[0]["id"].as_str().expect("an id");
    let (status, taken) = client.post(&format!("/v2/callbacks/{one}/redeliver"), &Value::Null).await;
    assert_eq!(
        (status, &taken["status"], &taken["attempts"]),
        (202, &json!("pending"), &json!(0)),
        "{taken}"
    );
    let delivered = receiver.until(|heard| heard.path == "/hook" && heard.status == 204).await;
    assert_eq!(delivered.header("webhook-id"), one);
    for other in &all[1..] {
        let again = format!("/v2/callbacks/{}/redeliver", other["id"].as_str().expect("an id"));
        assert_eq!(client.post(&again, &Value::Null).await.0, 202);
    }
    until(&client, &id, 3, |one| one["status"] == "delivered" && one["attempts"] == 1).await;
    receiver.until(|heard| told(heard, "/pager", "alert.resolved")).await;
    assert_eq!(receiver.heard().iter().filter(|heard| told(heard, "/pager", "alert.firing")).count(), 1);
}

/// After its day is over a former secret signs no more; and a secret is there after the keyring was changed under it.
#[tokio::test]
async fn a_secrets_rotation_ends() {
    const OLD: &str = "old:WX9EIDV99ywIg2xC6vzpTAJnAdGLt132YsRseUckGJk=";
    const NEW: &str = "new:/uCJxTJpisAeedm7CqonBAj9fmoHPHj9Lr0ixtwWPvU=";
    let receiver = Receiver::start().await;
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("noop.yaml", NOOP)]);
    place.set("PENSTOCK_ENCRYPTION_KEYS", OLD.into());
    let key = place.key(&sandbox, "acme");
    let rotate = |place: &Place| {
        let (said, good) = place.operate(&sandbox, &["owners", "rotate-secret", "acme"]);
        assert!(good, "{said}");
        said["secret"].as_str().expect("a secret").to_owned()
    };
    let (first, second) = (rotate(&place), rotate(&place));
    let service = place.start(&sandbox, None);
    let id = upload(&Client::new(&service, &key), &receiver, "/hook").await;
    let created = receiver.until(|heard| told(heard, "/hook", "batch.created")).await;
    for secret in [&first, &second] {
        created.verify(secret).expect("both sign");
    }
    assert_eq!(created.header("webhook-signature").split(' ').count(), 2);
    Client::new(&service, &key).finished(&id).await;
    service.terminate();
    place.set("PENSTOCK_ENCRYPTION_KEYS", format!("{NEW},{OLD}"));
    let (done, good) = place.operate(&sandbox, &["crypto", "rewrap"]);
    assert!(good, "{done}");
    place.set("PENSTOCK_ENCRYPTION_KEYS", NEW.into());
    let service = place.start(&sandbox, None);
    let both = redelivered(&service, &key, &receiver, &created).await;
    for secret in [&first, &second] {
        both.verify(secret).expect("both sign under another keyring too");
    }
    let mut database = Database::of(&place).await;
    assert_eq!(
        database.run("UPDATE owners SET previous_until = 1 WHERE previous_until IS NOT NULL").await,
        1
    );
    let one = redelivered(&service, &key, &receiver, &created).await;
    one.verify(&second).expect("the present secret signs");
    assert!(one.verify(&first).is_err(), "the former one is over");
    assert_eq!(one.header("webhook-signature").split(' ').count(), 1);
    // A third one: the one before it signs, and the one before that does not.
    let third = rotate(&place);
    let two = redelivered(&service, &key, &receiver, &created).await;
    for (secret, signs) in [(&first, false), (&second, true), (&third, true)] {
        assert_eq!(two.verify(secret).is_ok(), signs);
    }
}

/// Sends a callback again; how it arrived.
async fn redelivered(service: &Service, key: &str, receiver: &Receiver, what: &Heard) -> Heard {
    let before = receiver.heard().len();
    let id = what.header("webhook-id").to_owned();
    let (status, said) =
        Client::new(service, key).post(&format!("/v2/callbacks/{id}/redeliver"), &Value::Null).await;
    assert_eq!(status, 202, "{said}");
    let began = Instant::now();
    loop {
        let later = receiver.heard().into_iter().skip(before).find(|heard| heard.header("webhook-id") == id);
        if let Some(found) = later {
            assert_eq!(found.body, what.body, "what is told is what was told");
            return found;
        }
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An owner with forty receivers that hang, each with callbacks of several batches, makes nobody else's callbacks late: not
/// even those of an owner at one of the same hosts.
#[tokio::test]
async fn an_owner_whose_receivers_hang_makes_nobody_late() {
    let mut receivers = Vec::new();
    for _ in 0..40 {
        let receiver = Receiver::start().await;
        receiver.answer_by(|heard| (if heard.path == "/good" { 204 } else { 0 }, String::new()));
        receivers.push(receiver);
    }
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let (hanging, good) = (place.key(&sandbox, "hanging"), place.key(&sandbox, "good"));
    let service = place.start(&sandbox, None);
    let (hanging, good) = (Client::new(&service, &hanging), Client::new(&service, &good));
    for receiver in &receivers {
        for _ in 0..4 {
            upload(&hanging, receiver, "/hang").await;
        }
    }
    let under_way =
        || receivers.iter().flat_map(Receiver::heard).filter(|heard| heard.path == "/hang").count();
    let began = Instant::now();
    while under_way() < 40 {
        assert!(began.elapsed() < PATIENCE, "{} hang", under_way());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let shared = &receivers[0];
    let id = upload(&good, shared, "/good").await;
    good.finished(&id).await;
    let began = Instant::now();
    until(&good, &id, 3, |one| one["status"] == "delivered").await;
    // A receiver that hangs is waited for twenty seconds.
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

/// What an owner reads of a delivery that failed tells nothing about names inside: one that leads inside fails as one that
/// nobody knows does.
#[tokio::test]
async fn names_inside_fail_as_unknown_ones_do() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("noop.yaml", NOOP)]);
    place.set("PENSTOCK_ALLOW_PRIVATE_CALLBACKS", "false".into());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let inside = std::fs::read_to_string("/etc/hostname").expect("this machine has a name");
    let mut said = Vec::new();
    for name in [inside.trim(), "no-such-name.invalid"] {
        let to = format!("{ROUTE}?callback_url=http://{name}/x");
        let (status, batch) = client.upload(&to, "id\n1\n").await.expect("an answer");
        assert_eq!(status, 202, "{name} is judged when it is resolved: {batch}");
        let id = batch["id"].as_str().expect("an id").to_owned();
        let all = until(&client, &id, 3, |one| one["last_error"].is_string()).await;
        said.extend(all.iter().map(|one| one["last_error"].as_str().expect("a sentence").to_owned()));
    }
    said.dedup();
    assert_eq!(said.len(), 1, "{said:?}");
}

/// Without being allowed to, nothing is sent to addresses of one's own network.
#[tokio::test]
async fn a_private_address_is_refused() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("noop.yaml", NOOP)]);
    place.set("PENSTOCK_ALLOW_PRIVATE_CALLBACKS", "false".into());
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    for address in [
        "http://127.0.0.1:9/x",
        "http://localhost/x",
        "http://10.0.0.1/x",
        "http://169.254.169.254/latest",
        "http://[::1]/x",
        "http://0x7f000001/x",
        "http://u:p@receiver.example/x",
        "ftp://receiver.example/x",
        "http://[fec0::1]/x",
        "http://[100::1]/x",
        "http://192.31.196.1/x",
        "http://receiver..example/x",
        "http://receiver.example:0/x",
        &format!("http://receiver.example/{}", "x".repeat(2048)),
    ] {
        let (status, problem) =
            client.upload(&format!("{ROUTE}?callback_url={address}"), "id\n1\n").await.expect("an answer");
        assert_eq!((status, &problem["code"]), (422, &json!("bad_callback_url")), "{address}: {problem}");
    }
    assert_eq!(client.get("/v2/batches").await["data"], json!([]));
}

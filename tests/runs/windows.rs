//! Limits by the clock and by what a call takes: evenly spread, by the day of a time zone for each value and owner, within hours, and by costs that the answer corrects.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use penstock_domain::time::Timestamp;
use penstock_sandbox::{Config, Sandbox};
use penstock_tests::clock::{CLOCK, fake_clock};
use penstock_tests::receiver::{Answer, Heard, Receiver};
use penstock_tests::redis::Redis;
use penstock_tests::{Client, Place, Service};
use serde_json::Value;

use crate::large::{most_in_any, times};
use crate::storage::until;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// A pipeline that calls its own dependency once for each row.
fn pipeline(name: &str, keys: &str, cost: &str) -> String {
    format!(
        "name: {name}\ncsv: {{ columns: [ {{ name: id, required: true }}, {{ name: sender }} ] }}\n\
        dependencies: {{ {name}: {{ base_url: \"${{INVITE_API_URL}}\", timeout: 5s, {keys} }} }}\nsteps:\n\
        \x20 - {{ name: send, dependency: {name}, request: {{ method: PUT, path: /{name}, json: {{ sender: \"{{{{ row.sender }}}}\", owner: \"{{{{ owner.name }}}}\" }} }}{cost} }}\n\
        dispatch: {{ spread: 0s }}\n"
    )
}

struct Scene {
    sandbox: Sandbox,
    receiver: Receiver,
    place: Place,
}

impl Scene {
    async fn new(pipelines: &[(&str, &str)]) -> Self {
        let receiver = Receiver::start().await;
        receiver.answer(204);
        let mut place = Place::new(pipelines);
        place.set("INVITE_API_URL", receiver.url.clone());
        Self { sandbox: Sandbox::start(Config::default()).expect("a sandbox"), receiver, place }
    }

    fn start(&self) -> Service {
        self.place.start(&self.sandbox, None)
    }

    fn key(&self, owner: &str) -> String {
        self.place.key(&self.sandbox, owner)
    }

    fn calls(&self, name: &str) -> Vec<Heard> {
        let path = format!("/{name}");
        self.receiver.heard().into_iter().filter(|heard| heard.path == path).collect()
    }
}

async fn upload(client: &Client, pipeline: &str, senders: &[&str]) -> String {
    let csv = senders
        .iter()
        .enumerate()
        .fold("id,sender\n".to_owned(), |csv, (id, sender)| csv + &format!("a{id},{sender}\n"));
    let path = format!("/v2/pipelines/{pipeline}/batches");
    let (status, batch) = client.upload(&path, csv).await.expect("an answer");
    assert_eq!(status, 202, "{batch}");
    batch["id"].as_str().expect("an id").to_owned()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// Seconds since 1970.
fn seconds(at: &Value) -> u64 {
    let at: Timestamp = serde_json::from_value(at.clone()).unwrap_or_else(|_| panic!("a time: {at}"));
    u64::try_from(at.seconds()).expect("after 1970")
}

/// Nothing of a batch is with a worker, and this many rows are done.
async fn rests(client: &Client, id: &str, completed: u64) {
    rests_with(client, id, completed..=completed).await;
}

/// The same with so many rows.
async fn rests_with(client: &Client, id: &str, completed: RangeInclusive<u64>) {
    until("the others wait", || async {
        let counts = client.get(&format!("/v2/batches/{id}")).await["counts"].clone();
        let done = counts["completed"].as_u64().is_some_and(|done| completed.contains(&done));
        done && counts["processing"] == 0 && counts["queued"] == 0
    })
    .await;
}

/// A zone in which it is not about midnight, by how many seconds its clocks are ahead of UTC.
fn zone() -> (&'static str, u64) {
    let kolkata = ("Asia/Kolkata", 19_800);
    let to_midnight = DAY - (now() + kolkata.1) % DAY;
    if (600..DAY - 600).contains(&to_midnight) { kolkata } else { ("Asia/Tokyo", 9 * HOUR) }
}

#[tokio::test]
async fn calls_of_a_period_are_spread_evenly_or_made_at_once() {
    const ROWS: usize = 16;
    let calendar = |spread: &str| format!("rate: {{ limit: 240, period: 1m, window: calendar{spread} }}");
    let (even, quick) =
        (pipeline("even", &calendar(", spread: true"), ""), pipeline("quick", &calendar(""), ""));
    let scene = Scene::new(&[("even.yaml", &even), ("quick.yaml", &quick)]).await;
    let key = scene.key("acme");
    let service = scene.start();
    let client = Client::new(&service, &key);
    let mut batches = Vec::new();
    for name in ["even", "quick"] {
        batches.push(upload(&client, name, &[""; ROWS]).await);
    }
    for id in batches {
        assert_eq!(client.finished(&id).await["counts"]["completed"], ROWS);
    }
    let spans = ["even", "quick"].map(|name| {
        let calls = scene.calls(name);
        let all = times(calls.iter());
        (all[ROWS - 1].duration_since(all[0]), most_in_any(&all, Duration::from_millis(900)))
    });
    let [(even, most), (quick, _)] = spans;
    // Four a second; at the end of a minute, once, two come closer.
    assert!(even > Duration::from_millis(3400) && most <= 5, "{even:?}, {most} in 900 ms");
    assert!(quick < even, "{quick:?}, and {even:?} when spread");
    service.terminate();
}

/// A day's calls of each sender, and of each owner, by the calendar of a time zone. Who has used its day up waits for the midnight there,
/// and nobody knocks meanwhile, also not a service that knows nothing any more. The next day has as many.
#[tokio::test]
async fn a_day_ends_at_midnight_there_for_each_value_and_owner() {
    let (name, ahead) = zone();
    let day = |limit: u32, whose: &str| {
        format!("{{ limit: {limit}, period: 1d, window: calendar, timezone: {name}{whose} }}")
    };
    let daily = pipeline(
        "daily",
        &format!("rate: [ {}, {} ]", day(2, ", per: \"{{ row.sender }}\""), day(5, ", per_owner: true")),
        "",
    );
    let all = pipeline("all", &format!("rate: {}", day(3, "")), "");
    let mut scene = Scene::new(&[("daily.yaml", &daily), ("all.yaml", &all)]).await;
    let _servers = fake_clock(&mut scene.place, &scene.sandbox).await;
    let keys = ["acme", "rival"].map(|owner| scene.key(owner));
    let service = scene.start();
    let [acme, rival] = [&keys[0], &keys[1]].map(|key| Client::new(&service, key));
    let midnight = (now() + ahead).next_multiple_of(DAY) - ahead;
    let many = ["a", "a", "a", "a", "b", "b", "b", "b", "c", "c", "c", "c"];
    let mine = upload(&acme, "daily", &many).await;
    let theirs = upload(&rival, "daily", &["d", "d", "e", "e", "f", "f"]).await;
    let shared = upload(&acme, "all", &[""; 5]).await;
    rests(&acme, &mine, 5).await;
    rests(&rival, &theirs, 5).await;
    rests(&acme, &shared, 3).await;
    let used = || {
        let (mut owners, mut senders) = (BTreeMap::<String, u32>::new(), BTreeMap::<String, u32>::new());
        for call in scene.calls("daily") {
            *owners.entry(call.json()["owner"].to_string()).or_default() += 1;
            *senders.entry(call.json()["sender"].to_string()).or_default() += 1;
        }
        (owners.into_values().collect::<Vec<_>>(), senders.into_values().max())
    };
    assert_eq!(used(), (vec![5, 5], Some(2)));
    let rows = rival.get(&format!("/v2/batches/{theirs}/rows?status=pending")).await;
    let back = seconds(&rows["data"][0]["not_before"]);
    assert!((midnight..midnight + 2).contains(&back), "{back} is not about {midnight}: {rows}");
    let waits = acme.get(&format!("/v2/batches/{shared}/waiting")).await;
    let waits_until =
        waits["data"].as_array().expect("waits").iter().filter(|wait| wait["until"].is_string());
    let latest = waits_until.map(|wait| seconds(&wait["until"])).max();
    assert!(latest.is_some_and(|until| (midnight..midnight + 2).contains(&until)), "{midnight}: {waits}");
    // Estimates take limits as they were up to a second ago.
    until("it ends on the next day", || async {
        let eta = acme.get(&format!("/v2/batches/{shared}")).await["eta"].clone();
        eta.is_string() && seconds(&eta) >= midnight
    })
    .await;

    // Its limiter has lost everything; the database knows what was reserved.
    service.kill();
    let service = scene.start();
    let [acme, rival] = [&keys[0], &keys[1]].map(|key| Client::new(&service, key));
    let more = upload(&rival, "all", &[""; 4]).await;
    until("it is tried", || async {
        let rows = rival.get(&format!("/v2/batches/{more}/rows")).await;
        rows["data"].as_array().expect("rows").iter().all(|row| row["not_before"].is_string())
    })
    .await;
    rests(&rival, &more, 0).await;
    assert_eq!((used(), scene.calls("all").len()), ((vec![5, 5], Some(2)), 3), "no call before midnight");

    scene.place.write(CLOCK, &format!("+{}", midnight + 60 - now()));
    assert_eq!(rival.finished(&theirs).await["counts"]["completed"], 6);
    // A permit that a worker has while the clock is set may be lost with the lease of its row: fewer calls are made then, and never
    // more.
    until("the next day's calls are made", || async { scene.calls("all").len() > 3 }).await;
    for (client, batch, rows) in [(&acme, &mine, 6..=10), (&acme, &shared, 3..=5), (&rival, &more, 0..=3)] {
        rests_with(client, batch, rows).await;
    }
    let (owners, of_a_sender) = used();
    assert!((6..=10).contains(&owners[0]) && owners[1] == 6, "{owners:?}");
    assert!(of_a_sender <= Some(4) && scene.calls("all").len() <= 6);
    service.terminate();
}

/// Outside its hours nobody calls a dependency; batch and rows say until when, and rows of the same owner that call another one do not
/// wait with them.
#[tokio::test]
async fn calls_are_made_within_hours_only() {
    // More than an owner may have in flight.
    const ROWS: usize = 600;
    // By the minute; a zone without an offset, so that the text is easy to write.
    let opens = (now() + 2 * HOUR) / 60 * 60;
    let time = |at: u64| format!("{:02}:{:02}", at % DAY / HOUR, at % HOUR / 60);
    let hours = |from: u64, to: u64| {
        format!("hours: {{ from: \"{}\", to: \"{}\", timezone: Africa/Abidjan }}", time(from), time(to))
    };
    let office = pipeline("office", &hours(opens, opens + HOUR), "");
    let open = pipeline("open", &hours(opens - 3 * HOUR, opens), "");
    let scene = Scene::new(&[("office.yaml", &office), ("open.yaml", &open)]).await;
    let key = scene.key("acme");
    let service = scene.start();
    let client = Client::new(&service, &key);
    let id = upload(&client, "office", &[""; ROWS]).await;
    let waits = async || {
        let waits = client.get(&format!("/v2/batches/{id}/waiting")).await;
        let waits = waits["data"].as_array().expect("waits").clone();
        waits.into_iter().find(|wait| wait["reason"] == "outside_hours")
    };
    until("it is said", || async { waits().await.is_some() }).await;
    let wait = waits().await.expect("it is said");
    assert_eq!(seconds(&wait["until"]), opens, "{wait}");
    // The first that asks learns it for all; which one that is nobody says.
    let tried = || async {
        let rows = client.get(&format!("/v2/batches/{id}/rows?status=pending&limit=1000")).await;
        let rows = rows["data"].as_array().expect("rows").clone();
        rows.into_iter().find(|row| row["not_before"].is_string() && seconds(&row["not_before"]) == opens)
    };
    until("one is tried", || async { tried().await.is_some() }).await;
    let row = tried().await.expect("it waits for two hours");
    assert_eq!(row["attempts"], 0, "{row}");
    let eta = client.get(&format!("/v2/batches/{id}")).await["eta"].clone();
    assert!(eta.is_string() && seconds(&eta) >= opens, "{eta}");
    let other = upload(&client, "open", &[""; 20]).await;
    let ended = client.finished(&other).await;
    assert_eq!(ended["counts"]["completed"], 20, "{ended}");
    assert!(scene.calls("office").is_empty(), "{:?} at {}, of {opens}", scene.calls("office"), now());
    let batch = client.get(&format!("/v2/batches/{id}")).await;
    assert!(batch["counts"]["failed"] == 0 && batch["counts"]["completed"] == 0, "{batch}");
    service.terminate();
}

/// A budget of tokens: what an answer says that it took is charged or returned, so that calls which take less than was thought are
/// quicker, and those which take more are not.
#[tokio::test]
async fn a_cost_is_corrected_by_the_answer() {
    let rates = "concurrency: 1, rate: [ { limit: 1000, period: 1s, burst: 100 }, { name: tokens, limit: 100, period: 1s, burst: 100 } ]";
    let cost = |estimate: u32| {
        format!(
            ", cost: {{ tokens: {{ estimate: {estimate}, actual: \"{{{{ body.usage.tokens }}}}\" }} }}, output: {{ n: \"{{{{ body.usage.tokens }}}}\" }}"
        )
    };
    let (less, more) = (pipeline("less", rates, &cost(50)), pipeline("more", rates, &cost(1)));
    let scene = Scene::new(&[("less.yaml", &less), ("more.yaml", &more)]).await;
    scene.receiver.answer_with(|heard| {
        let took = if heard.path == "/less" { 5 } else { 50 };
        Answer::json(format!("{{\"usage\": {{\"tokens\": {took}}}}}"))
    });
    let key = scene.key("acme");
    let service = scene.start();
    let client = Client::new(&service, &key);
    let (many, few) = (upload(&client, "less", &[""; 60]).await, upload(&client, "more", &[""; 12]).await);
    for (id, rows) in [(many, 60), (few, 12)] {
        assert_eq!(client.finished(&id).await["counts"]["completed"], rows);
    }
    let took = |name: &str| {
        let calls = scene.calls(name);
        let all = times(calls.iter());
        (all[all.len() - 1].duration_since(all[0]), most_in_any(&all, Duration::from_millis(900)))
    };
    // By its estimates 29 s; it took 300 tokens.
    assert!(took("less").0 < Duration::from_secs(25), "{:?}", took("less"));
    // By its estimates at once; it took 600 tokens, and has 100 a second, and 100 once.
    let (span, most) = took("more");
    assert!(span > Duration::from_secs(4) && most <= 5, "{span:?}, {most} in 900 ms");
    service.terminate();
}

/// So many values are not full again that a limit keeps no further ones: rows with those wait, those with known ones do not, and
/// when there is room again everything goes on. On one machine this takes 100,000 calls; `kept_values.rs` asks its limiter for them.
#[tokio::test]
async fn values_beyond_what_a_limit_keeps_wait_for_room() {
    const KEPT: u32 = 100_000;
    let keys = "rate: { limit: 2, period: 1h, burst: 2, per: \"{{ row.sender }}\" }";
    let mut scene = Scene::new(&[("many.yaml", &pipeline("many", keys, ""))]).await;
    if !scene.place.is_cluster() {
        return;
    }
    let mut redis = Redis::reserve();
    redis.start(&[]);
    scene.place.set("REDIS_URL", redis.url());
    let key = scene.key("acme");
    let service = scene.start();
    let client = Client::new(&service, &key);
    let first = upload(&client, "many", &["known"]).await;
    assert_eq!(client.finished(&first).await["counts"]["completed"], 1);
    // The only sorted set with a member that is a hash and not the limiter's bookkeeping: the values that are not full.
    let fill = format!(
        "local found = {{}}; for _, key in ipairs(redis.call('KEYS', '*')) do \
         if redis.call('TYPE', key).ok == 'zset' and redis.call('ZCARD', key) == 1 then \
         local one = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES'); \
         if tonumber(one[2]) > 1e15 and #one[1] > 10 and not string.find(one[1], ' ') then found[#found + 1] = key; \
         for n = 1, {KEPT} - 1 do redis.call('ZADD', key, one[2], 'filled-' .. n) end end end end; return found"
    );
    let found = redis.ask(&["EVAL", &fill, "0"]);
    assert_eq!(found.lines().count(), 1, "the values of one limit: {found}");
    let id = upload(&client, "many", &["known", "new", "newer"]).await;
    rests(&client, &id, 1).await;
    let rows = client.get(&format!("/v2/batches/{id}/rows")).await;
    for number in [1, 2] {
        let row = &rows["data"][number];
        assert!(row["not_before"].is_string() && row["attempts"] == 0, "{rows}");
    }
    let senders = |scene: &Scene| -> Vec<String> {
        scene.calls("many").iter().map(|call| call.json()["sender"].to_string()).collect()
    };
    assert_eq!(senders(&scene), ["\"known\"", "\"known\""]);
    assert_eq!(redis.ask(&["ZCARD", &found]), KEPT.to_string());
    service.terminate();
}

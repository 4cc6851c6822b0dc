//! A million rows, uploaded through three APIs at once, carried by two workers, one effect each; and the keyring is rotated
//! in the middle of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::{Client, Place};

use crate::progress::Progress;
use crate::{Promises, body, say, usage};

/// One call that has an effect, carries its key, and is limited by nothing but the machine.
const ONCE: &str = "name: once\n\
    csv: { columns: [ { name: email, required: true, format: email }, { name: first_name }, { name: last_name }, { name: phone }, { name: postcode } ] }\n\
    dependencies: { invite: { base_url: \"${INVITE_API_URL}\", timeout: 10s, concurrency: 64 } }\n\
    steps: [ { name: invite, dependency: invite, request: { method: POST, path: /invite/create, idempotency_key: true, json: { email: \"{{ row.email }}\", campaign: \"{{ context.campaign }}\" } }, output: { check: \"{{ body.check_id }}\" } } ]\n\
    result: { check: \"{{ steps.invite.check }}\" }\n\
    dispatch: { spread: 0s, rows_per_owner: 50000 }\n";

const OLD: &str = "tests:WX9EIDV99ywIg2xC6vzpTAJnAdGLt132YsRseUckGJk=";
const NEW: &str = "new:/uCJxTJpisAeedm7CqonBAj9fmoHPHj9Lr0ixtwWPvU=";
const BATCHES: u32 = 6;

/// The whole of it.
pub async fn run(rows: u32, kept: &mut Promises) {
    let sandbox = Arc::new(Sandbox::start(Config::default()).expect("a sandbox"));
    let mut place = Place::new(&[("once.yaml", ONCE)]);
    let key = place.key(&sandbox, "bench");
    // The new key seals from the first moment on; what the old one sealed is re-wrapped in the middle.
    let before = place.api(&sandbox);
    let each = rows / BATCHES;
    let route =
        |batch: u32| format!("/v2/pipelines/once/batches?context=%7B%22campaign%22%3A%22batch{batch}%22%7D");
    let began = Instant::now();
    let (_, first) = Client::new(&before, &key).upload(&route(0), body(each)).await.expect("an answer");
    before.terminate();
    place.set("PENSTOCK_ENCRYPTION_KEYS", format!("{NEW},{OLD}"));
    let apis: Vec<_> = (0..3).map(|_| place.api(&sandbox)).collect();
    let clients: Vec<_> = apis.iter().map(|api| Client::new(api, &key)).collect();
    let workers = [place.worker(&sandbox), place.worker(&sandbox)];
    let _dispatcher = place.dispatcher(&sandbox, "1s");
    let uploads = (1..BATCHES).map(|batch| {
        let client = &clients[batch as usize % clients.len()];
        let route = route(batch);
        async move { client.upload(&route, body(each)).await.expect("an answer").1 }
    });
    let mut batches = futures::future::join_all(uploads).await;
    say("\nuploads through three APIs at once", each * (BATCHES - 1), began.elapsed());
    batches.insert(0, first);
    assert!(batches.iter().all(|batch| batch["id"].is_string()), "{batches:?}");
    let progress = Progress::watch(&sandbox, u64::from(each * BATCHES));
    while sandbox.stats().effects < u64::from(rows / 3) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (rewrapped, good) = place.operate(&sandbox, &["crypto", "rewrap"]);
    assert!(good, "{rewrapped}");
    let mut completed = 0;
    for batch in &batches {
        let ended = clients[0].finished(batch["id"].as_str().expect("an id")).await;
        completed += ended["counts"]["completed"].as_u64().expect("a count");
    }
    say("a million rows, from the first byte to the last effect", each * BATCHES, began.elapsed());
    progress.await.expect("it counts").say();
    let stats = sandbox.stats();
    #[allow(clippy::cast_precision_loss, reason = "a million")]
    let float = |count: u64| count as f64;
    kept.at_least("rows completed", float(completed), f64::from(each * BATCHES));
    kept.at_most("effects above one each", float(stats.effects) - f64::from(each * BATCHES), 0.0);
    kept.at_most("people with two effects", float(stats.doubled), 0.0);
    for (name, service) in [
        ("API", &apis[0]),
        ("API", &apis[1]),
        ("API", &apis[2]),
        ("worker", &workers[0]),
        ("worker", &workers[1]),
    ] {
        kept.at_most(&format!("peak resident memory of a {name}, MiB"), usage(service).0, 64.0);
    }
    let (doctor, _) = place.operate(&sandbox, &["doctor"]);
    let unneeded = doctor.to_string().contains("nothing needs tests any more");
    kept.at_least("the old key can be dropped afterwards (1: yes)", f64::from(u8::from(unneeded)), 1.0);
}

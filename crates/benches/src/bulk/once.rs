//! What is asked once, and what may stand once: answers that rows share, and values that are unique.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::{Client, Place, Service};

use super::{Downstream, Scene, ended, file, number, pipeline};
use crate::{Promises, head, line, usage};

/// What a row that finds its answer costs beside one without a call.
pub async fn cache_hit(rows: u32, kept: &mut Promises) {
    let rows = rows.min(20_000);
    let step = "  - name: address\n    dependency: api\n    request: { method: GET, path: \"/addresses/{{ row.postcode }}\" }\n    cache: { key: \"{{ row.postcode }}\", ttl: 1d }\n    output: { city: \"{{ body.city }}\" }\n";
    let never = step.replace("    cache: {", "    when: \"{{ row.id == '' }}\"\n    cache: {");
    let mut took = Vec::new();
    for step in [never.as_str(), step] {
        let downstream = Downstream::start(|_| false, |_, _| None).await;
        let scene = Scene::start(&pipeline("", step), &downstream);
        // The first of them asks.
        let (client, id) = scene.upload("bench", file(10, 1)).await;
        ended(&client, &id).await;
        let (_, before) = usage(&scene.service);
        let (client, id) = scene.upload("bench", file(rows, 1)).await;
        assert_eq!(ended(&client, &id).await, (rows.into(), 0));
        took.push((usage(&scene.service).1 - before) * 1000.0 / f64::from(rows));
    }
    println!(
        "\n{rows} rows with one key: {:.3} ms of CPU a row, {:.3} ms where the step is not called",
        took[1], took[0]
    );
    kept.at_most("what a hit costs, in ms of CPU", took[1] - took[0], 0.1);
}

/// Four workers, each key in rows of all of them.
pub async fn cache_over_workers(kept: &mut Promises) {
    let downstream = Downstream::start(|_| false, |_, _| None).await;
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let step = "  - name: address\n    dependency: api\n    request: { method: GET, path: \"/addresses/{{ row.postcode }}\" }\n    cache: { key: \"{{ row.postcode }}\", ttl: 1d }\n    output: { city: \"{{ body.city }}\" }\n";
    let mut place =
        Place::new(&[("bulk.yaml", &pipeline(", rate: { limit: 100, period: 1s, burst: 10 }", step))]);
    if !place.is_cluster() {
        return;
    }
    place.set("INVITE_API_URL", downstream.receiver.url.clone());
    let key = place.key(&sandbox, "bench");
    let api = place.api(&sandbox);
    let _dispatcher = place.dispatcher(&sandbox, "300ms");
    let mut workers: Vec<Service> = (0..4).map(|_| place.worker(&sandbox)).collect();
    let client = Client::new(&api, &key);
    for kills in [0, 3] {
        // Another batch: answers are kept for each batch of its own.
        let (_, batch) =
            client.upload("/v2/pipelines/bulk/batches", file(10_000, 500)).await.expect("an answer");
        let id = batch["id"].as_str().expect("an id");
        for kill in 1..=kills {
            // In the middle of the questions.
            while downstream.calls.lock().expect("no panic").len() < kill * 100 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            workers.remove(0).kill();
            workers.push(place.worker(&sandbox));
        }
        assert_eq!(ended(&client, id).await, (10_000, 0));
        let mut asked: BTreeMap<String, usize> = BTreeMap::new();
        for call in downstream.taken() {
            *asked.entry(call.ids[0].clone()).or_default() += 1;
        }
        let (keys, calls) = (asked.len(), asked.values().sum::<usize>());
        println!(
            "\nfour workers, {kills} of them killed, 10,000 rows with 500 keys: {keys} keys asked for in {calls} calls"
        );
        let most = asked.into_values().max().unwrap_or(0);
        kept.at_most("times that a key was asked for", number(most), number(1 + kills));
    }
}

/// What it costs to find that a value occurs twice: of some uploads the fastest one each, in turns.
pub async fn unique(rows: u32, kept: &mut Promises) {
    const TURNS: usize = 3;
    let mut best = [(f64::MAX, f64::MAX, 0.0_f64); 2];
    for turn in 0..2 * TURNS {
        let unique = ["", "unique: [email], "][turn % 2];
        let definition = format!(
            "name: bulk\ncsv: {{ {unique}columns: [ {{ name: email, required: true }}, {{ name: first_name }}, {{ name: last_name }}, {{ name: phone }}, {{ name: postcode }} ] }}\nsteps: []\ndispatch: {{ rows_per_owner: 1 }}\n"
        );
        let downstream = Downstream::start(|_| false, |_, _| None).await;
        let scene = Scene::start(&definition, &downstream);
        let client = Client::new(&scene.service, &scene.place.key(&scene.sandbox, "bench"));
        let csv: String = std::iter::once(head().to_owned()).chain((0..rows).map(line)).collect();
        let (before, began) = (usage(&scene.service).1, Instant::now());
        let (status, batch) = client.upload("/v2/pipelines/bulk/batches", csv).await.expect("an answer");
        let took = began.elapsed().as_secs_f64();
        assert_eq!(status, 202, "{batch}");
        let (memory, cpu) = usage(&scene.service);
        let of = &mut best[turn % 2];
        *of = (of.0.min(took), of.1.min(cpu - before), of.2.max(memory));
    }
    let [plain, unique] = best;
    println!(
        "\n{rows} rows, a column that is unique: {:.2} s, {:.2} s of CPU; without it {:.2} s, {:.2} s of CPU",
        unique.0, unique.1, plain.0, plain.1
    );
    kept.at_most("more memory, MiB", unique.2 - plain.2, 24.0);
    kept.at_most("time of the upload, in multiples", unique.0 / plain.0, 1.2);
}

//! `penstock smoke`: one small file through a running installation, by its own HTTP API; for `helm test`, compose and
//! the first minute after an upgrade.

use std::path::Path;
use std::time::{Duration, Instant};

use penstock_app::StartError;
use penstock_flow::context::api_keys;
use penstock_flow::context::api_keys::Grant;
use serde_json::Value;

use crate::open::{Opened, said};
use crate::output::Output;

/// The owner of smoke runs.
const OWNER: &str = "penstock-smoke";

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What a smoke run sends where.
pub struct Smoke<'a> {
    /// The API's address, such as `http://penstock-api:8080`.
    pub api: &'a str,
    /// The pipeline that gets the file.
    pub pipeline: &'a str,
    /// The CSV; without it, a header `id` and one row.
    pub file: Option<&'a Path>,
    /// How long the batch may take.
    pub within: Duration,
}

/// Makes a key, uploads, waits for the end, and revokes the key, whatever happened. True when every row completed.
pub async fn run(opened: &Opened, smoke: &Smoke<'_>, out: Output) -> Result<bool, StartError> {
    let services = &opened.chosen.services;
    let store = &services.store;
    let now = services.clock.now();
    let owner = store.ensure_owner(OWNER, now).await.map_err(said)?;
    let (key, record) = api_keys::create(services, &owner, Grant::default()).await.map_err(said)?;
    let batch = carry(smoke, &key.reveal()).await;
    store.revoke_key(&record.id, services.clock.now()).await.map_err(said)?;
    let batch = batch?;
    let good = batch["outcome"] == "success";
    out.say(&batch, || {
        format!(
            "batch {}: {}, {} completed, {} failed",
            batch["id"].as_str().unwrap_or_default(),
            batch["outcome"].as_str().or(batch["status"].as_str()).unwrap_or_default(),
            batch["counts"]["completed"],
            batch["counts"]["failed"]
        )
    });
    Ok(good)
}

async fn carry(smoke: &Smoke<'_>, key: &str) -> Result<Value, StartError> {
    let http =
        reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().map_err(said)?;
    let base = smoke.api.trim_end_matches('/');
    let file = match smoke.file {
        Some(path) => tokio::fs::read(path)
            .await
            .map_err(|error| StartError::new(format!("{}: {error}", path.display())))?,
        None => b"id\n1\n".to_vec(),
    };
    let began = Instant::now();
    let response = http
        .post(format!("{base}/v2/pipelines/{}/batches", smoke.pipeline))
        .query(&[("name", "smoke")])
        .bearer_auth(key)
        .header("content-type", "text/csv")
        .body(file)
        .send()
        .await
        .map_err(said)?;
    let accepted = response.status().is_success();
    let mut batch: Value = response.json().await.map_err(said)?;
    if !accepted {
        return Err(StartError::new(format!("the upload was refused: {batch}")));
    }
    let address = format!("{base}/v2/batches/{}", batch["id"].as_str().unwrap_or_default());
    while batch["finished_at"].is_null() {
        if began.elapsed() > smoke.within {
            return Err(StartError::new(format!(
                "the batch did not end within {} s: {}; ask `penstock why {}`",
                smoke.within.as_secs(),
                batch["counts"],
                batch["id"].as_str().unwrap_or_default()
            )));
        }
        tokio::time::sleep(LOOK_EVERY).await;
        let response = http.get(&address).bearer_auth(key).send().await.map_err(said)?;
        batch = response.error_for_status().map_err(said)?.json().await.map_err(said)?;
    }
    Ok(batch)
}

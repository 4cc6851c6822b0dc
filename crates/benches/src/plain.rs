//! Peers and ceilings in plain SQL and plain HTTP: what the same machine gives without Penstock.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::PgPool;

/// Claims and finishes rows one by one, each statement a transaction of its own, as most queue workers do.
pub async fn one_row_per_transaction(pool: &PgPool, rows: i64, connections: usize) -> Duration {
    for statement in [
        "DROP TABLE IF EXISTS plain_jobs",
        "CREATE TABLE plain_jobs (id BIGINT PRIMARY KEY, status SMALLINT NOT NULL, payload BYTEA NOT NULL)",
    ] {
        sqlx::query(statement).execute(pool).await.expect("a table");
    }
    sqlx::query("INSERT INTO plain_jobs SELECT id, 0, decode(repeat('ab', 120), 'hex') FROM generate_series(1, $1) AS id")
        .bind(rows)
        .execute(pool)
        .await
        .expect("rows");
    let next = Arc::new(AtomicI64::new(1));
    let began = Instant::now();
    let workers: Vec<_> = (0..connections)
        .map(|_| {
            let (pool, next) = (pool.clone(), next.clone());
            tokio::spawn(async move {
                loop {
                    let id = next.fetch_add(1, Ordering::Relaxed);
                    if id > rows {
                        return;
                    }
                    for statement in [
                        "UPDATE plain_jobs SET status = 1 WHERE id = $1 AND status = 0 RETURNING payload",
                        "UPDATE plain_jobs SET status = 2 WHERE id = $1 AND status = 1",
                    ] {
                        sqlx::query(statement).bind(id).execute(&pool).await.expect("a row");
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.expect("a worker");
    }
    began.elapsed()
}

/// Carries people through the three calls as fast as a bare client can: the downstream's own ceiling.
pub async fn three_calls(base: &str, people: u32, at_once: u32) -> Duration {
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let next = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let began = Instant::now();
    let callers: Vec<_> = (0..at_once)
        .map(|_| {
            let (http, base, next) = (http.clone(), base.to_owned(), next.clone());
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= people {
                        return;
                    }
                    carry(&http, &base, number).await;
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("a caller");
    }
    began.elapsed()
}

async fn carry(http: &reqwest::Client, base: &str, number: u32) {
    let postcode = format!("AB{:04}", number % 10_000);
    let links = http.post(format!("{base}/address-links")).json(&json!({ "postcode": postcode }));
    let links: Value = links.send().await.expect("an answer").json().await.expect("JSON");
    let link = links["links"][0]["id"].as_str().expect("a link");
    let addresses = http.get(format!("{base}/addresses/{link}")).send().await.expect("an answer");
    let addresses: Value = addresses.json().await.expect("JSON");
    let body = json!({
        "email": format!("ceiling{number}@example.com"), "campaign": "bench",
        "address_id": addresses["addresses"][0]["id"],
    });
    let invite = http
        .post(format!("{base}/invite/create"))
        .header("idempotency-key", format!("ceiling-{number}"))
        .json(&body);
    assert!(invite.send().await.expect("an answer").status().is_success());
}

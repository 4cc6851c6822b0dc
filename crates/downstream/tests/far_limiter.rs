//! Limits in a Redis that is far away: as exact as in a near one, and used as well.
#![allow(clippy::unwrap_used, reason = "a test's way to fail")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_downstream::{Called, SharedLimiter};
use penstock_redis::Prefix;
use support::far::{Far, Way};
use support::server::Server;
use support::{concurrency, dependency, hammer};

fn redis() -> SocketAddr {
    let url = std::env::var("PENSTOCK_TEST_REDIS_URL")
        .expect("PENSTOCK_TEST_REDIS_URL is not set: `cargo xtask test` starts a Redis and sets it");
    let address = url.strip_prefix("redis://").unwrap().trim_end_matches('/');
    address.parse().expect("the tests' Redis has a numeric address")
}

/// Four workers, each with a way of its own to Redis; fifty calls a second, ten at once.
async fn workers_at(ways: [Way; 4]) {
    let far = ways.map(|way| Far::away(redis(), way));
    let workers = far.each_ref().map(|far| {
        Arc::new(SharedLimiter::connect(&format!("redis://{}", far.address()), Prefix::default()).unwrap())
    });
    hammer::exact_limit(workers, (50, 10), 0.9, Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_milliseconds_each_way() {
    workers_at([Way::millis(10, 0); 4]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_milliseconds_each_way() {
    workers_at([Way::millis(50, 0); 4]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_milliseconds_each_way() {
    workers_at([Way::millis(100, 0); 4]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_none_to_thirty_milliseconds_each_way() {
    workers_at([Way::millis(0, 30); 4]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_hundred_to_a_hundred_and_thirty_milliseconds_each_way() {
    workers_at([Way::millis(100, 30); 4]).await;
}

/// What differs between workers is what a limit kept by each one's own clock would be passed by.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_worker_at_a_distance_of_its_own() {
    workers_at([Way::millis(0, 0), Way::millis(10, 5), Way::millis(50, 30), Way::millis(100, 10)]).await;
}

/// A slot is on its way for a round trip and is then used for next to no time: forty calls a second go through eight of
/// them, if enough rows ask at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_are_used_from_afar() {
    let server = Server::start(1000, 1000);
    let mut api = dependency(server.url());
    api.concurrency = Some(concurrency(8));
    let api = Arc::new(api);
    let far = [Far::away(redis(), Way::millis(100, 0)), Far::away(redis(), Way::millis(100, 0))];
    let until = Instant::now() + Duration::from_secs(6);
    let mut rows = tokio::task::JoinSet::new();
    for (far, worker) in far.iter().zip(1..) {
        let limiter =
            SharedLimiter::connect(&format!("redis://{}", far.address()), Prefix::default()).unwrap();
        let caller = hammer::caller(Arc::new(limiter), worker);
        for _ in 0..20 {
            let (caller, api) = (caller.clone(), api.clone());
            rows.spawn(async move {
                while Instant::now() < until {
                    if let Called::Waits { .. } = hammer::call(&caller, &api, "/ok").await {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            });
        }
    }
    rows.join_all().await;
    let calls = server.arrived().len();
    println!("{calls} calls in about four seconds and a half");
    assert!(calls > 90, "{calls}");
}

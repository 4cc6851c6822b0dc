//! The limiter in one process keeps to what every limiter does.

mod support;

use std::sync::Arc;
use std::time::Duration;

use penstock_domain::time::{ManualClock, Timestamp};
use penstock_downstream::LocalLimiter;

#[tokio::test]
async fn it_does_what_every_limiter_does() {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_800_000_000_000)));
    support::conformance::all(Arc::new(LocalLimiter::new().timed_by(clock.clone())), clock).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_is_used_and_never_passed() {
    let limiter = Arc::new(LocalLimiter::new());
    let workers: [_; 4] = std::array::from_fn(|_| limiter.clone());
    support::hammer::exact_limit(workers, (200, 10), 0.97, Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lower_true_limit_is_respected() {
    let limiter = Arc::new(LocalLimiter::new());
    let workers: [_; 4] = std::array::from_fn(|_| limiter.clone());
    support::hammer::lower_limit(workers).await;
}

//! What an API says is left of a window: Redis shares it among workers as one process shares it among its calls.
#![allow(clippy::unwrap_used, reason = "a test's way to fail")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use penstock_domain::time::{ManualClock, Timestamp};
use penstock_downstream::reported_windows::WindowAsk;
use penstock_downstream::{Limiter, LocalLimiter, SharedLimiter};
use penstock_redis::Prefix;
use support::Rng;

const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn shared(clock: Arc<ManualClock>) -> SharedLimiter {
    let url = std::env::var("PENSTOCK_TEST_REDIS_URL")
        .expect("PENSTOCK_TEST_REDIS_URL is not set: `cargo xtask test` starts a Redis and sets it");
    SharedLimiter::connect(&url, Prefix::default()).unwrap().timed_by(clock)
}

fn ask(rng: &mut Rng) -> WindowAsk {
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    let mut number = |below: u64| rng.below(below) as f64;
    let left = number(60);
    WindowAsk {
        ends_in: Duration::from_millis([400, 1_000, 5_000, 60_000][rng.below(4) as usize] + rng.below(700)),
        length: Duration::from_millis([1_000, 5_000, 60_000][rng.below(3) as usize]),
        same: Duration::from_millis(rng.below(1500)),
        is_reported: rng.below(3) > 0,
        left,
        amount: u32::try_from(1 + rng.below(12)).unwrap(),
    }
}

/// The script against what it mirrors, over random histories.
#[tokio::test]
async fn redis_shares_windows_as_one_process_does() {
    for seed in 1..=12_u64 {
        let clock = Arc::new(ManualClock::new(START));
        let (local, shared) = (LocalLimiter::new().timed_by(clock.clone()), shared(clock.clone()));
        let mut rng = Rng(seed * 0x9E37_79B9);
        let budget = format!("windows-{}-{seed}", std::process::id());
        let mut given = 0;
        for step in 0..400 {
            let ask = ask(&mut rng);
            let ours = local.take_of_window(&budget, &ask).await.unwrap();
            let theirs = shared.take_of_window(&budget, &ask).await.unwrap();
            assert_eq!(ours.amount, theirs.amount, "seed {seed}, step {step}: {ask:?}");
            let apart = ours.ends_in.abs_diff(theirs.ends_in);
            assert!(apart < Duration::from_millis(1), "seed {seed}, step {step}: {ours:?}, {theirs:?}");
            given += ours.amount;
            clock.advance(Duration::from_millis(rng.below(500)));
        }
        assert!(given > 100, "{given}");
    }
}

/// Two workers have the quota of a window together, whoever of them wants it.
#[tokio::test]
async fn whoever_has_calls_to_make_gets_what_is_left() {
    let clock = Arc::new(ManualClock::new(START));
    let (one, other) = (shared(clock.clone()), shared(clock.clone()));
    let budget = format!("two-{}", std::process::id());
    let told = WindowAsk {
        ends_in: Duration::from_secs(10),
        length: Duration::from_secs(10),
        same: Duration::from_millis(1500),
        is_reported: true,
        left: 90.0,
        amount: 60,
    };
    assert_eq!(one.take_of_window(&budget, &told).await.unwrap().amount, 60);
    clock.advance(Duration::from_secs(1));
    // The end is told in whole seconds, and one call was counted meanwhile.
    let later = WindowAsk { left: 89.0, ends_in: Duration::from_secs(10), ..told };
    assert_eq!(other.take_of_window(&budget, &later).await.unwrap().amount, 30, "what is left");
    clock.advance(Duration::from_secs(12));
    // Nobody was told of the next window, and one worker uses it.
    let guess = WindowAsk { is_reported: false, left: 100.0, ..told };
    assert_eq!(one.take_of_window(&budget, &WindowAsk { amount: 100, ..guess }).await.unwrap().amount, 100);
    let part = other
        .take_of_window(&budget, &WindowAsk { ends_in: Duration::from_secs(12), ..guess })
        .await
        .unwrap();
    assert_eq!(
        (part.amount, part.ends_in),
        (0, Duration::from_secs(10)),
        "a guess takes the window that is there"
    );
}

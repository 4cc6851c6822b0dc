//! Rates: bursts, waits, slack, owners, and the adaptive rate.

use std::time::Duration;

use penstock_domain::limit::{Ask, BreakerState, Decision, Past, Reason};

use super::{Scene, about, asked_to_wait, feedback};

pub async fn a_new_state_is_empty(scene: &Scene) {
    let cold = scene.limiter.cold_wait_us() / 1e6;
    let first = scene.acquire("acme", 1).await.unwrap();
    assert!(about(first.wait, cold), "{first:?}");
    match scene.acquire("acme", 1).await {
        Ok(second) => assert!(about(second.wait, cold + 0.01005), "{second:?}"),
        Err(denied) => assert!(cold > 0.0 && denied.reason == Reason::Rate, "{denied:?}"),
    }
}

/// Whoever was here before may have called a moment ago.
pub async fn a_slow_rate_begins_an_interval_later(scene: &Scene) {
    let denied = scene.refused("acme").await;
    assert_eq!(denied.reason, Reason::Rate);
    assert!((9.9e6..10.2e6).contains(&denied.retry_after), "{denied:?}");
    scene.pass(10.1);
    scene.acquire("acme", 1).await.unwrap();
}

/// Two calls at once, and the next an interval later.
async fn has_its_burst(scene: &Scene, owner: &str) {
    for _ in 0..2 {
        let call = scene.acquire(owner, 1).await.unwrap();
        assert!(call.wait < Duration::from_millis(30), "{call:?}");
    }
    let denied = scene.refused(owner).await;
    assert!((9.9e6..10.2e6).contains(&denied.retry_after), "{denied:?}");
}

pub async fn what_was_never_used_is_full(scene: &Scene) {
    let limits = scene.limits("acme");
    let lost_at = scene.limiter.lost_at(&limits).await.unwrap();
    assert!(lost_at > 0.0 && scene.limiter.recall(&limits, lost_at, None).await);
    assert!(scene.limiter.lost_at(&limits).await.unwrap().abs() < f64::EPSILON);
    has_its_burst(scene, "acme").await;
    // What another one was told of the same loss comes later.
    assert!(scene.limiter.recall(&limits, lost_at, None).await);
    assert_eq!(scene.refused("acme").await.reason, Reason::Rate);
}

pub async fn what_was_used_before_a_loss_is_as_empty_as_it_may_be(scene: &Scene) {
    let limits = scene.limits("acme");
    let denied = scene.refused("acme").await;
    assert!((9.9e6..10.2e6).contains(&denied.retry_after), "{denied:?}");
    let lost_at = scene.limiter.lost_at(&limits).await.unwrap();
    for (of, unused, wait) in [(lost_at - 1.0, 9.0, 10.0), (lost_at, 4.0, 6.0), (lost_at, 8.0, 6.0)] {
        let unused = Some(Duration::from_secs_f64(unused));
        assert!(scene.limiter.recall(&limits, of, unused).await);
        let denied = scene.refused("acme").await;
        assert!((denied.retry_after / 1e6 - wait).abs() < 0.2, "{denied:?} after {unused:?}");
    }
}

/// What was lost with its dependency's state is empty; what came afterwards was never used.
pub async fn an_owner_that_comes_later_has_its_burst(scene: &Scene) {
    assert_eq!(scene.refused("acme").await.reason, Reason::OwnerRate);
    scene.pass(30.0);
    has_its_burst(scene, "acme").await;
    has_its_burst(scene, "other").await;
}

pub async fn a_full_bucket_gives_a_burst_then_the_rate(scene: &Scene) {
    scene.warm_up("acme").await;
    let mut waits = Vec::new();
    for _ in 0..20 {
        waits.push(scene.acquire("acme", 1).await.unwrap().wait.as_secs_f64());
    }
    // 25 ms of the burst's 100 are the arrival margin: seven calls go at once, the eighth almost.
    assert!(waits[..7].iter().all(|wait| *wait < 1e-6) && waits[7] > 0.0, "{waits:?}");
    assert!(waits[8..].windows(2).all(|two| (two[1] - two[0] - 0.01005).abs() < 1e-4), "{waits:?}");
}

pub async fn a_dear_call_takes_more(scene: &Scene) {
    scene.warm_up("acme").await;
    let (before, dear, after) = (
        scene.acquire("acme", 1).await.unwrap(),
        scene.acquire("acme", 10).await.unwrap(),
        scene.acquire("acme", 1).await.unwrap(),
    );
    assert!(about(before.wait, 0.0) && dear.wait > Duration::from_millis(30), "{dear:?}");
    assert!(after.wait > dear.wait, "{after:?}");
}

pub async fn long_waits_are_denied(scene: &Scene) {
    scene.warm_up("acme").await;
    let mut granted = 0;
    let denied = loop {
        match scene.acquire("acme", 1).await {
            Ok(granted) => assert!(granted.wait <= Duration::from_secs(1)),
            Err(denied) => break denied,
        }
        granted += 1;
    };
    assert!((13..=15).contains(&granted), "{granted}");
    assert_eq!(denied.reason, Reason::Rate);
    assert!(denied.retry_after > 1e6 && denied.retry_after < 1.2e6, "{denied:?}");
    scene.pass(0.2);
    assert!(scene.acquire("acme", 1).await.is_ok(), "denials cost nothing");
}

/// A call may leave as late as the burst that went before it is ahead of the rate.
pub async fn a_late_answer_has_its_slack(scene: &Scene) {
    scene.warm_up("acme").await;
    let (limits, mut granted) = (scene.limits("acme"), Vec::new());
    for (token, lead_us) in [(1, 0.0), (2, 0.0), (3, 30e3), (4, 0.0)] {
        let ask = Ask { cost: 1, token, lease_us: 15e6, lead_us, past: Past::Clean, patience_us: 0.0 };
        match scene.limiter.acquire(&limits, &ask).await {
            Decision::Granted { wait, slack, confirm, .. } => granted.push((wait, slack, confirm)),
            other => panic!("{other:?}"),
        }
    }
    let interval = 1e4 / 0.995;
    let expected = [(0.0, 0.0), (0.0, interval), (30e3, 0.0), (0.0, 30e3 + interval)];
    for ((wait, slack, confirm), (moment, late)) in granted.iter().zip(expected) {
        assert!((wait - moment).abs() < 1.0 && (slack - late).abs() < 1.0 && !confirm, "{granted:?}");
    }
}

pub async fn owners_have_their_own(scene: &Scene) {
    scene.warm_up("acme").await;
    scene.warm_up("other").await;
    while scene.acquire("acme", 1).await.is_ok() {}
    assert_eq!(scene.refused("acme").await.reason, Reason::OwnerRate);
    let other = scene.acquire("other", 1).await.unwrap();
    assert!(about(other.wait, 0.0));
    scene.pass(10.0);
    scene.report(other, asked_to_wait(60.0)).await;
    assert_eq!(scene.refused("other").await.reason, Reason::Paused);
    assert!(scene.acquire("acme", 1).await.is_ok(), "the pause is the other's");
    scene.pass(60.0);
}

pub async fn too_fast_without_a_word_halves(scene: &Scene) {
    scene.warm_up("acme").await;
    let sign = feedback(None, None, true);
    let calls = [scene.acquire("acme", 1).await.unwrap(), scene.acquire("acme", 1).await.unwrap()];
    for call in calls {
        scene.report(call, sign).await;
    }
    let factor = scene.peek("acme").await.unwrap().factor;
    assert!((factor - 0.5).abs() < 1e-9, "two signs of one moment are one: {factor}");
    scene.pass(2.0);
    let factor = scene.peek("acme").await.unwrap().factor;
    // Two of twenty seconds on the way up: 1 - 0.5 · 0.9³.
    assert!((factor - 0.6355).abs() < 1e-9, "{factor}");
    let mut waits = Vec::new();
    for _ in 0..20 {
        waits.push(scene.acquire("acme", 1).await.unwrap().wait.as_secs_f64());
    }
    let spacing = waits[19] - waits[18];
    assert!((spacing - 0.01005 / 0.6355).abs() < 1e-4, "{spacing}");
    scene.pass(600.0);
    assert!((scene.peek("acme").await.unwrap().factor - 1.0).abs() < 1e-9);
}

/// That no call was made yet is something else than a limiter that does not answer.
pub async fn what_is_not_known_holds_nothing_up(scene: &Scene) {
    let unknown = scene.peek("acme").await.expect("it answers");
    assert_eq!((unknown.free_in, unknown.paused_for, unknown.in_flight), (Duration::ZERO, Duration::ZERO, 0));
    assert_eq!((unknown.breaker, unknown.factor.to_bits()), (BreakerState::Closed, 1.0_f64.to_bits()));
    scene.warm_up("acme").await;
    let seen = scene.peek("acme").await.unwrap();
    assert_eq!((seen.free_in, seen.paused_for, seen.in_flight), (Duration::ZERO, Duration::ZERO, 0));
    while scene.acquire("acme", 1).await.is_ok() {}
    assert!(scene.peek("acme").await.unwrap().free_in > Duration::from_millis(900));
}

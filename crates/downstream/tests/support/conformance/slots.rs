//! Calls under way, and clocks that are set back.

use std::time::Duration;

use penstock_domain::limit::{Denied, Past, Reason};

use super::{HEALTHY, Scene, about, asked_to_wait};

pub async fn slots_come_back(scene: &Scene) {
    scene.warm_up("acme").await;
    let (first, _second) = (scene.acquire("acme", 1).await.unwrap(), scene.acquire("acme", 1).await.unwrap());
    assert_eq!(scene.refused("acme").await.reason, Reason::Concurrency);
    assert_eq!(scene.peek("acme").await.unwrap().in_flight, 2);
    scene.report(first, HEALTHY).await;
    let _third = scene.acquire("acme", 1).await.unwrap();
    assert_eq!(scene.refused("acme").await.reason, Reason::Concurrency);
    scene.pass(15.1);
    assert!(scene.acquire("acme", 1).await.is_ok(), "a crashed worker's slot runs out");
}

pub async fn a_new_state_gives_no_slot_away(scene: &Scene) {
    let cold = scene.limiter.cold_wait_us() / 1e6;
    let first = scene.acquire("acme", 1).await.unwrap();
    assert!(about(first.wait, cold), "{first:?}");
    assert_eq!(scene.peek("acme").await.unwrap().in_flight, usize::from(cold == 0.0));
    if cold > 0.0 {
        let early = scene.limiter.confirm(&first.permit.limits, &first.ask).await.unwrap_err();
        assert_eq!(early, Denied::new(cold * 1e6, Reason::Concurrency));
        scene.pass(cold);
        scene.limiter.confirm(&first.permit.limits, &first.ask).await.unwrap();
    }
    assert!(about(scene.acquire("acme", 1).await.unwrap().wait, 0.0));
    assert_eq!(scene.refused("acme").await.reason, Reason::Concurrency);
}

pub async fn slots_of_owners(scene: &Scene) {
    scene.warm_up("acme").await;
    scene.warm_up("other").await;
    let acme = scene.acquire("acme", 1).await.unwrap();
    let _other = scene.acquire("other", 1).await.unwrap();
    assert_eq!(scene.refused("acme").await.reason, Reason::Concurrency);
    scene.report(acme, HEALTHY).await;
    let acme = scene.acquire("acme", 1).await.unwrap();
    scene.report(acme, asked_to_wait(3600.0)).await;
    assert_eq!(scene.refused("acme").await.reason, Reason::Paused);
    scene.pass(16.0);
    scene.acquire("other", 1).await.expect("the pause is the first owner's");
    scene.pass(3600.0);
}

pub async fn who_waits_holds_no_slot(scene: &Scene) {
    scene.warm_up("acme").await;
    let mut waiting = Vec::new();
    while let Ok(granted) = scene.acquire("acme", 1).await {
        waiting.push(granted);
    }
    assert!(waiting.len() > 8, "{}", waiting.len());
    assert!(scene.peek("acme").await.unwrap().in_flight <= 2);
    scene.pass(1.0);
    let mut confirmed = 0;
    for granted in waiting.iter().filter(|granted| granted.wait > Duration::from_millis(10)) {
        match scene.limiter.confirm(&granted.permit.limits, &granted.ask).await {
            Ok(()) => confirmed += 1,
            Err(denied) => assert_eq!(denied.reason, Reason::Concurrency),
        }
        assert!(scene.peek("acme").await.unwrap().in_flight <= 3);
    }
    assert!(confirmed > 0);
    assert_eq!(scene.peek("acme").await.unwrap().in_flight, 3);
}

pub async fn all_limits_or_none(scene: &Scene) {
    scene.warm_up("acme").await;
    let first = scene.acquire("acme", 1).await.unwrap();
    for _ in 0..50 {
        assert_eq!(scene.refused("acme").await.reason, Reason::Concurrency);
    }
    scene.report(first, HEALTHY).await;
    let second = scene.acquire("acme", 1).await.unwrap();
    assert!(second.wait < Duration::from_millis(200), "refusals were charged to the rate: {second:?}");
}

pub async fn a_clock_that_is_set_back_holds_up_nobody(scene: &Scene) {
    scene.warm_up("acme").await;
    let call = scene.acquire("acme", 1).await.unwrap();
    scene.clock.set_back(Duration::from_secs(3600));
    assert_eq!(scene.peek("acme").await.unwrap().in_flight, 1);
    assert_eq!(scene.refused("acme").await.reason, Reason::Concurrency, "the slot is still taken");
    scene.report(call, asked_to_wait(5.0)).await;
    scene.clock.set_back(Duration::from_secs(3600));
    assert_eq!(scene.refused("acme").await, Denied::new(5e6, Reason::Paused), "a pause is as long as it was");
    scene.pass(5.0);
    scene.call(Past::Clean, HEALTHY).await;
    scene.clock.set_back(Duration::from_secs(3600));
    assert!(scene.acquire("acme", 1).await.is_ok());
    scene.pass(3.0 * 3600.0);
}

//! Pauses, and refusals that are about one row only.

use std::time::Duration;

use penstock_domain::limit::{Denied, Feedback, Past, Reason};

use super::{HEALTHY, Scene, about, asked_to_wait, feedback};

pub async fn a_pause_holds_everybody(scene: &Scene) {
    scene.warm_up("acme").await;
    let calls = [scene.acquire("acme", 1).await.unwrap(), scene.acquire("acme", 1).await.unwrap()];
    let waiting = scene.acquire("acme", 1).await.unwrap();
    for (call, seconds) in calls.into_iter().zip([5.0, 1.0]) {
        scene.report(call, asked_to_wait(seconds)).await;
    }
    scene.pass(2.0);
    let denied = scene.refused("other").await;
    assert_eq!(denied, Denied::new(3e6, Reason::Paused), "a shorter pause shortens nothing");
    let confirmed = scene.limiter.confirm(&waiting.permit.limits, &waiting.ask).await;
    assert_eq!(confirmed.unwrap_err().reason, Reason::Paused);
    assert_eq!(scene.peek("acme").await.unwrap().paused_for, Duration::from_secs(3));
    scene.pass(3.0);
    let waits = [scene.acquire("acme", 1).await.unwrap().wait, scene.acquire("acme", 1).await.unwrap().wait];
    assert!(
        about(waits[0], 0.0) && waits[1] > Duration::from_millis(9),
        "no burst behind a pause: {waits:?}"
    );
}

pub async fn a_row_that_is_refused_beside_others_waits_alone(scene: &Scene) {
    scene.warm_up("acme").await;
    let share = async || scene.peek("acme").await.unwrap().factor;
    assert!(!scene.call(Past::Clean, asked_to_wait(2.0)).await, "a first refusal counts for all");
    assert_eq!(scene.refused("acme").await.reason, Reason::Paused);
    scene.pass(3.0);
    assert!(share().await < 1.0);
    scene.call(Past::Clean, Feedback { elapsed: 0.5e6, ..HEALTHY }).await;
    assert!(scene.call(Past::Throttled, asked_to_wait(60.0)).await, "it was refused again, others were not");
    assert!((share().await - 1.0).abs() < 1e-9, "what it did is undone");
    assert!(scene.call(Past::ThrottledAlone, asked_to_wait(60.0)).await);
    scene.call(Past::Clean, HEALTHY).await;
    assert!(scene.call(Past::Clean, asked_to_wait(60.0)).await, "another one's refusal is doubted");
    assert!(scene.acquire("acme", 1).await.is_ok());
    assert!(!scene.call(Past::Clean, asked_to_wait(1.0)).await, "two in a row are not");
    scene.pass(1.0);
    scene.call(Past::Throttled, HEALTHY).await;
    assert!(!scene.call(Past::Clean, asked_to_wait(1.0)).await, "it was about speed after all");
    scene.pass(600.0);
}

pub async fn failures_that_ask_for_a_pause_are_learnt(scene: &Scene) {
    scene.warm_up("acme").await;
    let failure = feedback(Some(false), Some(3e6), false);
    assert!(!scene.call(Past::Clean, failure).await);
    assert_eq!(scene.refused("acme").await.reason, Reason::Paused);
    scene.pass(4.0);
    scene.call(Past::Clean, HEALTHY).await;
    assert!(scene.call(Past::Failed, failure).await, "it failed again, others did not");
    scene.call(Past::Clean, HEALTHY).await;
    assert!(scene.call(Past::Clean, failure).await, "another one's is doubted");
    assert!(!scene.call(Past::Clean, failure).await, "two in a row are not");
    assert_eq!(scene.refused("acme").await.reason, Reason::Paused);
    scene.pass(600.0);
}

pub async fn while_nothing_goes_through_pauses_grow(scene: &Scene) {
    scene.warm_up("acme").await;
    let sign = feedback(None, None, true);
    let paused = async || scene.peek("acme").await.unwrap().paused_for.as_secs();
    let mut pauses = Vec::new();
    for _ in 0..4 {
        scene.call(Past::Clean, sign).await;
        pauses.push(paused().await);
        scene.pass(10.0);
    }
    assert_eq!(pauses, [0, 2, 4, 8]);
    assert_eq!(scene.peek("acme").await.unwrap().refusals, 4);
    let tried = scene.acquire("acme", 1).await.unwrap();
    assert!(tried.permit.probe);
    // Three times ten seconds passed between the four refusals.
    let refused = |denied: Denied| Denied { refused_for: 30e6, ..denied };
    let denied = scene.refused("acme").await;
    assert_eq!(denied, refused(Denied::new(1e6, Reason::Paused)), "one is tried alone");
    let denied = scene.acquire_as("acme", 1, Past::Throttled).await.unwrap_err();
    assert_eq!(denied, refused(Denied::of_row(5e6, Reason::Paused)), "and not one that was refused before");
    scene.report(tried, HEALTHY).await;
    assert!(!scene.acquire("acme", 1).await.unwrap().permit.probe);
    scene.call(Past::Clean, asked_to_wait(5.0)).await;
    assert_eq!(scene.refused("acme").await, Denied::new(5e6, Reason::Paused), "another series");
    scene.pass(600.0);
}

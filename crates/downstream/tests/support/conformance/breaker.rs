//! The circuit breaker.

use penstock_domain::cause::Cause;
use penstock_domain::limit::{BreakerState, Denied, Feedback, Past, Reason};

use super::{FAILED, HEALTHY, Scene, UNUSED, asked_to_wait};

pub async fn the_breaker_opens_and_closes(scene: &Scene) {
    let call = async |feedback: Feedback| {
        let granted = scene.acquire("acme", 1).await.unwrap();
        assert!(!granted.permit.probe);
        scene.report(granted, feedback).await;
    };
    let early = scene.acquire("acme", 1).await.unwrap();
    for feedback in [HEALTHY, HEALTHY, FAILED, FAILED, FAILED, FAILED] {
        call(feedback).await;
    }
    let denied = scene.refused("acme").await;
    assert_eq!(denied, Denied::new(10e6, Reason::BreakerOpen));
    assert_eq!(scene.peek("acme").await.unwrap().breaker, BreakerState::Open);
    scene.pass(10.0);
    assert_eq!(scene.peek("acme").await.unwrap().breaker, BreakerState::HalfOpen);
    scene.report(early, FAILED).await;
    let (first, second) = (scene.acquire("acme", 1).await.unwrap(), scene.acquire("acme", 1).await.unwrap());
    assert!(first.permit.probe && second.permit.probe);
    assert_eq!(scene.refused("acme").await.reason, Reason::BreakerOpen, "two probes are out");
    scene.report(second, UNUSED).await;
    let second = scene.acquire("acme", 1).await.unwrap();
    assert!(second.permit.probe, "one that was not made makes room for another");
    scene.report(second, HEALTHY).await;
    assert_eq!(scene.peek("acme").await.unwrap().breaker, BreakerState::HalfOpen);
    scene.report(first, HEALTHY).await;
    assert_eq!(scene.peek("acme").await.unwrap().breaker, BreakerState::Closed);
    for _ in 0..4 {
        call(FAILED).await;
    }
    scene.pass(10.0);
    for _ in 0..2 {
        assert_eq!(scene.peek("acme").await.unwrap().breaker, BreakerState::HalfOpen);
        let probe = scene.acquire("acme", 1).await.unwrap();
        scene.report(probe, FAILED).await;
    }
    assert_eq!(scene.peek("acme").await.unwrap().breaker, BreakerState::Open, "failed probes open it again");
}

pub async fn rows_that_failed_before_are_no_probes_while_there_are_others(scene: &Scene) {
    for _ in 0..4 {
        scene.call(Past::Clean, FAILED).await;
    }
    scene.pass(10.0);
    let denied = scene.acquire_as("acme", 1, Past::Failed).await.unwrap_err();
    assert_eq!(denied, Denied::of_row(2e6, Reason::BreakerOpen), "others may come");
    let probe = scene.acquire("acme", 1).await.unwrap();
    assert!(probe.permit.probe);
    scene.pass(2.0);
    let denied = scene.acquire_as("acme", 1, Past::Failed).await.unwrap_err();
    assert_eq!(denied, Denied::of_row(10e6, Reason::BreakerOpen), "others have come");
    scene.report(probe, HEALTHY).await;
    scene.call(Past::Clean, HEALTHY).await;
    assert_eq!(scene.peek("acme").await.unwrap().breaker, BreakerState::Closed);
    // Now there are only rows that fail each time.
    for _ in 0..4 {
        scene.call(Past::Clean, FAILED).await;
    }
    for state in [BreakerState::Open, BreakerState::Open, BreakerState::HalfOpen] {
        scene.pass(25.0);
        for _ in 0..2 {
            scene.call(Past::Failed, FAILED).await;
        }
        assert_eq!(scene.peek("acme").await.unwrap().breaker, state, "after a minute it is theirs to end");
    }
}

pub async fn the_last_failures_cause_is_known_until_a_call_succeeds(scene: &Scene) {
    let cause = async || scene.peek("acme").await.unwrap().cause;
    assert_eq!(cause().await, None);
    for (feedback, known) in [
        (Feedback { cause: Some(Cause::ConnectionRefused), ..FAILED }, Some(Cause::ConnectionRefused)),
        (UNUSED, Some(Cause::ConnectionRefused)),
        (Feedback { cause: Some(Cause::CertificateExpired), ..FAILED }, Some(Cause::CertificateExpired)),
        // An answer of 500 is no success.
        (FAILED, Some(Cause::CertificateExpired)),
        (HEALTHY, None),
    ] {
        let granted = scene.acquire("acme", 1).await.expect("a permit");
        scene.report(granted, feedback).await;
        // What went well is told with the next question.
        let next = scene.acquire("acme", 1).await.expect("a permit");
        scene.report(next, UNUSED).await;
        assert_eq!(cause().await, known, "{feedback:?}");
    }
}

pub async fn a_pause_is_no_failure(scene: &Scene) {
    for _ in 0..8 {
        let granted = scene.acquire("acme", 1).await.unwrap();
        scene.report(granted, asked_to_wait(0.0)).await;
        scene.pass(400.0);
    }
    assert_eq!(scene.peek("acme").await.unwrap().breaker, BreakerState::Closed);
}

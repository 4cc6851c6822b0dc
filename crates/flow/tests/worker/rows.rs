//! Rows from their claim to their end.

use std::sync::Arc;
use std::time::Duration;

use penstock_domain::outcome::code;
use penstock_domain::row::RowStatus::{Completed, Failed};
use penstock_flow::worker::observe::{Log, Observer, StepSeen};
use tokio::time::Instant;

use crate::harness::Harness;

#[tokio::test(start_paused = true)]
async fn a_batch_is_claimed_called_and_settled() {
    let harness = Harness::new("").await;
    let running = harness.worker("worker");
    let batch = harness.upload_and_release(3).await;
    let batch = harness.finished(&batch).await;
    assert_eq!(harness.states(&batch, 3).await, [Completed; 3]);
    let mut paths = harness.api.paths();
    paths.sort();
    assert_eq!(paths, ["/first/1", "/first/2", "/first/3", "/second/1", "/second/2", "/second/3"]);
    running.stop();
    running.stopped().await;
}

/// The rate allows a call every ten seconds, so each further call waits for its permit.
#[tokio::test(start_paused = true)]
async fn a_permit_that_is_denied_comes_later() {
    let harness = Harness::new("rate: { limit: 6, period: 60s, burst: 1 }").await;
    let _running = harness.worker("worker");
    let batch = harness.upload_and_release(2).await;
    let began = Instant::now();
    let batch = harness.finished(&batch).await;
    assert_eq!(harness.states(&batch, 2).await, [Completed; 2]);
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(30) && took < Duration::from_secs(60), "four calls: {took:?}");
    assert_eq!(harness.api.paths().len(), 4, "none is called twice");
    assert_eq!(harness.row(&batch, 1).await.attempts, 1, "waiting costs no attempt");
}

/// Panics in the task of the row whose first step is seen.
struct Panics;

impl Observer for Panics {
    fn step(&self, seen: &StepSeen<'_>) {
        assert_ne!(seen.path, "/first/2", "a panic of the test");
    }
}

#[tokio::test(start_paused = true)]
async fn a_row_whose_task_panics_fails_and_no_other_does() {
    let harness = Harness::new("").await;
    let running = harness.worker_with("worker", 8, Arc::new(Panics));
    let batch = harness.upload_and_release(3).await;
    let batch = harness.finished(&batch).await;
    assert_eq!(harness.states(&batch, 3).await, [Completed, Failed, Completed]);
    assert_eq!(harness.row(&batch, 2).await.code.as_deref(), Some(code::INTERNAL_ERROR));
    running.stop();
    running.stopped().await;
}

/// Rows end one after another all the time. What ends within some milliseconds is settled together, and replaced by one claim.
#[tokio::test(start_paused = true)]
async fn rows_that_end_one_after_another_are_claimed_and_settled_in_groups() {
    let harness = Harness::new("rate: { limit: 10000, period: 1s, burst: 1 }").await;
    let _running = harness.worker_with("worker", 128, Arc::new(Log));
    let batch = harness.upload_and_release(600).await;
    let batch = harness.finished(&batch).await;
    assert_eq!(batch.ledger.counts.completed, 600);
    let (claims, settlements) = (harness.store.calls("claim"), harness.store.calls("settle"));
    assert!(claims <= 60 && settlements <= 20, "{claims} claims, {settlements} settlements");
}

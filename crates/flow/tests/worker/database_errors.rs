//! A database that fails while rows are claimed or settled.

use std::time::Duration;

use penstock_domain::outcome::code;
use penstock_domain::row::RowStatus::{Completed, Failed};
use tokio::time::Instant;

use crate::harness::Harness;
use crate::store::Fault::{AnswerLost, InvalidData, Unavailable};

#[tokio::test(start_paused = true)]
async fn rows_whose_claim_fails_are_claimed_again() {
    let harness = Harness::new("").await;
    let _running = harness.worker("worker");
    harness.store.fail("claim", [Unavailable, Unavailable]);
    let batch = harness.upload_and_release(2).await;
    let batch = harness.finished(&batch).await;
    assert_eq!(harness.states(&batch, 2).await, [Completed; 2]);
    assert_eq!(harness.store.calls("claim"), 3);
}

/// SQL holds the rows for this worker, which does not know them: it finds that out, and releases them.
#[tokio::test(start_paused = true)]
async fn rows_whose_claim_got_no_answer_are_processed_all_the_same() {
    let harness = Harness::new("").await;
    let _running = harness.worker("worker");
    harness.store.fail("claim", [AnswerLost]);
    let batch = harness.upload_and_release(2).await;
    let began = Instant::now();
    let batch = harness.finished(&batch).await;
    assert_eq!(harness.states(&batch, 2).await, [Completed; 2]);
    assert_eq!(harness.store.calls("let_go"), 1);
    assert!(began.elapsed() < Duration::from_secs(15), "before the periodic comparison");
    assert_eq!(harness.api.paths().len(), 4, "none is called twice");
}

#[tokio::test(start_paused = true)]
async fn a_settlement_is_repeated_until_the_database_takes_it() {
    let harness = Harness::new("").await;
    let _running = harness.worker("worker");
    harness.store.fail("settle", [Unavailable, Unavailable, Unavailable]);
    let batch = harness.upload_and_release(1).await;
    let batch = harness.finished(&batch).await;
    assert_eq!(harness.states(&batch, 1).await, [Completed]);
    assert_eq!(harness.store.calls("settle"), 4);
    assert_eq!(harness.api.paths().len(), 2, "no call is repeated for it");
}

#[tokio::test(start_paused = true)]
async fn a_settlement_that_is_refused_fails_its_row() {
    let harness = Harness::new("").await;
    let _running = harness.worker("worker");
    harness.store.fail("settle", [InvalidData]);
    let batch = harness.upload_and_release(1).await;
    let batch = harness.finished(&batch).await;
    assert_eq!(harness.states(&batch, 1).await, [Failed]);
    assert_eq!(harness.row(&batch, 1).await.code.as_deref(), Some(code::INTERNAL_ERROR));
    assert_eq!(harness.api.paths().len(), 2, "no call is repeated for it");
}

//! Rows that another process took meanwhile.

use std::sync::atomic::Ordering;
use std::time::Duration;

use penstock_domain::ids::RowRef;
use penstock_domain::row::RowStatus::Processing;
use penstock_flow::context::id_generator::{IdGenerator as _, SystemIdGenerator};
use penstock_store::batches::Batch;
use penstock_store::work::{Claim, Work as _};
use penstock_store::workers::{ComeBack, NewWorker, WorkerKind, Workers as _};

use crate::harness::{Harness, LOST_AFTER};

/// Another process claims the row that `worker` holds.
async fn take_over(harness: &Harness, batch: &Batch) {
    let other = NewWorker {
        name: "other",
        kind: WorkerKind::Worker,
        version: "test",
        silence: Duration::from_secs(120),
    };
    let store = &harness.store;
    store.register_worker(&other).await.unwrap();
    let held = store.held_by("worker").await.unwrap();
    let now = harness.services.clock.now();
    let freed = store.let_go(&held, ComeBack::Queued { lost_after: now + LOST_AFTER }, now).await.unwrap();
    assert_eq!(freed.requeued.len(), 1);
    let row = RowRef { batch: batch.seq, number: 1 };
    let token = SystemIdGenerator.lease_token();
    let claim = Claim { rows: &[row], token, holder: "other", also_pending: false, suspects: true };
    assert_eq!(store.claim(&claim, now).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_row_that_another_process_took_is_not_settled() {
    let harness = Harness::new("").await;
    let running = harness.worker("worker");
    harness.api.hold();
    let batch = harness.upload_and_release(1).await;
    harness.api.called(1).await;
    take_over(&harness, &batch).await;
    harness.api.release();
    harness.store.called("settle", 1).await;
    running.stop();
    let metrics = running.worker.metrics().clone();
    running.stopped().await;
    assert_eq!(metrics.lost.load(Ordering::Relaxed), 1);
    let row = harness.row(&batch, 1).await;
    assert_eq!((row.status, row.holder.as_deref()), (Processing, Some("other")));
}

/// Leases are compared with SQL every thirty seconds, whether or not there is doubt.
#[tokio::test(start_paused = true)]
async fn a_row_whose_lease_is_known_to_be_lost_calls_no_further_step() {
    let harness = Harness::new("").await;
    let running = harness.worker("worker");
    harness.api.hold();
    let batch = harness.upload_and_release(1).await;
    harness.api.called(1).await;
    take_over(&harness, &batch).await;
    let compared = harness.store.calls("held_by");
    tokio::time::advance(Duration::from_secs(31)).await;
    harness.store.called("held_by", compared + 1).await;
    harness.api.release();
    running.idle().await;
    running.stop();
    running.stopped().await;
    assert_eq!(harness.api.paths(), ["/first/1"]);
    assert_eq!(harness.store.calls("settle"), 0);
    assert_eq!(harness.row(&batch, 1).await.holder.as_deref(), Some("other"));
}

//! A worker that is asked to stop.

use std::sync::Arc;

use penstock_domain::row::RowStatus::{Completed, Pending};
use penstock_flow::worker::observe::Log;

use crate::harness::Harness;

#[tokio::test(start_paused = true)]
async fn a_worker_that_stops_ends_its_calls_and_requeues_the_other_rows() {
    let mut harness = Harness::new("").await;
    let running = harness.worker_with("worker", 1, Arc::new(Log));
    harness.api.hold();
    let batch = harness.upload_and_release(3).await;
    harness.api.called(1).await;
    running.stop();
    harness.store.called("unqueue", 1).await;
    harness.api.release();
    running.stopped().await;
    assert_eq!(harness.states(&batch, 3).await, [Pending; 3]);
    assert_eq!(harness.api.paths(), ["/first/1"], "the row in flight ended before its next step");

    // The next worker continues it there.
    let next = harness.next_worker();
    harness.dispatch().await;
    harness.finished(&batch).await;
    assert_eq!(harness.states(&batch, 3).await, [Completed; 3]);
    assert_eq!(harness.api.paths().iter().filter(|path| *path == "/first/1").count(), 1);
    next.stop();
    next.stopped().await;
}

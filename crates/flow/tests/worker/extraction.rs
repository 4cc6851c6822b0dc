//! A worker that is asked to stop while it extracts a file.

use penstock_domain::row::RowStatus::Completed;

use crate::harness::Harness;

#[tokio::test(start_paused = true)]
async fn an_extraction_stops_after_its_chunk_and_another_worker_continues_it() {
    let mut harness = Harness::new("").await;
    let running = harness.worker("worker");
    let stop = running.stop_handle();
    // The worker drains as soon as its main loop sees the stop.
    harness.store.after("commit_chunk", move || stop.cancel());
    let batch = harness.upload(20).await;
    running.stopped().await;
    let stopped = harness.batch(&batch).await;
    let rows = stopped.checkpoint.rows;
    assert!((1..20).contains(&rows), "{rows} rows were extracted");
    assert_eq!(harness.store.calls("release_extraction"), 1, "its lease is released");

    harness.store.after("commit_chunk", || {});
    let next = harness.next_worker();
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    harness.dispatch().await;
    harness.store.called("finish_extraction", 1).await;
    assert_eq!(harness.store.calls("commit_chunk"), 20, "no row is extracted twice");
    harness.dispatch().await;
    let batch = harness.finished(&batch).await;
    assert_eq!(harness.states(&batch, 20).await, [Completed; 20]);
    next.stop();
    next.stopped().await;
}

//! What is kept for an hour, or less: how fast batches go, how far uploads are.

use std::sync::Arc;
use std::time::Duration;

use penstock_store::Store;
use penstock_store::progress::{PROGRESS_KEPT, Progress};
use penstock_store::samples::{SAMPLE_EVERY, SAMPLES_KEPT};
use uuid::Uuid;

use crate::fixture::{START, create, extracted, new_batch, unique};

/// Batches that run are sampled once in a period, whoever asks, and samples are kept for an hour.
pub async fn running_batches_are_sampled(store: &Arc<dyn Store>) {
    // Times of its own: whatever other cases sample is older or newer.
    let start = START + Duration::from_secs(86_400 * (1000 + unique() % 10_000));
    let runs = extracted(store, &new_batch(store, 3).await, 3).await;
    let waits = create(store, &new_batch(store, 3).await).await;
    for seconds in [0, 1, 30, 60] {
        store.sample_batches(start + Duration::from_secs(seconds)).await.unwrap();
    }
    let samples = store.samples(runs.seq).await.unwrap();
    let times: Vec<u64> = samples.iter().map(|sample| sample.at.since(start).as_secs()).collect();
    assert!(times == [0, 30, 60] || times == [0, 1, 30, 60], "{times:?}");
    assert!(samples.iter().all(|sample| (sample.completed, sample.failed) == (0, 0)));
    assert!(store.samples(waits.seq).await.unwrap().is_empty(), "it does not run");
    store.sample_batches(start + SAMPLES_KEPT + 3 * SAMPLE_EVERY).await.unwrap();
    assert_eq!(store.samples(runs.seq).await.unwrap().len(), 1, "the last hour is kept");
}

/// How far an upload is, is its owner's to know, and forgotten after a while.
pub async fn the_progress_of_an_upload_is_kept_for_a_while(store: &Arc<dyn Store>) {
    let (ours, theirs) = (new_batch(store, 1).await.owner, new_batch(store, 1).await.owner);
    let id = Uuid::from_u128(u128::from(unique()));
    assert_eq!(store.upload_progress(ours, id).await.unwrap(), None);
    let mut progress = Progress { at: START, bytes: 1 << 40, rows: 10, errors: 0 };
    for errors in [0, 2] {
        progress.errors = errors;
        store.report_upload(ours, id, &progress).await.unwrap();
        assert_eq!(store.upload_progress(ours, id).await.unwrap(), Some(progress));
    }
    assert_eq!(store.upload_progress(theirs, id).await.unwrap(), None);
    let later = Progress { at: START + PROGRESS_KEPT + Duration::from_secs(1), ..progress };
    store.report_upload(theirs, id, &later).await.unwrap();
    assert_eq!(store.upload_progress(ours, id).await.unwrap(), None);
}

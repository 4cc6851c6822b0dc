//! Extraction: chunks, checkpoints and the lease.

use std::sync::Arc;

use penstock_store::extraction::{ExtractionLease, Leased, NewRow};
use penstock_store::reading::RowFilter;
use penstock_store::{Store, StoreError};

use crate::fixture::{LEASE, START, behind, create, extraction_lease, look, new_batch, row, token};

/// What is committed is rows and checkpoint together; a chunk from another checkpoint is refused.
pub async fn a_chunk_and_its_checkpoint_are_one(store: &Arc<dyn Store>) {
    let batch = create(store, &new_batch(store, 5).await).await;
    let lease = extraction_lease(batch.seq, START);
    store.lease_extraction(&lease, false, START).await.unwrap();
    let first: Vec<NewRow> = (1..=2).map(row).collect();
    store.commit_chunk(&lease, &first, batch.checkpoint, behind(2), START).await.unwrap();
    assert_eq!(look(store, batch.seq).await.checkpoint, behind(2));
    let again = store.commit_chunk(&lease, &first, batch.checkpoint, behind(2), START).await;
    assert!(again.is_err(), "the checkpoint has moved");
    let page =
        store.rows(batch.seq, &RowFilter { limit: 10, payload: true, ..RowFilter::default() }).await.unwrap();
    assert_eq!(page.rows.iter().filter(|row| row.payload.is_some()).count(), 2, "nothing is there twice");
    let rest: Vec<NewRow> = (3..=5).map(row).collect();
    store.commit_chunk(&lease, &rest, behind(2), behind(5), START).await.unwrap();
    let done = store.finish_extraction(&lease, 5, START).await.unwrap();
    assert_eq!((done.ledger.counts.total, done.ledger.counts.pending), (5, 5));
}

/// A second holder gets nothing while the lease runs, and the first one nothing after it has run out and was taken.
pub async fn a_lease_is_held_by_one(store: &Arc<dyn Store>) {
    let batch = create(store, &new_batch(store, 1).await).await;
    let first = extraction_lease(batch.seq, START);
    assert!(matches!(store.lease_extraction(&first, false, START).await.unwrap(), Leased::Yours(_)));
    let second = extraction_lease(batch.seq, START);
    let Leased::Held { holder, .. } = store.lease_extraction(&second, false, START).await.unwrap() else {
        panic!("it is held")
    };
    assert_eq!(holder, first.holder);
    // Its own holder begins again, where the database broke off.
    let first = ExtractionLease { token: token(), ..first };
    assert!(matches!(store.lease_extraction(&first, false, START).await.unwrap(), Leased::Yours(_)));
    let later = START + LEASE + LEASE;
    let third = extraction_lease(batch.seq, later);
    assert!(matches!(store.lease_extraction(&third, false, later).await.unwrap(), Leased::Yours(_)));
    let late = store.commit_chunk(&first, &[row(1)], batch.checkpoint, behind(1), later).await;
    assert!(matches!(late, Err(StoreError::LeaseLost)), "{late:?}");
    assert_eq!(look(store, batch.seq).await.checkpoint, batch.checkpoint);
    store.release_extraction(&third).await.unwrap();
    assert!(matches!(store.lease_extraction(&second, false, later).await.unwrap(), Leased::Yours(_)));
}

/// A row that cannot be stored is failed and never released; the others run.
pub async fn a_rejected_row_is_failed_from_the_start(store: &Arc<dyn Store>) {
    let batch = create(store, &new_batch(store, 3).await).await;
    let lease = extraction_lease(batch.seq, START);
    store.lease_extraction(&lease, false, START).await.unwrap();
    let mut rows: Vec<NewRow> = (1..=3).map(row).collect();
    rows[1].rejected = Some(("not_stored".into(), vec![1]));
    store.commit_chunk(&lease, &rows, batch.checkpoint, behind(3), START).await.unwrap();
    store.finish_extraction(&lease, 3, START).await.unwrap();
    let released = crate::fixture::release(store, batch.seq, 10, START).await;
    assert_eq!(released.iter().map(|row| row.number).collect::<Vec<_>>(), [1, 3]);
    let counts = look(store, batch.seq).await.ledger.counts;
    assert_eq!((counts.failed, counts.queued, counts.pending), (1, 2, 0));
}

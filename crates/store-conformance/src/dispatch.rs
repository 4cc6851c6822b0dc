//! Dispatch: what is offered to a run, and what a sweep leaves alone.

use std::sync::Arc;
use std::time::Duration;

use penstock_domain::batch::Counts;
use penstock_domain::ids::{BatchSeq, OwnerSeq};
use penstock_domain::row::RowStatus;
use penstock_domain::time::Timestamp;
use penstock_store::Store;
use penstock_store::batches::{Batch, NewBatch};
use penstock_store::dispatch::OwnerLoad;
use penstock_store::operations::CountMismatch;
use penstock_store::work::{Settled, Settlement};

use crate::fixture::{
    LEASE, START, claim, completed, die, extracted, look, new_batch, release, requeued, token,
};

async fn load(store: &Arc<dyn Store>, owner: OwnerSeq, rows: u32, now: Timestamp) -> Option<OwnerLoad> {
    store.loads(rows, now).await.unwrap().into_iter().find(|load| load.owner == owner)
}

/// One more batch of the owner of `like`.
async fn sibling(store: &Arc<dyn Store>, like: &NewBatch, rows: u32) -> Batch {
    let new = NewBatch { owner: like.owner, ..new_batch(store, rows).await };
    extracted(store, &new, rows).await
}

/// All rows of a batch run once and come back until `not_before`.
async fn send_back(store: &Arc<dyn Store>, batch: BatchSeq, rows: u32, not_before: Timestamp) {
    let released = release(store, batch, rows, START).await;
    let held = token();
    claim(store, &released, held, START).await;
    let back: Vec<_> = released.iter().map(|row| requeued(*row, held, not_before)).collect();
    store.settle(&back, START).await.unwrap();
}

/// A run is offered what it can release: rows that wait for their time offer nothing, and keep no other batch's from
/// being offered, however many there are.
pub async fn only_what_is_due_is_offered(store: &Arc<dyn Store>) {
    let (soon, late) = (START + Duration::from_secs(10), START + Duration::from_secs(100));
    let like = new_batch(store, 3).await;
    let first = extracted(store, &like, 3).await;
    let second = sibling(store, &like, 3).await;
    send_back(store, first.seq, 3, soon).await;
    send_back(store, second.seq, 3, late).await;
    assert!(load(store, like.owner, 2, START).await.is_none(), "nothing is due");
    // Two batches that wait, two places, and one that has rows.
    let third = sibling(store, &like, 3).await;
    let offers = load(store, like.owner, 2, START).await.expect("the third one's");
    assert_eq!(offers.batches.iter().map(|one| one.batch).collect::<Vec<_>>(), [third.seq]);
    assert_eq!((offers.batches[0].fresh, offers.batches[0].returned), (3, 0));
    let offers = load(store, like.owner, 9, soon).await.expect("two batches'");
    let offered = |seq| {
        let one = offers.batches.iter().find(|one| one.batch == seq);
        one.map(|one| (one.fresh, one.returned))
    };
    assert_eq!((offered(first.seq), offered(second.seq)), (Some((0, 3)), None));
    let offers = load(store, like.owner, 2, soon).await.expect("two batches'");
    let returned = offers.batches.iter().map(|one| one.returned).max();
    assert_eq!(returned, Some(2), "counted no further than a quota goes");
    // A paused batch offers nothing, and what it has in flight counts.
    assert_eq!(release(store, first.seq, 1, soon).await.len(), 1);
    store.pause(first.seq, "operator:suite", soon).await.unwrap();
    let offers = load(store, like.owner, 9, soon).await.expect("the third one's");
    assert_eq!(offers.batches.iter().map(|one| one.batch).collect::<Vec<_>>(), [third.seq]);
    assert_eq!(offers.in_flight, 1);
}

/// A run is told of all batches with work, also of more than the quota has rows, and when each was served last: whose turn
/// it is is decided there.
pub async fn all_that_wait_are_offered_with_their_turns(store: &Arc<dyn Store>) {
    let like = new_batch(store, 3).await;
    let first = extracted(store, &like, 3).await;
    let second = sibling(store, &like, 3).await;
    let third = sibling(store, &like, 3).await;
    let later = START + Duration::from_secs(1);
    assert_eq!(release(store, first.seq, 1, START).await.len(), 1);
    assert_eq!(release(store, second.seq, 1, later).await.len(), 1);
    let offers = load(store, like.owner, 1, later).await.expect("three batches'");
    let mut turns: Vec<_> = offers.batches.iter().map(|one| (one.batch, one.served_at)).collect();
    turns.sort_unstable();
    let never = Timestamp::from_millis(0);
    assert_eq!(turns, [(first.seq, START), (second.seq, later), (third.seq, never)]);
    assert_eq!(offers.served_at, later);
}

/// Rows whose time came first are released first, whatever was never released behind them.
pub async fn what_waited_longest_is_released_first(store: &Arc<dyn Store>) {
    let batch = extracted(store, &new_batch(store, 6).await, 6).await;
    let rows = release(store, batch.seq, 3, START).await;
    let held = token();
    claim(store, &rows, held, START).await;
    let at = |seconds| START + Duration::from_secs(seconds);
    let back: Vec<_> =
        rows.iter().zip([30, 10, 20]).map(|(row, seconds)| requeued(*row, held, at(seconds))).collect();
    store.settle(&back, START).await.unwrap();
    let number = |row: &penstock_domain::ids::RowRef| row.number;
    assert_eq!(release(store, batch.seq, 1, at(25)).await.iter().map(number).collect::<Vec<_>>(), [2]);
    assert_eq!(release(store, batch.seq, 2, at(25)).await.iter().map(number).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(release(store, batch.seq, 9, at(25)).await.iter().map(number).collect::<Vec<_>>(), [5, 6]);
    assert_eq!(release(store, batch.seq, 9, at(30)).await.iter().map(number).collect::<Vec<_>>(), [1]);
}

/// A row that ends well keeps nothing of what went wrong before, also when it has no result.
pub async fn a_completed_row_keeps_no_error(store: &Arc<dyn Store>) {
    for result in [None, Some(vec![9; 20])] {
        let batch = extracted(store, &new_batch(store, 1).await, 1).await;
        send_back(store, batch.seq, 1, START).await;
        assert!(store.row(batch.seq, 1).await.unwrap().expect("a row").error.is_some());
        let rows = release(store, batch.seq, 1, START).await;
        let held = token();
        claim(store, &rows, held, START).await;
        let outcome = Settled::Completed { result: result.clone(), key: None };
        store.settle(&[Settlement { row: rows[0], token: held, outcome }], START).await.unwrap();
        let row = store.row(batch.seq, 1).await.unwrap().expect("a row");
        assert_eq!((row.status, row.error, row.result), (RowStatus::Completed, None, result));
    }
}

/// A batch whose counters do not bear what a sweep would do is left alone, and holds up no other one's rows; when it was
/// reconciled, the next sweep fixes it.
pub async fn a_miscounted_batch_holds_up_no_sweep(store: &Arc<dyn Store>) {
    die(store, START).await;
    let mut batches = Vec::new();
    for _ in 0..2 {
        let batch = extracted(store, &new_batch(store, 2).await, 2).await;
        let rows = release(store, batch.seq, 2, START).await;
        let held = token();
        claim(store, &rows[..1], held, START).await;
        store.settle(&[completed(rows[0], held)], START).await.unwrap();
        claim(store, &rows[1..], held, START).await;
        batches.push(batch.seq);
    }
    let [wrong, right] = batches[..] else { panic!("two") };
    let ledger = look(store, wrong).await.ledger;
    let counts = Counts { processing: 0, pending: 1, ..ledger.counts };
    let broken = CountMismatch {
        batch: look(store, wrong).await.id,
        seq: wrong,
        revision: ledger.revision,
        ledger: ledger.counts,
        rows: counts,
    };
    assert!(store.repair_counts(&broken, "operator:suite", START).await.unwrap());
    let later = START + LEASE + LEASE;
    let swept = die(store, later).await;
    assert_eq!(swept.miscounted, [wrong]);
    assert_eq!(look(store, right).await.ledger.counts.pending, 1);
    let found = store.count_mismatches(START).await.unwrap();
    let found = found.iter().find(|one| one.seq == wrong).expect("it is found");
    assert_eq!(found.rows.processing, 1);
    assert!(store.repair_counts(found, "operator:suite", later).await.unwrap());
    let swept = die(store, later).await;
    assert_eq!((swept.miscounted.len(), swept.rows()), (0, 1));
    assert_eq!(look(store, wrong).await.ledger.counts.pending, 1);
}

//! Bulk calls: rows that were recorded together go together, until the call is over.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use penstock_domain::ids::{BatchSeq, CallId, LeaseToken, RowRef};
use penstock_domain::outcome::code;
use penstock_domain::row::{Receipt, RowStatus};
use penstock_store::Store;
use penstock_store::calls::{CallEnd, CallRecord, RecordedCall};
use penstock_store::control::RetrySelection;
use penstock_store::work::{Held, LongRow};
use uuid::Uuid;

use crate::fixture::{
    LEASE, START, claim, completed, die, extracted, failed, look, new_batch, release, requeued, token, unique,
};

/// The step of the call in these tests.
const STEP: u16 = 1;

fn call() -> CallId {
    CallId(Uuid::from_u128(u128::from(unique()) << 64 | 0xca11))
}

fn receipt(step: u16) -> Receipt {
    Receipt { step, sealed: vec![6; 20] }
}

/// Rows of a batch of their own under a lease.
async fn held(store: &Arc<dyn Store>, rows: u32) -> (BatchSeq, Vec<RowRef>, LeaseToken) {
    die(store, START).await;
    let batch = extracted(store, &new_batch(store, rows).await, rows).await.seq;
    let numbers = release(store, batch, rows, START).await;
    let lease = token();
    assert_eq!(claim(store, &numbers, lease, START).await.len(), numbers.len());
    (batch, numbers, lease)
}

async fn record(store: &Arc<dyn Store>, rows: &[RowRef], lease: LeaseToken, once: Option<u16>) -> CallId {
    let call = call();
    let rows: Vec<Held> = rows.iter().map(|row| (*row, lease)).collect();
    assert!(store.record_call(&CallRecord { call, rows: &rows, once, receipts: &[] }).await.unwrap());
    call
}

/// After a crash, and after a call without an answer, one of its rows brings the others, whenever they are due.
pub async fn rows_of_a_recorded_call_are_claimed_together(store: &Arc<dyn Store>) {
    let (batch, rows, lease) = held(store, 5).await;
    let of_call = record(store, &rows[..3], lease, None).await;
    let all: HashMap<RowRef, u64> =
        store.longer_than(0, &rows).await.unwrap().into_iter().map(|one| (one.row, one.bytes)).collect();
    let mut long = store.longer_than(0, &rows[1..4]).await.unwrap();
    long.sort();
    let (first, each) = (rows[1], all[&rows[3]]);
    let in_call = |row| LongRow { row, first, bytes: all[&rows[0]] };
    assert_eq!(
        long,
        [in_call(rows[1]), in_call(rows[2]), LongRow { row: rows[3], first: rows[3], bytes: each }],
        "what is claimed together is weighed together"
    );
    assert_eq!(all[&rows[0]], each * 3);
    die(store, START).await;
    let first = release(store, batch, 1, START).await;
    let second = token();
    let claimed = claim(store, &first, second, START).await;
    let numbers: BTreeSet<u32> = claimed.iter().map(|one| one.row.number).collect();
    assert_eq!(numbers, rows[..3].iter().map(|row| row.number).collect(), "exactly its rows");
    let whole = Some(RecordedCall { call: of_call, rows: 3, complete: true });
    assert!(claimed.iter().all(|one| one.call == whole && one.crashes == 1), "{claimed:?}");
    assert_eq!(look(store, batch).await.ledger.counts.processing, 3);

    // There was no answer: they go again when their time has come, whoever comes first.
    let later = START + LEASE;
    let settled: Vec<_> = rows[..3].iter().map(|row| requeued(*row, second, later)).collect();
    let not_held = [(rows[4], second, receipt(0))];
    let end = CallEnd { settled: &settled, kept: &not_held, freed: &[], over: false };
    let report = store.settle_call(&end, START).await.unwrap();
    assert_eq!(report.lost, [(rows[4], second)], "a row that was to go on is not held any more");
    let others = release(store, batch, 5, START).await;
    assert_eq!(others, rows[3..], "those of the call are not due");
    let again = release(store, batch, 2, later).await;
    let third = token();
    let claimed = claim(store, &again[1..2], third, later).await;
    assert_eq!(claimed.len(), 3, "one that is queued, one that is, and one that is pending");
    assert!(claimed.iter().all(|one| one.call == whole), "{claimed:?}");
    let counts = look(store, batch).await.ledger.counts;
    assert_eq!((counts.processing, counts.queued, counts.pending), (3, 2, 0));
}

/// A row that somebody else has by now keeps the call from being recorded, and leaves no trace of it. Without an answer to a
/// call that is made at most once all of its rows end as unknown.
pub async fn a_call_is_recorded_with_all_of_its_rows_or_not_at_all(store: &Arc<dyn Store>) {
    let (batch, rows, lease) = held(store, 3).await;
    let wanted: Vec<Held> = vec![(rows[0], lease), (rows[1], token()), (rows[2], lease)];
    let receipts = [(rows[0], lease, receipt(0))];
    let record_of = CallRecord { call: call(), rows: &wanted, once: None, receipts: &receipts };
    assert!(!store.record_call(&record_of).await.unwrap());
    die(store, START).await;
    let again = release(store, batch, 3, START).await;
    let second = token();
    let claimed = claim(store, &again[..1], second, START).await;
    assert!(claimed.len() == 1 && claimed[0].call.is_none() && claimed[0].receipts.is_empty(), "{claimed:?}");

    let (batch, rows, lease) = held(store, 3).await;
    record(store, &rows[..2], lease, Some(STEP)).await;
    let reclaimed = die(store, START).await;
    assert_eq!(reclaimed.unknown, 2, "{reclaimed:?}");
    for row in &rows[..2] {
        let record = store.row(batch, row.number).await.unwrap().expect("a row");
        assert_eq!((record.status, record.code.as_deref()), (RowStatus::Failed, Some(code::OUTCOME_UNKNOWN)));
    }
}

/// A process that is gone gives its rows back in steps: until all of a call's are back, none of them runs.
pub async fn a_call_some_of_whose_rows_are_held_elsewhere_waits(store: &Arc<dyn Store>) {
    let (batch, rows, lease) = held(store, 3).await;
    record(store, &rows, lease, None).await;
    let back = penstock_store::workers::ComeBack::Pending;
    store.let_go(&[(rows[1], lease)], back, START).await.unwrap();
    let released = release(store, batch, 3, START).await;
    assert_eq!(released, rows[1..2]);
    assert!(claim(store, &released, token(), START).await.is_empty());
    let counts = look(store, batch).await.ledger.counts;
    assert_eq!((counts.processing, counts.queued, counts.pending), (2, 0, 1));
    assert!(release(store, batch, 3, START).await.is_empty(), "it waits for a moment");
    store.let_go(&[(rows[0], lease), (rows[2], lease)], back, START).await.unwrap();
    let released = release(store, batch, 1, START + LEASE).await;
    let claimed = claim(store, &released, token(), START + LEASE).await;
    assert!(claimed.len() == 3 && claimed.iter().all(|one| one.call.is_some_and(|call| call.complete)));
}

/// A person who retries a part of a call's rows gets them back, and is told that the others are missing.
pub async fn a_call_whose_rows_have_ended_is_not_complete(store: &Arc<dyn Store>) {
    let (batch, rows, lease) = held(store, 3).await;
    let of_call = record(store, &rows, lease, None).await;
    let settled: Vec<_> = rows.iter().map(|row| failed(*row, lease)).collect();
    store
        .settle_call(&CallEnd { settled: &settled, kept: &[], freed: &[], over: false }, START)
        .await
        .unwrap();
    let one = RetrySelection { failed: true, numbers: vec![rows[1].number], ..RetrySelection::default() };
    assert_eq!(store.retry(batch, &one, "operator:suite", START).await.unwrap().1, 1);
    let released = release(store, batch, 3, START).await;
    let second = token();
    let claimed = claim(store, &released, second, START).await;
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].call, Some(RecordedCall { call: of_call, rows: 3, complete: false }));
    let settled = [failed(rows[1], second)];
    store
        .settle_call(&CallEnd { settled: &settled, kept: &[], freed: &[], over: true }, START)
        .await
        .unwrap();
    // The other two are still of the call.
    let all = RetrySelection { failed: true, ..RetrySelection::default() };
    assert_eq!(store.retry(batch, &all, "operator:suite", START).await.unwrap().1, 3);
    let released = release(store, batch, 3, START).await;
    let claimed = claim(store, &released, token(), START).await;
    let calls: Vec<_> = claimed.iter().map(|one| one.call.map(|call| (call.rows, call.complete))).collect();
    assert_eq!(calls, [Some((3, false)), None, Some((3, false))]);
}

/// Rows that end and rows that go on: the call is over for all of them at once, also where a lease was lost.
pub async fn a_call_is_settled_as_one(store: &Arc<dyn Store>) {
    let (batch, rows, lease) = held(store, 4).await;
    record(store, &rows, lease, None).await;
    let settled = [completed(rows[0], lease), failed(rows[1], token())];
    let kept =
        [(rows[2], lease, receipt(0)), (rows[2], lease, receipt(STEP)), (rows[3], token(), receipt(STEP))];
    let report = store
        .settle_call(&CallEnd { settled: &settled, kept: &kept, freed: &[], over: true }, START)
        .await
        .unwrap();
    assert_eq!(report.lost, [settled[1].held(), (rows[3], kept[2].1)], "those that go on are named, too");
    let counts = look(store, batch).await.ledger.counts;
    assert_eq!((counts.completed, counts.processing), (1, 3));
    die(store, START).await;
    let released = release(store, batch, 4, START).await;
    let claimed = claim(store, &released, token(), START).await;
    let of = |row: RowRef| claimed.iter().find(|one| one.row == row).expect("claimed");
    assert!(of(rows[2]).call.is_none());
    assert_eq!(of(rows[2]).receipts.iter().map(|one| one.step).collect::<Vec<_>>(), [0, STEP]);
    assert!(of(rows[1]).call.is_some() && of(rows[3]).call.is_some() && of(rows[3]).receipts.is_empty());
}

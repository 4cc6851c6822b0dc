//! Answers that rows have in common.

use std::sync::Arc;
use std::time::Duration;

use penstock_domain::ids::{BatchSeq, LeaseToken, RowRef};
use penstock_domain::time::Timestamp;
use penstock_store::Store;
use penstock_store::answers::{AnswerEnd, AnswerOutcome, FoundAnswer, WantedAnswer};
use penstock_store::duplicates::KeyHash;

use crate::fixture::{START, claim, die, extracted, new_batch, release, requeued, token, unique};

fn after(seconds: u64) -> Timestamp {
    START + Duration::from_secs(seconds)
}

fn key() -> KeyHash {
    let mut key = [1; 32];
    key[..8].copy_from_slice(&unique().to_be_bytes());
    key
}

/// Rows of a batch of their own that are processing, and their lease.
async fn rows(store: &Arc<dyn Store>, count: u32) -> (Vec<RowRef>, LeaseToken) {
    let batch = extracted(store, &new_batch(store, count).await, count).await.seq;
    let rows = release(store, batch, count, START).await;
    let held = token();
    assert_eq!(claim(store, &rows, held, START).await.len(), rows.len());
    (rows, held)
}

fn wanted(key: KeyHash, row: RowRef) -> WantedAnswer {
    let of_batch = Some(row.batch);
    WantedAnswer { key, of_batch, row, token: token(), waits_since: None, unreadable: false }
}

async fn find(store: &Arc<dyn Store>, wanted: WantedAnswer, now: Timestamp) -> FoundAnswer {
    store.find_answers(&[wanted], now).await.unwrap().pop().unwrap()
}

async fn end(store: &Arc<dyn Store>, wanted: &WantedAnswer, outcome: AnswerOutcome) {
    let WantedAnswer { key, of_batch, row, token, .. } = *wanted;
    let end = AnswerEnd { key, of_batch, row, token: Some(token), outcome };
    store.end_answers(&[end], START).await.unwrap();
}

fn kept(expires_at: Timestamp) -> AnswerOutcome {
    AnswerOutcome::Kept { sealed: vec![3; 20], expires_at }
}

const AWAITED: FoundAnswer = FoundAnswer::Awaited { until: None };

/// One row asks, the others wait, and find what it was answered until that is over.
pub async fn a_key_is_asked_by_one_row(store: &Arc<dyn Store>) {
    let (rows, _) = rows(store, 3).await;
    let (a, b) = (key(), key());
    let group = [wanted(a, rows[0]), wanted(b, rows[1]), wanted(a, rows[2])];
    assert_eq!(
        store.find_answers(&group, START).await.unwrap(),
        [FoundAnswer::Ask, FoundAnswer::Ask, AWAITED]
    );
    assert_eq!(find(store, wanted(a, rows[1]), START).await, AWAITED);
    let again = wanted(a, rows[0]);
    assert_eq!(find(store, again, START).await, FoundAnswer::Ask, "its own question");
    // What it asked before it was taken up again is over.
    end(store, &group[0], AnswerOutcome::NotAsked).await;
    assert_eq!(find(store, wanted(a, rows[1]), START).await, AWAITED);
    end(store, &again, kept(after(60))).await;
    let found = FoundAnswer::Kept { sealed: vec![3; 20], expires_at: after(60) };
    assert_eq!(find(store, wanted(a, rows[1]), after(59)).await, found);
    assert_eq!(find(store, wanted(b, rows[0]), START).await, AWAITED, "another key is another answer");
    let other = WantedAnswer { unreadable: true, ..wanted(a, rows[2]) };
    assert_eq!(find(store, other, START).await, FoundAnswer::Ask, "one that can be opened is needed");
    end(store, &other, kept(after(60))).await;
    assert_eq!(find(store, wanted(a, rows[1]), after(60)).await, FoundAnswer::Ask, "its time is over");
}

/// However many workers ask at once, one row asks.
pub async fn questions_at_once_are_one(store: &Arc<dyn Store>) {
    let (rows, _) = rows(store, 8).await;
    for _ in 0..10 {
        let key = key();
        let asking = rows.iter().map(|row| {
            let (store, wanted) = (store.clone(), wanted(key, *row));
            tokio::spawn(async move { find(&store, wanted, START).await })
        });
        let mut asked = 0;
        for found in asking.collect::<Vec<_>>() {
            match found.await.unwrap() {
                FoundAnswer::Ask => asked += 1,
                found => assert_eq!(found, AWAITED),
            }
        }
        assert_eq!(asked, 1);
    }
}

/// A call that fails for good fails for those that have waited for it; who comes later asks again.
pub async fn a_failure_is_shared_by_those_that_waited(store: &Arc<dyn Store>) {
    let (rows, _) = rows(store, 3).await;
    let key = key();
    let asks = wanted(key, rows[0]);
    assert_eq!(find(store, asks, START).await, FoundAnswer::Ask);
    let failed = AnswerOutcome::Failed { sealed: vec![6; 20], at: after(5), expires_at: after(100) };
    end(store, &asks, failed).await;
    let waited = |row: RowRef, second| WantedAnswer { waits_since: Some(after(second)), ..wanted(key, row) };
    let shared = FoundAnswer::Failed { sealed: vec![6; 20] };
    assert_eq!(find(store, waited(rows[1], 4), after(6)).await, shared);
    let later = waited(rows[2], 6);
    assert_eq!(find(store, later, after(7)).await, FoundAnswer::Ask);
    assert_eq!(find(store, waited(rows[1], 5), after(8)).await, shared, "whoever asks meanwhile");
    end(store, &later, kept(after(60))).await;
    let found = find(store, waited(rows[1], 4), after(9)).await;
    assert!(matches!(found, FoundAnswer::Kept { .. }), "an answer is better: {found:?}");
}

/// A question lives as long as its row is processing, and as long as it is to ask again.
pub async fn a_question_ends_with_its_row(store: &Arc<dyn Store>) {
    let (rows, held) = rows(store, 3).await;
    let key = key();
    let first = wanted(key, rows[0]);
    assert_eq!(find(store, first, START).await, FoundAnswer::Ask);
    // It is to ask again in a while.
    end(store, &first, AnswerOutcome::AsksAgain { until: after(30) }).await;
    store.settle(&[requeued(rows[0], held, after(10))], START).await.unwrap();
    let until = FoundAnswer::Awaited { until: Some(after(30)) };
    assert_eq!(find(store, wanted(key, rows[1]), after(29)).await, until);
    assert_eq!(find(store, wanted(key, rows[1]), after(30)).await, FoundAnswer::Ask, "it did not");
    assert_eq!(find(store, wanted(key, rows[2]), after(30)).await, AWAITED);
    // Its process dies in the middle of the call.
    die(store, after(31)).await;
    let found = find(store, wanted(key, rows[2]), after(31)).await;
    assert_eq!(found, FoundAnswer::Ask, "no time has to pass");
}

/// Answers of an erased batch are gone, and none comes after it; what is over is forgotten.
pub async fn answers_end_with_their_batch_and_their_time(store: &Arc<dyn Store>) {
    let (rows_of_it, _) = rows(store, 2).await;
    let (other, _) = rows(store, 1).await;
    let (own, common, late) = (key(), key(), key());
    let of = |key, of_batch: Option<BatchSeq>| WantedAnswer { of_batch, ..wanted(key, rows_of_it[0]) };
    let batch = rows_of_it[0].batch;
    let group = [of(own, Some(batch)), of(common, None), of(late, Some(batch))];
    assert_eq!(
        store.find_answers(&group, START).await.unwrap(),
        [FoundAnswer::Ask, FoundAnswer::Ask, FoundAnswer::Ask]
    );
    end(store, &group[0], kept(after(60))).await;
    end(store, &group[1], kept(after(60))).await;
    store.erase(batch, None, "suite", after(1)).await.unwrap();
    end(store, &group[2], kept(after(60))).await;
    let see = |key| wanted(key, other[0]);
    assert_eq!(find(store, see(own), after(2)).await, FoundAnswer::Ask);
    assert_eq!(find(store, see(late), after(2)).await, FoundAnswer::Ask);
    assert!(matches!(find(store, see(common), after(2)).await, FoundAnswer::Kept { .. }));
    assert!(store.drop_expired_answers(after(61), 1).await.unwrap() <= 1);
    while store.drop_expired_answers(after(61), 100).await.unwrap() > 0 {}
    assert_eq!(find(store, see(common), after(2)).await, FoundAnswer::Ask);
}

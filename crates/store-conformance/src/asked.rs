//! Calls that are made at most once: what a note of one is good for, and what takes it away.

use std::sync::Arc;

use penstock_domain::batch::Outcome;
use penstock_domain::ids::{BatchSeq, LeaseToken, RowRef};
use penstock_domain::outcome::code;
use penstock_domain::row::{Receipt, RowStatus};
use penstock_store::Store;
use penstock_store::batches::NewBatch;
use penstock_store::control::RetrySelection;
use penstock_store::reading::RowFilter;

use crate::fixture::{
    LEASE, START, SUITE, claim, completed, die, extracted, look, new_batch, release, requeued, token,
};

/// The step that was asked for in these tests.
const STEP: u16 = 2;

fn receipt(step: u16) -> Receipt {
    Receipt { step, sealed: vec![5; 20] }
}

/// Rows of a batch under a lease, each with a note.
async fn asked(store: &Arc<dyn Store>, batch: BatchSeq, rows: u32) -> (Vec<RowRef>, LeaseToken) {
    let rows = release(store, batch, rows, START).await;
    let held = token();
    assert_eq!(claim(store, &rows, held, START).await.len(), rows.len());
    let notes: Vec<_> = rows.iter().map(|row| (*row, held, STEP)).collect();
    let mut noted = store.record_intents(&notes, &[]).await.unwrap();
    noted.sort_by_key(|(row, _)| row.number);
    assert_eq!(noted, rows.iter().map(|row| (*row, held)).collect::<Vec<_>>());
    (rows, held)
}

/// What other tests left behind is not counted here.
async fn clear(store: &Arc<dyn Store>) {
    die(store, START).await;
}

async fn events(store: &Arc<dyn Store>, batch: BatchSeq) -> Vec<String> {
    let said = store.callbacks(None, Some(batch), None, 100).await.unwrap();
    let mut events: Vec<String> = said.into_iter().map(|callback| callback.event).collect();
    events.sort_unstable();
    events
}

/// A process that dies behind a note ends its row: nobody can tell what came of the call. The batch says so as of any
/// other failure, and a person may have the row tried again, from the step that was asked for.
pub async fn what_was_asked_for_is_not_asked_again(store: &Arc<dyn Store>) {
    clear(store).await;
    let batch = extracted(store, &new_batch(store, 2).await, 2).await.seq;
    let (rows, held) = asked(store, batch, 2).await;
    // An earlier step's receipt leaves the note where it is.
    store.save_receipts(&[(rows[0], held, receipt(STEP - 1))]).await.unwrap();
    store.save_receipts(&[(rows[1], held, receipt(STEP))]).await.unwrap();
    let later = START + LEASE + LEASE;
    store.leave(SUITE).await.unwrap();
    let plan = store.sweep_plan(later, 1_000_000).await.unwrap();
    let planned = look(store, batch).await.id;
    let stuck = plan.expired_rows.iter().find(|one| one.batch == planned).expect("it is planned");
    assert_eq!(stuck.rows, 2);
    let swept = die(store, later).await;
    assert_eq!((swept.rows(), swept.unknown), (2, 1), "{swept:?}");
    let counts = look(store, batch).await.ledger.counts;
    assert_eq!((counts.pending, counts.failed, counts.processing), (1, 1, 0));
    let row = store.row(batch, rows[0].number).await.unwrap().expect("a row");
    assert_eq!((row.status, row.code.as_deref()), (RowStatus::Failed, Some(code::OUTCOME_UNKNOWN)));
    assert_eq!((row.step, row.http_status, row.attempts), (Some(STEP), None, 1));
    assert_eq!((row.not_before, row.holder, row.error), (None, None, None));
    let filter = RowFilter { code: Some(code::OUTCOME_UNKNOWN.into()), limit: 9, ..RowFilter::default() };
    assert_eq!(store.rows(batch, &filter).await.unwrap().rows.len(), 1);
    let groups = store.error_groups(batch).await.unwrap();
    assert_eq!(
        (groups[0].code.as_str(), groups[0].step, &groups[0].sample),
        (code::OUTCOME_UNKNOWN, Some(STEP), &vec![rows[0].number])
    );
    assert!(events(store, batch).await.contains(&"batch.row_failed_first".to_owned()));
    // Who comes too late changes nothing about it.
    assert_eq!(store.settle(&[completed(rows[0], held)], later).await.unwrap().lost.len(), 1);

    // The other one goes on, behind the step whose answer is known.
    let again = release(store, batch, 2, later).await;
    assert_eq!(again, [rows[1]]);
    let second = token();
    let claimed = claim(store, &again, second, later).await;
    assert_eq!(claimed[0].receipts.iter().map(|one| one.step).collect::<Vec<_>>(), [STEP]);
    assert_eq!(claimed[0].attempts, 0, "a worker that died costs no attempt");
    store.settle(&[completed(rows[1], second)], later).await.unwrap();
    assert!(look(store, batch).await.ledger.is_finished());

    let all = RetrySelection { failed: true, ..RetrySelection::default() };
    assert_eq!(store.retry(batch, &all, "operator:suite", later).await.unwrap().1, 1);
    let again = release(store, batch, 2, later).await;
    let third = token();
    let claimed = claim(store, &again, third, later).await;
    assert_eq!(claimed[0].receipts.iter().map(|one| one.step).collect::<Vec<_>>(), [STEP - 1]);
    // The note went with the failure: a process that dies before anything is asked for gives the row back.
    let much_later = later + LEASE + LEASE;
    let swept = die(store, much_later).await;
    assert_eq!((swept.rows(), swept.unknown), (1, 0), "{swept:?}");
}

/// The last row's end by a sweep is the batch's end, and the first one's is the end of a batch that allows no failure.
pub async fn a_sweep_that_fails_rows_ends_batches(store: &Arc<dyn Store>) {
    clear(store).await;
    let last = extracted(store, &new_batch(store, 1).await, 1).await.seq;
    asked(store, last, 1).await;
    let strict = NewBatch { allow_failures: false, ..new_batch(store, 5).await };
    let strict = extracted(store, &strict, 5).await.seq;
    let (rows, _) = asked(store, strict, 3).await;
    let swept = die(store, START + LEASE + LEASE).await;
    assert_eq!((swept.rows(), swept.unknown, swept.miscounted.len()), (4, 4, 0), "{swept:?}");
    let ended = look(store, last).await.ledger;
    assert_eq!((ended.is_finished(), ended.outcome), (true, Some(Outcome::Failure)));
    assert_eq!(events(store, last).await, ["batch.created", "batch.finished", "batch.row_failed_first"]);
    let ended = look(store, strict).await;
    assert!(ended.ledger.is_finished() && ended.ledger.cancelled_at.is_some(), "{:?}", ended.ledger);
    assert_eq!((ended.ledger.counts.failed, ended.ledger.counts.cancelled), (3, 2));
    assert_eq!(ended.failure_row, Some(rows[0].number));
    assert_eq!(events(store, strict).await.iter().filter(|event| *event == "batch.finished").count(), 1);
}

/// A settlement takes the note away, and a lease that was lost makes none.
pub async fn a_note_lives_as_long_as_its_lease(store: &Arc<dyn Store>) {
    clear(store).await;
    let batch = extracted(store, &new_batch(store, 1).await, 1).await.seq;
    let (rows, first) = asked(store, batch, 1).await;
    let earlier = [(rows[0], first, receipt(STEP - 1))];
    let again = store.record_intents(&[(rows[0], first, STEP)], &earlier).await.unwrap();
    assert_eq!(again, [(rows[0], first)], "the outputs of the steps before are saved with it");
    store.settle(&[requeued(rows[0], first, START)], START).await.unwrap();
    assert_eq!(
        store.record_intents(&[(rows[0], first, STEP)], &[]).await.unwrap(),
        [],
        "it is not held any more"
    );
    assert_eq!(release(store, batch, 1, START).await, rows);
    let second = token();
    let claimed = claim(store, &rows, second, START).await;
    assert_eq!(claimed[0].receipts, [receipt(STEP - 1)]);
    assert_eq!(
        store.record_intents(&[(rows[0], first, STEP)], &[]).await.unwrap(),
        [],
        "somebody else holds it"
    );
    let both = store.record_intents(&[(rows[0], first, STEP), (rows[0], token(), STEP)], &[]).await.unwrap();
    assert_eq!(both, []);
    // Neither the settled note nor the refused ones count.
    let later = START + LEASE + LEASE;
    let swept = die(store, later).await;
    assert_eq!((swept.rows(), swept.unknown), (1, 0), "{swept:?}");
    assert_eq!(look(store, batch).await.ledger.counts.pending, 1);
    assert_eq!(store.record_intents(&[], &[]).await.unwrap(), []);
    assert_eq!(store.record_intents(&[(rows[0], first, STEP)], &earlier).await.unwrap(), []);
}

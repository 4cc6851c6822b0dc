//! Callbacks: written by what causes them, once, and delivered under a lease.

use std::collections::HashSet;
use std::sync::Arc;

use penstock_domain::ids::{BatchSeq, LeaseToken};
use penstock_domain::ledger::PROGRESS_EVERY;
use penstock_domain::time::Timestamp;
use penstock_store::Store;
use penstock_store::batches::NewBatch;
use penstock_store::callbacks::{Callback, CallbackLease, CallbackStatus, Delivery};
use penstock_store::control::RetrySelection;

use crate::fixture::{
    LEASE, START, claim, completed, create, extracted, failed, new_batch, release, token, unique,
};

/// Created, the first failure, finished: once for each run, under ids that differ.
pub async fn each_event_of_a_run_is_said_once(store: &Arc<dyn Store>) {
    let batch = extracted(store, &new_batch(store, 3).await, 3).await;
    for run in 0..2 {
        let rows = release(store, batch.seq, 3, START).await;
        let held = token();
        claim(store, &rows, held, START).await;
        for row in &rows {
            let one = if run == 0 { failed(*row, held) } else { completed(*row, held) };
            store.settle(&[one], START).await.unwrap();
        }
        if run == 0 {
            let all = RetrySelection { failed: true, ..RetrySelection::default() };
            store.retry(batch.seq, &all, "operator:suite", START).await.unwrap();
        }
    }
    let said = store.callbacks(None, Some(batch.seq), None, 100).await.unwrap();
    let count = |event: &str| said.iter().filter(|callback| callback.event == event).count();
    assert_eq!(count("batch.created"), 1);
    assert_eq!(count("batch.row_failed_first"), 1);
    assert_eq!(count("batch.finished"), 2);
    assert_eq!(count("batch.succeeded"), 1);
    assert_eq!(said.iter().map(|callback| callback.id).collect::<HashSet<_>>().len(), said.len());
}

/// That a batch is delayed is said once in a run, however often it is seen and by however many, only of the pipelines that
/// wait, and never when the run has ended.
pub async fn a_delay_is_said_once_in_a_run(store: &Arc<dyn Store>) {
    let waits = format!("waits{}", unique());
    let other = format!("other{}", unique());
    let mut batches = Vec::new();
    for pipeline in [&waits, &other] {
        let new = NewBatch { pipeline: pipeline.clone(), ..new_batch(store, 1).await };
        batches.push(extracted(store, &new, 1).await);
    }
    let ended = extracted(store, &NewBatch { pipeline: waits.clone(), ..new_batch(store, 1).await }, 1).await;
    let rows = release(store, ended.seq, 1, START).await;
    let held = token();
    claim(store, &rows, held, START).await;
    store.settle(&[completed(rows[0], held)], START).await.unwrap();

    let slice = [waits];
    let found = store.delay_not_reported(&slice, 10).await.unwrap();
    assert_eq!(found, [batches[0].seq]);
    let all = [batches[0].seq, ended.seq];
    let (one, two) = tokio::join!(store.report_delay(&all, START), store.report_delay(&all, START));
    assert_eq!((one.unwrap(), two.unwrap()), (1, 1));
    assert!(store.delay_not_reported(&slice, 10).await.unwrap().is_empty(), "it was said");
    for (batch, times) in [(batches[0].seq, 1), (batches[1].seq, 0), (ended.seq, 0)] {
        let said = store.callbacks(None, Some(batch), None, 100).await.unwrap();
        assert_eq!(said.iter().filter(|callback| callback.event == "batch.delayed").count(), times);
    }
}

/// What a lease at `now` gets, of these batches.
async fn leased(
    store: &Arc<dyn Store>,
    token: LeaseToken,
    now: Timestamp,
    per_receiver: u32,
    of: &[BatchSeq],
) -> Vec<Callback> {
    let lease = CallbackLease { token, now, until: now + LEASE, limit: 1000, per_receiver, per_owner: 1000 };
    let mut all = store.lease_callbacks(&lease).await.unwrap();
    all.retain(|callback| of.contains(&callback.seq));
    all
}

fn delivery(callback: &Callback, token: LeaseToken, status: CallbackStatus, at: Timestamp) -> Delivery {
    let next_at = (status == CallbackStatus::Pending).then_some(at + LEASE);
    Delivery { id: callback.id, token, at, status, next_at, http_status: Some(200), error: None }
}

/// A leased callback is nobody else's; what was delivered does not come again; a late settlement changes nothing.
pub async fn a_callback_is_delivered_under_one_lease(store: &Arc<dyn Store>) {
    let batch = extracted(store, &to(store, "lease").await, 1).await;
    let of = [batch.seq];
    let (first, second) = (token(), token());
    let due = leased(store, first, START, 9, &of).await;
    assert_eq!(due.len(), 1, "batch.created");
    assert_eq!((due[0].batch, due[0].run), (batch.id, 1));
    assert_eq!(leased(store, token(), START, 9, &of).await.len(), 0);
    let later = START + LEASE + LEASE;
    assert_eq!(leased(store, second, later, 9, &of).await.len(), 1);
    let keep = |token| store.keep_snapshot(due[0].id, token, "{\"kept\": true}");
    assert!(!keep(first).await.unwrap(), "its lease was lost");
    assert!(keep(second).await.unwrap());
    let done = |token| delivery(&due[0], token, CallbackStatus::Delivered, later);
    assert!(!store.settle_callback(&done(first)).await.unwrap(), "its lease was lost");
    assert!(store.settle_callback(&done(second)).await.unwrap());
    let much_later = later + LEASE + LEASE;
    assert_eq!(leased(store, token(), much_later, 9, &of).await.len(), 0);
}

/// A batch whose callbacks go to a receiver of this test's own.
async fn to(store: &Arc<dyn Store>, name: &str) -> NewBatch {
    let url = format!("https://{name}{}.example/hook", unique());
    NewBatch { callback_url: Some(url), ..new_batch(store, 1).await }
}

/// Twenty callbacks of a receiver that does not answer, and one of another: that one is not behind them.
pub async fn receivers_take_turns(store: &Arc<dyn Store>) {
    let hanging = to(store, "hangs").await;
    let mut seqs = Vec::new();
    for _ in 0..20 {
        let more = NewBatch {
            callback_url: hanging.callback_url.clone(),
            owner: hanging.owner,
            ..new_batch(store, 1).await
        };
        seqs.push(create(store, &more).await.seq);
    }
    let first = token();
    assert_eq!(leased(store, first, START, 4, &seqs).await.len(), 4, "so many of one receiver");
    assert_eq!(leased(store, token(), START, 4, &seqs).await.len(), 0, "whoever delivers them");
    let good = create(store, &to(store, "answers").await).await;
    seqs.push(good.seq);
    let due = leased(store, token(), START, 4, &seqs).await;
    assert_eq!(due.iter().map(|one| one.seq).collect::<Vec<_>>(), [good.seq]);
    // A repetition stands behind first tries.
    let later = START + LEASE + LEASE;
    let again = token();
    for callback in leased(store, again, later, 1, &seqs).await {
        store.settle_callback(&delivery(&callback, again, CallbackStatus::Pending, later)).await.unwrap();
    }
    let much_later = later + LEASE + LEASE;
    let next = leased(store, token(), much_later, 1, &seqs).await;
    assert!(next.iter().all(|one| one.seq == good.seq || one.attempts == 0), "{next:?}");
}

/// An owner whose forty receivers hang leaves the others their slots, even others who share its receivers' hosts; those
/// that wait take turns, owner by owner.
pub async fn owners_take_turns_at_deliveries(store: &Arc<dyn Store>) {
    let hanging = new_batch(store, 1).await;
    let (mut seqs, mut shared) = (Vec::new(), None);
    for _ in 0..40 {
        let more = NewBatch { owner: hanging.owner, ..to(store, "many").await };
        shared = more.callback_url.clone();
        seqs.push(create(store, &more).await.seq);
    }
    let at = |limit| CallbackLease {
        token: token(),
        now: START,
        until: START + LEASE,
        limit,
        per_receiver: 4,
        per_owner: 10,
    };
    let of = |due: Vec<Callback>, seqs: &[BatchSeq]| due.iter().filter(|one| seqs.contains(&one.seq)).count();
    let first = store.lease_callbacks(&at(1000)).await.unwrap();
    assert_eq!(of(first, &seqs), 10, "so many of one owner");
    assert_eq!(of(store.lease_callbacks(&at(1000)).await.unwrap(), &seqs), 0, "whoever delivers them");
    let good = create(store, &NewBatch { callback_url: shared, ..new_batch(store, 1).await }).await;
    assert_eq!(
        of(store.lease_callbacks(&at(1000)).await.unwrap(), &[good.seq]),
        1,
        "another owner at a host of theirs"
    );
    // When all leases have run out, two slots are for two owners.
    let later = START + LEASE + LEASE;
    let lease = CallbackLease { now: later, until: later + LEASE, ..at(2) };
    let due = store.lease_callbacks(&lease).await.unwrap();
    assert!(due.len() == 2 && due[0].owner != due[1].owner, "{due:?}");
}

/// `batch.progress` that was refused does not come behind `batch.finished`, and what is under way is waited for.
pub async fn nothing_comes_behind_the_end(store: &Arc<dyn Store>) {
    let new = NewBatch { rows: Some(3), ..to(store, "progress").await };
    let batch = extracted(store, &new, 3).await;
    let of = [batch.seq];
    let rows = release(store, batch.seq, 3, START).await;
    let held = token();
    claim(store, &rows, held, START).await;
    let at = START + PROGRESS_EVERY;
    store.settle(&[completed(rows[0], held)], at).await.unwrap();
    let mut events = Vec::new();
    // Everything but the progress is taken at once; the progress is under way when the run ends.
    let under_way = loop {
        let lease = token();
        let due = leased(store, lease, at, 9, &of).await.pop().expect("the next one");
        events.push(due.event.clone());
        if due.event == "batch.progress" {
            break (due, lease);
        }
        store.settle_callback(&delivery(&due, lease, CallbackStatus::Delivered, at)).await.unwrap();
    };
    assert_eq!(events, ["batch.created", "batch.progress"]);
    store.settle(&[completed(rows[1], held), completed(rows[2], held)], at).await.unwrap();
    assert_eq!(leased(store, token(), at, 9, &of).await.len(), 0, "the progress is still under way");
    let (progress, lease) = under_way;
    store.settle_callback(&delivery(&progress, lease, CallbackStatus::Pending, at)).await.unwrap();
    let much_later = at + LEASE + LEASE;
    let mut rest = Vec::new();
    for _ in 0..5 {
        let lease = token();
        for due in leased(store, lease, much_later, 9, &of).await {
            rest.push(due.event.clone());
            store
                .settle_callback(&delivery(&due, lease, CallbackStatus::Delivered, much_later))
                .await
                .unwrap();
        }
    }
    assert_eq!(rest, ["batch.succeeded", "batch.finished"]);
}

/// 410 is for the address: nothing more goes there, of whichever batch of the owner, until somebody names it again or it
/// takes a redelivery.
pub async fn an_address_that_is_gone_gets_nothing_more(store: &Arc<dyn Store>) {
    let new = to(store, "gone").await;
    let batch = extracted(store, &new, 1).await;
    let mut of = vec![batch.seq];
    let lease = token();
    let created = leased(store, lease, START, 9, &of).await.pop().expect("batch.created");
    store.settle_callback(&delivery(&created, lease, CallbackStatus::Disabled, START)).await.unwrap();
    let rows = release(store, batch.seq, 1, START).await;
    let held = token();
    claim(store, &rows, held, START).await;
    store.settle(&[completed(rows[0], held)], START).await.unwrap();
    assert_eq!(leased(store, token(), START, 9, &of).await.len(), 0);
    let said = store.callbacks(None, Some(batch.seq), None, 100).await.unwrap();
    assert!(said.len() == 3 && said.iter().all(|one| one.status == CallbackStatus::Disabled), "{said:?}");
    // Somebody sends one again by hand, and it is taken: the address is there.
    store.redeliver(created.id, None, START).await.unwrap().expect("it is there");
    let lease = token();
    let due = leased(store, lease, START, 9, &of).await;
    assert_eq!(due.len(), 1, "that one alone");
    store.settle_callback(&delivery(&due[0], lease, CallbackStatus::Delivered, START)).await.unwrap();
    let second =
        NewBatch { callback_url: new.callback_url.clone(), owner: new.owner, ..new_batch(store, 1).await };
    of = vec![create(store, &second).await.seq];
    let lease = token();
    let created = leased(store, lease, START, 9, &of).await.pop().expect("it is told again");
    store.settle_callback(&delivery(&created, lease, CallbackStatus::Disabled, START)).await.unwrap();
    let third = NewBatch { callback_url: new.callback_url, owner: new.owner, ..new_batch(store, 1).await };
    of = vec![create(store, &third).await.seq];
    assert_eq!(leased(store, token(), START, 9, &of).await.len(), 1, "an upload names it: it is there");
}

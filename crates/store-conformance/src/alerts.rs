//! Alerts: told once when they begin and once when they end, whoever looks.

use std::sync::Arc;
use std::time::Duration;

use penstock_domain::ids::RowRef;
use penstock_store::Store;
use penstock_store::alerts::Alert;
use penstock_store::work::{BatchHold, RowFailure, Settled, Settlement};

use crate::fixture::{LEASE, START, claim, completed, extracted, failed, new_batch, release, token};

fn alert(subject: &str, lasting_ms: i64) -> Alert {
    Alert {
        rule: "breaker_open".into(),
        subject: subject.into(),
        receiver: "ops".into(),
        text: format!("{subject} fails"),
        lasting_ms,
    }
}

/// One beginning, one end, nothing between; what did not last is never told.
pub async fn a_beginning_and_an_end_are_told_once(store: &Arc<dyn Store>) {
    let lease = |at| async move { store.lease_notices(token(), at, at + LEASE, 10).await.unwrap() };
    store.note_alerts(&[alert("invite", 0), alert("address", 5000)], START).await.unwrap();
    store.note_alerts(&[alert("invite", 0), alert("address", 5000)], START).await.unwrap();
    let (first, second) = (token(), token());
    let told = store.lease_notices(first, START, START + LEASE, 10).await.unwrap();
    assert_eq!(told.len(), 1, "the other one has to last");
    assert!(told[0].firing && told[0].subject == "invite");
    assert!(store.lease_notices(second, START, START + LEASE, 10).await.unwrap().is_empty(), "it is leased");
    assert!(!store.settle_notice(&told[0], second, None).await.unwrap(), "the lease is another's");
    assert!(store.settle_notice(&told[0], first, None).await.unwrap());
    let later = START + Duration::from_secs(1);
    store.note_alerts(&[alert("invite", 0)], later).await.unwrap();
    let much_later = START + LEASE + LEASE;
    assert!(lease(much_later).await.is_empty(), "told once; the other one did not last");
    store.note_alerts(&[], much_later).await.unwrap();
    let third = token();
    let ended = store.lease_notices(third, much_later, much_later + LEASE, 10).await.unwrap();
    assert_eq!(ended.len(), 1);
    assert!(!ended[0].firing && ended[0].since == START);
    // The receiver is away: it comes again when it is due, not before.
    let again = much_later + Duration::from_secs(5);
    assert!(store.settle_notice(&ended[0], third, Some(again)).await.unwrap());
    assert!(lease(much_later).await.is_empty());
    let fourth = token();
    let ended = store.lease_notices(fourth, again, again + LEASE, 10).await.unwrap();
    assert_eq!(ended[0].attempts, 1);
    assert!(store.settle_notice(&ended[0], fourth, None).await.unwrap());
    // What begins again as soon as its end was told is another beginning.
    store.note_alerts(&[alert("invite", 0)], again).await.unwrap();
    assert_eq!(store.firing().await.unwrap(), [("breaker_open".to_owned(), "invite".to_owned())]);
    let fifth = token();
    let anew = store.lease_notices(fifth, again, again + LEASE, 10).await.unwrap();
    assert!(anew[0].firing && anew[0].since == again, "{anew:?}");
    assert!(store.settle_notice(&anew[0], fifth, None).await.unwrap());
    store.note_alerts(&[], again).await.unwrap();
    let sixth = token();
    let ended = store.lease_notices(sixth, again, again + LEASE, 10).await.unwrap();
    assert!(store.settle_notice(&ended[0], sixth, None).await.unwrap());
    store.note_alerts(&[], again).await.unwrap();
    assert!(lease(again + LEASE + LEASE).await.is_empty());
}

/// Batches of which too much failed are found, others are not.
pub async fn failing_batches_are_found(store: &Arc<dyn Store>) {
    let batch = extracted(store, &new_batch(store, 4).await, 4).await;
    let rows = release(store, batch.seq, 4, START).await;
    let held = token();
    claim(store, &rows, held, START).await;
    let settled = [failed(rows[0], held), failed(rows[1], held), completed(rows[2], held)];
    store.settle(&settled, START).await.unwrap();
    let found = |share, rows| async move {
        let found = store.failing_batches(START, rows, share, 1000).await.unwrap();
        found.into_iter().find(|one| one.id == batch.id)
    };
    let one = found(5000, 3).await.expect("two of three failed");
    assert_eq!((one.completed, one.failed), (1, 2));
    assert!(found(7000, 3).await.is_none());
    assert!(found(5000, 4).await.is_none());
    let late = START + LEASE + LEASE + LEASE;
    assert_eq!(store.metrics(late).await.unwrap().leases_expired, 0, "its process lives");
    store.leave(crate::fixture::SUITE).await.unwrap();
    assert_eq!(store.metrics(late).await.unwrap().leases_expired, 1, "the fourth row's process is gone");
}

/// A batch that is held is found until it goes on.
pub async fn held_batches_are_found(store: &Arc<dyn Store>) {
    let batch = extracted(store, &new_batch(store, 2).await, 2).await;
    let rows = release(store, batch.seq, 2, START).await;
    let found =
        || async { store.held_batches(1000).await.unwrap().into_iter().find(|one| one.id == batch.id) };
    assert!(found().await.is_none());
    let held = token();
    claim(store, &rows, held, START).await;
    let words = BatchHold { code: "http_401".to_owned(), step: Some("create".to_owned()), words: Vec::new() };
    let outcome = Settled::Requeued {
        not_before: START,
        attempt: false,
        trouble: None,
        receipts: Vec::new(),
        expires: None,
        hold: Some(Box::new(words)),
        polling: false,
    };
    store.settle(&[Settlement { row: rows[0], token: held, outcome }], START).await.unwrap();
    let ledger = found().await.expect("it is held").ledger;
    assert_eq!(ledger.hold.map(|hold| hold.code).as_deref(), Some("http_401"));
    store.resume(batch.seq, "operator:suite", START).await.unwrap();
    assert!(found().await.is_none());
}

/// A batch gets nowhere while nothing of it is completed and all that was tried has one code; rows that wait their turn show nothing.
pub async fn stalled_batches_are_found(store: &Arc<dyn Store>) {
    let batch = extracted(store, &new_batch(store, 4).await, 4).await;
    let rows = release(store, batch.seq, 4, START).await;
    let later = START + Duration::from_secs(600);
    let found = async |before| {
        let all = store.stalled_batches(None, before, 1000).await.unwrap();
        let one = store.stalled_batches(Some(batch.seq), before, 1).await.unwrap();
        assert_eq!(all.into_iter().find(|one| one.id == batch.id), one.first().cloned());
        one.first().map(|one| (one.code.clone(), one.rows))
    };
    assert_eq!(found(later).await, None, "nothing was tried");
    let held = token();
    claim(store, &rows, held, START).await;
    let waits = |row: RowRef, code: &str| {
        let trouble = Some(RowFailure {
            code: code.to_owned(),
            api_code: None,
            step: None,
            http_status: None,
            error: None,
            receipts: Vec::new(),
        });
        let outcome = Settled::Requeued {
            not_before: later,
            attempt: false,
            trouble,
            receipts: Vec::new(),
            expires: None,
            hold: None,
            polling: false,
        };
        Settlement { row, token: held, outcome }
    };
    store.settle(&[waits(rows[0], "rate_limited"), waits(rows[1], "throttled")], START).await.unwrap();
    assert_eq!(found(later).await, Some(("throttled".to_owned(), 1)));
    assert_eq!(found(START - Duration::from_secs(1)).await, None, "it has just begun");
    // One row was refused with a code of the API's own, and the others wait until the pause is over.
    store.settle(&[waits(rows[2], "quota_exceeded")], START).await.unwrap();
    assert_eq!(found(later).await, Some(("quota_exceeded".to_owned(), 2)));
    store.settle(&[waits(rows[3], "http_500")], START).await.unwrap();
    assert_eq!(found(later).await, None, "two codes are no sign");
}

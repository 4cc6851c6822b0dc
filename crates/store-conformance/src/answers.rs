//! What answers mean for a whole batch: one that holds it, and the codes that its failed rows have.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use penstock_domain::ids::{LeaseToken, RowRef};
use penstock_domain::ledger::Event;
use penstock_domain::outcome::code;
use penstock_domain::row::RowStatus;
use penstock_store::Store;
use penstock_store::work::{BatchHold, Expiry, RowFailure, Settled, Settlement};

use crate::fixture::{START, claim, completed, extracted, failed, look, new_batch, release, token};

/// The row's answer holds its batch.
fn holding(row: RowRef, token: LeaseToken, words: u8) -> Settlement {
    let hold = BatchHold { code: "invalid_auth".into(), step: Some("post".into()), words: vec![words; 30] };
    let expires = Some(Expiry { at: START + Duration::from_secs(60), code: code::DEADLINE_EXCEEDED });
    let (trouble, receipts) = (None, Vec::new());
    let outcome = Settled::Requeued {
        not_before: START,
        attempt: false,
        trouble,
        receipts,
        expires,
        hold: Some(Box::new(hold)),
        polling: false,
    };
    Settlement { row, token, outcome }
}

/// From the answer on no row of the batch is released or claimed; rows in flight end; another batch goes on. It is reported once
/// each time, and a resumed batch has lost neither rows nor attempts nor time.
pub async fn an_answer_holds_its_batch_until_it_is_resumed(store: &Arc<dyn Store>) {
    let batch = extracted(store, &new_batch(store, 5).await, 5).await.seq;
    let other = extracted(store, &new_batch(store, 1).await, 1).await.seq;
    let rows = release(store, batch, 4, START).await;
    let held = token();
    claim(store, &rows[..3], held, START).await;
    let group = [holding(rows[0], held, 1), holding(rows[1], held, 2)];
    let report = store.settle(&group, START).await.unwrap();
    assert_eq!(report.held, [(batch, 0)], "once, by the first of them");
    let stands = look(store, batch).await;
    let hold = stands.ledger.hold.as_ref().expect("an answer");
    assert_eq!((hold.code.as_str(), hold.step.as_deref(), hold.since), ("invalid_auth", Some("post"), START));
    assert!(stands.ledger.held);
    assert_eq!(store.hold_words(batch).await.unwrap(), Some(vec![1; 30]));
    assert_eq!(release(store, batch, 5, START).await, [], "nothing of it is released");
    assert!(claim(store, &rows[3..], token(), START).await.is_empty(), "nor claimed");
    assert_eq!(release(store, other, 1, START).await.len(), 1);

    // What is in flight ends, whatever it was answered.
    assert!(store.settle(&[holding(rows[2], held, 3)], START).await.unwrap().held.is_empty());
    assert_eq!(look(store, batch).await.ledger.counts.pending, 5);

    let hour = Duration::from_secs(3600);
    let resumed = store.resume(batch, "key:1", START + hour).await.unwrap();
    assert!(!resumed.ledger.held && resumed.ledger.hold.is_none());
    assert_eq!(store.hold_words(batch).await.unwrap(), None);
    assert_eq!(
        store.end_overdue(START + hour).await.unwrap().rows,
        0,
        "the time that it was held does not count"
    );
    let again = release(store, batch, 5, START + hour).await;
    assert_eq!(again.len(), 5);
    let next = token();
    let claimed = claim(store, &again, next, START + hour).await;
    assert!(claimed.iter().all(|row| row.attempts == 0));
    let report = store.settle(&[holding(again[0], next, 4)], START + hour).await.unwrap();
    assert_eq!(report.held, [(batch, 0)]);
    let said = store.callbacks(None, Some(batch), None, 100).await.unwrap();
    assert_eq!(said.iter().filter(|one| one.event == Event::Held.name()).count(), 2, "{said:?}");
    let ends: Vec<Settlement> = again[1..].iter().map(|row| completed(*row, next)).collect();
    store.settle(&ends, START + hour).await.unwrap();
    store.cancel(batch, "key:1", START + hour).await.unwrap();
    let ended = look(store, batch).await;
    assert!(ended.ledger.is_finished() && !ended.ledger.held && ended.ledger.hold.is_none());
}

/// A hundred codes of an API are counted by name, the others as one; those of Penstock's own always.
pub async fn a_batch_has_a_hundred_codes_of_an_api(store: &Arc<dyn Store>) {
    let batch = extracted(store, &new_batch(store, 130).await, 130).await.seq;
    let rows = release(store, batch, 130, START).await;
    let held = token();
    claim(store, &rows, held, START).await;
    let told = |row: RowRef, code: String| {
        let failure = RowFailure {
            code: "http_422".into(),
            api_code: Some(code.into()),
            step: Some(0),
            http_status: Some(422),
            error: None,
            receipts: Vec::new(),
        };
        Settlement { row, token: held, outcome: Settled::Failed(failure) }
    };
    let mut group: Vec<Settlement> =
        rows[..120].iter().enumerate().map(|(index, row)| told(*row, format!("code_{index:03}"))).collect();
    group.push(failed(rows[120], held));
    // One group after another: what an earlier one brought counts.
    for part in group.chunks(50) {
        store.settle(part, START).await.unwrap();
    }
    store
        .settle(&[told(rows[121], "code_000".into()), told(rows[122], "code_119".into())], START)
        .await
        .unwrap();
    let groups = store.error_groups(batch).await.unwrap();
    let codes: BTreeSet<&str> = groups.iter().map(|group| group.code.as_str()).collect();
    assert_eq!(codes.len(), 102, "a hundred, `other`, and http_500: {codes:?}");
    let count = |code: &str| groups.iter().find(|group| group.code == code).map_or(0, |group| group.count);
    assert_eq!((count("code_000"), count("code_099"), count("http_500"), count("other")), (2, 1, 1, 21));
    let row = store.row(batch, rows[122].number).await.unwrap().expect("a row");
    assert_eq!((row.status, row.code.as_deref()), (RowStatus::Failed, Some("other")));
}

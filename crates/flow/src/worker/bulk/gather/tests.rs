use std::collections::BTreeMap;
use std::time::Duration;

use penstock_domain::ids::{LeaseToken, RowRef};
use penstock_store::workers::WorkerKind;
use serde_json::json;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::*;
use crate::worker::heartbeat::Heartbeat;
use crate::worker::leases::Leases;

const BATCH: BatchSeq = BatchSeq(1);

fn gatherer() -> Arc<Gatherer> {
    Arc::new(Gatherer::new(mpsc::unbounded_channel().0))
}

fn member(number: u32) -> (Member, oneshot::Receiver<Replied>) {
    let leases = Leases::new(Heartbeat::new("one".into(), WorkerKind::Worker, Duration::from_secs(12)));
    let (reply, replied) = oneshot::channel();
    let member = Member {
        lease: leases.insert(RowRef { batch: BATCH, number }, LeaseToken(Uuid::from_u128(number.into()))),
        values: RowValues::new(&BTreeMap::new(), &json!({})),
        outputs: Map::new(),
        receipts: Vec::new(),
        spend: Spend::of(1),
        first_claimed_at: Timestamp::default(),
        reply,
    };
    (member, replied)
}

fn numbers(members: &[Member]) -> Vec<u32> {
    members.iter().map(|member| member.lease.row.number).collect()
}

#[test]
fn the_first_row_leads_and_a_full_call_takes_no_more() {
    let (gatherer, key) = (gatherer(), Key::Fresh(BATCH, 0, Alike::default()));
    let other = Key::Fresh(BATCH, 0, Alike { crashes: 1, ..Alike::default() });
    let first = gatherer.join(&key, 3, member(7).0).expect("it leads");
    assert!(gatherer.join(&other, 3, member(1).0).is_some(), "it is not alike");
    assert!(gatherer.join(&key, 3, member(5).0).is_none() && !first.is_full());
    assert!(gatherer.join(&key, 3, member(6).0).is_none() && first.is_full());
    let second = gatherer.join(&key, 3, member(8).0).expect("the next call");
    assert_eq!(numbers(&gatherer.close(&key, &first)), [5, 6, 7], "in the order of the file");
    assert_eq!(numbers(&gatherer.close(&key, &second)), [8]);
    assert!(gatherer.join(&key, 1, member(9).0).is_some_and(|alone| alone.is_full()));
}

#[tokio::test]
async fn who_waits_for_the_last_row_hears_that_it_does_not_come() {
    let (gatherer, key) = (gatherer(), Key::Fresh(BATCH, 0, Alike::default()));
    let (mut here, elsewhere) = (gatherer.expect(BATCH, None), gatherer.expect(BATCH, None));
    assert_eq!(gatherer.coming(BATCH), 2);
    here.has_come();
    let gathering = gatherer.join(&key, 3, member(1).0).expect("it leads");
    assert_eq!(gatherer.coming(BATCH), 1);
    drop(elsewhere);
    gathering.changed().await;
    assert_eq!(gatherer.coming(BATCH), 0);
    here.goes_on();
    assert_eq!(gatherer.coming(BATCH), 1, "perhaps to another bulk step");
    drop(here);
    assert_eq!(gatherer.coming(BATCH), 0);
}

#[test]
fn a_recorded_call_is_broken_when_one_of_its_rows_ends_before() {
    let (gatherer, call) = (gatherer(), CallId(Uuid::from_u128(1)));
    gatherer.expect_call(call, 2);
    let mut mates: Vec<Coming> = (0..2).map(|_| gatherer.expect(BATCH, Some(call))).collect();
    mates[0].has_come();
    assert_eq!(gatherer.mates(call), Mates::Coming);
    drop(mates.pop());
    assert_eq!(gatherer.mates(call), Mates::Broken);
    drop(mates);
    gatherer.expect_call(call, 1);
    assert_eq!(gatherer.mates(call), Mates::Coming, "it was claimed anew");
}

#[test]
fn a_recorded_call_waits_for_a_row_that_was_only_requeued() {
    let (gatherer, call) = (gatherer(), CallId(Uuid::from_u128(1)));
    gatherer.expect_call(call, 4);
    let mut mates: Vec<Coming> = (0..4).map(|_| gatherer.expect(BATCH, Some(call))).collect();
    mates[0].has_come();
    for until in [7, 3] {
        mates.pop().expect("a mate").requeued(Timestamp::from_millis(until));
    }
    assert_eq!(gatherer.mates(call), Mates::Requeued(Timestamp::from_millis(7)), "the last one counts");
    mates[0].requeued(Timestamp::from_millis(9));
    drop(mates.remove(0));
    assert_eq!(gatherer.mates(call), Mates::Requeued(Timestamp::from_millis(7)), "it had come");
    mates[0].is_elsewhere();
    drop(mates);
    assert_eq!(gatherer.mates(call), Mates::Broken);
}

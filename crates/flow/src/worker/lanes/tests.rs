use std::time::Duration;

use super::*;

fn row(batch: i64, number: u32) -> RowRef {
    RowRef { batch: BatchSeq(batch), number }
}

const ONE: Turns = Turns { rows: 1, whole: false };

const HUNDRED: Turns = Turns { rows: 100, whole: false };

fn owner(seq: i64) -> Owner {
    Owner { seq: OwnerSeq(seq), weight: 1 }
}

fn waiting(owner: Owner, row: RowRef, due: Instant) -> Waiting {
    Waiting { row, owner, due, keep: None }
}

fn rows(taken: &[Waiting]) -> Vec<RowRef> {
    taken.iter().map(|one| one.row).collect()
}

#[test]
fn owners_alternate_whatever_came_first() {
    let (mut lanes, now) = (Lanes::default(), Instant::now());
    for number in 1..=100 {
        lanes.push("invite", waiting(owner(1), row(1, number), now));
    }
    lanes.push("invite", waiting(owner(2), row(2, 1), now));
    let taken = lanes.take("invite", 3, ONE, now, |_| None);
    assert_eq!(rows(&taken), [row(1, 1), row(2, 1), row(1, 2)]);
}

#[test]
fn owners_share_a_lane_by_their_weights_whenever_their_rows_come() {
    let (mut lanes, now) = (Lanes::default(), Instant::now());
    let mut served = [0_i64; 3];
    for turn in 0..7000 {
        // The third owner's rows come one by one, and its queue is empty in between.
        for (index, weight) in [1, 2, 4].into_iter().enumerate() {
            let owner = Owner { seq: OwnerSeq(index as i64), weight };
            if index < 2 || turn % 7 < 5 {
                lanes.push("invite", waiting(owner, row(index as i64, turn), now));
            }
        }
        for one in lanes.take("invite", 1, ONE, now, |_| None) {
            served[usize::try_from(one.row.batch.0).unwrap()] += 1;
        }
    }
    for (count, share) in served.into_iter().zip([1000, 2000, 4000]) {
        assert!((count - share).abs() <= 2, "{served:?}");
    }
}

#[test]
fn rows_that_go_in_one_call_are_taken_together_and_owners_share_all_the_same() {
    let (mut lanes, now) = (Lanes::default(), Instant::now());
    for number in 0..1000 {
        lanes.push("invite", waiting(owner(1), row(1, number), now));
        lanes.push("invite", waiting(owner(2), row(2, number), now));
    }
    let mut served = [0; 3];
    for _ in 0..10 {
        // A claim may end in the middle of a turn, which goes on with the next one.
        let mut batches = Vec::new();
        for most in [30, 70] {
            batches
                .extend(lanes.take("invite", most, HUNDRED, now, |_| None).iter().map(|one| one.row.batch));
        }
        assert!(batches.len() == 100 && batches.iter().all(|batch| *batch == batches[0]), "{batches:?}");
        served[usize::try_from(batches[0].0).unwrap()] += 1;
    }
    assert_eq!(served, [0, 5, 5]);
    let whole = Turns { whole: true, ..HUNDRED };
    assert_eq!(
        lanes.take("invite", 30, whole, now, |_| None).len(),
        100,
        "rows of a call are not claimed apart"
    );
    assert_eq!(lanes.take("invite", 30, whole, now, |_| None).len(), 100);
    lanes.push("invite", waiting(owner(3), row(3, 1), now));
    let taken = lanes.take("invite", 101, HUNDRED, now, |_| None);
    assert_eq!(
        taken.iter().filter(|one| one.row.batch == BatchSeq(3)).count(),
        1,
        "a small owner's turn is short"
    );
}

#[test]
fn a_late_owner_is_served_at_once_and_has_no_credit() {
    let (mut lanes, now) = (Lanes::default(), Instant::now());
    (0..1000).for_each(|number| assert!(lanes.push("invite", waiting(owner(1), row(1, number), now))));
    lanes.take("invite", 500, ONE, now, |_| None);
    (0..100).for_each(|number| assert!(lanes.push("invite", waiting(owner(2), row(2, number), now))));
    let taken = lanes.take("invite", 20, ONE, now, |_| None);
    assert_eq!(taken.iter().filter(|one| one.row.batch == BatchSeq(2)).count(), 10, "{taken:?}");
}

#[test]
fn an_owner_that_its_own_limit_holds_up_is_skipped_until_then() {
    let (mut lanes, now) = (Lanes::default(), Instant::now());
    for number in 0..10 {
        lanes.push("invite", waiting(owner(1), row(1, number), now));
        lanes.push("invite", waiting(owner(2), row(2, number), now));
    }
    let later = now + Duration::from_millis(500);
    let mut asked = 0;
    let held = |seq: OwnerSeq| {
        asked += usize::from(seq == OwnerSeq(1));
        (seq == OwnerSeq(1)).then_some(later)
    };
    let taken = lanes.take("invite", 20, ONE, now, held);
    assert!(taken.len() == 10 && taken.iter().all(|one| one.row.batch == BatchSeq(2)), "{taken:?}");
    assert_eq!(asked, 1, "it is asked for once");
    assert!(lanes.ready(now).is_empty());
    assert_eq!((lanes.next_due(), lanes.len()), (Some(later), 10));
    (10..15).for_each(|number| assert!(lanes.push("invite", waiting(owner(1), row(1, number), now))));
    assert!(lanes.ready(now).is_empty(), "more of its rows change nothing");
    assert_eq!(lanes.ready(later), ["invite"]);
    assert_eq!(lanes.take("invite", 20, ONE, later, |_| None).len(), 15);
}

#[test]
fn a_row_waits_for_its_time() {
    let (mut lanes, now) = (Lanes::default(), Instant::now());
    let later = now + Duration::from_secs(1);
    lanes.push("invite", waiting(owner(1), row(1, 1), later));
    assert!(lanes.ready(now).is_empty());
    assert_eq!(lanes.next_due(), Some(later));
    assert_eq!(lanes.ready(later), ["invite"]);
    let taken = lanes.take("invite", 10, ONE, later, |_| None);
    assert_eq!((rows(&taken), taken[0].due), (vec![row(1, 1)], later));
    assert!(lanes.is_empty());
}

#[test]
fn a_doubled_message_counts_once() {
    let (mut lanes, now) = (Lanes::default(), Instant::now());
    assert!(lanes.push("invite", waiting(owner(1), row(1, 1), now)));
    assert!(!lanes.push("invite", waiting(owner(1), row(1, 1), now)));
    assert_eq!((lanes.len(), lanes.waiting_of(BatchSeq(1)), lanes.waiting_of(BatchSeq(2))), (1, 1, 0));
    lanes.take("invite", 1, ONE, now, |_| None);
    assert_eq!(lanes.waiting_of(BatchSeq(1)), 0);
    assert!(lanes.push("invite", waiting(owner(1), row(1, 1), now)), "taken rows may come again");
}

#[test]
fn rows_whose_claim_failed_are_put_back() {
    let (mut lanes, now) = (Lanes::default(), Instant::now());
    (1..=3).for_each(|number| assert!(lanes.push("invite", waiting(owner(1), row(1, number), now))));
    let taken = lanes.take("invite", 2, ONE, now, |_| None);
    assert_eq!((lanes.len(), lanes.waiting("invite")), (1, 1));
    taken.into_iter().for_each(|one| assert!(lanes.push("invite", one)));
    assert_eq!((lanes.len(), lanes.waiting("invite")), (3, 3));
    let mut again = rows(&lanes.take("invite", 9, ONE, now, |_| None));
    again.sort_unstable();
    assert_eq!(again, [row(1, 1), row(1, 2), row(1, 3)]);
}

#[test]
fn a_probe_comes_from_anywhere_and_each_row_once() {
    let (mut lanes, now) = (Lanes::default(), Instant::now());
    lanes.scatter("invite", 0.5);
    for number in 0..10 {
        lanes.push("invite", waiting(owner(1), row(1, number), now));
    }
    lanes.ready(now);
    let mut taken = Vec::new();
    for unit in [0.5, 0.999, 0.0] {
        lanes.scatter("invite", unit);
        taken.extend(lanes.take("invite", 1, ONE, now, |_| None).into_iter().map(|one| one.row.number));
    }
    assert_eq!(taken, [5, 9, 2]);
    taken.extend(lanes.take("invite", 10, ONE, now, |_| None).into_iter().map(|one| one.row.number));
    taken.sort_unstable();
    assert_eq!(taken, (0..10).collect::<Vec<_>>());
}

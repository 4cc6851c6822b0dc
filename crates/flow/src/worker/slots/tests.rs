use super::*;
use crate::worker::load::STALLED;
use crate::worker::row::failure_of;

const ALONE: Sharing = Sharing { most: 1, at_once: 1 };

fn slots(concurrency: usize, pipelines: usize) -> Arc<Slots> {
    Slots::new(concurrency, pipelines, Arc::default(), Arc::default())
}

/// Claims as long as there is room, a claim's rows waiting for their limit at once as they do.
fn claim(slots: &Arc<Slots>, pipeline: &str, at_once: usize) -> Vec<(Slot, Option<Limited>)> {
    let mut held = Vec::new();
    loop {
        let more = slots.room(&slots.load(pipeline), ALONE).min(at_once);
        if more == 0 {
            return held;
        }
        for _ in 0..more {
            let slot = slots.take(pipeline);
            let limited = Limited::new(slot.waits.clone());
            held.push((slot, Some(limited)));
        }
    }
}

/// Their permits have come: they take slots, and hang.
fn hang(held: &mut [(Slot, Option<Limited>)]) {
    held.iter_mut().for_each(|(_, limited)| drop(limited.take()));
}

/// Rows pass well until the pipeline has its whole window.
fn pass(slots: &Arc<Slots>, pipeline: &str, rows: usize) {
    for _ in 0..rows {
        slots.take(pipeline).ended(&Settled::Completed { result: None, key: None });
    }
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_that_never_answered_takes_only_the_first_few_and_from_nobody() {
    let slots = slots(256, 2);
    pass(&slots, "well", 1000);
    let well = claim(&slots, "well", 200);
    assert_eq!(well.len(), 180, "four fifths of what is not left for the first few");
    drop(well);
    let mut ill = claim(&slots, "ill", 200);
    assert_eq!(ill.len(), 32);
    hang(&mut ill);
    assert_eq!(claim(&slots, "well", 200).len(), 180);
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_that_comes_to_hang_leaves_a_part() {
    let slots = slots(256, 2);
    pass(&slots, "ill", 1000);
    let mut ill = claim(&slots, "ill", 200);
    hang(&mut ill);
    assert_eq!(ill.len(), 180);
    pass(&slots, "well", 1000);
    assert_eq!(claim(&slots, "well", 1).len(), 61);
}

#[tokio::test(start_paused = true)]
async fn when_nothing_ends_it_starts_again() {
    let slots = slots(256, 2);
    pass(&slots, "ill", 1000);
    let ill = claim(&slots, "ill", 200);
    tokio::time::advance(STALLED + Duration::from_millis(1)).await;
    drop(ill);
    let held = slots.take("ill");
    assert_eq!(slots.room(&slots.load("ill"), ALONE), 179, "a new beginning, not a stall");
    tokio::time::advance(STALLED + Duration::from_millis(1)).await;
    assert_eq!(slots.room(&slots.load("ill"), ALONE), 31);
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn calls_without_an_answer_open_nothing() {
    let slots = slots(256, 2);
    pass(&slots, "ill", 1000);
    let mut ill = claim(&slots, "ill", 200);
    hang(&mut ill);
    tokio::time::advance(Duration::from_secs(10)).await;
    for (index, (mut slot, _)) in ill.drain(..).enumerate() {
        let code = if index % 2 == 0 { code::TIMEOUT } else { code::OUTCOME_UNKNOWN };
        let failure = failure_of(code);
        slot.ended(&if index % 3 == 0 {
            Settled::Failed(failure)
        } else {
            Settled::Requeued {
                not_before: penstock_domain::time::Timestamp::from_millis(0),
                attempt: true,
                trouble: Some(failure),
                receipts: Vec::new(),
                expires: None,
                hold: None,
                polling: false,
            }
        });
    }
    let _one = slots.take("ill");
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(slots.room(&slots.load("ill"), ALONE), 31);
}

#[tokio::test(start_paused = true)]
async fn how_long_a_row_takes_is_known_before_one_has_ended() {
    let slots = slots(256, 1);
    assert_eq!(slots.load("slow").service(), Duration::ZERO);
    let mut slot = slots.take("slow");
    let limited = Limited::new(slot.waits.clone());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(slots.load("slow").service(), Duration::ZERO, "it waits");
    drop(limited);
    tokio::time::advance(Duration::from_secs(20)).await;
    assert_eq!(slots.load("slow").service(), Duration::from_secs(20));
    slot.ended(&Settled::Completed { result: None, key: None });
    drop(slot);
    assert_eq!(slots.load("slow").service(), Duration::from_secs(20));
}

#[tokio::test(start_paused = true)]
async fn whatever_others_hold_something_is_kept() {
    let slots = slots(256, 4);
    let names = ["a", "b", "c"];
    names.iter().for_each(|name| pass(&slots, name, 1000));
    let mut held: Vec<_> = names.iter().flat_map(|name| claim(&slots, name, 200)).collect();
    hang(&mut held);
    assert!(held.len() >= 256, "{}", held.len());
    assert_eq!(claim(&slots, "well", 200).len(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_single_pipeline_has_all_slots() {
    let slots = slots(256, 1);
    let mut held = claim(&slots, "only", 200);
    assert_eq!(held.len(), 512, "waiting rows take none");
    hang(&mut held);
    assert_eq!(slots.room(&slots.load("only"), ALONE), 0);
}

#[tokio::test(start_paused = true)]
async fn few_slots_are_shared_too() {
    for concurrency in 2..16 {
        let slots = slots(concurrency, 2);
        pass(&slots, "ill", 1000);
        let mut ill = claim(&slots, "ill", 200);
        hang(&mut ill);
        assert!(!claim(&slots, "well", 1).is_empty(), "of {concurrency}");
    }
}

#[tokio::test(start_paused = true)]
async fn many_that_hang_at_once_leave_something() {
    let slots = slots(256, 11);
    let mut ill: Vec<_> = (0..10).flat_map(|number| claim(&slots, &format!("ill-{number}"), 200)).collect();
    hang(&mut ill);
    pass(&slots, "well", 1000);
    assert!(ill.len() <= 64, "{}", ill.len());
    assert!(claim(&slots, "well", 1).len() > 150);
}

#[tokio::test(start_paused = true)]
async fn one_slot_is_enough_to_go_on() {
    let slots = slots(1, 2);
    assert_eq!(slots.room(&slots.load("a"), ALONE), 1);
    let _held = slots.take("a");
    assert_eq!(slots.room(&slots.load("b"), ALONE), 0);
}

#[test]
fn where_rows_share_their_first_call_a_slot_has_room_for_all_of_them() {
    let slots = slots(8, 3);
    let sharing = Sharing { most: 100, at_once: 100 };
    assert_eq!(slots.room(&slots.load("new"), sharing), 100, "before any of them ended");
    let mut held: Vec<(Slot, Limited)> = Vec::new();
    while let more @ 1.. = slots.room(&slots.load("new"), sharing) {
        for _ in 0..more {
            let slot = slots.take("new");
            let riding = Limited::riding(slot.waits.clone());
            held.push((slot, riding));
        }
    }
    assert_eq!(held.len(), 200, "memory is bounded: two calls where few slots have little");
}

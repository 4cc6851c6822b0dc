use super::*;
use crate::batch::Outcome;

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

fn running(rows: u32) -> Ledger {
    let mut ledger = Ledger::new(Some(rows), true, None);
    ledger.extraction_started(NOW);
    ledger.extraction_finished(rows, NOW);
    ledger
}

#[test]
fn a_batch_runs_to_its_end() {
    let mut ledger = running(3);
    assert_eq!(ledger.fresh(), 3);
    ledger.release(3, 0, 0).unwrap();
    ledger.claim(3).unwrap();
    assert!(ledger.settle(Tally { completed: 2, ..Tally::default() }, NOW).unwrap().is_empty());
    let events = ledger.settle(Tally { failed: 1, ..Tally::default() }, NOW).unwrap();
    assert_eq!(events, [Event::RowFailedFirst, Event::Finished]);
    assert_eq!((ledger.status, ledger.outcome), (BatchStatus::Completed, Some(Outcome::PartialSuccess)));
    assert_eq!(ledger.progress(), 100);
}

#[test]
fn cancel_counts_what_has_not_started_and_ends_with_the_last_row_in_flight() {
    let mut ledger = running(10);
    ledger.release(4, 0, 0).unwrap();
    ledger.claim(2).unwrap();
    assert!(ledger.cancel(NOW).unwrap().is_empty());
    assert_eq!((ledger.counts.cancelled, ledger.counts.processing), (8, 2));
    assert_eq!(ledger.status, BatchStatus::Queued, "two rows still run");
    let events = ledger.settle(Tally { completed: 1, requeued: 1, ..Tally::default() }, NOW).unwrap();
    assert_eq!(events, [Event::Cancelled, Event::Finished]);
    assert_eq!(ledger.counts.cancelled, 9);
    let before = ledger.clone();
    assert_eq!(ledger.cancel(NOW), Ok(Vec::new()), "what is cancelled already is cancelled");
    assert_eq!(ledger, before);
}

#[test]
fn what_ran_to_its_end_is_not_cancelled() {
    let mut ledger = running(1);
    ledger.release(1, 0, 0).unwrap();
    ledger.claim(1).unwrap();
    ledger.settle(Tally { completed: 1, ..Tally::default() }, NOW).unwrap();
    assert_eq!(ledger.cancel(NOW), Err(Refusal::Ended));
}

#[test]
fn the_first_failure_cancels_the_rest_when_failures_are_not_allowed() {
    let mut ledger = running(10);
    ledger.allow_failures = false;
    ledger.release(5, 0, 0).unwrap();
    ledger.claim(1).unwrap();
    let events = ledger.settle(Tally { failed: 1, ..Tally::default() }, NOW).unwrap();
    assert_eq!(events, [Event::RowFailedFirst, Event::Cancelled, Event::Finished]);
    assert_eq!((ledger.status, ledger.outcome), (BatchStatus::Cancelled, Some(Outcome::Failure)));
    assert_eq!(ledger.counts.cancelled, 9);
}

#[test]
fn retry_of_a_cancelled_batch_takes_up_what_is_asked_for() {
    let mut ledger = running(10);
    ledger.release(2, 0, 0).unwrap();
    ledger.claim(2).unwrap();
    ledger.settle(Tally { completed: 1, failed: 1, ..Tally::default() }, NOW).unwrap();
    ledger.cancel(NOW).unwrap();
    let mut only_failed = ledger.clone();
    assert_eq!(only_failed.retry(RetryScope { failed: true, cancelled: false }, 1), 1);
    assert_eq!((only_failed.fresh(), only_failed.returned()), (0, 1));
    assert_eq!(only_failed.status_of(9, None), RowStatus::Cancelled);
    assert_eq!(ledger.retry(RetryScope { failed: true, cancelled: true }, 1), 9);
    assert_eq!((ledger.fresh(), ledger.returned(), ledger.run), (8, 1, 2));
}

#[test]
fn a_retry_that_finds_nothing_changes_nothing() {
    let mut ledger = running(1);
    ledger.release(1, 0, 0).unwrap();
    ledger.claim(1).unwrap();
    ledger.settle(Tally { completed: 1, ..Tally::default() }, NOW).unwrap();
    let before = ledger.clone();
    assert_eq!(ledger.retry(RetryScope { failed: true, cancelled: true }, 0), 0);
    assert_eq!(ledger, before);
}

#[test]
fn a_canary_holds_and_is_waved_through() {
    let canary = Canary { rows: 2, max_failure_bp: 1000, stop_after: None };
    let mut ledger = Ledger::new(Some(10), true, Some(canary));
    ledger.extraction_started(NOW);
    ledger.extraction_finished(10, NOW);
    assert_eq!(ledger.fresh(), 2);
    ledger.release(2, 0, 0).unwrap();
    ledger.claim(2).unwrap();
    let events = ledger.settle(Tally { completed: 1, failed: 1, ..Tally::default() }, NOW).unwrap();
    assert_eq!(events, [Event::RowFailedFirst, Event::Held]);
    assert_eq!(ledger.fresh(), 0);
    ledger.resume().unwrap();
    assert_eq!(ledger.fresh(), 8);
}

#[test]
fn a_batch_cancelled_before_it_was_extracted_ends_when_its_lines_can_be_answered() {
    let mut ledger = Ledger::new(Some(5), true, None);
    ledger.extraction_started(NOW);
    assert!(ledger.cancel(NOW).unwrap().is_empty());
    assert_eq!(ledger.extraction_finished(5, NOW), [Event::Cancelled, Event::Finished]);
    assert_eq!(ledger.counts.cancelled, 5);
}

#[test]
fn an_answer_holds_a_batch_until_somebody_resumes_it_and_its_trial_stays() {
    let mut ledger = running(10);
    ledger.canary = Some(Canary { rows: 4, max_failure_bp: 100, stop_after: None });
    ledger.canary_passed = false;
    ledger.release(4, 0, 0).unwrap();
    ledger.claim(2).unwrap();
    let hold = || Hold { code: "http_401".into(), step: Some("post".into()), since: NOW };
    let mut events = Vec::new();
    ledger.settle(Tally { requeued: 1, ..Tally::default() }, NOW).unwrap();
    assert!(ledger.hold(hold(), &mut events));
    assert!(!ledger.hold(hold(), &mut events), "it is held already");
    assert_eq!(events, [Event::Held]);
    assert!(ledger.held && !ledger.claimable() && ledger.fresh() == 0);
    assert_eq!(ledger.ordinal(Event::Held), 1);
    ledger.resume().unwrap();
    assert!(ledger.claimable() && ledger.hold.is_none());
    assert!(ledger.canary.is_some() && !ledger.canary_passed, "the trial is still to be passed");
    assert!(ledger.hold(hold(), &mut events));
    assert_eq!(ledger.ordinal(Event::Held), 2, "another callback of the same run");
    ledger.cancel(NOW).unwrap();
    assert!(!ledger.held && ledger.hold.is_none());
    assert!(!ledger.hold(hold(), &mut events));
}

//! What every store has to do. An engine's tests open an empty database and call [`all`].
//!
//! [`history`] drives the real store along random legal histories, crashes and stale leases included, and holds it to
//! the promises after every step; the other rooms are about one thing each.

#![allow(clippy::unwrap_used, reason = "tests")]

pub mod alerts;
pub mod asked;
pub mod decoding;
pub mod definitions;
pub mod dispatch;
pub mod extraction;
pub mod fixture;
pub mod history;
pub mod outbox;
pub mod races;
pub mod reading;
pub mod rng;
pub mod sealing;
pub mod upgrade;
pub mod waiting;
pub mod workers;

use std::sync::Arc;

use penstock_store::Store;

/// Runs the whole suite on an empty, migrated database. `seeds` is how many random histories are walked.
pub async fn all(store: Arc<dyn Store>, seeds: u64) {
    alerts::failing_batches_are_found(&store).await;
    alerts::a_beginning_and_an_end_are_told_once(&store).await;
    asked::what_was_asked_for_is_not_asked_again(&store).await;
    asked::a_sweep_that_fails_rows_ends_batches(&store).await;
    asked::a_note_lives_as_long_as_its_lease(&store).await;
    definitions::a_retry_can_change_the_definition(&store).await;
    extraction::a_chunk_and_its_checkpoint_are_one(&store).await;
    extraction::a_lease_is_held_by_one(&store).await;
    extraction::a_rejected_row_is_failed_from_the_start(&store).await;
    reading::what_an_owner_keeps_is_counted(&store).await;
    reading::a_page_has_its_bytes_and_no_more(&store).await;
    reading::a_filtered_page_looks_at_its_share(&store).await;
    reading::what_a_waiting_row_was_told_is_found(&store).await;
    reading::batches_are_listed_in_pages(&store).await;
    races::a_row_is_claimed_once(&store).await;
    races::a_lost_lease_writes_nothing(&store).await;
    races::two_retries_at_once_do_the_work_once(&store).await;
    races::one_idempotency_key_makes_one_batch(&store).await;
    races::settlements_of_one_batch_at_once_all_count(&store).await;
    races::a_sweep_and_a_cancel_at_once(&store).await;
    races::an_operators_claim_leaves_a_cancelled_batch_alone(&store).await;
    dispatch::only_what_is_due_is_offered(&store).await;
    dispatch::all_that_wait_are_offered_with_their_turns(&store).await;
    dispatch::what_waited_longest_is_released_first(&store).await;
    dispatch::a_completed_row_keeps_no_error(&store).await;
    dispatch::a_miscounted_batch_holds_up_no_sweep(&store).await;
    workers::a_silent_process_is_found_by_looks(&store).await;
    workers::what_the_dead_held_comes_back(&store).await;
    workers::a_row_that_kills_its_workers_ends(&store).await;
    workers::a_row_that_two_died_of_is_claimed_alone(&store).await;
    workers::rows_of_batches_that_do_not_run_are_pending(&store).await;
    workers::a_process_lets_go_of_what_it_does_not_know(&store).await;
    workers::a_release_whose_answer_was_lost_is_found(&store).await;
    outbox::each_event_of_a_run_is_said_once(&store).await;
    outbox::a_delay_is_said_once_in_a_run(&store).await;
    outbox::receivers_take_turns(&store).await;
    outbox::owners_take_turns_at_deliveries(&store).await;
    outbox::nothing_comes_behind_the_end(&store).await;
    outbox::an_address_that_is_gone_gets_nothing_more(&store).await;
    outbox::a_callback_is_delivered_under_one_lease(&store).await;
    sealing::an_epoch_ends_when_it_wraps_nothing(&store).await;
    sealing::an_erasure_marks_its_epoch(&store).await;
    sealing::no_key_is_lost_beside_a_drop(&store).await;
    sealing::a_definitions_mac_is_replaced_under_guard(&store).await;
    waiting::what_waits_beyond_its_time_fails(&store).await;
    waiting::a_batch_that_stands_still_keeps_its_rows(&store).await;
    waiting::an_ended_batch_has_no_fault(&store).await;
    for seed in 1..=seeds {
        history::walk(&store, seed).await;
    }
}

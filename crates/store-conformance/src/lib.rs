//! What every store has to do: cases, each on an empty, migrated database of its own. An engine's tests write
//! [`suite!`] with a function that opens one.
//!
//! [`history`] drives the real store along random legal histories, crashes and stale leases included, and holds it to
//! the promises after every step; the other modules are about one thing each.

#![allow(clippy::unwrap_used, reason = "tests")]

pub mod alerts;
pub mod answers;
pub mod asked;
pub mod calls;
pub mod credentials;
pub mod decoding;
pub mod definitions;
pub mod dispatch;
pub mod duplicates;
pub mod extraction;
pub mod fixture;
pub mod history;
pub mod limits;
pub mod outbox;
pub mod polls;
pub mod races;
pub mod reading;
pub mod rng;
pub mod samples;
pub mod sealing;
pub mod shared;
pub mod sign_ins;
pub mod upgrade;
pub mod waiting;
pub mod workers;

use std::sync::Arc;

use penstock_store::Store;

/// Hands the list of all cases to a macro, after what it is to have before it.
#[doc(hidden)]
#[macro_export]
macro_rules! cases {
    ($to:ident!($($before:tt)*)) => {
        $crate::$to! { $($before)*
            alerts::failing_batches_are_found,
            alerts::held_batches_are_found,
            alerts::stalled_batches_are_found,
            alerts::a_beginning_and_an_end_are_told_once,
            answers::an_answer_holds_its_batch_until_it_is_resumed,
            answers::a_batch_has_a_hundred_codes_of_an_api,
            asked::what_was_asked_for_is_not_asked_again,
            asked::a_sweep_that_fails_rows_ends_batches,
            asked::a_note_lives_as_long_as_its_lease,
            calls::rows_of_a_recorded_call_are_claimed_together,
            calls::a_call_is_recorded_with_all_of_its_rows_or_not_at_all,
            calls::a_call_some_of_whose_rows_are_held_elsewhere_waits,
            calls::a_call_whose_rows_have_ended_is_not_complete,
            calls::a_call_is_settled_as_one,
            credentials::owners_values_are_their_own,
            credentials::tokens_are_renewed_by_one_at_a_time,
            definitions::a_retry_can_change_the_definition,
            extraction::a_chunk_and_its_checkpoint_are_one,
            extraction::a_lease_is_held_by_one,
            extraction::a_rejected_row_is_failed_from_the_start,
            reading::what_an_owner_keeps_is_counted,
            reading::an_upload_that_an_earlier_release_wrote_down_is_taken,
            reading::a_page_has_its_bytes_and_no_more,
            reading::a_filtered_page_looks_at_its_share,
            reading::what_a_waiting_row_was_told_is_found,
            reading::batches_are_listed_in_pages,
            reading::running_batches_are_those_of_one_owner,
            samples::running_batches_are_sampled,
            samples::the_progress_of_an_upload_is_kept_for_a_while,
            races::a_row_is_claimed_once,
            races::a_lost_lease_writes_nothing,
            races::two_retries_at_once_do_the_work_once,
            races::one_idempotency_key_makes_one_batch,
            races::settlements_of_one_batch_at_once_all_count,
            races::a_sweep_and_a_cancel_at_once,
            races::an_operators_claim_leaves_a_cancelled_batch_alone,
            dispatch::only_what_is_due_is_offered,
            dispatch::all_that_wait_are_offered_with_their_turns,
            dispatch::what_waited_longest_is_released_first,
            dispatch::a_completed_row_keeps_no_error,
            dispatch::a_miscounted_batch_holds_up_no_sweep,
            duplicates::a_completed_key_is_known_to_other_batches,
            duplicates::a_duplicate_completes_with_its_code,
            workers::a_silent_process_is_found_by_looks,
            workers::waits_are_forgotten_with_their_process,
            workers::what_the_dead_held_comes_back,
            workers::a_row_that_kills_its_workers_ends,
            workers::a_row_that_two_died_of_is_claimed_alone,
            workers::rows_of_batches_that_do_not_run_are_pending,
            workers::a_process_lets_go_of_what_it_does_not_know,
            workers::a_release_whose_answer_was_lost_is_found,
            limits::a_period_is_reserved_once,
            limits::periods_are_apart_and_end,
            limits::settings_of_limits_are_kept,
            limits::uses_of_dependencies_are_known,
            limits::use_of_limits_is_added_up,
            sign_ins::a_ticket_is_used_once_whichever_process_takes_it,
            sign_ins::keys_of_sign_ins_are_deleted_and_named_until_then,
            sign_ins::a_person_has_so_many_keys_of_sign_ins_and_no_more,
            outbox::each_event_of_a_run_is_said_once,
            outbox::a_delay_is_said_once_in_a_run,
            outbox::receivers_take_turns,
            outbox::owners_take_turns_at_deliveries,
            outbox::nothing_comes_behind_the_end,
            outbox::an_address_that_is_gone_gets_nothing_more,
            outbox::a_callback_is_delivered_under_one_lease,
            polls::what_is_due_for_a_look_is_queued_by_workers,
            polls::looks_stand_still_with_their_batch,
            polls::a_look_that_was_lost_is_due_again,
            sealing::an_installation_has_an_id,
            sealing::an_epoch_ends_when_it_wraps_nothing,
            sealing::an_erasure_marks_its_epoch,
            sealing::no_key_is_lost_beside_a_drop,
            sealing::a_definitions_mac_is_replaced_under_guard,
            shared::a_key_is_asked_by_one_row,
            shared::questions_at_once_are_one,
            shared::a_failure_is_shared_by_those_that_waited,
            shared::a_question_ends_with_its_row,
            shared::answers_end_with_their_batch_and_their_time,
            waiting::what_waits_beyond_its_time_fails,
            waiting::a_batch_that_stands_still_keeps_its_rows,
            waiting::an_ended_batch_has_no_fault,
        }
    };
}

/// A test for each case. `$open` takes a case's name, and returns the store and what has to live as long.
#[macro_export]
macro_rules! suite {
    ($open:path, seeds: $seeds:expr) => {
        $crate::cases! { tests!($open;) }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn random_histories_keep_the_promises() {
            let (store, _kept) = $open("histories").await;
            for seed in 1..=$seeds {
                $crate::history::walk(&store, seed).await;
            }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! tests {
    ($open:path; $($module:ident::$case:ident,)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            let (store, _kept) = $open(stringify!($case)).await;
            $crate::$module::$case(&store).await;
        }
    )*};
}

#[doc(hidden)]
#[macro_export]
macro_rules! in_turn {
    ($store:ident; $($module:ident::$case:ident,)*) => {{
        $($crate::$module::$case(&$store).await;)*
    }};
}

/// All cases, one after another in one database, and `seeds` random histories: after a migration, for example.
pub async fn all(store: Arc<dyn Store>, seeds: u64) {
    cases! { in_turn!(store;) }
    for seed in 1..=seeds {
        history::walk(&store, seed).await;
    }
}

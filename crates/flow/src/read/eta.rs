//! When a batch will be done: from what was measured, or else from what is allowed.

use std::time::Duration;

use penstock_domain::batch::BatchStatus;
use penstock_domain::ledger::Ledger;
use penstock_domain::pipeline::Pipeline;
use penstock_domain::time::Timestamp;

use crate::context::limits_view::Standstill;
use crate::read::allowed::{Allowance, allowed, stands};

/// Estimates further away than this are worth a word at upload.
const LONG: Duration = Duration::from_secs(24 * 60 * 60);

/// So many rows have to have ended before their pace counts more than the limits.
const ENOUGH_TO_MEASURE: u32 = 20;

fn ends(ledger: &Ledger) -> bool {
    !ledger.is_finished() && !stands(ledger) && ledger.counts.total > 0
}

/// Rows that have ended, once they are enough to measure by, and since when.
fn measured(ledger: &Ledger) -> Option<(u32, Timestamp)> {
    let ended = ledger.counts.completed + ledger.counts.failed;
    let start = ledger.started_at.filter(|_| ended >= ENOUGH_TO_MEASURE && ledger.run == 1)?;
    Some((ended, start))
}

/// Whether its end is told from what is allowed, for want of a measure.
pub fn is_guessed(ledger: &Ledger) -> bool {
    ends(ledger) && measured(ledger).is_none()
}

/// When the batch will be done; none when it has ended, stands still, is being cancelled or cannot be told: while nobody knows when
/// its calls go on, for one.
pub fn eta(
    ledger: &Ledger,
    pipeline: Option<&Pipeline>,
    allowance: &Allowance,
    now: Timestamp,
) -> Option<Timestamp> {
    if !ends(ledger) {
        return None;
    }
    let goes_on = match allowance.standstill {
        Standstill::None => now,
        Standstill::Until(at) => at.max(now),
        Standstill::Unknown => return None,
    };
    let left = ledger.counts.unfinished();
    let seconds = match measured(ledger) {
        Some((ended, start)) => {
            f64::from(left) * now.since(start).as_secs_f64().max(0.001) / f64::from(ended)
        }
        None => allowed(left, pipeline, allowance).seconds,
    };
    // Ten years stand for "longer than anybody waits", and keep the sum in range.
    let ends = seconds.is_finite().then(|| goes_on + Duration::from_secs_f64(seconds.min(315_360_000.0)))?;
    // Whatever the pace was: a row that waits for its result does not end before it is looked at.
    Some(allowance.last_look.map_or(ends, |look| ends.max(look)))
}

/// A sentence for the client when a new batch will take longer than a day.
pub fn notice(ledger: &Ledger, pipeline: Option<&Pipeline>, allowance: &Allowance) -> Option<String> {
    if ledger.status != BatchStatus::Pending || ledger.cancelled_at.is_some() {
        return None;
    }
    let rows = ledger.counts.total;
    let seconds = allowed(rows, pipeline, allowance).seconds;
    let quota = allowance.quota.pipeline;
    let others = if allowance.beside.owner > 0 { ", beside the other batches that run" } else { "" };
    (seconds > LONG.as_secs_f64()).then(|| {
        format!(
            "At the present quota of {quota} rows a run and the limits of the APIs, {rows} rows will take about {:.0} \
             days{others}; ask the operator for a larger quota if that is too long.",
            (seconds / LONG.as_secs_f64()).ceil()
        )
    })
}

#[cfg(test)]
mod tests {
    use crate::context::pace::Quota;
    use crate::read::allowed::Beside;
    use penstock_domain::ids::{BatchId, BatchSeq, OwnerSeq};
    use penstock_store::batches::{Batch, Checkpoint};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn allowance(quota: u32) -> Allowance {
        Allowance {
            quota: Quota { owner: quota, pipeline: quota },
            run_share: None,
            run_every: MINUTE,
            beside: Beside::default(),
            last_look: None,
            standstill: Standstill::None,
        }
    }

    fn new(rows: u32) -> Ledger {
        Ledger::new(Some(rows), true, None)
    }

    fn seconds(rows: u32, pipeline: Option<&Pipeline>, allowance: &Allowance) -> u64 {
        eta(&new(rows), pipeline, allowance, NOW).expect("it ends").since(NOW).as_secs()
    }

    #[test]
    fn runs_that_come_more_often_let_go_of_more() {
        assert_eq!(seconds(1200, None, &allowance(120)), 600);
        assert_eq!(
            seconds(1200, None, &Allowance { run_every: Duration::from_secs(1), ..allowance(120) }),
            10
        );
    }

    #[test]
    fn a_run_that_has_an_end_is_shared() {
        assert_eq!(seconds(1200, None, &Allowance { run_share: Some(12.0), ..allowance(120) }), 6000);
        assert_eq!(seconds(1200, None, &Allowance { run_share: Some(500.0), ..allowance(120) }), 600);
    }

    #[test]
    fn other_batches_of_the_owner_share_its_quota() {
        let beside = Beside { owner: 1200, pipeline: 0 };
        assert_eq!(seconds(1200, None, &Allowance { beside, ..allowance(120) }), 1200);
        let quota = Quota { owner: 120, pipeline: 60 };
        assert_eq!(seconds(1200, None, &Allowance { beside, quota, ..allowance(120) }), 1200);
        let beside = Beside { owner: 1200, pipeline: 1200 };
        assert_eq!(seconds(1200, None, &Allowance { beside, quota, ..allowance(120) }), 2400);
    }

    #[test]
    fn limits_of_dependencies_count() {
        let pipeline = |limits: &str| {
            let text = format!(
                "name: p\ncsv: {{ columns: [ {{ name: id }} ] }}\ndependencies: {{ api: {{ base_url: \"http://h\"{limits} }} }}\n\
                 steps:\n{}{}",
                "  - { name: one, dependency: api, request: { method: GET, path: /one } }\n",
                "  - { name: two, dependency: api, request: { method: GET, path: /two } }\n",
            );
            Pipeline::load("p.yaml", &text, &|_| None).unwrap()
        };
        let wide = allowance(1_000_000);
        let told = |limits: &str| seconds(6000, Some(&pipeline(limits)), &wide);
        assert_eq!(told(""), 0);
        assert_eq!(told(", rate: { limit: 20, period: 1s }"), 600);
        // Two calls of a tenth of a second each, by one row at a time.
        assert_eq!(told(", concurrency: 1"), 1200);
        assert_eq!(told(", rate: { limit: 20, period: 1s }, concurrency: 8"), 600);
        let shared = Allowance { beside: Beside { owner: 6000, pipeline: 6000 }, ..wide };
        assert_eq!(seconds(6000, Some(&pipeline(", rate: { limit: 20, period: 1s }")), &shared), 1200);
    }

    #[test]
    fn results_that_are_waited_for_take_their_looks() {
        let text = "name: p\ncsv: { columns: [ { name: id } ] }\n\
            dependencies: { api: { base_url: \"http://h\", rate: { limit: 20, period: 1s } } }\nsteps:\n\
            \x20 - { name: one, dependency: api, request: { method: GET, path: /one }, poll: { until: \"{{ true }}\", every: 1m } }\n";
        let pipeline = Pipeline::load("p.yaml", text, &|_| None).unwrap();
        let wide = allowance(1_000_000);
        assert_eq!(
            seconds(6000, Some(&pipeline), &wide),
            660,
            "two calls a row, and the pause before the look"
        );
        let mut ledger = new(100);
        (ledger.counts.completed, ledger.counts.pending, ledger.started_at) = (90, 10, Some(NOW));
        let at = NOW + Duration::from_secs(9);
        let told = |last_look| eta(&ledger, Some(&pipeline), &Allowance { last_look, ..wide }, at);
        assert_eq!(told(None), Some(at + Duration::from_secs(1)), "as measured");
        let look = at + Duration::from_secs(40);
        assert_eq!(told(Some(look)), Some(look));
        assert_eq!(told(Some(NOW)), told(None));
    }

    fn batch(seq: i64, priority: i16, pipeline: &str, rows: u32) -> Batch {
        let mut ledger = new(rows);
        (ledger.status, ledger.extracted) = (BatchStatus::Queued, true);
        Batch {
            seq: BatchSeq(seq),
            id: BatchId(uuid::Uuid::nil()),
            owner: OwnerSeq(1),
            owner_name: "acme".to_owned(),
            owner_weight: 1,
            owner_rows: None,
            pipeline: pipeline.to_owned(),
            version: uuid::Uuid::nil(),
            name: None,
            labels: Vec::new(),
            header: None,
            object_key: String::new(),
            file_bytes: 0,
            unsealed: false,
            callback_url: None,
            priority,
            created_at: NOW,
            ledger,
            checkpoint: Checkpoint::default(),
            failure_row: None,
            failure: None,
            erased_at: None,
        }
    }

    #[test]
    fn a_batch_waits_for_what_goes_first_and_for_as_much_of_its_equals_as_it_has() {
        let own = batch(1, 0, "p", 100);
        let mut paused = batch(7, 5, "p", 1000);
        paused.ledger.paused = true;
        let running = [
            own.clone(),
            batch(2, 0, "p", 1_000_000),
            batch(3, 0, "other", 10),
            batch(4, 5, "p", 500),
            batch(5, -1, "p", 700),
            paused,
        ];
        assert_eq!(Beside::of(&own, &running), Beside { owner: 610, pipeline: 600 });
    }

    #[test]
    fn what_was_measured_counts_more_than_what_is_allowed() {
        let mut ledger = new(1000);
        ledger.counts.completed = 100;
        ledger.counts.pending = 900;
        ledger.started_at = Some(NOW);
        let at = NOW + Duration::from_secs(10);
        let beside = Beside { owner: 1_000_000, pipeline: 0 };
        let told = eta(&ledger, None, &Allowance { beside, ..allowance(1) }, at).expect("it ends");
        assert_eq!(told.since(at), Duration::from_secs(90));
        assert!(!is_guessed(&ledger));
        assert!(is_guessed(&new(1000)));
    }

    #[test]
    fn a_standstill_is_no_pace() {
        let wide = allowance(1_000_000);
        let until = NOW + Duration::from_secs(3600);
        let paused = Allowance { standstill: Standstill::Until(until), ..wide };
        assert_eq!(eta(&new(100), None, &paused, NOW), Some(until + Duration::from_millis(6)));
        let over = Allowance { standstill: Standstill::Until(NOW), ..wide };
        let later = NOW + Duration::from_secs(1);
        assert_eq!(eta(&new(100), None, &over, later), eta(&new(100), None, &wide, later));
        let open = Allowance { standstill: Standstill::Unknown, ..wide };
        assert_eq!(eta(&new(100), None, &open, NOW), None, "nobody knows when a breaker closes");
    }

    #[test]
    fn what_is_being_cancelled_is_not_done_at_any_time() {
        let mut ledger = new(1_000_000);
        assert!(eta(&ledger, None, &allowance(100), NOW).is_some());
        assert!(notice(&ledger, None, &allowance(100)).is_some());
        ledger.extraction_started(NOW);
        ledger.cancel(NOW).unwrap();
        assert!(!ledger.is_finished(), "its lines are not all in SQL");
        assert_eq!(eta(&ledger, None, &allowance(100), NOW), None);
        assert_eq!(notice(&ledger, None, &allowance(100)), None);
    }
}

//! A batch's life, explored exhaustively: every order of releases, claims, settlements, lost messages, dead workers,
//! late words of workers that lost their lease, cancels, pauses and retries, for a few rows and workers. The ledger is
//! the very one that runs; the rows' records move as both stores move them.

use std::collections::BTreeSet;

use penstock_domain::ledger::{Canary, Event, Hold, Ledger, RetryScope, Tally};
use penstock_domain::row::RowStatus;
use penstock_domain::time::Timestamp;
use stateright::{Checker as _, Model, Property};

const NOW: Timestamp = Timestamp::from_millis(0);

/// Runs of a batch in the model: two retries.
const MOST_RUNS: u32 = 3;

/// One row: its record, none before it was first released, and the worker that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Row {
    record: Option<RowStatus>,
    holder: Option<u8>,
    /// Workers that believe to hold it, as bits: the holder, and those whose lease was taken from them.
    believers: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Life {
    ledger: Ledger,
    rows: Vec<Row>,
    /// What the outbox holds: (run, event).
    said: BTreeSet<(u32, u8)>,
    /// Something happened that must never: a sentence.
    fault: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Release(u32),
    LoseMessage(usize),
    Claim(usize, u8),
    Complete(usize, u8),
    Fail(usize, u8),
    GiveBack(usize, u8),
    Hold(usize, u8),
    LeaseRunsOut(usize),
    Cancel,
    Pause,
    Resume,
    Retry(RetryScope),
    Sweep,
}

struct Lifecycle {
    rows: u32,
    workers: u8,
    allow_failures: bool,
    canary: Option<Canary>,
}

impl Life {
    fn tell(&mut self, events: Vec<Event>) {
        for event in events {
            // Progress and a hold may come again within a run.
            if matches!(event, Event::Progress | Event::Held) {
                continue;
            }
            let place = Event::ALL.iter().position(|one| *one == event).expect("an event");
            if !self.said.insert((self.ledger.run, u8::try_from(place).expect("few"))) {
                self.fault = Some("an event was said twice in one run");
            }
        }
    }

    /// The stores' `release`: what came back first, then fresh numbers; numbers with a record are passed over.
    fn release(&mut self, most: u32) {
        if !self.ledger.claimable() {
            return;
        }
        let mut returned = 0;
        for row in &mut self.rows {
            if returned < most && row.record == Some(RowStatus::Pending) {
                row.record = Some(RowStatus::Queued);
                returned += 1;
            }
        }
        let (mut fresh, mut skipped) = (0, 0);
        while returned + fresh < most {
            if self.ledger.fresh().saturating_sub(fresh + skipped) == 0 {
                break;
            }
            let number = self.ledger.next_number + fresh + skipped;
            let row = &mut self.rows[number as usize - 1];
            if row.record.is_none() {
                row.record = Some(RowStatus::Queued);
                fresh += 1;
            } else {
                skipped += 1;
            }
        }
        self.ledger.release(fresh, skipped, returned).expect("they are pending");
    }

    /// A worker's word about a row: it counts only while the worker holds it.
    fn settle(&mut self, row: usize, worker: u8, record: RowStatus, tally: Tally) {
        self.rows[row].believers &= !(1 << worker);
        if self.rows[row].holder != Some(worker) {
            return;
        }
        if self.rows[row].record != Some(RowStatus::Processing) {
            self.fault = Some("a row is held that is not processing");
        }
        self.rows[row].record = Some(record);
        self.rows[row].holder = None;
        let events = self.ledger.settle(tally, NOW).expect("they are claimed");
        self.tell(events);
    }

    /// The stores' `retry`.
    fn retry(&mut self, scope: RetryScope) {
        if self.ledger.check_retry().is_err() {
            return;
        }
        let was_cancelled = self.ledger.cancelled_at.is_some();
        let before = self.clone();
        for row in &mut self.rows {
            let open = matches!(row.record, Some(RowStatus::Pending | RowStatus::Queued));
            row.record = match row.record {
                Some(RowStatus::Cancelled) if scope.cancelled => Some(RowStatus::Pending),
                Some(_) if open && was_cancelled && scope.cancelled => Some(RowStatus::Pending),
                Some(_) if open && was_cancelled => Some(RowStatus::Cancelled),
                other => other,
            };
        }
        let mut failed = 0;
        for row in &mut self.rows {
            if scope.failed && row.record == Some(RowStatus::Failed) {
                row.record = Some(RowStatus::Pending);
                failed += 1;
            }
        }
        if self.ledger.retry(scope, failed) == 0 {
            // The transaction is rolled back.
            *self = before;
        }
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Release(most) => self.release(most),
            Step::LoseMessage(row) => {
                self.rows[row].record = Some(RowStatus::Pending);
                self.ledger.unqueue(1).expect("it is queued");
            }
            Step::Claim(row, worker) => {
                self.rows[row].record = Some(RowStatus::Processing);
                self.rows[row].holder = Some(worker);
                self.rows[row].believers |= 1 << worker;
                self.ledger.claim(1).expect("it is queued");
            }
            Step::Complete(row, worker) => {
                self.settle(row, worker, RowStatus::Completed, Tally { completed: 1, ..Tally::default() });
            }
            Step::Fail(row, worker) => {
                self.settle(row, worker, RowStatus::Failed, Tally { failed: 1, ..Tally::default() });
            }
            Step::GiveBack(row, worker) => {
                self.settle(row, worker, RowStatus::Pending, Tally { requeued: 1, ..Tally::default() });
            }
            Step::Hold(row, worker) => {
                let holds = self.rows[row].holder == Some(worker);
                self.settle(row, worker, RowStatus::Pending, Tally { requeued: 1, ..Tally::default() });
                if holds {
                    let mut events = Vec::new();
                    self.ledger.hold(Hold { code: String::new(), step: None, since: NOW }, &mut events);
                    self.tell(events);
                }
                // It only numbers callbacks.
                self.ledger.holds = 0;
            }
            Step::LeaseRunsOut(row) => {
                let holder = self.rows[row].holder.expect("it is held");
                let believers = self.rows[row].believers;
                self.settle(row, holder, RowStatus::Pending, Tally { requeued: 1, ..Tally::default() });
                // The worker does not know yet.
                self.rows[row].believers = believers;
            }
            Step::Cancel => {
                if let Ok(events) = self.ledger.cancel(NOW) {
                    self.tell(events);
                }
            }
            Step::Pause => {
                let _ = self.ledger.pause();
            }
            Step::Resume => {
                let _ = self.ledger.resume();
            }
            Step::Retry(scope) => self.retry(scope),
            Step::Sweep => {
                let events = self.ledger.sweep_finish(NOW);
                self.tell(events);
            }
        }
        // It counts writes, and nothing depends on it here.
        self.ledger.revision = 0;
    }

    /// What the rows say, counted by the states that a client is shown.
    fn counts_match(&self) -> bool {
        let mut shown = penstock_domain::batch::Counts::default();
        for (index, row) in self.rows.iter().enumerate() {
            let number = u32::try_from(index).expect("few") + 1;
            shown.total += 1;
            *match self.ledger.status_of(number, row.record) {
                RowStatus::Pending => &mut shown.pending,
                RowStatus::Queued => &mut shown.queued,
                RowStatus::Processing => &mut shown.processing,
                RowStatus::Completed => &mut shown.completed,
                RowStatus::Failed => &mut shown.failed,
                RowStatus::Cancelled => &mut shown.cancelled,
            } += 1;
        }
        shown == self.ledger.counts
    }

    /// From here, a dispatcher and one worker that go about their work bring the batch to its end.
    fn can_end(&self) -> bool {
        let mut life = self.clone();
        for _ in 0..4 * self.rows.len() + 4 {
            if life.ledger.is_finished() {
                return true;
            }
            life.apply(Step::Resume);
            life.apply(Step::Sweep);
            for row in 0..life.rows.len() {
                if life.rows[row].holder.is_some() {
                    life.apply(Step::LeaseRunsOut(row));
                }
                if life.rows[row].record == Some(RowStatus::Queued) && life.ledger.claimable() {
                    life.apply(Step::Claim(row, 0));
                    life.apply(Step::Complete(row, 0));
                }
            }
            life.apply(Step::Release(u32::MAX));
        }
        false
    }
}

impl Model for Lifecycle {
    type State = Life;
    type Action = Step;

    fn init_states(&self) -> Vec<Life> {
        let mut ledger = Ledger::new(Some(self.rows), self.allow_failures, self.canary);
        ledger.extraction_started(NOW);
        let events = ledger.extraction_finished(self.rows, NOW);
        ledger.revision = 0;
        let row = Row { record: None, holder: None, believers: 0 };
        let mut life =
            Life { ledger, rows: vec![row; self.rows as usize], said: BTreeSet::new(), fault: None };
        life.tell(events);
        vec![life]
    }

    fn actions(&self, life: &Life, actions: &mut Vec<Step>) {
        actions.extend([
            Step::Release(1),
            Step::Release(2),
            Step::Cancel,
            Step::Pause,
            Step::Resume,
            Step::Sweep,
        ]);
        if life.ledger.run < MOST_RUNS {
            for (failed, cancelled) in [(true, false), (false, true), (true, true)] {
                actions.push(Step::Retry(RetryScope { failed, cancelled }));
            }
        }
        for (row, state) in life.rows.iter().enumerate() {
            let queued = state.record == Some(RowStatus::Queued);
            if queued && life.ledger.cancelled_at.is_none() {
                actions.push(Step::LoseMessage(row));
            }
            if state.holder.is_some() {
                actions.push(Step::LeaseRunsOut(row));
            }
            for worker in 0..self.workers {
                if queued && life.ledger.claimable() {
                    actions.push(Step::Claim(row, worker));
                }
                if state.believers & (1 << worker) != 0 {
                    actions.extend([
                        Step::Complete(row, worker),
                        Step::Fail(row, worker),
                        Step::GiveBack(row, worker),
                        Step::Hold(row, worker),
                    ]);
                }
            }
        }
    }

    fn next_state(&self, life: &Life, step: Step) -> Option<Life> {
        let mut next = life.clone();
        next.apply(step);
        let reopened = life.rows.iter().zip(&next.rows).any(|(before, after)| {
            before.record == Some(RowStatus::Completed) && after != before && after.record != before.record
        });
        if reopened {
            next.fault = Some("a completed row was run again");
        }
        if next.ledger.run == life.ledger.run
            && next.ledger.progress() < life.ledger.progress()
            && life.ledger.is_finished() == next.ledger.is_finished()
        {
            next.fault = Some("progress fell within a run");
        }
        (next != *life).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("counts add up and are the rows'", |_, life: &Life| {
                life.ledger.counts.add_up() && life.counts_match()
            }),
            Property::always("nothing happens that must never", |_, life: &Life| life.fault.is_none()),
            Property::always("100 % means finished, and nothing else does", |_, life: &Life| {
                (life.ledger.progress() == 100) == life.ledger.is_finished()
            }),
            Property::always("a finished batch has no open row, and its end is said", |_, life: &Life| {
                !life.ledger.is_finished()
                    || (life.ledger.counts.unfinished() == 0
                        && life.ledger.finished_at.is_some()
                        && life.said.iter().any(|(run, event)| {
                            *run == life.ledger.run && Event::ALL[usize::from(*event)] == Event::Finished
                        }))
            }),
            Property::always("a batch whose rows have all ended is finished", |_, life: &Life| {
                life.ledger.counts.unfinished() > 0 || life.ledger.is_finished()
            }),
            Property::always("it can be brought to its end from everywhere", |_, life: &Life| life.can_end()),
            Property::always(
                "only a held batch has an answer that holds it, and no row of it starts",
                |_, life: &Life| {
                    let ledger = &life.ledger;
                    (ledger.hold.is_none() || ledger.held) && (!ledger.held || !ledger.claimable())
                },
            ),
            Property::sometimes("a batch is held by an answer", |_, life: &Life| life.ledger.hold.is_some()),
            Property::sometimes("a retried run ends well", |_, life: &Life| {
                life.ledger.run == 2 && life.ledger.is_finished() && life.ledger.counts.failed == 0
            }),
            Property::sometimes("a cancelled batch ends with rows that completed", |_, life: &Life| {
                life.ledger.is_finished()
                    && life.ledger.cancelled_at.is_some()
                    && life.ledger.counts.completed > 0
            }),
        ]
    }
}

fn explore(model: Lifecycle, at_least: usize) {
    let checker = model.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    let states = checker.unique_state_count();
    assert!(states > at_least, "only {states} states were reached");
}

#[test]
fn three_rows_and_two_workers() {
    explore(Lifecycle { rows: 3, workers: 2, allow_failures: true, canary: None }, 10_000);
}

#[test]
fn no_failure_is_allowed() {
    explore(Lifecycle { rows: 3, workers: 2, allow_failures: false, canary: None }, 10_000);
}

#[test]
fn a_canary_and_a_ceiling() {
    let canary = Canary { rows: 1, max_failure_bp: 4000, stop_after: Some(2) };
    explore(Lifecycle { rows: 3, workers: 1, allow_failures: true, canary: Some(canary) }, 1000);
}

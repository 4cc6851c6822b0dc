//! Keyed bulk calls, explored exhaustively: every order of claims, records, calls, answers, lost answers, refusals, settlements,
//! requeued rows and dead workers, for a few rows and workers, and requests that arrive after their worker's death. The rules are those
//! of the stores: a call is recorded with all of its rows or not at all, its rows are claimed together, and its end is one transaction.
//! The model shows that these rules are enough. That the code keeps them is what the stores' conformance suite and the whole runs check.

use stateright::{Checker as _, Model, Property};

/// Calls that are recorded at most: with them the model has an end.
const MOST_CALLS: usize = 3;

/// Rows as bits.
type Rows = u8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Row {
    Waits,
    Held(u8),
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Life {
    rows: Vec<Row>,
    /// The call that each row was recorded for.
    call_of: Vec<Option<u8>>,
    /// The rows of each recorded call: its name is its key.
    calls: Vec<Rows>,
    /// The rows with which the downstream saw each key.
    seen: Vec<Option<Rows>>,
    /// Calls of which a worker has an answer that it has not written yet.
    answered: Vec<Option<u8>>,
    /// Requests on their way.
    sent: Vec<bool>,
    /// How often each row had its effect.
    effects: Vec<u8>,
    fault: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// A row without a call is claimed.
    Claim(usize, u8),
    /// All rows of a call are claimed.
    ClaimCall(usize, u8),
    /// Rows that a worker holds are recorded for a new call.
    Record(Rows, u8),
    /// The request leaves.
    Send(usize),
    /// It arrives, and is answered to the worker that holds the rows, if one does.
    Arrive(usize),
    /// It arrives, and its answer is lost.
    ArriveUnheard(usize),
    /// It is refused as a whole: nothing was done, and its rows may go with others.
    Refuse(usize, u8),
    /// What an answer said is written, of all rows at once.
    Settle(usize),
    /// There was no answer: all rows are requeued.
    GiveUp(usize, u8),
    /// One row is requeued before the call is made, and the others with it.
    Requeue(usize, u8),
    Die(u8),
}

struct Bulk {
    rows: usize,
    workers: u8,
}

fn has(rows: Rows, row: usize) -> bool {
    rows & (1 << row) != 0
}

impl Life {
    fn of(&self, call: usize) -> impl Iterator<Item = usize> + use<> {
        let rows = self.calls[call];
        (0..self.rows.len()).filter(move |row| has(rows, *row))
    }

    /// The worker that holds all rows of a call, which are still of it.
    fn holder(&self, call: usize) -> Option<u8> {
        let mut holders = self.of(call).map(|row| match self.rows[row] {
            Row::Held(worker) if self.call_of[row] == Some(u8::try_from(call).expect("few")) => Some(worker),
            _ => None,
        });
        let first = holders.next()??;
        holders.all(|holder| holder == Some(first)).then_some(first)
    }

    fn arrive(&mut self, call: usize) {
        self.sent[call] = false;
        match self.seen[call] {
            None => {
                self.seen[call] = Some(self.calls[call]);
                for row in self.of(call) {
                    self.effects[row] += 1;
                }
            }
            Some(rows) if rows != self.calls[call] => self.fault = Some("a key came with other rows"),
            Some(_) => {}
        }
    }

    fn requeue(&mut self, call: usize) {
        self.answered[call] = None;
        for row in self.of(call) {
            self.rows[row] = Row::Waits;
        }
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Claim(row, worker) => self.rows[row] = Row::Held(worker),
            Step::ClaimCall(call, worker) => self.of(call).for_each(|row| self.rows[row] = Row::Held(worker)),
            Step::Record(rows, _) => {
                let call = u8::try_from(self.calls.len()).expect("few");
                self.calls.push(rows);
                self.seen.push(None);
                self.answered.push(None);
                self.sent.push(false);
                self.of(call.into()).for_each(|row| self.call_of[row] = Some(call));
            }
            Step::Send(call) => self.sent[call] = true,
            Step::Arrive(call) => {
                self.arrive(call);
                self.answered[call] = self.holder(call);
            }
            Step::ArriveUnheard(call) => self.arrive(call),
            Step::Refuse(call, _) => {
                self.sent[call] = false;
                self.of(call).for_each(|row| self.call_of[row] = None);
            }
            Step::Settle(call) => {
                self.answered[call] = None;
                for row in self.of(call) {
                    (self.rows[row], self.call_of[row]) = (Row::Done, None);
                }
            }
            Step::GiveUp(call, _) | Step::Requeue(call, _) => self.requeue(call),
            Step::Die(worker) => {
                for row in &mut self.rows {
                    if *row == Row::Held(worker) {
                        *row = Row::Waits;
                    }
                }
                self.answered.iter_mut().filter(|of| **of == Some(worker)).for_each(|of| *of = None);
            }
        }
    }

    /// From here, one worker that goes about its work brings all rows to their end.
    fn can_end(&self) -> bool {
        let mut life = self.clone();
        for worker in 0..2 {
            life.apply(Step::Die(worker));
        }
        for call in 0..life.calls.len() {
            if life.of(call).all(|row| {
                life.rows[row] == Row::Waits && life.call_of[row] == Some(u8::try_from(call).expect("few"))
            }) {
                life.apply(Step::ClaimCall(call, 0));
                life.apply(Step::Arrive(call));
                life.apply(Step::Settle(call));
            }
        }
        // What is left is of no call, and goes in new ones.
        (0..life.rows.len()).all(|row| life.rows[row] == Row::Done || life.call_of[row].is_none())
    }
}

impl Model for Bulk {
    type State = Life;
    type Action = Step;

    fn init_states(&self) -> Vec<Life> {
        let (rows, call_of) = (vec![Row::Waits; self.rows], vec![None; self.rows]);
        let (calls, seen, answered, sent) = Default::default();
        vec![Life { rows, call_of, calls, seen, answered, sent, effects: vec![0; self.rows], fault: None }]
    }

    fn actions(&self, life: &Life, actions: &mut Vec<Step>) {
        for worker in 0..self.workers {
            actions.push(Step::Die(worker));
            let free = |row: usize| life.call_of[row].is_none();
            actions.extend(
                (0..self.rows)
                    .filter(|row| life.rows[*row] == Row::Waits && free(*row))
                    .map(|row| Step::Claim(row, worker)),
            );
            let held = (0..self.rows).filter(|row| life.rows[*row] == Row::Held(worker) && free(*row));
            let held = held.fold(0, |rows: Rows, row| rows | 1 << row);
            if life.calls.len() < MOST_CALLS {
                actions.extend(
                    (1..=held).filter(|rows| rows & !held == 0).map(|rows| Step::Record(rows, worker)),
                );
            }
        }
        for call in 0..life.calls.len() {
            let is_of = |row: usize| life.call_of[row] == Some(u8::try_from(call).expect("few"));
            if life.of(call).all(|row| life.rows[row] == Row::Waits && is_of(row)) {
                actions.extend((0..self.workers).map(|worker| Step::ClaimCall(call, worker)));
            }
            if life.sent[call] {
                actions.extend([Step::Arrive(call), Step::ArriveUnheard(call)]);
            }
            let Some(worker) = life.holder(call) else { continue };
            if life.answered[call] == Some(worker) {
                actions.push(Step::Settle(call));
                continue;
            }
            actions.extend([Step::GiveUp(call, worker), Step::Requeue(call, worker)]);
            if life.sent[call] {
                // A downstream refuses a key that it has not carried out.
                if life.seen[call].is_none() {
                    actions.push(Step::Refuse(call, worker));
                }
            } else {
                actions.push(Step::Send(call));
            }
        }
    }

    fn next_state(&self, life: &Life, step: Step) -> Option<Life> {
        let mut next = life.clone();
        next.apply(step);
        (next != *life).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("each row has its effect once", |_, life: &Life| {
                life.effects.iter().all(|times| *times <= 1)
            }),
            Property::always("a key comes with its rows", |_, life: &Life| life.fault.is_none()),
            Property::always("what is done had its effect", |_, life: &Life| {
                life.rows.iter().zip(&life.effects).all(|(row, times)| *row != Row::Done || *times == 1)
            }),
            Property::always("all rows can end", |_, life: &Life| life.can_end()),
            Property::sometimes("all rows are done", |_, life: &Life| {
                life.rows.iter().all(|row| *row == Row::Done)
            }),
            Property::sometimes("rows go with others after a refusal", |_, life: &Life| {
                life.calls.len() > 1
                    && life.calls[0].count_ones() == 3
                    && life.rows.iter().all(|row| *row == Row::Done)
            }),
        ]
    }
}

#[test]
fn three_rows_and_two_workers_share_calls() {
    let checker = Bulk { rows: 3, workers: 2 }.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    let states = checker.unique_state_count();
    assert!(states > 1000, "only {states} states were reached");
}

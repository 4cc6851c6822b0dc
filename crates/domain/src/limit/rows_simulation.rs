//! Rows that an API refuses or fails for reasons of their own, and APIs that are really away or overloaded, in virtual
//! time: the gate and the rules of [`crate::retry`] together. What is judged is what people notice: how fast other rows
//! go, that everything ends, and how often an API is asked in vain.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use super::*;
use crate::cause::Cause;
use crate::outcome::code;
use crate::pipeline::{Breaker as BreakerPolicy, Retry};
use crate::retry::{self, Failed, Next};
use crate::row::{AttemptRecord, RowError};
use crate::time::Timestamp;

const START: f64 = 1e15;
const SECOND: f64 = 1e6;
const STEP: &str = "s";

/// How an API treats a row.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// It is done.
    Good,
    /// It is answered 500 each time.
    Bad,
    /// It is answered 429 each time, with so many seconds of `Retry-After`.
    Refused(Option<f64>),
    /// It is answered 500 each time, with so many seconds of `Retry-After`.
    Waiting(f64),
}

/// What the API is like at a moment.
#[derive(Clone, Copy, Debug)]
enum Api {
    /// Well.
    Well,
    /// Answers 500 to everything between two moments (seconds).
    Down(f64, f64),
    /// Is not reachable between two moments.
    Away(f64, f64),
    /// Takes so many calls, then answers 429 without a word until a moment.
    Quota(u32, f64),
    /// Fails a share of all calls.
    Flaky(f64),
}

struct Row {
    kind: Kind,
    error: Option<RowError>,
    attempts: u32,
    calls: u32,
    /// When a worker took it up first.
    first_at: Option<f64>,
    /// Seconds.
    ended: Option<f64>,
    done: bool,
}

impl Row {
    fn past(&self) -> Past {
        self.error.as_ref().map_or(Past::Clean, |error| retry::past(error.throttled, &error.attempts, STEP))
    }
}

enum Event {
    /// A run of the dispatcher.
    Run,
    /// A released row may start.
    Ready,
    /// The lane is looked at again.
    Look,
    Sent(bool),
    Answered {
        past: Past,
        probe: bool,
        left_at: f64,
    },
}

struct World {
    policy: GatePolicy,
    gate: Gate,
    retry: Retry,
    api: Api,
    /// Runs of the dispatcher are so many seconds apart.
    run_every: f64,
    /// How long a call takes, seconds.
    latency: f64,
    rows: Vec<Row>,
    events: BinaryHeap<Reverse<(u64, usize, usize)>>,
    kept: Vec<Event>,
    /// Rows that were never released: those from this number on.
    fresh: usize,
    /// Rows that came back, by the time at which they may be released again.
    returned: BinaryHeap<Reverse<(u64, usize)>>,
    /// Rows that are released or in flight, and how many there may be.
    released: usize,
    quota: usize,
    /// Rows that have not ended.
    left: usize,
    /// Rows that wait in a worker's lane for the moment when the gate is free.
    lane: VecDeque<usize>,
    held_until: f64,
    in_flight: usize,
    most_in_flight: usize,
    calls: Vec<(f64, usize, bool)>,
    rng: u64,
    now: f64,
}

fn timestamp(now: f64) -> Timestamp {
    #[allow(clippy::cast_possible_truncation)]
    Timestamp::from_millis((now / 1000.0) as i64)
}

impl World {
    fn new(kinds: impl IntoIterator<Item = Kind>) -> Self {
        let row =
            |kind| Row { kind, error: None, attempts: 0, calls: 0, first_at: None, ended: None, done: false };
        let rate = RatePolicy::new(50, Duration::from_secs(1), 10);
        let breaker = Some(BreakerPolicy::default());
        Self {
            policy: GatePolicy { rate: Some(rate), concurrency: None, breaker, cold_wait_us: 0.0 },
            gate: Gate::default(),
            retry: Retry::default(),
            api: Api::Well,
            run_every: 1.0,
            latency: 0.05,
            rows: kinds.into_iter().map(row).collect(),
            events: BinaryHeap::new(),
            kept: Vec::new(),
            fresh: 0,
            returned: BinaryHeap::new(),
            released: 0,
            quota: 0,
            left: 0,
            lane: VecDeque::new(),
            held_until: START,
            in_flight: 0,
            most_in_flight: 50,
            calls: Vec::new(),
            rng: 0x9E37_79B9_7F4A_7C15,
            now: START,
        }
    }

    fn unit(&mut self) -> f64 {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        #[allow(clippy::cast_precision_loss)]
        let unit = (self.rng >> 11) as f64 / (1_u64 << 53) as f64;
        unit
    }

    fn at(&mut self, at: f64, row: usize, event: Event) {
        self.kept.push(event);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        self.events.push(Reverse(((at - START) as u64, self.kept.len() - 1, row)));
    }

    /// The row goes back, and may be released again from a moment on.
    fn back(&mut self, not_before: f64, row: usize) {
        self.released -= 1;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        self.returned.push(Reverse(((not_before - START) as u64, row)));
    }

    /// The dispatcher releases what an owner's quota leaves: rows that came back first. They start over the time between two
    /// runs.
    fn dispatch(&mut self) {
        self.sweep();
        let mut rows = Vec::new();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let now = (self.now - START) as u64;
        // Rows that came back go first, but take no more than half where there are fresh ones.
        let room = self.quota - self.released.min(self.quota);
        let fresh = self.rows.len() - self.fresh;
        let most = room.div_ceil(2).max(room.saturating_sub(fresh));
        while let Some(Reverse((due, row))) = self.returned.peek().copied()
            && due <= now
            && rows.len() < most
        {
            self.returned.pop();
            rows.push(row);
        }
        let fresh = fresh.min(room - rows.len());
        rows.extend(self.fresh..self.fresh + fresh);
        self.fresh += fresh;
        self.released += rows.len();
        let every = self.run_every * SECOND;
        let apart = every / f64::from(u32::try_from(rows.len().max(1)).unwrap());
        for (place, row) in rows.into_iter().enumerate() {
            let at = self.now + apart * f64::from(u32::try_from(place).unwrap());
            self.at(at, row, Event::Ready);
        }
        self.at(self.now + every, 0, Event::Run);
    }

    /// Ends rows that have been throttled for too long.
    fn sweep(&mut self) {
        let lane = std::mem::take(&mut self.lane);
        for row in lane {
            if self.has_run_out(row) {
                self.end(row, false);
            } else {
                self.lane.push_back(row);
            }
        }
        for Reverse((due, row)) in std::mem::take(&mut self.returned) {
            if self.has_run_out(row) {
                self.released += 1;
                self.end(row, false);
            } else {
                self.returned.push(Reverse((due, row)));
            }
        }
    }

    fn has_run_out(&self, row: usize) -> bool {
        let series = self.rows[row].error.as_ref().and_then(|error| error.throttled);
        let series = series.filter(|series| series.times > 1);
        series.is_some_and(|series| timestamp(self.now).since(series.since) >= self.retry.throttled_for)
    }

    fn seconds(&self) -> f64 {
        (self.now - START) / SECOND
    }

    /// Runs until everything has ended, or for so many seconds at most.
    fn run(&mut self, most: f64) {
        // What a worker can carry between two runs, and some more.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let between = (self.run_every * 60.0) as usize;
        self.quota = between + 100;
        self.left = self.rows.len();
        self.at(START, 0, Event::Run);
        while let Some(Reverse((at, event, row))) = self.events.pop() {
            #[allow(clippy::cast_precision_loss)]
            let at = START + at as f64;
            if at > START + most * SECOND {
                return;
            }
            self.now = at;
            let event = std::mem::replace(&mut self.kept[event], Event::Look);
            self.happens(row, event);
            self.take_up();
            if self.left == 0 {
                return;
            }
        }
    }

    fn happens(&mut self, row: usize, event: Event) {
        match event {
            Event::Run => self.dispatch(),
            Event::Ready => self.lane.push_back(row),
            Event::Look => {}
            Event::Sent(probe) => {
                let past = self.rows[row].past();
                self.at(
                    self.now + self.latency * SECOND,
                    row,
                    Event::Answered { past, probe, left_at: self.now },
                );
            }
            Event::Answered { past, probe, left_at } => {
                self.in_flight -= 1;
                self.answered(row, past, probe, left_at);
            }
        }
    }

    /// As a worker takes rows up: as long as nothing that it knows of holds them all up.
    fn take_up(&mut self) {
        while self.in_flight < self.most_in_flight && !self.lane.is_empty() {
            if self.held_until > self.now {
                self.at(self.held_until + 1.0, 0, Event::Look);
                return;
            }
            // While the breaker is not closed, from anywhere in the lane.
            let probing = self.gate.snapshot(&self.policy, self.now).breaker != BreakerState::Closed;
            let unit = if probing { self.unit() } else { 0.0 };
            #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let place = (unit * self.lane.len() as f64) as usize;
            let Some(row) = self.lane.swap_remove_front(place) else { return };
            let past = self.rows[row].past();
            let now = self.now;
            self.rows[row].first_at.get_or_insert(now);
            let ask = Ask { cost: 1, token: row as u64 + 1, lease_us: 15.0 * SECOND, lead_us: 0.0, past };
            match acquire(&mut [(&mut self.gate, &self.policy)], self.now, &ask) {
                Decision::Granted { wait, probe, .. } => {
                    self.in_flight += 1;
                    self.at(self.now + wait, row, Event::Sent(probe));
                }
                Decision::Denied(denied) if self.is_given_up(row, &denied) => self.end(row, false),
                Decision::Denied(denied) if denied.row_only => self.back(self.now + denied.retry_after, row),
                // Rows are taken up again when they may be given up: they do not wait for the gate then.
                Decision::Denied(denied) if denied.refused_for >= micros(self.retry.throttled_for) => {
                    self.back(self.now + denied.retry_after, row);
                }
                Decision::Denied(denied) => {
                    self.held_until = self.now + denied.retry_after;
                    self.lane.push_front(row);
                }
            }
        }
    }

    fn is_given_up(&self, row: usize, denied: &Denied) -> bool {
        let waited = self.rows[row].first_at.map_or(0.0, |first| self.now - first);
        denied.refused_for.min(waited) >= micros(self.retry.throttled_for)
    }

    /// The API's answer: the status, and what it says about waiting.
    fn answer(&mut self, row: usize) -> (u16, Option<f64>) {
        let (at, id_generator) = (self.seconds(), self.unit());
        let own = match self.rows[row].kind {
            Kind::Good => (200, None),
            Kind::Bad => (500, None),
            Kind::Refused(told) => (429, told),
            Kind::Waiting(told) => (500, Some(told)),
        };
        match self.api {
            Api::Down(from, until) if (from..until).contains(&at) => (500, None),
            Api::Away(from, until) if (from..until).contains(&at) => (0, None),
            Api::Quota(calls, until) if at < until && self.calls.len() >= calls as usize => (429, None),
            Api::Flaky(share) if id_generator < share => (500, None),
            _ => own,
        }
    }

    fn answered(&mut self, row: usize, past: Past, probe: bool, left_at: f64) {
        let (status, told) = self.answer(row);
        let now = timestamp(self.now);
        self.calls.push((self.seconds(), row, status == 200));
        self.rows[row].calls += 1;
        let healthy = match status {
            200 => Some(true),
            429 => None,
            _ => Some(false),
        };
        let feedback = Feedback {
            healthy,
            pause: told.map(|told| told * SECOND),
            throttled: status == 429,
            probe,
            past,
            elapsed: self.now - left_at,
            cause: (status == 0).then_some(Cause::ConnectionRefused),
        };
        let own = self.gate.report(&self.policy, self.now, row as u64 + 1, &feedback);
        match status {
            200 => self.end(row, true),
            429 => self.refused(row, now, told, own),
            status => self.failed(row, now, status, probe),
        }
    }

    fn end(&mut self, row: usize, done: bool) {
        self.released -= 1;
        self.left -= 1;
        self.rows[row].ended = Some(self.seconds());
        self.rows[row].done = done;
    }

    fn refused(&mut self, row: usize, now: Timestamp, told: Option<f64>, own: bool) {
        let before = self.rows[row].error.as_ref().and_then(|error| error.throttled);
        let series = retry::throttled(before, now, own);
        let told = told.map(|told| now + Duration::from_secs_f64(told));
        let until = retry::throttled_until(&series, now, told).min(series.since + self.retry.throttled_for);
        let attempts = self.rows[row].error.take().map(|error| error.attempts).unwrap_or_default();
        self.rows[row].error = Some(RowError { throttled: Some(series), ..error(code::THROTTLED, attempts) });
        self.back(self.now + micros(until.since(now)), row);
    }

    fn failed(&mut self, row: usize, now: Timestamp, status: u16, probe: bool) {
        let unit = self.unit();
        let code = if status == 0 { code::CONNECT_FAILED } else { "http_500" };
        let mut earlier = self.rows[row].error.take().map(|error| error.attempts).unwrap_or_default();
        let failed = Failed {
            at: now,
            code,
            step: STEP,
            probe,
            open_for: self.policy.breaker.map_or(Duration::ZERO, |breaker| breaker.open_for),
            attempts: self.rows[row].attempts,
            earlier: &earlier,
        };
        let next = retry::after_failure(&self.retry, &failed, unit);
        let free = matches!(next, Next::Again { attempt: false, .. });
        earlier.push(AttemptRecord {
            at: now,
            step: Some(STEP.to_owned()),
            code: code.to_owned(),
            http_status: (status > 0).then_some(status),
            probe: free,
        });
        self.rows[row].error = Some(error(code, earlier));
        match next {
            Next::Fails => self.end(row, false),
            Next::Again { delay, attempt } => {
                self.rows[row].attempts += u32::from(attempt);
                self.back(self.now + micros(delay), row);
            }
        }
    }

    /// When the last row of a kind ended; none: one has not.
    fn ended(&self, of: impl Fn(Kind) -> bool) -> Option<f64> {
        let rows = self.rows.iter().filter(|row| of(row.kind));
        rows.map(|row| row.ended).try_fold(0.0_f64, |last, ended| Some(last.max(ended?)))
    }

    fn failed_rows(&self) -> usize {
        self.rows.iter().filter(|row| row.ended.is_some() && !row.done).count()
    }

    /// Calls between two moments.
    fn called(&self, from: f64, until: f64) -> usize {
        self.calls.iter().filter(|(at, ..)| (from..until).contains(at)).count()
    }

    /// Calls that went well between two moments.
    fn went_well(&self, from: f64, until: f64) -> usize {
        self.calls.iter().filter(|(at, _, good)| *good && (from..until).contains(at)).count()
    }
}

fn error(code: &str, attempts: Vec<AttemptRecord>) -> RowError {
    RowError {
        code: code.to_owned(),
        step: Some(STEP.to_owned()),
        http_status: None,
        message: String::new(),
        detail: None,
        attempts,
        throttled: None,
    }
}

/// So many rows, each so manieth of which is of a kind, the others good.
fn mixed(rows: usize, each: usize, kind: Kind) -> Vec<Kind> {
    (0..rows).map(|row| if row % each == each / 2 { kind } else { Kind::Good }).collect()
}

fn is_good(kind: Kind) -> bool {
    kind == Kind::Good
}

/// One row is refused each time. Within five seconds of its second refusal the others have their rate, and keep it.
#[test]
fn a_row_that_is_always_refused_slows_nobody_but_itself() {
    for told in [None, Some(1.0), Some(2.0), Some(30.0)] {
        for run_every in [0.3, 5.0, 60.0] {
            let mut world = World::new(mixed(14_000, 14_000, Kind::Refused(told)));
            // The row stands early in the file.
            world.rows.swap(10, 7_000);
            world.run_every = run_every;
            world.run(260.0);
            let refused: Vec<f64> =
                world.calls.iter().filter(|(_, row, _)| *row == 10).map(|(at, ..)| *at).collect();
            let from = refused[1] + 5.0;
            let share = f64::from(u32::try_from(world.went_well(from, from + 100.0)).unwrap()) / 100.0 / 50.0;
            assert!(share > 0.97, "{told:?}, runs each {run_every} s: only {share} of the rate: {refused:?}");
            let worst = (0..10)
                .map(|tenth| {
                    world.went_well(from + f64::from(tenth) * 10.0, from + f64::from(tenth + 1) * 10.0)
                })
                .min();
            assert!(
                worst > Some(480),
                "{told:?}, runs each {run_every} s: {worst:?} in the worst ten seconds"
            );
            // 300 a day are one in 288 seconds.
            assert!(refused.len() < 16, "{told:?}: it is asked for too often: {refused:?}");
        }
    }
}

/// A part of the rows is refused each time, from the beginning or all through the file.
#[test]
fn many_rows_that_are_always_refused_slow_nobody_for_long() {
    for (each, told) in
        [(20, Some(2.0)), (20, None), (4, Some(1.0)), (4, None), (3, Some(1.0)), (100, Some(30.0))]
    {
        for rate in [true, false] {
            let mut world = World::new(mixed(4000, each, Kind::Refused(told)));
            if !rate {
                world.policy.rate = None;
            }
            world.retry.throttled_for = Duration::from_secs(600);
            world.run(2000.0);
            let good = world.ended(is_good).unwrap();
            // Calls of refused rows take their part of the rate. Until a first one is refused again, each pauses all.
            let calls = f64::from(u32::try_from(world.called(0.0, good)).unwrap());
            let part = if each < 4 { 0.4 } else { 0.75 };
            let most = calls / 50.0 / part + 16.0 + 8.0 * told.unwrap_or(1.0);
            assert!(
                good < most,
                "each {each}th, {told:?}, rate {rate}: the good ones took {good} s of {most} s"
            );
            let refused = world.ended(|kind| kind != Kind::Good).unwrap();
            // The last ones wait behind pauses that have grown: until one of them is refused when that has lasted as long.
            let most = good + 600.0 + 320.0;
            assert!((600.0..most).contains(&refused), "each {each}th, {told:?}: {refused} s of {most} s");
        }
    }
}

/// Everything is refused: all rows end soon after `throttled_for`, though most of them are never asked for.
#[test]
fn a_batch_that_is_always_refused_ends() {
    for told in [None, Some(1.0), Some(30.0), Some(300.0)] {
        for (rows, run_every) in [(1, 1.0), (40, 1.0), (40, 5.0), (40, 60.0), (2000, 5.0)] {
            let mut world = World::new((0..rows).map(|_| Kind::Refused(told)));
            world.run_every = run_every;
            world.retry.throttled_for = Duration::from_secs(60);
            world.run(7200.0);
            let ended = world.ended(|_| true).unwrap_or(f64::INFINITY);
            let most = 4.0 * 60.0_f64.max(told.unwrap_or(0.0)) + 4.0 * run_every + f64::from(rows) / 10.0;
            assert!(ended < most, "{rows} rows, {told:?}, runs each {run_every} s: {ended} s of {most} s");
            let calls = world.calls.len();
            assert!(calls < 60, "{rows} rows, {told:?}: {calls} calls in vain");
        }
    }
}

/// Rows that wait through an outage that is shorter than `throttled_for` are done.
#[test]
fn a_shorter_refusal_of_everything_fails_nobody() {
    let mut world = World::new((0..2000).map(|_| Kind::Good));
    world.api = Api::Quota(50, 500.0);
    world.retry.throttled_for = Duration::from_secs(600);
    world.run(7200.0);
    assert!(world.ended(is_good).is_some());
    assert_eq!(world.failed_rows(), 0);
}

/// Rows that fail each time and ask for a pause each time pause the others a few times only.
#[test]
fn failures_that_ask_for_a_pause_slow_nobody_for_long() {
    let mut world = World::new(mixed(830, 28, Kind::Waiting(3.0)));
    world.run(600.0);
    let good = world.ended(is_good).unwrap();
    assert!(good < 45.0, "the good ones took {good} s");
    assert!(world.ended(|_| true).is_some());
}

/// The quota of a day is used up, and the API does not say until when.
#[test]
fn a_quota_that_is_used_up_is_asked_for_rarely_and_found_again() {
    for rate in [true, false] {
        for rows in [1000, 320] {
            let mut world = World::new(mixed(rows, rows + 1, Kind::Good));
            if !rate {
                world.policy.rate = None;
            }
            let day = 86_400.0;
            world.run_every = 5.0;
            world.api = Api::Quota(300, day);
            world.retry.throttled_for = Duration::from_secs(2 * 86_400);
            world.run(day + 3600.0);
            let knocks = world.called(60.0, day);
            assert!(knocks < 1000, "{rows} rows, rate {rate}: {knocks} calls in vain");
            let done = world.ended(is_good).unwrap();
            assert!(done < day + 660.0, "{rows} rows, rate {rate}: done {} s after the quota", done - day);
        }
    }
}

#[test]
fn rows_that_always_fail_end_in_minutes() {
    for (rows, attempts, run_every) in
        [(40, 3, 1.0), (40, 5, 1.0), (40, 3, 60.0), (10, 3, 1.0), (1, 5, 1.0), (20, 5, 0.3), (100, 3, 1.0)]
    {
        let mut world = World::new((0..rows).map(|_| Kind::Bad));
        world.retry.attempts = attempts;
        world.run_every = run_every;
        world.run(3600.0);
        let ended = world.ended(|_| true).unwrap();
        let most = if rows > 50 || run_every > 10.0 { 360.0 } else { 120.0 };
        assert!(ended < most, "{rows} rows, {attempts} attempts, runs each {run_every} s: {ended} s");
    }
}

/// Rows that go well are as quick beside rows that always fail as without a breaker.
#[test]
fn rows_that_always_fail_hold_up_no_others() {
    let bad = |rows: usize, each: usize| mixed(rows, each, Kind::Bad);
    let half = |first: Kind, then: Kind| (0..300).map(move |row| if row < 100 { first } else { then });
    let random = |share: f64| {
        let mut rng = World::new([]);
        (0..600).map(move |_| if rng.unit() < share { Kind::Bad } else { Kind::Good }).collect::<Vec<_>>()
    };
    for (what, kinds, most) in [
        ("each third", bad(300, 3), 1.2),
        ("each second", bad(400, 2), 1.2),
        ("a third, by id_generator", random(0.33), 1.2),
        ("six in ten, by id_generator", random(0.6), 1.5),
        ("eight in ten, by id_generator", random(0.8), 6.0),
        ("the first hundred", half(Kind::Bad, Kind::Good).collect(), 10.0),
    ] {
        let run = |breaker: bool| {
            let mut world = World::new(kinds.clone());
            world.policy.rate = Some(RatePolicy::new(20, Duration::from_secs(1), 5));
            if !breaker {
                world.policy.breaker = None;
            }
            world.retry.attempts = 3;
            world.run(3600.0);
            (world.ended(is_good).unwrap(), world.ended(|_| true).unwrap())
        };
        let (with, without) = (run(true), run(false));
        assert!(with.0 < without.0 * most + 1.0, "{what}: good ones {with:?}, without a breaker {without:?}");
        assert!(with.1 < without.1 + 300.0, "{what}: all {with:?}, without a breaker {without:?}");
    }
}

/// A real outage costs rows their time and nothing else, and the API few calls.
#[test]
fn an_outage_fails_no_row_and_is_tried_with_few_calls() {
    for (api, rows) in [
        (Api::Down(0.0, 50.0), 25),
        (Api::Down(1.0, 50.0), 200),
        (Api::Down(1.0, 600.0), 5000),
        (Api::Away(0.0, 590.0), 25),
        (Api::Away(1.0, 590.0), 5000),
    ] {
        let mut world = World::new((0..rows).map(|_| Kind::Good));
        world.policy.rate = Some(RatePolicy::new(20, Duration::from_secs(1), 5));
        world.api = api;
        world.run(3600.0);
        let until = match api {
            Api::Down(_, until) | Api::Away(_, until) => until,
            _ => 0.0,
        };
        assert_eq!(world.failed_rows(), 0, "{api:?}, {rows} rows");
        let calls = world.called(10.0, until);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let most = (until / 10.0) as usize * 5 + 20;
        assert!(calls < most, "{api:?}, {rows} rows: {calls} calls");
        let done = world.ended(|_| true).unwrap();
        let needed = f64::from(rows) / 20.0;
        // Pauses of single rows have grown meanwhile.
        let slack = if until > 60.0 { 300.0 } else { 60.0 };
        assert!(done < until + needed + slack, "{api:?}, {rows} rows: done {} s later", done - until);
    }
}

/// An API that fails a large part of all calls, whichever rows they are for, is left alone for most of the time.
#[test]
fn a_share_of_failures_that_is_not_the_rows_own_opens_it() {
    for share in [0.7, 0.85] {
        let mut world = World::new((0..20_000).map(|_| Kind::Good));
        world.api = Api::Flaky(share);
        world.run(300.0);
        let calls = world.called(0.0, 300.0);
        assert!(calls < 300 * 50 * 6 / 10, "{share}: {calls} calls in five minutes");
    }
}

#[test]
fn a_clock_that_is_set_back_holds_up_nobody() {
    let mut world = World::new((0..200).map(|_| Kind::Good));
    world.run(3600.0);
    let hour = 3600.0 * SECOND;
    let ask = |token| Ask { cost: 1, token, lease_us: SECOND, lead_us: 0.0, past: Past::Clean };
    let policy = GatePolicy { concurrency: Some(1), ..world.policy };
    let mut gate = world.gate;
    let pause = Feedback { pause: Some(10.0 * SECOND), throttled: true, ..Feedback::default() };
    gate.report(&policy, world.now, 1, &pause);
    let back = world.now - hour;
    let Decision::Denied(denied) = acquire(&mut [(&mut gate, &policy)], back, &ask(2)) else { panic!() };
    assert!((denied.retry_after - 10.0 * SECOND).abs() < 1.0, "the pause is as long as it was: {denied:?}");
    let granted = acquire(&mut [(&mut gate, &policy)], back + 10.0 * SECOND, &ask(3));
    assert!(matches!(granted, Decision::Granted { .. }), "{granted:?}");
    assert_eq!(gate.snapshot(&policy, back + 10.1 * SECOND).in_flight, 1);
    // The slot of a call under way ends as it was to, and the rate goes on.
    let again = gate.snapshot(&policy, back - hour).free_in;
    assert!(again < Duration::from_secs(1), "{again:?}");
    let denied = acquire(&mut [(&mut gate, &policy)], back - hour, &ask(4));
    assert!(matches!(denied, Decision::Denied(Denied { reason: Reason::Concurrency, .. })), "{denied:?}");
    let granted = acquire(&mut [(&mut gate, &policy)], back - hour + 1.1 * SECOND, &ask(5));
    assert!(matches!(granted, Decision::Granted { .. }), "{granted:?}");
}

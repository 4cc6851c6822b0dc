//! Rows, workers that take them up, and the API, at moments of virtual time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use super::row::{Api, Event, Kind, Row};
use crate::cause::Cause;
use crate::limit::*;
use crate::outcome::code;
use crate::pipeline::{Breaker as BreakerPolicy, Retry};
use crate::retry::{self, Failed, Next};
use crate::row::{AttemptRecord, RowError};
use crate::time::Timestamp;

pub(super) const START: f64 = 1e15;
pub(super) const SECOND: f64 = 1e6;
pub(super) const STEP: &str = "s";

pub(super) struct World {
    pub(super) policy: LimitPolicy,
    pub(super) state: LimiterState,
    pub(super) retry: Retry,
    pub(super) api: Api,
    /// Runs of the dispatcher are this many seconds apart.
    pub(super) run_every: f64,
    /// How long a call takes, seconds.
    pub(super) latency: f64,
    pub(super) rows: Vec<Row>,
    pub(super) events: BinaryHeap<Reverse<(u64, usize, usize)>>,
    pub(super) kept: Vec<Event>,
    /// Rows that were never released: those from this number on.
    pub(super) fresh: usize,
    /// Rows that came back, by the time at which they may be released again.
    pub(super) returned: BinaryHeap<Reverse<(u64, usize)>>,
    /// Rows that are released or in flight, and how many there may be.
    pub(super) released: usize,
    pub(super) quota: usize,
    /// Rows that have not ended.
    pub(super) left: usize,
    /// Rows that wait in a worker's lane for the moment when the limiter admits a call.
    pub(super) lane: VecDeque<usize>,
    pub(super) held_until: f64,
    pub(super) in_flight: usize,
    pub(super) most_in_flight: usize,
    pub(super) calls: Vec<(f64, usize, bool)>,
    pub(super) rng: u64,
    pub(super) now: f64,
}

pub(super) fn timestamp(now: f64) -> Timestamp {
    #[allow(clippy::cast_possible_truncation)]
    Timestamp::from_millis((now / 1000.0) as i64)
}

impl World {
    pub(super) fn new(kinds: impl IntoIterator<Item = Kind>) -> Self {
        let row =
            |kind| Row { kind, error: None, attempts: 0, calls: 0, first_at: None, ended: None, done: false };
        let rate = RatePolicy::new(50, Duration::from_secs(1), 10);
        let breaker = Some(BreakerPolicy::default());
        Self {
            policy: LimitPolicy { rate: Some(rate), concurrency: None, breaker, cold_wait_us: 0.0 },
            state: LimiterState::default(),
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

    pub(super) fn unit(&mut self) -> f64 {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        #[allow(clippy::cast_precision_loss)]
        let unit = (self.rng >> 11) as f64 / (1_u64 << 53) as f64;
        unit
    }

    pub(super) fn at(&mut self, at: f64, row: usize, event: Event) {
        self.kept.push(event);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        self.events.push(Reverse(((at - START) as u64, self.kept.len() - 1, row)));
    }

    /// The row goes back, and may be released again from a moment on.
    pub(super) fn back(&mut self, not_before: f64, row: usize) {
        self.released -= 1;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        self.returned.push(Reverse(((not_before - START) as u64, row)));
    }

    /// The dispatcher releases what an owner's quota leaves: rows that came back first. They start over the time between two
    /// runs.
    pub(super) fn dispatch(&mut self) {
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
    pub(super) fn sweep(&mut self) {
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

    pub(super) fn has_run_out(&self, row: usize) -> bool {
        let series = self.rows[row].error.as_ref().and_then(|error| error.throttled);
        let series = series.filter(|series| series.times > 1);
        series.is_some_and(|series| timestamp(self.now).since(series.since) >= self.retry.throttled_for)
    }

    pub(super) fn seconds(&self) -> f64 {
        (self.now - START) / SECOND
    }

    /// Runs until everything has ended, or for this many seconds at most.
    pub(super) fn run(&mut self, most: f64) {
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

    pub(super) fn happens(&mut self, row: usize, event: Event) {
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
    pub(super) fn take_up(&mut self) {
        while self.in_flight < self.most_in_flight && !self.lane.is_empty() {
            if self.held_until > self.now {
                self.at(self.held_until + 1.0, 0, Event::Look);
                return;
            }
            // While the breaker is not closed, from anywhere in the lane.
            let probing = self.state.snapshot(&self.policy, self.now).breaker != BreakerState::Closed;
            let unit = if probing { self.unit() } else { 0.0 };
            #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let place = (unit * self.lane.len() as f64) as usize;
            let Some(row) = self.lane.swap_remove_front(place) else { return };
            let past = self.rows[row].past();
            let now = self.now;
            self.rows[row].first_at.get_or_insert(now);
            let ask = Ask {
                cost: 1,
                token: row as u64 + 1,
                lease_us: 15.0 * SECOND,
                lead_us: 0.0,
                past,
                patience_us: 0.0,
            };
            match acquire(&mut [(&mut self.state, &self.policy)], self.now, &ask) {
                Decision::Granted { wait, probe, .. } => {
                    self.in_flight += 1;
                    self.at(self.now + wait, row, Event::Sent(probe));
                }
                Decision::Unreserved { .. } => panic!("no limit by the calendar"),
                Decision::Denied(denied) if self.is_given_up(row, &denied) => self.end(row, false),
                Decision::Denied(denied) if denied.row_only => self.back(self.now + denied.retry_after, row),
                // Rows are taken up again when they may be given up: they do not wait for the limiter then.
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

    pub(super) fn is_given_up(&self, row: usize, denied: &Denied) -> bool {
        let waited = self.rows[row].first_at.map_or(0.0, |first| self.now - first);
        denied.refused_for.min(waited) >= micros(self.retry.throttled_for)
    }

    /// The API's answer: the status, and what it says about waiting.
    pub(super) fn answer(&mut self, row: usize) -> (u16, Option<f64>) {
        let (at, chance) = (self.seconds(), self.unit());
        let own = match self.rows[row].kind {
            Kind::Good => (200, None),
            Kind::Bad => (500, None),
            Kind::Refused(retry_after) => (429, retry_after),
            Kind::Waiting(retry_after) => (500, Some(retry_after)),
        };
        match self.api {
            Api::Down(from, until) if (from..until).contains(&at) => (500, None),
            Api::Away(from, until) if (from..until).contains(&at) => (0, None),
            Api::Quota(calls, until) if at < until && self.calls.len() >= calls as usize => (429, None),
            Api::Flaky(share) if chance < share => (500, None),
            _ => own,
        }
    }

    pub(super) fn answered(&mut self, row: usize, past: Past, probe: bool, left_at: f64) {
        let (status, retry_after) = self.answer(row);
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
            pause: retry_after.map(|retry_after| retry_after * SECOND),
            throttled: status == 429,
            probe,
            past,
            elapsed: self.now - left_at,
            cause: (status == 0).then_some(Cause::ConnectionRefused),
        };
        let own = self.state.report(&self.policy, self.now, row as u64 + 1, &feedback);
        match status {
            200 => self.end(row, true),
            429 => self.refused(row, now, retry_after, own),
            status => self.failed(row, now, status, probe),
        }
    }

    pub(super) fn end(&mut self, row: usize, done: bool) {
        self.released -= 1;
        self.left -= 1;
        self.rows[row].ended = Some(self.seconds());
        self.rows[row].done = done;
    }

    pub(super) fn refused(&mut self, row: usize, now: Timestamp, retry_after: Option<f64>, own: bool) {
        let before = self.rows[row].error.as_ref().and_then(|error| error.throttled);
        let series = retry::throttled(before, now, own);
        let retry_after = retry_after.map(|retry_after| now + Duration::from_secs_f64(retry_after));
        let until =
            retry::throttled_until(&series, now, retry_after).min(series.since + self.retry.throttled_for);
        let attempts = self.rows[row].error.take().map(|error| error.attempts).unwrap_or_default();
        self.rows[row].error = Some(RowError { throttled: Some(series), ..error(code::THROTTLED, attempts) });
        self.back(self.now + micros(until.since(now)), row);
    }

    pub(super) fn failed(&mut self, row: usize, now: Timestamp, status: u16, probe: bool) {
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
            api_code: None,
            http_status: (status > 0).then_some(status),
            probe: free,
            took_ms: None,
            look: false,
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
    pub(super) fn ended(&self, of: impl Fn(Kind) -> bool) -> Option<f64> {
        let rows = self.rows.iter().filter(|row| of(row.kind));
        rows.map(|row| row.ended).try_fold(0.0_f64, |last, ended| Some(last.max(ended?)))
    }

    pub(super) fn failed_rows(&self) -> usize {
        self.rows.iter().filter(|row| row.ended.is_some() && !row.done).count()
    }

    /// Calls between two moments.
    pub(super) fn called(&self, from: f64, until: f64) -> usize {
        self.calls.iter().filter(|(at, ..)| (from..until).contains(at)).count()
    }

    /// Calls that went well between two moments.
    pub(super) fn went_well(&self, from: f64, until: f64) -> usize {
        self.calls.iter().filter(|(at, _, good)| *good && (from..until).contains(at)).count()
    }
}

pub(super) fn error(code: &str, attempts: Vec<AttemptRecord>) -> RowError {
    RowError {
        code: code.to_owned(),
        step: Some(STEP.to_owned()),
        http_status: None,
        message: String::new(),
        sent: None,
        detail: None,
        attempts,
        throttled: None,
        series_clock: None,
        earlier_attempts: None,
        awaits_since: None,
        look: false,
    }
}

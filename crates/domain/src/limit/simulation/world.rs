//! Workers and the network between them, the limiter and the dependency.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::dependency::Dependency;
use crate::limit::*;

pub(super) const START: f64 = 1e15;
pub(super) const WORKERS: usize = 4;
pub(super) const ROWS_PER_WORKER: usize = 25;
/// How long a row that was requeued for a limit stays away at most, so that the backlog looks endless.
pub(super) const BACK_AFTER_US: f64 = 50_000.0;

/// See [`World::rests`].
pub(super) const EVERY_US: f64 = 10e6;

/// A small generator (xorshift): the seed is passed in, and a test repeats.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        f64::from(u32::try_from(self.0 >> 32).unwrap()) / f64::from(u32::MAX)
    }
}

/// A grant on its way to its call; times are the worker's.
#[derive(Clone, Copy)]
pub(super) struct Reserved {
    pub(super) moment: f64,
    pub(super) latest: f64,
    pub(super) probe: bool,
}

#[derive(Clone, Copy)]
pub(super) enum Event {
    /// A row wants to call.
    Ask,
    /// The question has come to the limiter.
    Asked {
        asked: f64,
        lead: Option<f64>,
    },
    /// Its answer has come back; without a decision it has the time only.
    Answered {
        asked: f64,
        server: f64,
        decision: Option<Decision>,
    },
    Confirm {
        reserved: Reserved,
    },
    ConfirmAsked {
        reserved: Reserved,
        asked: f64,
        lead: f64,
    },
    ConfirmAnswered {
        reserved: Reserved,
        asked: f64,
        server: f64,
        open: bool,
    },
    Leave {
        reserved: Reserved,
    },
    Arrive {
        probe: bool,
    },
    Answer {
        probe: bool,
        pause: Option<f64>,
    },
    Reported {
        feedback: Feedback,
    },
}

/// How far a worker is from the limiter: each way takes this long, and up to so much longer.
#[derive(Clone, Copy)]
pub(super) struct Way {
    pub(super) takes: f64,
    pub(super) jitter: f64,
    /// Its clock is ahead by so much at the start, and runs faster by this share.
    pub(super) ahead: f64,
    pub(super) drift: f64,
}

/// In the limiter's own process.
pub(super) const HERE: Way = Way { takes: 0.0, jitter: 0.0, ahead: 0.0, drift: 0.0 };

pub(super) struct World {
    pub(super) policy: LimitPolicy,
    pub(super) state: LimiterState,
    pub(super) dependency: Dependency,
    pub(super) rng: Rng,
    /// The network and the scheduler delay each call by up to so much.
    pub(super) jitter: f64,
    /// A worker is woken later than it wanted by up to so much.
    pub(super) woken_late: f64,
    pub(super) ways: [Way; WORKERS],
    pub(super) distances: [Distance; WORKERS],
    pub(super) events: BinaryHeap<Reverse<(u64, usize, usize)>>,
    pub(super) kept: Vec<Event>,
    /// Workers that were killed: what they do from then on does not happen.
    pub(super) killed: [f64; WORKERS],
    /// The limiter's state is lost at these moments.
    pub(super) losses: Vec<f64>,
    pub(super) granted: usize,
    /// Grants that could not be used in time.
    pub(super) late: usize,
    /// For this share of every ten seconds nobody asks, and the bucket fills.
    pub(super) rests: f64,
    /// Calls leave anywhere in their slack, and not at their moments.
    pub(super) dawdles: bool,
}

impl World {
    pub(super) fn new(policy: LimitPolicy, dependency: Dependency, jitter: f64) -> Self {
        Self {
            policy,
            state: LimiterState::default(),
            dependency,
            rng: Rng(42),
            jitter,
            woken_late: 0.0,
            ways: [HERE; WORKERS],
            distances: [Distance::default(); WORKERS],
            events: BinaryHeap::new(),
            kept: Vec::new(),
            killed: [f64::MAX; WORKERS],
            losses: Vec::new(),
            granted: 0,
            late: 0,
            rests: 0.0,
            dawdles: false,
        }
    }

    pub(super) fn at(&mut self, at: f64, row: usize, event: Event) {
        self.kept.push(event);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        self.events.push(Reverse(((at * 8.0) as u64, self.kept.len() - 1, row)));
    }

    pub(super) fn run(&mut self, seconds: f64) {
        for row in 0..WORKERS * ROWS_PER_WORKER {
            let at = START + self.rng.unit() * 1000.0;
            self.at(at, row, Event::Ask);
        }
        while let Some(Reverse((at, event, row))) = self.events.pop() {
            #[allow(clippy::cast_precision_loss)]
            let now = at as f64 / 8.0;
            if now > START + seconds * 1e6 {
                break;
            }
            if self.losses.first().is_some_and(|loss| *loss <= now) {
                self.losses.remove(0);
                self.state = LimiterState::default();
            }
            let event = self.kept[event];
            let under_way = matches!(
                event,
                Event::Arrive { .. }
                    | Event::Asked { .. }
                    | Event::ConfirmAsked { .. }
                    | Event::Reported { .. }
            );
            if now >= self.killed[row % WORKERS] && !under_way {
                continue;
            }
            self.happens(now, row, event);
        }
    }

    /// What a worker's clock shows.
    pub(super) fn shown(&self, row: usize, now: f64) -> f64 {
        let way = self.ways[row % WORKERS];
        START + (now - START) * (1.0 + way.drift) + way.ahead
    }

    /// When a worker is awake that wants to be at a time of its clock.
    pub(super) fn awake(&mut self, row: usize, now: f64, shown: f64) -> f64 {
        let way = self.ways[row % WORKERS];
        let at = START + (shown - START - way.ahead) / (1.0 + way.drift);
        if at <= now { now } else { at + self.woken_late * self.rng.unit() }
    }

    pub(super) fn arrival(&mut self, row: usize, now: f64) -> f64 {
        let way = self.ways[row % WORKERS];
        now + way.takes + way.jitter * self.rng.unit()
    }

    pub(super) fn leaves(&mut self, now: f64, row: usize, reserved: Reserved) {
        let at = self.awake(row, now, reserved.moment);
        self.at(at, row, Event::Leave { reserved });
    }

    pub(super) fn happens(&mut self, now: f64, row: usize, event: Event) {
        let shown = self.shown(row, now);
        let distance = self.distances[row % WORKERS];
        match event {
            Event::Ask if (now - START) % EVERY_US < self.rests * EVERY_US => {
                let rest = self.rests * EVERY_US - (now - START) % EVERY_US;
                let at = now + rest + 1000.0 * self.rng.unit();
                self.at(at, row, Event::Ask);
            }
            Event::Ask => {
                let known = self.ways[row % WORKERS].takes == 0.0 || distance.is_known();
                let lead = known.then(|| distance.lead().answer_us);
                let at = self.arrival(row, now);
                self.at(at, row, Event::Asked { asked: shown, lead });
            }
            Event::Asked { asked, lead } => {
                let decision =
                    lead.map(|lead| acquire(&mut [(&mut self.state, &self.policy)], now, &ask(row, lead)));
                self.granted += usize::from(matches!(decision, Some(Decision::Granted { .. })));
                let at = self.arrival(row, now);
                self.at(at, row, Event::Answered { asked, server: now, decision });
            }
            Event::Answered { asked, server, decision } => {
                let distance = self.observed(row, asked, server, shown);
                self.answered(now, row, server, decision, distance);
            }
            Event::Confirm { reserved } => {
                let at = self.arrival(row, now);
                let lead = distance.lead().round_trip_us;
                self.at(at, row, Event::ConfirmAsked { reserved, asked: shown, lead });
            }
            Event::ConfirmAsked { reserved, asked, lead } => {
                let open = confirm(&mut [(&mut self.state, &self.policy)], now, &ask(row, lead)).is_ok();
                let at = self.arrival(row, now);
                self.at(at, row, Event::ConfirmAnswered { reserved, asked, server: now, open });
            }
            Event::ConfirmAnswered { reserved, asked, server, open } => {
                self.observed(row, asked, server, shown);
                if open {
                    self.leaves(now, row, reserved);
                } else {
                    self.at(now + 1000.0, row, Event::Ask);
                }
            }
            Event::Leave { reserved } => self.sends(now, row, shown, reserved),
            Event::Arrive { probe } => {
                let pause = self.dependency.arrives(now);
                self.at(now + 300.0, row, Event::Answer { probe, pause });
            }
            Event::Answer { probe, pause } => self.api_answered(now, row, probe, pause),
            Event::Reported { feedback } => {
                self.state.report(&self.policy, now, row as u64, &feedback);
            }
        }
    }

    /// A call is sent, if that is not too late.
    fn sends(&mut self, now: f64, row: usize, shown: f64, reserved: Reserved) {
        if shown > reserved.latest {
            self.late += 1;
            self.at(now + 1000.0, row, Event::Ask);
        } else {
            let delay = 300.0 + self.jitter * self.rng.unit();
            self.at(now + delay, row, Event::Arrive { probe: reserved.probe });
        }
    }

    /// The limiter's answer has come back: the row waits for its moment, or asks again.
    fn answered(
        &mut self,
        now: f64,
        row: usize,
        server: f64,
        decision: Option<Decision>,
        distance: Distance,
    ) {
        match decision {
            None => self.at(now, row, Event::Ask),
            Some(Decision::Granted { wait, slack, probe, confirm }) => {
                let dawdled = if self.dawdles { slack * self.rng.unit() } else { 0.0 };
                let (wait, slack) = (wait + dawdled, slack - dawdled);
                let moment = distance.here(server + wait);
                let reserved = Reserved { moment, latest: moment + slack + rate::LATE_US, probe };
                if confirm {
                    let at = self.awake(row, now, moment - distance.lead().round_trip_us);
                    self.at(at, row, Event::Confirm { reserved });
                } else {
                    self.leaves(now, row, reserved);
                }
            }
            Some(Decision::Unreserved { .. }) => panic!("no limit by the calendar"),
            Some(Decision::Denied(denied)) => {
                let back = denied.retry_after.min(BACK_AFTER_US) + 1.0 + 1000.0 * self.rng.unit();
                self.at(now + back, row, Event::Ask);
            }
        }
    }

    /// The API's answer has come: it is reported, and the row's next call is asked for.
    fn api_answered(&mut self, now: f64, row: usize, probe: bool, pause: Option<f64>) {
        let healthy = if pause.is_some() { None } else { Some(true) };
        let elapsed = 600.0;
        let feedback =
            Feedback { healthy, pause, throttled: pause.is_some(), probe, elapsed, ..Feedback::default() };
        let at = self.arrival(row, now);
        self.at(at, row, Event::Reported { feedback });
        self.at(now + 100.0, row, Event::Ask);
    }

    pub(super) fn observed(&mut self, row: usize, asked: f64, server: f64, answered: f64) -> Distance {
        let distance = &mut self.distances[row % WORKERS];
        if self.ways[row % WORKERS].takes > 0.0 {
            distance.observed(asked, server, answered);
        }
        *distance
    }

    pub(super) fn accepted_share(&self, per_second: f64, seconds: f64) -> f64 {
        let accepted = self.dependency.arrivals.len() - self.dependency.refused;
        f64::from(u32::try_from(accepted).unwrap()) / (per_second * seconds)
    }
}

/// What a row asks the limiter for, when its call would take so long to arrive.
fn ask(row: usize, lead_us: f64) -> Ask {
    Ask { cost: 1, token: row as u64, lease_us: 10e6, lead_us, past: Past::Clean, patience_us: 0.0 }
}

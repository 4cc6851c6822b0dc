//! Workers, a network that delays, and a dependency that counts what arrives: the promise judged where it matters, in
//! virtual time. Rows without end ask for calls; each waits for its moment, asks again, is sent, arrives, is answered.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::*;

const START: f64 = 1e15;
const WORKERS: usize = 4;
const ROWS_PER_WORKER: usize = 25;
/// How long a row that was given back for a limit stays away at most, so that the backlog looks endless.
const BACK_AFTER_US: f64 = 50_000.0;

/// See [`World::rests`].
const EVERY_US: f64 = 10e6;

/// A small generator (xorshift): id_generator is passed in, and a test repeats.
struct Rng(u64);

impl Rng {
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        f64::from(u32::try_from(self.0 >> 32).unwrap()) / f64::from(u32::MAX)
    }
}

/// The largest excess of calls over burst + rate·t in any window: the highest level of the leaky bucket that the calls
/// would fill, less its burst (the two readings of GCRA, as a virtual schedule and as a bucket, are the same one).
fn excess(times: &[f64], per_second: f64, burst: f64) -> f64 {
    let (mut level, mut last, mut worst) = (0.0_f64, 0.0, f64::MIN);
    for at in times {
        level = (level - (at - last) * per_second / 1e6).max(0.0) + 1.0;
        last = *at;
        worst = worst.max(level - burst);
    }
    worst
}

/// The same, by looking at every window.
fn excess_by_all_windows(times: &[f64], per_second: f64, burst: f64) -> f64 {
    let mut worst = f64::MIN;
    for (first, from) in times.iter().enumerate() {
        for (more, until) in times[first..].iter().enumerate() {
            let calls = f64::from(u32::try_from(more + 1).unwrap());
            worst = worst.max(calls - burst - (until - from) * per_second / 1e6);
        }
    }
    worst
}

/// The dependency: counts exactly, by its own limit.
struct Dependency {
    interval: f64,
    tolerance: f64,
    tat: f64,
    paused_until: f64,
    arrivals: Vec<f64>,
    refused: usize,
    /// Calls that came although they had been asked to stay away.
    in_pause: usize,
}

impl Dependency {
    fn new(per_second: f64, burst: f64) -> Self {
        let interval = 1e6 / per_second;
        let tolerance = burst * interval;
        Self {
            interval,
            tolerance,
            tat: 0.0,
            paused_until: 0.0,
            arrivals: Vec::new(),
            refused: 0,
            in_pause: 0,
        }
    }

    /// None: accepted; else how many microseconds to wait, in whole seconds.
    fn arrives(&mut self, at: f64) -> Option<f64> {
        self.arrivals.push(at);
        let tat = self.tat.max(at) + self.interval;
        if tat - self.tolerance <= at + 1e-3 {
            self.tat = tat;
            return None;
        }
        self.refused += 1;
        self.in_pause += usize::from(at < self.paused_until);
        let wait = ((tat - self.tolerance - at) / 1e6).ceil() * 1e6;
        self.paused_until = self.paused_until.max(at + wait);
        Some(wait)
    }
}

/// A grant on its way to its call; times are the worker's.
#[derive(Clone, Copy)]
struct Reserved {
    moment: f64,
    latest: f64,
    probe: bool,
}

#[derive(Clone, Copy)]
enum Event {
    /// A row wants to call.
    Ask,
    /// The question has come to the limiter.
    Asked {
        asked: f64,
        lead: Option<f64>,
    },
    /// Its answer has come back; without a decision it told the time only.
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

/// How far a worker is from the limiter: each way takes so long, and up to so much longer.
#[derive(Clone, Copy)]
struct Way {
    takes: f64,
    jitter: f64,
    /// Its clock is ahead by so much at the start, and runs faster by this share.
    ahead: f64,
    drift: f64,
}

/// In the limiter's own process.
const HERE: Way = Way { takes: 0.0, jitter: 0.0, ahead: 0.0, drift: 0.0 };

struct World {
    policy: GatePolicy,
    gate: Gate,
    dependency: Dependency,
    rng: Rng,
    /// The network and the scheduler delay each call by up to so much.
    jitter: f64,
    /// A worker is woken later than it wanted by up to so much.
    woken_late: f64,
    ways: [Way; WORKERS],
    distances: [Distance; WORKERS],
    events: BinaryHeap<Reverse<(u64, usize, usize)>>,
    kept: Vec<Event>,
    /// Workers that were killed: what they do from then on does not happen.
    killed: [f64; WORKERS],
    /// The limiter's state is lost at these moments.
    losses: Vec<f64>,
    granted: usize,
    /// Grants that could not be used in time.
    late: usize,
    /// For this share of every ten seconds nobody asks, and the bucket fills.
    rests: f64,
    /// Calls leave anywhere in their slack, and not at their moments.
    dawdles: bool,
}

impl World {
    fn new(policy: GatePolicy, dependency: Dependency, jitter: f64) -> Self {
        Self {
            policy,
            gate: Gate::default(),
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

    fn at(&mut self, at: f64, row: usize, event: Event) {
        self.kept.push(event);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        self.events.push(Reverse(((at * 8.0) as u64, self.kept.len() - 1, row)));
    }

    fn run(&mut self, seconds: f64) {
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
                self.gate = Gate::default();
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
    fn shown(&self, row: usize, now: f64) -> f64 {
        let way = self.ways[row % WORKERS];
        START + (now - START) * (1.0 + way.drift) + way.ahead
    }

    /// When a worker is awake that wants to be at a time of its clock.
    fn awake(&mut self, row: usize, now: f64, shown: f64) -> f64 {
        let way = self.ways[row % WORKERS];
        let at = START + (shown - START - way.ahead) / (1.0 + way.drift);
        if at <= now { now } else { at + self.woken_late * self.rng.unit() }
    }

    fn arrival(&mut self, row: usize, now: f64) -> f64 {
        let way = self.ways[row % WORKERS];
        now + way.takes + way.jitter * self.rng.unit()
    }

    fn leaves(&mut self, now: f64, row: usize, reserved: Reserved) {
        let at = self.awake(row, now, reserved.moment);
        self.at(at, row, Event::Leave { reserved });
    }

    fn happens(&mut self, now: f64, row: usize, event: Event) {
        let shown = self.shown(row, now);
        let distance = self.distances[row % WORKERS];
        let ask =
            |lead_us: f64| Ask { cost: 1, token: row as u64, lease_us: 10e6, lead_us, past: Past::Clean };
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
                    lead.map(|lead| acquire(&mut [(&mut self.gate, &self.policy)], now, &ask(lead)));
                self.granted += usize::from(matches!(decision, Some(Decision::Granted { .. })));
                let at = self.arrival(row, now);
                self.at(at, row, Event::Answered { asked, server: now, decision });
            }
            Event::Answered { asked, server, decision } => {
                let distance = self.heard(row, asked, server, shown);
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
                    Some(Decision::Denied(denied)) => {
                        let back = denied.retry_after.min(BACK_AFTER_US) + 1.0 + 1000.0 * self.rng.unit();
                        self.at(now + back, row, Event::Ask);
                    }
                }
            }
            Event::Confirm { reserved } => {
                let at = self.arrival(row, now);
                let lead = distance.lead().round_trip_us;
                self.at(at, row, Event::ConfirmAsked { reserved, asked: shown, lead });
            }
            Event::ConfirmAsked { reserved, asked, lead } => {
                let open = confirm(&mut [(&mut self.gate, &self.policy)], now, &ask(lead)).is_ok();
                let at = self.arrival(row, now);
                self.at(at, row, Event::ConfirmAnswered { reserved, asked, server: now, open });
            }
            Event::ConfirmAnswered { reserved, asked, server, open } => {
                self.heard(row, asked, server, shown);
                if open {
                    self.leaves(now, row, reserved);
                } else {
                    self.at(now + 1000.0, row, Event::Ask);
                }
            }
            Event::Leave { reserved } => {
                if shown > reserved.latest {
                    self.late += 1;
                    self.at(now + 1000.0, row, Event::Ask);
                } else {
                    let delay = 300.0 + self.jitter * self.rng.unit();
                    self.at(now + delay, row, Event::Arrive { probe: reserved.probe });
                }
            }
            Event::Arrive { probe } => {
                let pause = self.dependency.arrives(now);
                self.at(now + 300.0, row, Event::Answer { probe, pause });
            }
            Event::Answer { probe, pause } => {
                let healthy = if pause.is_some() { None } else { Some(true) };
                let elapsed = 600.0;
                let feedback = Feedback {
                    healthy,
                    pause,
                    throttled: pause.is_some(),
                    probe,
                    elapsed,
                    ..Feedback::default()
                };
                let at = self.arrival(row, now);
                self.at(at, row, Event::Reported { feedback });
                self.at(now + 100.0, row, Event::Ask);
            }
            Event::Reported { feedback } => {
                self.gate.report(&self.policy, now, row as u64, &feedback);
            }
        }
    }

    fn heard(&mut self, row: usize, asked: f64, server: f64, answered: f64) -> Distance {
        let distance = &mut self.distances[row % WORKERS];
        if self.ways[row % WORKERS].takes > 0.0 {
            distance.heard(asked, server, answered);
        }
        *distance
    }

    fn accepted_share(&self, per_second: f64, seconds: f64) -> f64 {
        let accepted = self.dependency.arrivals.len() - self.dependency.refused;
        f64::from(u32::try_from(accepted).unwrap()) / (per_second * seconds)
    }
}

fn policy(limit: u32, burst: u32) -> GatePolicy {
    let rate = RatePolicy::new(limit, Duration::from_secs(1), burst);
    GatePolicy { rate: Some(rate), concurrency: None, breaker: None, cold_wait_us: 0.0 }
}

#[test]
fn the_judge_sees_what_all_windows_show() {
    let mut rng = Rng(7);
    for _ in 0..50 {
        let mut times: Vec<f64> = (0..60).map(|_| rng.unit() * 3e6).collect();
        times.sort_by(f64::total_cmp);
        let (fast, slow) = (excess(&times, 15.0, 4.0), excess_by_all_windows(&times, 15.0, 4.0));
        assert!((fast - slow).abs() < 1e-6, "{fast} {slow}");
    }
}

#[test]
fn what_arrives_never_exceeds_the_limit_and_little_is_wasted() {
    for (limit, burst) in [(200, 10), (200, 5), (20, 5), (1000, 50), (50, 2), (10, 10)] {
        let dependency = Dependency::new(f64::from(limit), f64::from(burst));
        let mut world = World::new(policy(limit, burst), dependency, 20_000.0);
        world.run(600.0);
        let worst = excess(&world.dependency.arrivals, f64::from(limit), f64::from(burst));
        assert!(worst <= 1e-6, "{limit}/s, burst {burst}: {worst} too many");
        assert_eq!(world.dependency.refused, 0);
        let share = world.accepted_share(f64::from(limit), 600.0);
        assert!(share > 0.98, "{limit}/s, burst {burst}: only {share} used");
    }
}

/// Workers at any distance from the limiter, whose clocks differ and run apart: what arrives keeps to the limit, and next
/// to no grant is wasted.
#[test]
fn a_far_limiter_is_as_exact_and_as_quick() {
    let way = |takes: f64, jitter: f64| Way { takes, jitter, ..HERE };
    let mixed = [
        way(200.0, 300.0),
        Way { ahead: -3e6, drift: 100e-6, ..way(10e3, 5e3) },
        Way { ahead: 7e9, drift: -50e-6, ..way(50e3, 30e3) },
        Way { ahead: 40e3, drift: 200e-6, ..way(100e3, 10e3) },
    ];
    for (limit, burst) in [(200, 10), (200, 5), (20, 5), (50, 2), (10, 10)] {
        for (kind, ways) in [
            ("100 ms", [way(100e3, 0.0); WORKERS]),
            ("0 to 30 ms", [way(1.0, 30e3); WORKERS]),
            ("100 to 130 ms", [way(100e3, 30e3); WORKERS]),
            ("all kinds", mixed),
        ] {
            for rests in [0.0, 0.3] {
                let dependency = Dependency::new(f64::from(limit), f64::from(burst));
                let mut world = World::new(policy(limit, burst), dependency, 5_000.0);
                (world.ways, world.woken_late, world.rests) = (ways, 2_000.0, rests);
                world.run(60.0);
                let told = format!("{limit}/s, burst {burst}, each way {kind}, rests {rests}");
                let worst = excess(&world.dependency.arrivals, f64::from(limit), f64::from(burst));
                assert!(worst <= 1e-6, "{told}: {worst} too many");
                assert_eq!(world.dependency.refused, 0, "{told}");
                let share = world.accepted_share(f64::from(limit), 60.0) / (1.0 - rests);
                assert!(share > 0.97, "{told}: only {share} used");
                assert!(world.late * 50 < world.granted, "{told}: {} of {} late", world.late, world.granted);
            }
        }
    }
}

#[test]
fn slack_may_be_used_up_at_will() {
    for (limit, burst) in [(200, 10), (200, 40), (20, 5), (50, 2), (10, 10)] {
        let dependency = Dependency::new(f64::from(limit), f64::from(burst));
        let mut world = World::new(policy(limit, burst), dependency, 20_000.0);
        (world.dawdles, world.rests) = (true, 0.3);
        world.run(300.0);
        let worst = excess(&world.dependency.arrivals, f64::from(limit), f64::from(burst));
        assert!(worst <= 1e-6, "{limit}/s, burst {burst}: {worst} too many");
        assert_eq!(world.dependency.refused, 0);
        let share = world.accepted_share(f64::from(limit), 300.0) / 0.7;
        assert!(share > 0.97, "{limit}/s, burst {burst}: only {share} used");
    }
}

/// A burst of one leaves no room for delays that differ. What leaves keeps to the limit all the same, and of what
/// arrives no more than a call is too early.
#[test]
fn without_a_burst_the_delay_is_all_that_is_passed() {
    let mut world = World::new(policy(50, 1), Dependency::new(1e6, 1e6), 20_000.0);
    world.run(600.0);
    assert!(excess(&world.dependency.arrivals, 50.0, 1.0) <= 1.0);
    assert!(world.accepted_share(50.0, 600.0) > 0.98);
    let mut world = World::new(policy(50, 1), Dependency::new(1e6, 1e6), 0.0);
    world.run(600.0);
    assert!(excess(&world.dependency.arrivals, 50.0, 1.0) <= 1e-6);
}

#[test]
fn a_killed_worker_and_a_lost_state_break_no_promise() {
    let mut world = World::new(policy(200, 10), Dependency::new(200.0, 10.0), 20_000.0);
    world.policy.cold_wait_us = MAX_WAIT_US;
    world.killed[2] = START + 100e6;
    world.losses = (1..6).map(|minute| START + f64::from(minute) * 97e6).collect();
    world.run(600.0);
    let worst = excess(&world.dependency.arrivals, 200.0, 10.0);
    assert!(worst <= 1e-6, "{worst} too many");
    assert_eq!(world.dependency.refused, 0);
    let share = world.accepted_share(200.0, 600.0);
    assert!(share > 0.98, "only {share} used");
}

#[test]
fn a_lower_true_limit_is_found_and_used() {
    for (true_limit, burst) in [(150.0, 10.0), (100.0, 5.0), (190.0, 10.0), (50.0, 10.0)] {
        let mut world = World::new(policy(200, 10), Dependency::new(true_limit, burst), 2_000.0);
        world.run(600.0);
        let refusals = world.dependency.refused - world.dependency.in_pause;
        assert!(
            world.dependency.in_pause <= refusals * WORKERS,
            "{true_limit}/s: {} calls in {refusals} pauses",
            world.dependency.in_pause
        );
        let share = world.accepted_share(true_limit, 600.0);
        assert!(share > 0.9, "{true_limit}/s: only {share} used");
    }
}

#[test]
fn calls_under_way_never_pass_their_limit_and_waiting_holds_no_slot() {
    let slow = GatePolicy { concurrency: Some(3), ..policy(50, 5) };
    let mut gate = Gate::default();
    let ask = |token: u64| Ask { cost: 1, token, lease_us: 10e6, lead_us: 0.0, past: Past::Clean };
    let mut now = START;
    // Reservations far ahead: none of them has a slot.
    let mut waiting = Vec::new();
    for token in 0..20 {
        match acquire(&mut [(&mut gate, &slow)], now, &ask(token)) {
            Decision::Granted { wait, .. } => waiting.push((token, now + wait)),
            Decision::Denied(denied) => panic!("{denied:?}"),
        }
    }
    assert!(gate.snapshot(&slow, now).in_flight < 3, "who waits holds nothing");
    let mut refused = 0;
    for (token, at) in waiting {
        now = at;
        refused += usize::from(confirm(&mut [(&mut gate, &slow)], now, &ask(token)).is_err());
        assert!(gate.snapshot(&slow, now).in_flight <= 3);
    }
    assert_eq!(refused, 17);
}

#[test]
fn all_gates_or_none() {
    let open = policy(100, 10);
    let shut = GatePolicy { rate: None, concurrency: Some(0), breaker: None, cold_wait_us: 0.0 };
    let (mut a, mut b) = (Gate::default(), Gate::default());
    let ask = Ask { cost: 1, token: 1, lease_us: 1e6, lead_us: 0.0, past: Past::Clean };
    assert!(matches!(acquire(&mut [(&mut a, &open)], START, &ask), Decision::Granted { .. }));
    let before = a.clone();
    let denied = acquire(&mut [(&mut a, &open), (&mut b, &shut)], START, &ask);
    assert!(matches!(denied, Decision::Denied(Denied { reason: Reason::Concurrency, .. })), "{denied:?}");
    assert_eq!(a, before, "nothing was taken");
}

#[test]
fn an_owners_own_rate_is_named_as_such() {
    let (wide, narrow) = (GatePolicy { rate: None, ..policy(1, 1) }, policy(1, 1));
    let (mut dependency, mut owner) = (Gate::default(), Gate::default());
    let ask = Ask { cost: 1, token: 1, lease_us: 1e6, lead_us: 0.0, past: Past::Clean };
    let reasons: Vec<_> = (0..3)
        .filter_map(|_| match acquire(&mut [(&mut dependency, &wide), (&mut owner, &narrow)], START, &ask) {
            Decision::Granted { .. } => None,
            Decision::Denied(denied) => Some(denied.reason),
        })
        .collect();
    assert!(!reasons.is_empty() && reasons.iter().all(|reason| *reason == Reason::OwnerRate), "{reasons:?}");
}

#[test]
fn a_pause_holds_everybody_never_shrinks_and_ends_without_a_burst() {
    let policy = policy(100, 10);
    let mut gate = Gate::default();
    let word = |pause: f64| Feedback { pause: Some(pause), throttled: true, ..Feedback::default() };
    let ask = Ask { cost: 1, token: 1, lease_us: 1e6, lead_us: 0.0, past: Past::Clean };
    gate.report(&policy, START, 1, &word(5e6));
    gate.report(&policy, START, 1, &word(1e6));
    let denied = acquire(&mut [(&mut gate, &policy)], START + 2e6, &ask);
    assert_eq!(denied, Decision::Denied(Denied::new(3e6, Reason::Paused)));
    assert_eq!(confirm(&mut [(&mut gate, &policy)], START + 2e6, &ask).unwrap_err().reason, Reason::Paused);
    let mut waits = (0..3).map(|_| acquire(&mut [(&mut gate, &policy)], START + 5e6, &ask));
    let waits: Vec<f64> = waits
        .by_ref()
        .map(|decision| match decision {
            Decision::Granted { wait, .. } => wait,
            Decision::Denied(denied) => panic!("{denied:?}"),
        })
        .collect();
    assert!(waits[0] < 1.0 && waits[1] > 9_000.0 && waits[2] > 19_000.0, "{waits:?}");
}

#[test]
fn a_dear_call_is_granted_in_the_end_even_from_an_unknown_state() {
    let policy = GatePolicy { cold_wait_us: MAX_WAIT_US, ..policy(10, 10) };
    let mut gate = Gate::default();
    let ask = Ask { cost: 10, token: 1, lease_us: 1e6, lead_us: 0.0, past: Past::Clean };
    let mut now = START;
    for _ in 0..3 {
        match acquire(&mut [(&mut gate, &policy)], now, &ask) {
            Decision::Granted { .. } => return,
            Decision::Denied(denied) => now += denied.retry_after,
        }
    }
    panic!("never granted");
}

/// Calls that were under way when the state was lost are told again while the gate is cold.
#[test]
fn slots_are_not_given_away_before_those_that_were_taken_are_known() {
    let policy = GatePolicy { rate: None, concurrency: Some(2), breaker: None, cold_wait_us: MAX_WAIT_US };
    let mut gate = Gate::default();
    let ask = |token: u64| Ask { cost: 1, token, lease_us: 10e6, lead_us: 0.0, past: Past::Clean };
    for token in [1, 2] {
        let decision = acquire(&mut [(&mut gate, &policy)], START, &ask(token));
        let Decision::Granted { wait, confirm: true, .. } = decision else { panic!("{decision:?}") };
        assert!((wait - MAX_WAIT_US).abs() < 1.0, "{wait}");
    }
    let early = confirm(&mut [(&mut gate, &policy)], START + 0.9e6, &ask(1)).unwrap_err();
    assert_eq!(early.reason, Reason::Concurrency);
    assert!((early.retry_after - 0.1e6).abs() < 1.0, "{early:?}");
    let far = Ask { lead_us: 0.1e6, ..ask(1) };
    assert!(confirm(&mut [(&mut gate, &policy)], START + 0.9e6, &far).is_ok(), "the call leaves later");
    // One that was under way at the loss is told again.
    gate.take_slot(&policy, START + 0.3e6, &ask(7));
    assert!(confirm(&mut [(&mut gate, &policy)], START + 1e6, &ask(2)).is_err(), "both are taken");
    gate.report(&policy, START + 2e6, 7, &Feedback::default());
    let decision = acquire(&mut [(&mut gate, &policy)], START + 2e6, &ask(3));
    assert!(matches!(decision, Decision::Granted { confirm: false, .. }), "{decision:?}");
}

#[test]
fn slots_of_a_crashed_worker_come_back() {
    let policy = GatePolicy { rate: None, concurrency: Some(2), breaker: None, cold_wait_us: 0.0 };
    let mut gate = Gate::default();
    let mut ask = |token: u64, now: f64| {
        acquire(
            &mut [(&mut gate, &policy)],
            now,
            &Ask { cost: 1, token, lease_us: 1e6, lead_us: 0.0, past: Past::Clean },
        )
    };
    for token in [1, 2] {
        assert!(matches!(ask(token, START), Decision::Granted { .. }));
    }
    assert!(matches!(ask(3, START), Decision::Denied(Denied { reason: Reason::Concurrency, .. })));
    assert!(matches!(ask(4, START + 2e6), Decision::Granted { .. }));
}

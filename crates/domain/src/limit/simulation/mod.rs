//! Workers, a network that delays, and a dependency that counts what arrives: the promise judged where it matters, in
//! virtual time. Rows without end ask for calls; each waits for its moment, asks again, is sent, arrives, is answered.

mod dependency;
mod world;

use std::time::Duration;

use self::dependency::{Dependency, excess, excess_by_all_windows};
use self::world::{HERE, Rng, START, WORKERS, Way, World};
use super::*;

fn policy(limit: u32, burst: u32) -> LimitPolicy {
    let rate = RatePolicy::new(limit, Duration::from_secs(1), burst);
    LimitPolicy { rate: Some(rate), concurrency: None, breaker: None, cold_wait_us: 0.0 }
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
                let case = format!("{limit}/s, burst {burst}, each way {kind}, rests {rests}");
                let worst = excess(&world.dependency.arrivals, f64::from(limit), f64::from(burst));
                assert!(worst <= 1e-6, "{case}: {worst} too many");
                assert_eq!(world.dependency.refused, 0, "{case}");
                let share = world.accepted_share(f64::from(limit), 60.0) / (1.0 - rests);
                assert!(share > 0.97, "{case}: only {share} used");
                assert!(world.late * 50 < world.granted, "{case}: {} of {} late", world.late, world.granted);
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
    let slow = LimitPolicy { concurrency: Some(3), ..policy(50, 5) };
    let mut state = LimiterState::default();
    let ask = |token: u64| Ask {
        cost: 1,
        token,
        lease_us: 10e6,
        lead_us: 0.0,
        past: Past::Clean,
        patience_us: 0.0,
    };
    let mut now = START;
    // Reservations far ahead: none of them has a slot.
    let mut waiting = Vec::new();
    for token in 0..20 {
        match acquire(&mut [(&mut state, &slow)], now, &ask(token)) {
            Decision::Granted { wait, .. } => waiting.push((token, now + wait)),
            other => panic!("{other:?}"),
        }
    }
    assert!(state.snapshot(&slow, now).in_flight < 3, "who waits holds nothing");
    let mut refused = 0;
    for (token, at) in waiting {
        now = at;
        refused += usize::from(confirm(&mut [(&mut state, &slow)], now, &ask(token)).is_err());
        assert!(state.snapshot(&slow, now).in_flight <= 3);
    }
    assert_eq!(refused, 17);
}

#[test]
fn all_gates_or_none() {
    let open = policy(100, 10);
    let shut = LimitPolicy { rate: None, concurrency: Some(0), breaker: None, cold_wait_us: 0.0 };
    let (mut a, mut b) = (LimiterState::default(), LimiterState::default());
    let ask = Ask { cost: 1, token: 1, lease_us: 1e6, lead_us: 0.0, past: Past::Clean, patience_us: 0.0 };
    assert!(matches!(acquire(&mut [(&mut a, &open)], START, &ask), Decision::Granted { .. }));
    let before = a.clone();
    let denied = acquire(&mut [(&mut a, &open), (&mut b, &shut)], START, &ask);
    assert!(matches!(denied, Decision::Denied(Denied { reason: Reason::Concurrency, .. })), "{denied:?}");
    assert_eq!(a, before, "nothing was taken");
}

#[test]
fn an_owners_own_rate_is_named_as_such() {
    let (wide, narrow) = (LimitPolicy { rate: None, ..policy(1, 1) }, policy(1, 1));
    let (mut dependency, mut owner) = (LimiterState::default(), LimiterState::default());
    let ask = Ask { cost: 1, token: 1, lease_us: 1e6, lead_us: 0.0, past: Past::Clean, patience_us: 0.0 };
    let reasons: Vec<_> = (0..3)
        .filter_map(|_| match acquire(&mut [(&mut dependency, &wide), (&mut owner, &narrow)], START, &ask) {
            Decision::Granted { .. } => None,
            Decision::Denied(denied) => Some(denied.reason),
            other @ Decision::Unreserved { .. } => panic!("{other:?}"),
        })
        .collect();
    assert!(!reasons.is_empty() && reasons.iter().all(|reason| *reason == Reason::OwnerRate), "{reasons:?}");
}

#[test]
fn a_pause_holds_everybody_never_shrinks_and_ends_without_a_burst() {
    let policy = policy(100, 10);
    let mut state = LimiterState::default();
    let word = |pause: f64| Feedback { pause: Some(pause), throttled: true, ..Feedback::default() };
    let ask = Ask { cost: 1, token: 1, lease_us: 1e6, lead_us: 0.0, past: Past::Clean, patience_us: 0.0 };
    state.report(&policy, START, 1, &word(5e6));
    state.report(&policy, START, 1, &word(1e6));
    let denied = acquire(&mut [(&mut state, &policy)], START + 2e6, &ask);
    assert_eq!(denied, Decision::Denied(Denied::new(3e6, Reason::Paused)));
    assert_eq!(confirm(&mut [(&mut state, &policy)], START + 2e6, &ask).unwrap_err().reason, Reason::Paused);
    let mut waits = (0..3).map(|_| acquire(&mut [(&mut state, &policy)], START + 5e6, &ask));
    let waits: Vec<f64> = waits
        .by_ref()
        .map(|decision| match decision {
            Decision::Granted { wait, .. } => wait,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(waits[0] < 1.0 && waits[1] > 9_000.0 && waits[2] > 19_000.0, "{waits:?}");
}

#[test]
fn a_dear_call_is_granted_in_the_end_even_from_an_unknown_state() {
    let policy = LimitPolicy { cold_wait_us: MAX_WAIT_US, ..policy(10, 10) };
    let mut state = LimiterState::default();
    let ask = Ask { cost: 10, token: 1, lease_us: 1e6, lead_us: 0.0, past: Past::Clean, patience_us: 0.0 };
    let mut now = START;
    for _ in 0..3 {
        match acquire(&mut [(&mut state, &policy)], now, &ask) {
            Decision::Granted { .. } => return,
            Decision::Denied(denied) => now += denied.retry_after,
            other @ Decision::Unreserved { .. } => panic!("{other:?}"),
        }
    }
    panic!("never granted");
}

/// Calls that were under way when the state was lost are reported again while no slot is given away.
#[test]
fn slots_are_not_given_away_before_those_that_were_taken_are_known() {
    let policy = LimitPolicy { rate: None, concurrency: Some(2), breaker: None, cold_wait_us: MAX_WAIT_US };
    let mut state = LimiterState::default();
    let ask = |token: u64| Ask {
        cost: 1,
        token,
        lease_us: 10e6,
        lead_us: 0.0,
        past: Past::Clean,
        patience_us: 0.0,
    };
    for token in [1, 2] {
        let decision = acquire(&mut [(&mut state, &policy)], START, &ask(token));
        let Decision::Granted { wait, confirm: true, .. } = decision else { panic!("{decision:?}") };
        assert!((wait - MAX_WAIT_US).abs() < 1.0, "{wait}");
    }
    let early = confirm(&mut [(&mut state, &policy)], START + 0.9e6, &ask(1)).unwrap_err();
    assert_eq!(early.reason, Reason::Concurrency);
    assert!((early.retry_after - 0.1e6).abs() < 1.0, "{early:?}");
    let far = Ask { lead_us: 0.1e6, ..ask(1) };
    assert!(confirm(&mut [(&mut state, &policy)], START + 0.9e6, &far).is_ok(), "the call leaves later");
    // One that was under way at the loss is reported again.
    state.take_slot(&policy, START + 0.3e6, &ask(7));
    assert!(confirm(&mut [(&mut state, &policy)], START + 1e6, &ask(2)).is_err(), "both are taken");
    state.report(&policy, START + 2e6, 7, &Feedback::default());
    let decision = acquire(&mut [(&mut state, &policy)], START + 2e6, &ask(3));
    assert!(matches!(decision, Decision::Granted { confirm: false, .. }), "{decision:?}");
}

#[test]
fn slots_of_a_crashed_worker_come_back() {
    let policy = LimitPolicy { rate: None, concurrency: Some(2), breaker: None, cold_wait_us: 0.0 };
    let mut state = LimiterState::default();
    let mut ask = |token: u64, now: f64| {
        acquire(
            &mut [(&mut state, &policy)],
            now,
            &Ask { cost: 1, token, lease_us: 1e6, lead_us: 0.0, past: Past::Clean, patience_us: 0.0 },
        )
    };
    for token in [1, 2] {
        assert!(matches!(ask(token, START), Decision::Granted { .. }));
    }
    assert!(matches!(ask(3, START), Decision::Denied(Denied { reason: Reason::Concurrency, .. })));
    assert!(matches!(ask(4, START + 2e6), Decision::Granted { .. }));
}

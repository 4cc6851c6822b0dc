//! Rows that an API refuses or fails for reasons of their own, and APIs that are really away or overloaded, in virtual
//! time: the limiter and the rules of [`crate::retry`] together. What is judged is what people notice: how fast other rows
//! go, that everything ends, and how often an API is asked in vain.

mod row;
mod world;

use self::row::{Api, Kind};
use self::world::*;
use super::*;

/// This many rows, each so manieth of which is of a kind, the others good.
fn mixed(rows: usize, each: usize, kind: Kind) -> Vec<Kind> {
    (0..rows).map(|row| if row % each == each / 2 { kind } else { Kind::Good }).collect()
}

fn is_good(kind: Kind) -> bool {
    kind == Kind::Good
}

/// One row is refused each time. Within five seconds of its second refusal the others have their rate, and keep it.
#[test]
fn a_row_that_is_always_refused_slows_nobody_but_itself() {
    for retry_after in [None, Some(1.0), Some(2.0), Some(30.0)] {
        for run_every in [0.3, 5.0, 60.0] {
            let mut world = World::new(mixed(14_000, 14_000, Kind::Refused(retry_after)));
            // The row stands early in the file.
            world.rows.swap(10, 7_000);
            world.run_every = run_every;
            world.run(260.0);
            let refused: Vec<f64> =
                world.calls.iter().filter(|(_, row, _)| *row == 10).map(|(at, ..)| *at).collect();
            let from = refused[1] + 5.0;
            let share = f64::from(u32::try_from(world.went_well(from, from + 100.0)).unwrap()) / 100.0 / 50.0;
            assert!(
                share > 0.97,
                "{retry_after:?}, runs each {run_every} s: only {share} of the rate: {refused:?}"
            );
            let worst = (0..10)
                .map(|tenth| {
                    world.went_well(from + f64::from(tenth) * 10.0, from + f64::from(tenth + 1) * 10.0)
                })
                .min();
            assert!(
                worst > Some(480),
                "{retry_after:?}, runs each {run_every} s: {worst:?} in the worst ten seconds"
            );
            // 300 a day are one in 288 seconds.
            assert!(refused.len() < 16, "{retry_after:?}: it is asked for too often: {refused:?}");
        }
    }
}

/// A part of the rows is refused each time, from the beginning or all through the file.
#[test]
fn many_rows_that_are_always_refused_slow_nobody_for_long() {
    for (each, retry_after) in
        [(20, Some(2.0)), (20, None), (4, Some(1.0)), (4, None), (3, Some(1.0)), (100, Some(30.0))]
    {
        for rate in [true, false] {
            let mut world = World::new(mixed(4000, each, Kind::Refused(retry_after)));
            if !rate {
                world.policy.rate = None;
            }
            world.retry.throttled_for = Duration::from_secs(600);
            world.run(2000.0);
            let good = world.ended(is_good).unwrap();
            // Calls of refused rows take their part of the rate. Until a first one is refused again, each pauses all.
            let calls = f64::from(u32::try_from(world.called(0.0, good)).unwrap());
            let part = if each < 4 { 0.4 } else { 0.75 };
            let most = calls / 50.0 / part + 16.0 + 8.0 * retry_after.unwrap_or(1.0);
            assert!(
                good < most,
                "each {each}th, {retry_after:?}, rate {rate}: the good ones took {good} s of {most} s"
            );
            let refused = world.ended(|kind| kind != Kind::Good).unwrap();
            // The last ones wait after pauses that have grown: until one of them is refused when that has lasted as long.
            let most = good + 600.0 + 320.0;
            assert!(
                (600.0..most).contains(&refused),
                "each {each}th, {retry_after:?}: {refused} s of {most} s"
            );
        }
    }
}

/// Everything is refused: all rows end soon after `throttled_for`, though most of them are never asked for.
#[test]
fn a_batch_that_is_always_refused_ends() {
    for retry_after in [None, Some(1.0), Some(30.0), Some(300.0)] {
        for (rows, run_every) in [(1, 1.0), (40, 1.0), (40, 5.0), (40, 60.0), (2000, 5.0)] {
            let mut world = World::new((0..rows).map(|_| Kind::Refused(retry_after)));
            world.run_every = run_every;
            world.retry.throttled_for = Duration::from_secs(60);
            world.run(7200.0);
            let ended = world.ended(|_| true).unwrap_or(f64::INFINITY);
            let most =
                4.0 * 60.0_f64.max(retry_after.unwrap_or(0.0)) + 4.0 * run_every + f64::from(rows) / 10.0;
            assert!(
                ended < most,
                "{rows} rows, {retry_after:?}, runs each {run_every} s: {ended} s of {most} s"
            );
            let calls = world.calls.len();
            assert!(calls < 60, "{rows} rows, {retry_after:?}: {calls} calls in vain");
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
        ("a third, at random", random(0.33), 1.2),
        ("six in ten, at random", random(0.6), 1.5),
        ("eight in ten, at random", random(0.8), 6.0),
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
    let ask =
        |token| Ask { cost: 1, token, lease_us: SECOND, lead_us: 0.0, past: Past::Clean, patience_us: 0.0 };
    let policy = LimitPolicy { concurrency: Some(1), ..world.policy };
    let mut state = world.state;
    let pause = Feedback { pause: Some(10.0 * SECOND), throttled: true, ..Feedback::default() };
    state.report(&policy, world.now, 1, &pause);
    let back = world.now - hour;
    let Decision::Denied(denied) = acquire(&mut [(&mut state, &policy)], back, &ask(2)) else { panic!() };
    assert!((denied.retry_after - 10.0 * SECOND).abs() < 1.0, "the pause is as long as it was: {denied:?}");
    let granted = acquire(&mut [(&mut state, &policy)], back + 10.0 * SECOND, &ask(3));
    assert!(matches!(granted, Decision::Granted { .. }), "{granted:?}");
    assert_eq!(state.snapshot(&policy, back + 10.1 * SECOND).in_flight, 1);
    // The slot of a call under way ends as it was to, and the rate goes on.
    let again = state.snapshot(&policy, back - hour).free_in;
    assert!(again < Duration::from_secs(1), "{again:?}");
    let denied = acquire(&mut [(&mut state, &policy)], back - hour, &ask(4));
    assert!(matches!(denied, Decision::Denied(Denied { reason: Reason::Concurrency, .. })), "{denied:?}");
    let granted = acquire(&mut [(&mut state, &policy)], back - hour + 1.1 * SECOND, &ask(5));
    assert!(matches!(granted, Decision::Granted { .. }), "{granted:?}");
}

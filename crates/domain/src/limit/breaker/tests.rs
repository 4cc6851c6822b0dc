use super::*;

const NOW: f64 = 1e15;

fn policy(min_calls: u32, probes: u32) -> BreakerPolicy {
    BreakerPolicy { min_calls, probes, ..BreakerPolicy::default() }
}

fn calls(good: u32, bad: u32, probe: bool) -> Calls {
    Calls { good, bad, probe, past: Past::Clean, unreachable: false }
}

fn again(good: u32, bad: u32) -> Calls {
    Calls { good, bad, past: Past::Failed, ..calls(0, 0, false) }
}

#[test]
fn it_opens_probes_and_closes() {
    let policy = policy(4, 2);
    let mut breaker = Breaker::default();
    let mut now = NOW;
    breaker.reported(&policy, now, &calls(2, 0, false));
    breaker.reported(&policy, now, &calls(0, 3, false));
    assert_eq!(breaker.shut_until(&policy, now), None, "too few calls to judge");
    breaker.reported(&policy, now, &calls(0, 1, false));
    assert_eq!(breaker.shut_until(&policy, now), Some(now + 10e6));
    for _ in 0..3 {
        now += 10e6;
        for _ in 0..2 {
            assert_eq!(breaker.shut_until(&policy, now), None);
            assert!(breaker.called(&policy, now, Past::Clean));
        }
        assert!(breaker.shut_until(&policy, now).is_some(), "two probes are out");
        for _ in 0..2 {
            breaker.reported(&policy, now, &calls(0, 1, true));
        }
        assert_eq!(breaker.state(now), BreakerState::Open);
    }
    now += 10e6;
    for good in [0, 1, 1] {
        breaker.called(&policy, now, Past::Clean);
        assert_eq!(breaker.state(now), BreakerState::HalfOpen);
        breaker.reported(&policy, now, &calls(good, 1 - good, true));
    }
    assert_eq!(breaker.state(now), BreakerState::Closed);
}

#[test]
fn a_share_counts_when_it_has_settled_or_when_rows_that_failed_go_well_again() {
    let policy = policy(20, 1);
    let half = || {
        let mut breaker = Breaker::default();
        breaker.reported(&policy, NOW, &calls(10, 0, false));
        breaker.reported(&policy, NOW, &calls(0, 12, false));
        assert_eq!(breaker.state(NOW), BreakerState::Closed, "it may be the rows' own");
        breaker
    };
    let mut settled = half();
    settled.reported(&policy, NOW + 10e6, &calls(0, 1, false));
    assert_eq!(settled.state(NOW + 10e6), BreakerState::Open);
    let mut flaky = half();
    flaky.reported(&policy, NOW, &again(5, 5));
    flaky.reported(&policy, NOW, &calls(0, 1, false));
    assert_eq!(flaky.state(NOW), BreakerState::Open);
    let mut own = half();
    own.reported(&policy, NOW, &again(0, 10));
    own.reported(&policy, NOW + 11e6, &calls(1, 0, false));
    own.reported(&policy, NOW + 11e6, &calls(0, 12, false));
    own.reported(&policy, NOW + 11e6, &calls(1, 0, false));
    own.reported(&policy, NOW + 11e6, &again(0, 100));
    assert_eq!(own.state(NOW + 11e6), BreakerState::Closed, "rows that failed fail again, others go well");
}

#[test]
fn repeated_failures_count_when_nothing_goes_well_beside_them() {
    let policy = policy(20, 1);
    let mut breaker = Breaker::default();
    breaker.reported(&policy, NOW, &calls(1, 0, false));
    breaker.reported(&policy, NOW + 1e6, &again(0, 50));
    breaker.reported(&policy, NOW + 1e6, &calls(0, 19, false));
    assert_eq!(breaker.state(NOW + 1e6), BreakerState::Closed);
    let mut alone = Breaker::default();
    alone.reported(&policy, NOW, &calls(0, 10, false));
    alone.reported(&policy, NOW, &again(0, 10));
    assert_eq!(alone.state(NOW), BreakerState::Open, "twenty in a row, and no call ever went well");
}

#[test]
fn rows_that_failed_before_probe_only_when_there_are_no_others() {
    let policy = policy(1, 1);
    let mut breaker = Breaker::default();
    breaker.reported(&policy, NOW, &calls(0, 1, false));
    let at = |seconds: f64| NOW + seconds * 1e6;
    let waits = |breaker: &mut Breaker, now: f64, past| {
        breaker.admits(&policy, now, past).err().map(|denied| (denied.retry_after / 1e6, denied.row_only))
    };
    assert_eq!(waits(&mut breaker, at(4.0), Past::Failed), Some((6.0, false)));
    assert_eq!(waits(&mut breaker, at(10.0), Past::Failed), Some((2.0, true)), "others may come");
    assert_eq!(waits(&mut breaker, at(10.1), Past::Clean), None);
    assert_eq!(waits(&mut breaker, at(12.0), Past::Failed), Some((10.0, true)), "others have come");
    // They decide.
    breaker.called(&policy, at(12.0), Past::Clean);
    breaker.reported(&policy, at(12.0), &Calls { past: Past::Failed, ..calls(0, 1, true) });
    assert_eq!(breaker.state(at(12.0)), BreakerState::HalfOpen);
    breaker.reported(&policy, at(12.0), &calls(0, 1, true));
    assert_eq!(breaker.state(at(12.0)), BreakerState::Open);
    // No others any more.
    assert_eq!(waits(&mut breaker, at(24.0), Past::Failed), None);
    breaker.reported(&policy, at(24.0), &Calls { past: Past::Failed, ..calls(0, 1, true) });
    assert_eq!(breaker.state(at(24.0)), BreakerState::Open, "all that there are fail");
    assert_eq!(waits(&mut breaker, at(59.0), Past::Failed), None);
    assert!(breaker.called(&policy, at(59.0), Past::Failed));
    breaker.reported(&policy, at(59.0), &Calls { past: Past::Failed, ..calls(0, 1, true) });
    assert_eq!(breaker.state(at(59.0)), BreakerState::Open);
    for _ in 0..5 {
        assert_eq!(waits(&mut breaker, at(61.0), Past::Failed), None, "by now it is theirs to end");
        assert!(!breaker.called(&policy, at(61.0), Past::Failed), "which is no probe");
    }
    assert_eq!(waits(&mut breaker, at(61.0), Past::Clean), Some((8.0, false)));
    breaker.reported(
        &policy,
        at(62.0),
        &Calls { past: Past::Failed, unreachable: true, ..calls(0, 1, false) },
    );
    assert_eq!(
        waits(&mut breaker, at(63.0), Past::Failed),
        Some((6.0, false)),
        "no row is to blame for that"
    );
    assert_eq!(waits(&mut breaker, at(601.0), Past::Failed), None);
}

#[test]
fn what_began_before_it_opened_is_no_probe() {
    let policy = policy(1, 1);
    let mut breaker = Breaker::default();
    breaker.reported(&policy, NOW, &calls(0, 1, false));
    let now = NOW + 11e6;
    breaker.reported(&policy, now, &calls(5, 0, false));
    breaker.reported(&policy, now, &calls(0, 5, false));
    assert_eq!(breaker.state(now), BreakerState::HalfOpen);
}

#[test]
fn a_probe_that_never_answers_does_not_keep_it_shut_for_ever() {
    let policy = policy(1, 1);
    let mut breaker = Breaker::default();
    breaker.reported(&policy, NOW, &calls(0, 1, false));
    assert_eq!(breaker.shut_until(&policy, NOW + 10e6), None);
    breaker.called(&policy, NOW + 10e6, Past::Clean);
    assert_eq!(breaker.shut_until(&policy, NOW + 11e6), Some(NOW + 12e6));
    assert_eq!(breaker.shut_until(&policy, NOW + 20e6), None);
}

#[test]
fn a_good_past_does_not_hide_an_outage() {
    let policy = policy(20, 1);
    let mut breaker = Breaker::default();
    breaker.reported(&policy, NOW, &calls(5000, 0, false));
    (0..19).for_each(|_| breaker.reported(&policy, NOW, &calls(0, 1, false)));
    breaker.reported(&policy, NOW, &calls(1, 0, false));
    (0..19).for_each(|_| breaker.reported(&policy, NOW, &calls(0, 1, false)));
    assert_eq!(breaker.state(NOW), BreakerState::Closed);
    breaker.reported(&policy, NOW, &calls(0, 1, false));
    assert_eq!(breaker.state(NOW), BreakerState::Open, "twenty in a row");
}

#[test]
fn old_failures_are_forgotten() {
    let policy = policy(4, 1);
    let mut breaker = Breaker::default();
    breaker.reported(&policy, NOW, &calls(0, 3, false));
    breaker.reported(&policy, NOW + 31e6, &calls(0, 3, false));
    assert_eq!(breaker.state(NOW + 31e6), BreakerState::Closed);
}

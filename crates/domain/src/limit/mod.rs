//! Limits of a dependency, as state that somebody keeps: in this process, or in Redis for all workers.
//!
//! A [`Gate`] holds, for one dependency (and, where limits are per owner, for one owner of it), the rate, the calls
//! under way, a pause that the dependency asked for, an adaptive slow-down and the circuit breaker. A call passes all
//! its gates or none. Times are microseconds since the Unix epoch; the Lua of the shared limiter mirrors this file.
//!
//! The rate is GCRA (ITU-T I.371; "virtual scheduling") with reservations: who is granted a call may have to wait for
//! its moment, at most [`MAX_WAIT_US`]. Three things keep the promise "never more than burst + rate·t" true *where the
//! dependency counts*, although the network delays some calls and not others:
//! - the rate used is [`SAFETY`] of the one allowed, so that slack builds up at the dependency;
//! - the first call after a quiet time is charged [`ARRIVAL_MARGIN_US`] more: it may arrive late, and the following
//!   ones in time;
//! - what is not known (first use, lost state) starts empty, never full.

mod breaker;
mod gate;

pub use breaker::{Breaker, BreakerState};
pub use gate::{Feedback, Gate, GatePolicy, RatePolicy, Snapshot};

/// The longest that a granted call waits for its moment; a longer wait is denied.
pub const MAX_WAIT_US: f64 = 1_000_000.0;

/// Share of the allowed rate that is used.
pub const SAFETY: f64 = 0.995;

/// How much later than its followers a first call may arrive.
pub const ARRIVAL_MARGIN_US: f64 = 25_000.0;

/// The slow-down never goes below this share of the rate.
pub const SLOWEST: f64 = 0.05;

/// Share of the rate that comes back each second after a slow-down.
pub const RECOVERY_PER_SECOND: f64 = 0.05;

/// Two slow-downs are at least so far apart: answers of one moment are one sign.
pub const SLOW_DOWN_EVERY_US: f64 = 1_000_000.0;

/// Whether a call may be made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decision {
    /// It may, after so many microseconds.
    Granted {
        /// Microseconds.
        wait: f64,
    },
    /// It may not before a moment.
    Denied {
        /// Microseconds since the epoch.
        until: f64,
        /// Which limit.
        reason: Reason,
    },
}

/// Which limit holds a call up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The rate.
    Rate,
    /// Calls under way.
    Concurrency,
    /// The dependency asked for a pause.
    Paused,
    /// The breaker is open.
    BreakerOpen,
    /// The shared limiter does not answer.
    Unavailable,
}

impl Reason {
    /// The reason's code, see [`crate::outcome::code`].
    pub const fn code(self) -> &'static str {
        use crate::outcome::code;
        match self {
            Self::Rate => code::RATE_LIMITED,
            Self::Concurrency => code::CONCURRENCY_LIMITED,
            Self::Paused => code::THROTTLED,
            Self::BreakerOpen => code::BREAKER_OPEN,
            Self::Unavailable => code::LIMITER_UNAVAILABLE,
        }
    }
}

/// Passes all gates, or none of them.
pub fn acquire(gates: &mut [(&mut Gate, &GatePolicy)], now: f64, cost: u32, token: u64, lease_us: f64) -> Decision {
    let mut wait: f64 = 0.0;
    for (gate, policy) in gates.iter_mut() {
        match gate.look(policy, now, cost) {
            Decision::Granted { wait: own } => wait = wait.max(own),
            denied @ Decision::Denied { .. } => return denied,
        }
    }
    for (gate, policy) in gates.iter_mut() {
        gate.take(policy, now, cost, wait, token, lease_us);
    }
    Decision::Granted { wait }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(limit: u32, burst: u32) -> GatePolicy {
        let rate = RatePolicy { interval_us: 1_000_000.0 / f64::from(limit) / SAFETY, burst };
        GatePolicy { rate: Some(rate), concurrency: None, breaker: None, cold_wait_us: 0.0 }
    }

    /// The largest excess of calls over burst + rate·t in any window: the highest level of the bucket that the calls
    /// would fill (the virtual queue of GCRA), less its burst.
    fn excess(times: &mut [f64], limit: f64, burst: f64) -> f64 {
        times.sort_by(f64::total_cmp);
        let (mut level, mut last, mut worst) = (0.0_f64, 0.0, f64::MIN);
        for at in times.iter() {
            level = (level - (at - last) * limit / 1e6).max(0.0) + 1.0;
            last = *at;
            worst = worst.max(level - burst);
        }
        worst
    }

    /// A small generator (xorshift): chance is passed in, and a test repeats.
    fn random(seed: &mut u64) -> f64 {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        #[allow(clippy::cast_precision_loss)]
        let unit = (*seed >> 11) as f64 / (1_u64 << 53) as f64;
        unit
    }

    #[test]
    fn what_arrives_never_exceeds_the_limit_and_little_is_wasted() {
        for (limit, burst) in [(200, 10), (20, 5), (1000, 50), (50, 1)] {
            let policy = policy(limit, burst);
            let mut gate = Gate::default();
            let mut seed = 42;
            let mut arrivals = Vec::new();
            let start = 1e15;
            let end = start + 600e6;
            // Four workers, each asking again as soon as it may: an endless backlog.
            let mut workers: [f64; 4] = [start; 4];
            loop {
                let worker = (0..4).min_by(|a, b| workers[*a].total_cmp(&workers[*b])).unwrap();
                let now = workers[worker];
                if now > end {
                    break;
                }
                match acquire(&mut [(&mut gate, &policy)], now, 1, 0, 0.0) {
                    Decision::Granted { wait } => {
                        arrivals.push(now + wait + 300.0 + 15_000.0 * random(&mut seed));
                        workers[worker] = now + 100.0;
                    }
                    Decision::Denied { until, .. } => workers[worker] = until.min(now + 50_000.0) + 1.0,
                }
            }
            let used = arrivals.len();
            let worst = excess(&mut arrivals, f64::from(limit), f64::from(burst));
            // A burst of one leaves no room for jitter at all until slack has built up: less than one call over.
            let allowed = if burst == 1 { 1.0 } else { 1e-6 };
            assert!(worst <= allowed, "{limit}/s burst {burst}: {worst} too many");
            #[allow(clippy::cast_precision_loss)]
            let share = used as f64 / (f64::from(limit) * 600.0);
            assert!(share > 0.98, "{limit}/s: only {share} used");
        }
    }

    #[test]
    fn a_pause_holds_everybody_and_never_shrinks() {
        let policy = policy(100, 10);
        let mut gate = Gate::default();
        let now = 1e15;
        gate.report(&policy, now, None, &Feedback { healthy: None, pause_until: Some(now + 5e6), throttled: true });
        gate.report(&policy, now, None, &Feedback { healthy: None, pause_until: Some(now + 1e6), throttled: true });
        let denied = acquire(&mut [(&mut gate, &policy)], now + 2e6, 1, 0, 0.0);
        assert_eq!(denied, Decision::Denied { until: now + 5e6, reason: Reason::Paused });
        assert!(matches!(acquire(&mut [(&mut gate, &policy)], now + 5e6, 1, 0, 0.0), Decision::Granted { .. }));
    }

    #[test]
    fn without_a_word_the_rate_halves_and_comes_back() {
        let policy = policy(100, 1);
        let mut gate = Gate::default();
        let now = 1e15;
        let sign = Feedback { healthy: None, pause_until: None, throttled: true };
        gate.report(&policy, now, None, &sign);
        gate.report(&policy, now + 10.0, None, &sign);
        assert!((gate.snapshot(now + 10.0).factor - 0.5).abs() < 1e-5, "two signs of one moment are one");
        assert!((gate.snapshot(now + 4e6).factor - 0.7).abs() < 1e-5);
        assert_eq!(gate.snapshot(now + 60e6).factor, 1.0);
    }

    #[test]
    fn slots_of_a_crashed_worker_come_back() {
        let policy = GatePolicy { rate: None, concurrency: Some(2), breaker: None, cold_wait_us: 0.0 };
        let mut gate = Gate::default();
        let now = 1e15;
        for token in [1, 2] {
            assert!(matches!(acquire(&mut [(&mut gate, &policy)], now, 1, token, 1e6), Decision::Granted { .. }));
        }
        let third = acquire(&mut [(&mut gate, &policy)], now, 1, 3, 1e6);
        assert!(matches!(third, Decision::Denied { reason: Reason::Concurrency, .. }), "{third:?}");
        gate.release(1);
        assert!(matches!(acquire(&mut [(&mut gate, &policy)], now, 1, 3, 1e6), Decision::Granted { .. }));
        assert!(matches!(acquire(&mut [(&mut gate, &policy)], now + 2e6, 1, 4, 1e6), Decision::Granted { .. }));
    }

    #[test]
    fn all_gates_or_none() {
        let open = policy(100, 10);
        let shut = GatePolicy { rate: None, concurrency: Some(0), breaker: None, cold_wait_us: 0.0 };
        let (mut a, mut b) = (Gate::default(), Gate::default());
        let now = 1e15;
        let before = a.clone();
        let denied = acquire(&mut [(&mut a, &open), (&mut b, &shut)], now, 1, 1, 1e6);
        assert!(matches!(denied, Decision::Denied { .. }));
        assert_eq!(a, before, "nothing was taken");
    }
}

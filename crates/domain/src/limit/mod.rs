//! Limits of a dependency, as state that a limiter keeps: in this process, or in Redis for all workers.
//!
//! A [`LimiterState`] holds, for one dependency (and, where limits are per owner, for one owner of it), the rate, the calls
//! under way, a pause that the dependency asked for, the adaptive rate and the circuit breaker. All states of a call admit it,
//! or none does. Times are microseconds of the clock of whoever keeps the state; what goes in and out is relative, because no
//! two machines' clocks agree. The Lua of the shared limiter mirrors these files, and a test compares the two.
//!
//! A call that is granted may have to wait for its moment, at most [`MAX_WAIT_US`]: a *reservation*. Right before the call it
//! is confirmed ([`confirm`]), because much may have happened meanwhile. [`Distance`] learns how far away the limiter is, and
//! so how early it has to be asked.
//!
//! How the rate keeps its promise where the dependency counts, and not only where calls leave, is explained in [`rate`].
//!
//! What a granted call was charged is not returned when the call is not made. Others have asked meanwhile, and those of them
//! that this charge did not delay could spend it a second time; with a burst of one, that is everybody. Instead, grants that
//! cannot be used are made rare: by the lead with which a far worker asks ([`Ask::lead_us`]), and by the slack of a late call.

mod adaptive_rate;
mod breaker;
pub mod calendar;
mod distance;
pub mod hours;
pub mod meter;
mod past;
pub mod rate;
#[cfg(test)]
mod rows_simulation;
#[cfg(test)]
mod simulation;
mod state;
pub mod throttle;

use std::time::Duration;

use url::Url;
use uuid::Uuid;

pub use adaptive_rate::AdaptiveRate;
pub use breaker::{Breaker, BreakerState};
pub use distance::{Distance, Lead};
pub use hours::Hours;
use meter::NotNow;
pub use meter::{CalendarPolicy, MeterPolicy, MeterState, Metered, Scope};
pub use past::Past;
pub use rate::RatePolicy;
use state::Look;
pub use state::{Feedback, LimitPolicy, LimiterState, Snapshot};
pub use throttle::Throttle;

/// The longest that a granted call waits for its moment; a longer wait is denied.
pub const MAX_WAIT_US: f64 = 1_000_000.0;

/// A grant whose moment is no further away holds its slot already and need not be confirmed. A call that waits for longer takes
/// its slot only when its moment has come: a row that waits for a rate holds nothing that another could use. For a worker
/// further away it is [`FRESH_LEADS`] leads more: an answer's way, and the round trip of a question.
pub const FRESH_US: f64 = 2_000.0;

/// See [`FRESH_US`].
pub const FRESH_LEADS: f64 = 3.0;

/// When a slot may be free again, as far as anybody can tell.
pub const SLOT_RETRY_US: f64 = 50_000.0;

/// When it is worth asking again while a probe is under way that finds out for all whether the dependency works again.
pub const PROBE_RETRY_US: f64 = 1_000_000.0;

/// Whether a call may be made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decision {
    /// It may.
    Granted {
        /// After this many microseconds; negative when its moment has passed while the answer was under way.
        wait: f64,
        /// How many microseconds later than at its moment it may still leave; see [`rate`].
        slack: f64,
        /// Whether it finds out for all others whether the dependency works again: as a probe of the half-open breaker, or
        /// as the one call that is tried after a pause.
        probe: bool,
        /// Whether it has to be confirmed when its moment has come.
        confirm: bool,
    },
    /// It may not.
    Denied(Denied),
    /// It may when more of a calendar's period was reserved, see [`meter`].
    Unreserved {
        /// The place of the meter.
        meter: usize,
    },
}

/// A call that may not be made now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Denied {
    /// Microseconds until it is worth asking again.
    pub retry_after: f64,
    /// Which limit.
    pub reason: Reason,
    /// Whether it holds up this row only, because of the row's own past, and other rows may ask.
    pub row_only: bool,
    /// For how long everything had been refused when a call was last tried, microseconds; 0: that is not so.
    pub refused_for: f64,
}

impl Denied {
    /// A limit that holds up everybody.
    pub const fn new(retry_after: f64, reason: Reason) -> Self {
        Self { retry_after, reason, row_only: false, refused_for: 0.0 }
    }

    /// Whether it is a limit that concerns only some calls, see [`meter`].
    pub const fn is_own(&self) -> bool {
        self.row_only && matches!(self.reason, Reason::Rate | Reason::OwnerRate | Reason::ValueRate)
    }

    /// A row that has to let others go first.
    pub const fn of_row(retry_after: f64, reason: Reason) -> Self {
        Self { row_only: true, ..Self::new(retry_after, reason) }
    }
}

/// Which limit holds a call up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The dependency's rate.
    Rate,
    /// The owner's own rate at the dependency.
    OwnerRate,
    /// The rate of the row's value, see [`meter`].
    ValueRate,
    /// Calls under way.
    Concurrency,
    /// It is not one of the hours in which the dependency may be called.
    Hours,
    /// An operator has paused the dependency.
    Held,
    /// The dependency asked for a pause.
    Paused,
    /// The breaker is open.
    BreakerOpen,
    /// The shared limiter does not answer.
    Unavailable,
    /// A permit was given, but the call could not be made in time: the limiter is too far away, or this worker too busy.
    Late,
    /// The dependency's credentials cannot be had now: a file that cannot be read, a token endpoint that fails.
    Credentials,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Rate,
        Self::OwnerRate,
        Self::ValueRate,
        Self::Concurrency,
        Self::Hours,
        Self::Held,
        Self::Paused,
        Self::BreakerOpen,
        Self::Unavailable,
        Self::Late,
        Self::Credentials,
    ];

    /// The reason's code, see [`crate::outcome::code`].
    pub const fn code(self) -> &'static str {
        use crate::outcome::code;
        match self {
            Self::Rate => code::RATE_LIMITED,
            Self::OwnerRate => code::OWNER_RATE_LIMITED,
            Self::ValueRate => code::VALUE_RATE_LIMITED,
            Self::Concurrency => code::CONCURRENCY_LIMITED,
            Self::Hours => code::OUTSIDE_HOURS,
            Self::Held => code::LIMIT_PAUSED,
            Self::Paused => code::THROTTLED,
            Self::BreakerOpen => code::BREAKER_OPEN,
            Self::Unavailable => code::LIMITER_UNAVAILABLE,
            Self::Late => code::LIMITER_LATE,
            Self::Credentials => code::CREDENTIALS_UNAVAILABLE,
        }
    }
}

/// What one call asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ask {
    /// How much of the rate it takes.
    pub cost: u32,
    /// Names its slot among the calls under way; at most 2^53 − 1, which Lua's numbers hold.
    pub token: u64,
    /// How long the slot is held at most, if its end is never reported.
    pub lease_us: f64,
    /// How long the answer is on its way: the call leaves at least that much later.
    pub lead_us: f64,
    /// The row's own past at this step.
    pub past: Past,
    /// How long it waits for a limit that does not concern all calls; for a longer wait it gets a turn, see [`meter`].
    pub patience_us: f64,
}

/// Has all states admit a call, or none of them: the dependency's first, then its owner's, if there is one.
///
/// Only one of them may have a rate: a wait at one would have to be charged at the other.
pub fn acquire(states: &mut [(&mut LimiterState, &LimitPolicy)], now: f64, ask: &Ask) -> Decision {
    acquire_all(states, &mut [], now, ask)
}

/// Has all states and all meters admit a call, or none of them.
pub fn acquire_all(
    states: &mut [(&mut LimiterState, &LimitPolicy)],
    meters: &mut [Metered<'_>],
    now: f64,
    ask: &Ask,
) -> Decision {
    states.iter_mut().for_each(|(state, _)| state.tick(now));
    let lost_at = states.first().map_or(0.0, |(state, _)| state.lost_at);
    states.iter_mut().skip(1).for_each(|(state, _)| state.lost_with(lost_at));
    let mut looked = Look::default();
    for (place, (state, policy)) in states.iter_mut().enumerate() {
        match state.look(policy, now, ask) {
            Ok(own) => looked = looked.and(own),
            Err(denied) if place > 0 && denied.reason == Reason::Rate => {
                return Decision::Denied(Denied { reason: Reason::OwnerRate, ..denied });
            }
            Err(denied) => return Decision::Denied(denied),
        }
    }
    let Look { mut wait, cold } = looked;
    let whole = states.first().map(|(state, policy)| state.whole(policy, now));
    if let Some(whole) = &whole {
        wait = match meter::look(meters, whole, now, wait, ask) {
            Ok(wait) => wait,
            Err(NotNow::Denied(denied)) => return Decision::Denied(denied),
            Err(NotNow::Unreserved(meter)) => return Decision::Unreserved { meter },
        };
    }
    let confirm = cold || wait > FRESH_US + FRESH_LEADS * ask.lead_us;
    let (mut slack, mut probe) = (None, false);
    for (state, policy) in states.iter_mut() {
        slack = least(slack, state.charge(policy, now, wait, ask));
        probe |= state.call(policy, now, now + wait, ask);
        if !confirm {
            state.take_slot(policy, now + wait, ask);
        }
    }
    for meter in meters {
        slack = least(slack, whole.as_ref().map(|whole| meter.charge(whole, now, wait)));
    }
    Decision::Granted { wait, slack: slack.unwrap_or_default(), probe, confirm }
}

/// A call may leave no later than every limit allows.
fn least(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// The moment of a call that had to wait for it has come: may it still be made? Takes its slots, all or none.
///
/// # Errors
/// When meanwhile a pause began, the breaker opened or all slots were taken. What was charged to the rate stays charged.
pub fn confirm(states: &mut [(&mut LimiterState, &LimitPolicy)], now: f64, ask: &Ask) -> Result<(), Denied> {
    states.iter_mut().for_each(|(state, _)| state.tick(now));
    for (state, policy) in states.iter_mut() {
        state.still_open(policy, now, ask)?;
    }
    for (state, policy) in states.iter_mut() {
        state.take_slot(policy, now, ask);
    }
    Ok(())
}

/// The name under which a dependency's limits are kept: its own name and a hash of where it is.
///
/// Pipelines that name the same API alike share its limits, whatever they ask of it; the same name at another address
/// is another API. The address itself may hold a password and is not shown.
pub fn identity(name: &str, base_url: &Url) -> String {
    let address = base_url.as_str().trim_end_matches('/');
    format!("{name}:{}", Uuid::new_v5(&Uuid::NAMESPACE_URL, address.as_bytes()).simple())
}

/// A time of a state whose clock was set back; 0 stands for none.
fn set_back(time: &mut f64, by: f64) {
    if *time != 0.0 {
        *time -= by;
    }
}

/// A duration in microseconds.
#[allow(clippy::cast_precision_loss, reason = "exact up to 285 years")]
pub fn micros(duration: Duration) -> f64 {
    duration.as_micros() as f64
}

/// Microseconds as a duration; negative ones and what is not a number are zero.
pub fn duration(micros: f64) -> Duration {
    Duration::try_from_secs_f64(micros / 1e6).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_name_and_address_and_tells_no_password() {
        let url = |text: &str| Url::parse(text).unwrap();
        let one = identity("address", &url("https://user:secret@api.example/v1/"));
        assert_eq!(one, identity("address", &url("https://user:secret@API.example:443/v1")));
        assert_ne!(one, identity("invite", &url("https://user:secret@api.example/v1")));
        assert_ne!(one, identity("address", &url("https://api.example/v2")));
        assert!(!one.contains("secret") && !one.contains("example"), "{one}");
    }

    #[test]
    fn durations_survive_the_way_there_and_back() {
        assert_eq!(duration(micros(Duration::from_micros(1_234_567))), Duration::from_micros(1_234_567));
        assert_eq!(duration(-5.0), Duration::ZERO);
        assert_eq!(duration(f64::NAN), Duration::ZERO);
    }
}

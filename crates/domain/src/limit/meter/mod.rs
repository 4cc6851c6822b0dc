//! Further limits of a dependency, beside the rate that a [`LimiterState`](super::LimiterState) holds: a list of limits that hold
//! together, one of them perhaps for each value of a row.
//!
//! Each has a *meter*, which is GCRA's state as in [`rate`](super::rate). A call takes what it needs of all of them, or nothing.
//! Its moment is the latest that any of them asks for, and all are charged for that moment.
//!
//! Where a limit concerns *some* of the calls only (those with one value, or those of one owner), waiting for it must cost the
//! others nothing: a call that is charged for a later moment at the limits that all share would hold back everybody's calls until
//! then. So such a wait is refused, and the row asks again when its time has come. A row whose time is further away than it can wait
//! gets a *turn*: the moments at which the rows that wait for one value come back are as far apart as the limit wants them, and
//! no two rows ask for the same one.
//!
//! A limit by the *calendar* counts in whole periods ([`calendar`](super::calendar)). What may be used of one is reserved in the
//! database beforehand, in blocks: a limiter that loses its state has to reserve anew, and what was reserved before is not given
//! again. So nothing that is lost leads past the limit; at most what was left of the blocks stays unused.
//!
//! A meter of which nothing is known is full, unless the dependency's own state was lost: then it is as empty as it may have been at
//! that time.

mod correction;

pub use correction::correct;

use super::rate::RatePolicy;
use super::{Ask, Denied, Reason};

/// A call may be charged this much ahead at the limits that all calls share because of a limit that concerns only some of them,
/// microseconds.
pub const AHEAD_US: f64 = 5_000.0;

/// What a call may owe at most: beyond it, the clock was turned back.
const MOST_OWED_US: f64 = 31.0 * 86_400e6;

/// The most values of one limit that are not full again; further ones wait.
pub const MOST_LIVE: usize = 100_000;

/// Which calls a limit concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All calls to the dependency.
    All,
    /// Those that have a cost of its name.
    Named,
    /// Those of one owner.
    Owner,
    /// Those with one value.
    Value,
}

impl Scope {
    /// Why a call waits for it.
    pub const fn reason(self) -> Reason {
        match self {
            Self::All | Self::Named => Reason::Rate,
            Self::Owner => Reason::OwnerRate,
            Self::Value => Reason::ValueRate,
        }
    }

    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Named => "named",
            Self::Owner => "owner",
            Self::Value => "value",
        }
    }
}

/// No call leaves in the first moments of a calendar's period: it might arrive before the clock of the dependency shows them.
pub const GUARD_AFTER_US: f64 = 100_000.0;

/// No call leaves in the last moments of a calendar's period: it might arrive in the next one.
pub const GUARD_BEFORE_US: f64 = 100_000.0;

/// What a meter allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MeterPolicy {
    /// A bucket.
    Bucket(RatePolicy),
    /// So much from one boundary of a calendar's period to the next.
    Calendar(CalendarPolicy),
}

/// What a calendar's present period allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CalendarPolicy {
    /// Calls.
    pub limit: u32,
    /// Names the period: its end, in microseconds since 1970.
    pub period: f64,
    /// When it began, by the limiter's clock.
    pub from: f64,
    /// When it ends, by the limiter's clock.
    pub until: f64,
    /// Whether calls are spread over it evenly.
    pub spread: bool,
}

impl CalendarPolicy {
    /// When the next period's calls begin.
    fn next(&self) -> f64 {
        self.until + GUARD_AFTER_US
    }

    fn interval(&self) -> f64 {
        let length = self.until - self.from - GUARD_AFTER_US - GUARD_BEFORE_US;
        length.max(0.0) / f64::from(self.limit.max(1))
    }

    /// How much is reserved at once, for a call that takes `cost`.
    pub fn block(&self, cost: u32) -> u32 {
        (self.limit / BLOCKS).max(cost).max(1).min(self.limit.max(1))
    }
}

/// A period's limit is reserved in this many blocks at least: what a loss leaves unused is one of them.
const BLOCKS: u32 = 100;

/// A meter's state. Times are microseconds of the limiter's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MeterState {
    /// GCRA's theoretical arrival time; 0: full.
    pub(super) tat: f64,
    /// The latest moment for which it was charged; 0: none.
    pub(super) last_at: f64,
    /// The next turn that nobody has; 0: none was given. Of a calendar: how much was given turns for the periods that follow.
    pub(super) turn: f64,
    /// The calendar's period that is counted; 0: none.
    pub(super) period: f64,
    /// When that ends, by the limiter's clock.
    pub(super) until: f64,
    /// What calls were charged in it.
    pub(super) used: f64,
    /// What was reserved of it.
    pub(super) reserved: f64,
    /// The limit of which nothing was left to reserve; 0: there may be more.
    pub(super) none_left: f64,
}

impl MeterState {
    /// The state in a calendar's present period.
    fn at(self, calendar: &CalendarPolicy) -> Self {
        if self.period.total_cmp(&calendar.period).is_eq() {
            return self;
        }
        Self { period: calendar.period, until: calendar.until, ..Self::default() }
    }

    /// So much more of the period was reserved; 0: nothing was left of it.
    pub fn deposit(&mut self, calendar: &CalendarPolicy, amount: u32) {
        // It comes late: another period is counted.
        if self.period > calendar.period {
            return;
        }
        *self = self.at(calendar);
        self.reserved += f64::from(amount);
        if amount == 0 {
            self.none_left = f64::from(calendar.limit);
        }
    }
}

/// Why a call may not be made now as far as its meters are concerned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum NotNow {
    /// A limit.
    Denied(Denied),
    /// More of a calendar's period has to be reserved first: the meter's place.
    Unreserved(usize),
}

/// A meter that a call has to pass.
#[derive(Debug)]
pub struct Metered<'a> {
    /// Its state.
    pub state: &'a mut MeterState,
    /// What it allows.
    pub policy: MeterPolicy,
    /// How much of it the call takes.
    pub cost: u32,
    /// Whom it concerns.
    pub scope: Scope,
}

/// What the dependency's state tells its meters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whole {
    /// When what was known was lost; 0: it was not.
    pub(super) lost_at: f64,
    /// How long grants that were made before a loss may still leave.
    pub(super) cold_wait_us: f64,
    /// When the last pause ends that the dependency asked for; 0: there was none.
    pub(super) paused_until: f64,
    /// The share of the rate that is used.
    pub(super) factor: f64,
}

impl Metered<'_> {
    fn tat(&self, rate: &RatePolicy, whole: &Whole, now: f64) -> f64 {
        let mut tat = self.state.tat.min(now + MOST_OWED_US);
        if whole.lost_at > 0.0 {
            tat = tat.max(rate.unknown_at(whole.lost_at, whole.cold_wait_us));
        }
        if self.scope == Scope::All && whole.paused_until > 0.0 {
            tat = tat.max(rate.empty_at(whole.paused_until));
        }
        tat
    }

    /// Microseconds until the call may leave, as far as this limit is concerned.
    fn wait(&self, whole: &Whole, now: f64, ask: &Ask) -> f64 {
        match &self.policy {
            MeterPolicy::Bucket(rate) => {
                // A call that costs more than the burst has all of it, and owes the rest.
                let cost = self.cost.min(rate.burst);
                rate.moment(self.tat(rate, whole, now), now + ask.lead_us, cost) - now
            }
            MeterPolicy::Calendar(calendar) => self.moment(calendar, now + ask.lead_us) - now,
        }
    }

    fn needed(&self, calendar: &CalendarPolicy) -> f64 {
        self.state.at(calendar).used + f64::from(self.cost.min(calendar.limit))
    }

    fn moment(&self, calendar: &CalendarPolicy, soonest: f64) -> f64 {
        let state = self.state.at(calendar);
        let (needed, limit) = (self.needed(calendar), f64::from(calendar.limit));
        let soonest =
            soonest.max(calendar.from + GUARD_AFTER_US).max(if calendar.spread { state.tat } else { 0.0 });
        let is_used_up = needed > limit || (needed > state.reserved && state.none_left >= limit);
        if is_used_up || soonest > calendar.until - GUARD_BEFORE_US { calendar.next() } else { soonest }
    }

    /// When the next period's calls begin, if the call would leave when this one's do no longer.
    fn next_period(&self, at: f64) -> Option<f64> {
        let MeterPolicy::Calendar(calendar) = &self.policy else { return None };
        (at > calendar.until - GUARD_BEFORE_US).then(|| calendar.next())
    }

    fn is_unreserved(&self) -> bool {
        let MeterPolicy::Calendar(calendar) = &self.policy else { return false };
        self.needed(calendar) > self.state.at(calendar).reserved
    }

    /// Charges a call that leaves after `wait`; the slack that it has.
    pub(super) fn charge(&mut self, whole: &Whole, now: f64, wait: f64) -> f64 {
        let at = now + wait;
        match &self.policy {
            MeterPolicy::Bucket(rate) => {
                let tat = self.tat(rate, whole, now);
                let factor = if self.scope == Scope::All { whole.factor } else { 1.0 };
                self.state.tat = rate.charged(tat, at, self.cost, factor);
                self.state.last_at = self.state.last_at.min(now + MOST_OWED_US).max(at);
                RatePolicy::slack(tat, at)
            }
            MeterPolicy::Calendar(calendar) => {
                let mut state = self.state.at(calendar);
                state.used = self.needed(calendar);
                let last = calendar.until - GUARD_BEFORE_US;
                let slack = if calendar.spread { 0.0 } else { (last - at).max(0.0) };
                if calendar.spread {
                    state.tat = state.tat.max(at) + f64::from(self.cost) * calendar.interval();
                }
                *self.state = state;
                slack
            }
        }
    }

    /// The next turn, of a row that has to wait for so long at least.
    fn take_turn(&mut self, now: f64, wait: f64) -> f64 {
        let cost = f64::from(self.cost.max(1));
        match &self.policy {
            MeterPolicy::Bucket(rate) => {
                let turn = self.state.turn.min(now + MOST_OWED_US).max(now + wait);
                self.state.turn = turn + cost * rate.interval_us;
                turn - now
            }
            MeterPolicy::Calendar(calendar) => {
                let mut state = self.state.at(calendar);
                let periods = (state.turn / f64::from(calendar.limit.max(1))).floor();
                state.turn += cost;
                *self.state = state;
                (wait + periods * (calendar.until - calendar.from)).min(MOST_OWED_US)
            }
        }
    }

    /// Whether forgetting it changes nothing.
    pub fn is_full(state: &MeterState, now: f64) -> bool {
        if state.period == 0.0 { state.tat <= now && state.turn <= now } else { state.until <= now }
    }
}

/// How long the call has to wait for all its meters, of which `wait` are the states' own; or why it may not be made now.
pub(super) fn look(
    meters: &mut [Metered<'_>],
    whole: &Whole,
    now: f64,
    wait: f64,
    ask: &Ask,
) -> Result<f64, NotNow> {
    let mut shared = wait;
    let mut own: Option<(usize, f64)> = None;
    for (index, meter) in meters.iter().enumerate() {
        let wait = meter.wait(whole, now, ask);
        if meter.scope == Scope::All {
            shared = shared.max(wait);
        } else if own.is_none_or(|(_, longest)| wait > longest) {
            own = Some((index, wait));
        }
    }
    if shared > super::MAX_WAIT_US {
        return Err(NotNow::Denied(Denied::new(shared, Reason::Rate)));
    }
    if let Some((index, wait)) = own.filter(|(_, wait)| *wait > shared.max(ask.lead_us) + AHEAD_US) {
        let meter = &mut meters[index];
        let patient = wait <= ask.patience_us;
        let retry_after = if patient { wait - AHEAD_US / 2.0 } else { meter.take_turn(now, wait) };
        return Err(NotNow::Denied(Denied::of_row(retry_after, meter.scope.reason())));
    }
    let wait = own.map_or(shared, |(_, wait)| wait.max(shared));
    for meter in meters.iter() {
        if let Some(next) = meter.next_period(now + wait) {
            let denied = Denied::of_row(next - now, meter.scope.reason());
            let row_only = meter.scope != Scope::All;
            return Err(NotNow::Denied(Denied { row_only, ..denied }));
        }
    }
    match meters.iter().position(Metered::is_unreserved) {
        Some(place) => Err(NotNow::Unreserved(place)),
        None => Ok(wait),
    }
}

/// When a call could leave as far as one meter is concerned, microseconds from now.
pub fn free_in(state: &MeterState, policy: &MeterPolicy, now: f64) -> f64 {
    match policy {
        MeterPolicy::Bucket(rate) => rate.moment(state.tat, now, 1) - now,
        MeterPolicy::Calendar(calendar) => {
            let mut state = *state;
            let metered = Metered { state: &mut state, policy: *policy, cost: 1, scope: Scope::All };
            metered.moment(calendar, now) - now
        }
    }
}

/// Whether a calendar's period is used up.
pub fn is_used_up(state: &MeterState, policy: &MeterPolicy, now: f64) -> bool {
    let MeterPolicy::Calendar(calendar) = policy else { return false };
    let free_in = free_in(state, policy, now);
    free_in > 0.0 && now + free_in >= calendar.next()
}

impl MeterState {
    /// The arrival time, for [`correct`].
    pub fn charged_to(&self) -> f64 {
        self.tat
    }
}

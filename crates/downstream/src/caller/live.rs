//! Limits that an operator changes while services run.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use penstock_domain::limit::Reason;
use penstock_domain::pipeline::{Dependency, Rate};

use super::{Called, Caller};
use crate::limiter::CallLimits;

/// A call to a dependency that an operator has paused waits this long, and then looks again: so soon it is heard that the pause is
/// over.
const PAUSED_FOR: Duration = Duration::from_secs(1);

/// What is set of a dependency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveLimits {
    /// Calls in a period.
    pub limit: Option<u32>,
    /// Calls at once.
    pub concurrency: Option<u32>,
    /// Whether nobody calls it.
    pub paused: bool,
}

/// What is known of the settings of all dependencies.
#[derive(Clone, Debug, Default)]
enum Known {
    /// Nobody sets any here.
    #[default]
    None,
    /// They were not read yet.
    Awaited,
    /// By the dependency's name.
    Read(Arc<HashMap<String, LiveLimits>>),
}

/// The settings of this process.
#[derive(Debug, Default)]
pub(super) struct Live(RwLock<Known>);

impl Live {
    /// What is set of a dependency; none: nothing. While they are not read, it counts as paused.
    pub(super) fn of(&self, dependency: &str) -> Option<LiveLimits> {
        match &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            Known::None => None,
            Known::Awaited => Some(LiveLimits { paused: true, ..LiveLimits::default() }),
            Known::Read(all) => all.get(dependency).copied(),
        }
    }
}

impl Caller {
    /// No call is made until the settings of an operator are known.
    pub fn await_live_limits(&self) {
        *self.live.0.write().unwrap_or_else(PoisonError::into_inner) = Known::Awaited;
    }

    /// The settings of an operator, by the dependency's name.
    pub fn set_live_limits(&self, all: HashMap<String, LiveLimits>) {
        *self.live.0.write().unwrap_or_else(PoisonError::into_inner) = Known::Read(Arc::new(all));
    }

    /// By how much an operator has changed one of a dependency's rates; 1: not at all.
    pub fn live_share(&self, dependency: &Dependency, rate: &Rate) -> f64 {
        let limit = self.live.of(&dependency.name).and_then(|live| live.limit);
        let changed = CallLimits::rate_of_an_operator(dependency).filter(|changed| *changed == rate);
        match (limit, changed) {
            (Some(limit), Some(written)) => f64::from(limit) / f64::from(written.limit.max(1)),
            _ => 1.0,
        }
    }

    /// Puts what an operator has set into limits that are looked at, or corrected after a call: a pause changes nothing of them.
    pub(super) fn changed_by_operator(&self, dependency: &Dependency, mut limits: CallLimits) -> CallLimits {
        if let Some(live) = self.live.of(&dependency.name) {
            limits.change(dependency, live.limit, live.concurrency);
        }
        limits
    }

    /// Puts what an operator has set into a call's limits; or the call waits, because it is paused.
    pub(super) fn with_live(&self, dependency: &Dependency, limits: &mut CallLimits) -> Option<Called> {
        let live = self.live.of(&dependency.name)?;
        if live.paused {
            let until = self.clock.now() + PAUSED_FOR;
            self.known.remember(limits, Reason::Held, tokio::time::Instant::now() + PAUSED_FOR, None);
            self.metrics.count(&dependency.name, |metrics| metrics.denied(Reason::Held));
            return Some(Called::Waits { until, reason: Reason::Held, refused_for: Duration::ZERO });
        }
        limits.change(dependency, live.limit, live.concurrency);
        None
    }
}

//! Slots that calls of this process hold in Redis, reported there again while the calls are under way.
//!
//! Redis may forget them (a flush, an eviction, a restart), and calls go on. A state that is new gives no slot away for
//! [`penstock_domain::limit::MAX_WAIT_US`], and by then every worker that can reach it has reported its calls under way.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use penstock_domain::limit::micros;
use tokio::time::Instant;

use crate::limiter::CallLimits;
use crate::server::Server;
use crate::wire::{ScriptRequest, Slot};

/// How often they are reported. Several times while a new state gives no slot away, so that neither a lost answer nor a far
/// Redis matters.
const EVERY: Duration = Duration::from_millis(250);

/// Slots by the key of their state.
#[derive(Default)]
pub(crate) struct PermitRefresher(Mutex<HashMap<String, Slots>>);

struct Slots {
    limits: CallLimits,
    /// Until when each is held at most.
    calls: HashMap<u64, Instant>,
    /// Those that were reported to Redis, which may still count them.
    reported: HashSet<u64>,
}

impl PermitRefresher {
    /// A call has a slot. The first one of a limit starts the reports, which end with the last one.
    pub(crate) fn add(
        self: &Arc<Self>,
        server: &Arc<Server>,
        limits: &CallLimits,
        token: u64,
        until: Instant,
    ) {
        let Some((key, _)) = limits.slots() else { return };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.entry(key.to_owned()) {
            Entry::Occupied(mut slots) => {
                slots.get_mut().calls.insert(token, until);
            }
            Entry::Vacant(slots) => {
                let calls = HashMap::from([(token, until)]);
                slots.insert(Slots { limits: limits.clone(), calls, reported: HashSet::new() });
                tokio::spawn(report(Arc::downgrade(self), Arc::downgrade(server), key.to_owned()));
            }
        }
    }

    /// A call's slot is released.
    pub(crate) fn remove(&self, limits: &CallLimits, token: u64) {
        let Some((key, _)) = limits.slots() else { return };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slots) = all.get_mut(key) {
            slots.calls.remove(&token);
        }
    }

    /// The next report; none: there is nothing to report any more.
    fn next_report(&self, key: &str) -> Option<(CallLimits, ScriptRequest)> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let slots = all.get_mut(key)?;
        let now = Instant::now();
        slots.calls.retain(|_, until| *until > now);
        if slots.calls.is_empty() && slots.reported.is_empty() {
            all.remove(key);
            return None;
        }
        let held = slots.calls.iter().map(|(token, until)| Slot {
            token: token.to_string(),
            left_us: micros(until.duration_since(now)),
        });
        // A slot that was released while it was reported may have been taken again by that.
        let gone = slots.reported.iter().filter(|token| !slots.calls.contains_key(token));
        let request = ScriptRequest {
            held: Some(held.collect()),
            released: Some(gone.map(ToString::to_string).collect()),
            ..ScriptRequest::for_token("hold", 0)
        };
        slots.reported = slots.calls.keys().copied().collect();
        Some((slots.limits.clone(), request))
    }
}

async fn report(refresher: Weak<PermitRefresher>, server: Weak<Server>, key: String) {
    loop {
        tokio::time::sleep(EVERY).await;
        let (Some(refresher), Some(server)) = (refresher.upgrade(), server.upgrade()) else { return };
        let Some((limits, request)) = refresher.next_report(&key) else { return };
        // One that is not answered is followed by the next.
        let _ = server.ask(&limits, request).await;
    }
}

#[cfg(test)]
mod tests {
    use penstock_domain::limit::LimitPolicy;
    use penstock_redis::{Connection, Limits, Prefix};

    use super::*;

    /// For limits with slots, and a server that nobody asks here.
    fn scene() -> (Arc<PermitRefresher>, Arc<Server>, CallLimits) {
        let limits = Limits { answer: Duration::from_secs(1), connect: Duration::from_secs(1) };
        let connection = Connection::open("redis://127.0.0.1:1", Prefix::default(), limits).unwrap();
        let policy = LimitPolicy { rate: None, concurrency: Some(2), breaker: None, cold_wait_us: 1e6 };
        let limits =
            CallLimits { dependency: "api".to_owned(), policy, owner: None, meters: Vec::new(), at_us: 0.0 };
        (Arc::default(), Arc::new(Server::new(connection, None)), limits)
    }

    fn reported(refresher: &PermitRefresher) -> Option<(Vec<String>, Vec<String>)> {
        let (_, request) = refresher.next_report("api")?;
        let held = request.held.unwrap().into_iter().map(|slot| slot.token).collect();
        Some((held, request.released.unwrap()))
    }

    #[tokio::test]
    async fn what_was_reported_and_is_free_is_taken_back_once() {
        let (refresher, server, limits) = scene();
        let until = Instant::now() + Duration::from_secs(10);
        refresher.add(&server, &limits, 1, until);
        assert_eq!(reported(&refresher), Some((vec!["1".into()], vec![])));
        refresher.remove(&limits, 1);
        refresher.add(&server, &limits, 2, until);
        assert_eq!(reported(&refresher), Some((vec!["2".into()], vec!["1".into()])));
        refresher.remove(&limits, 2);
        assert_eq!(reported(&refresher), Some((vec![], vec!["2".into()])));
        assert_eq!(reported(&refresher), None, "nothing is left to report");
    }

    #[tokio::test]
    async fn a_slot_whose_end_is_never_reported_runs_out() {
        let (refresher, server, limits) = scene();
        refresher.add(&server, &limits, 1, Instant::now());
        assert_eq!(reported(&refresher), None);
    }
}

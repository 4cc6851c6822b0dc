//! Slots that calls of this process hold at gates in Redis, told there again while the calls are under way.
//!
//! Redis may forget them (a flush, an eviction, a restart), and calls go on. A gate whose state is new gives no slot away
//! for as long as it is cold, [`penstock_domain::limit::MAX_WAIT_US`], and by then every worker that can reach it has told
//! what is under way.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use penstock_domain::limit::micros;
use tokio::time::Instant;

use crate::limiter::Gates;
use crate::server::Server;
use crate::wire::{Asked, Slot};

/// How often they are told. Several times while a gate is cold, so that neither a lost answer nor a far Redis matters.
const EVERY: Duration = Duration::from_millis(250);

/// Slots by gate.
#[derive(Default)]
pub(crate) struct Held(Mutex<HashMap<String, Slots>>);

struct Slots {
    gates: Gates,
    /// Until when each is held at most.
    calls: HashMap<u64, Instant>,
    /// Those that Redis was told of here, and may still count.
    told: HashSet<u64>,
}

impl Held {
    /// A call has a slot. The first one at a gate starts the telling, which ends with the last one.
    pub(crate) fn take(self: &Arc<Self>, server: &Arc<Server>, gates: &Gates, token: u64, until: Instant) {
        let Some((gate, _)) = gates.slots() else { return };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.entry(gate.to_owned()) {
            Entry::Occupied(mut slots) => {
                slots.get_mut().calls.insert(token, until);
            }
            Entry::Vacant(slots) => {
                let calls = HashMap::from([(token, until)]);
                slots.insert(Slots { gates: gates.clone(), calls, told: HashSet::new() });
                tokio::spawn(tell(Arc::downgrade(self), Arc::downgrade(server), gate.to_owned()));
            }
        }
    }

    /// A call's slot is given back.
    pub(crate) fn free(&self, gates: &Gates, token: u64) {
        let Some((gate, _)) = gates.slots() else { return };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slots) = all.get_mut(gate) {
            slots.calls.remove(&token);
        }
    }

    /// What is to be told of a gate; none: nothing any more.
    fn round(&self, gate: &str) -> Option<(Gates, Asked)> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let slots = all.get_mut(gate)?;
        let now = Instant::now();
        slots.calls.retain(|_, until| *until > now);
        if slots.calls.is_empty() && slots.told.is_empty() {
            all.remove(gate);
            return None;
        }
        let held = slots.calls.iter().map(|(token, until)| Slot {
            token: token.to_string(),
            left_us: micros(until.duration_since(now)),
        });
        // One that was given back while it was told may have come back with that.
        let gone = slots.told.iter().filter(|token| !slots.calls.contains_key(token));
        let asked = Asked {
            held: Some(held.collect()),
            gone: Some(gone.map(ToString::to_string).collect()),
            ..Asked::about("hold", 0)
        };
        slots.told = slots.calls.keys().copied().collect();
        Some((slots.gates.clone(), asked))
    }
}

async fn tell(held: Weak<Held>, server: Weak<Server>, gate: String) {
    loop {
        tokio::time::sleep(EVERY).await;
        let (Some(held), Some(server)) = (held.upgrade(), server.upgrade()) else { return };
        let Some((gates, asked)) = held.round(&gate) else { return };
        // One that is not answered is followed by the next.
        let _ = server.ask(&gates, asked).await;
    }
}

#[cfg(test)]
mod tests {
    use penstock_domain::limit::GatePolicy;
    use penstock_redis::{Connection, Limits};

    use super::*;

    /// Of a gate with slots, and of a server that nobody asks here.
    fn scene() -> (Arc<Held>, Arc<Server>, Gates) {
        let limits = Limits { answer: Duration::from_secs(1), connect: Duration::from_secs(1) };
        let connection = Connection::open("redis://127.0.0.1:1", limits).unwrap();
        let policy = GatePolicy { rate: None, concurrency: Some(2), breaker: None, cold_wait_us: 1e6 };
        let gates = Gates { dependency: "api".to_owned(), policy, owner: None };
        (Arc::default(), Arc::new(Server::new(connection, None)), gates)
    }

    fn told(held: &Held) -> Option<(Vec<String>, Vec<String>)> {
        let (_, asked) = held.round("api")?;
        let held = asked.held.unwrap().into_iter().map(|slot| slot.token).collect();
        Some((held, asked.gone.unwrap()))
    }

    #[tokio::test]
    async fn what_was_told_and_is_free_is_taken_back_once() {
        let (held, server, gates) = scene();
        let until = Instant::now() + Duration::from_secs(10);
        held.take(&server, &gates, 1, until);
        assert_eq!(told(&held), Some((vec!["1".into()], vec![])));
        held.free(&gates, 1);
        held.take(&server, &gates, 2, until);
        assert_eq!(told(&held), Some((vec!["2".into()], vec!["1".into()])));
        held.free(&gates, 2);
        assert_eq!(told(&held), Some((vec![], vec!["2".into()])));
        assert_eq!(told(&held), None, "nothing is left to tell");
    }

    #[tokio::test]
    async fn a_slot_whose_end_is_never_told_runs_out() {
        let (held, server, gates) = scene();
        held.take(&server, &gates, 1, Instant::now());
        assert_eq!(told(&held), None);
    }
}

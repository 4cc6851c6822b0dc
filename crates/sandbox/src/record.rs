//! Every call and every effect.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::{Deserialize, Serialize};

/// This many calls are kept one by one; all are counted.
const MOST_CALLS: usize = 20_000_000;

/// A hash that is small and the same within a process.
pub fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// What was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// POST /address-links
    AddressLinks,
    /// GET /addresses/{link}
    Addresses,
    /// POST /invite/create
    Invite,
}

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Microseconds since the sandbox started.
    pub at_us: u64,
    /// What was called.
    pub endpoint: Endpoint,
    /// The answer's status; 0: none was given.
    pub status: u16,
}

/// What was counted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Calls by endpoint.
    pub address_links: u64,
    /// Calls by endpoint.
    pub addresses: u64,
    /// Calls by endpoint.
    pub invites: u64,
    /// Answers by status; 0: none was given.
    pub statuses: BTreeMap<u16, u64>,
    /// Invitations: distinct Idempotency-Keys.
    pub effects: u64,
    /// Calls that repeated a key and got its first answer again.
    pub replays: u64,
    /// Invitations without a key.
    pub unkeyed: u64,
    /// People who were invited to one campaign under two keys.
    pub doubled: u64,
    /// The most calls of any second on the sandbox's clock.
    pub most_in_a_second: u64,
    /// Calls that carried a `traceparent` (W3C Trace Context).
    pub traced: u64,
    /// The last of them.
    pub last_traceparent: Option<String>,
    /// Whether calls were too many to be kept one by one.
    pub overflowed: bool,
}

/// The record.
#[derive(Default)]
pub struct Record {
    calls: Vec<Call>,
    counted: Stats,
    seconds: HashMap<u64, u64>,
    /// Key to content.
    keys: HashMap<u64, u64>,
    /// Person and campaign to the number of invitations.
    people: HashMap<u64, u64>,
}

impl Record {
    /// Notes a call's `traceparent`.
    pub fn traced(&mut self, traceparent: &str) {
        self.counted.traced += 1;
        self.counted.last_traceparent = Some(traceparent.to_owned());
    }
}

/// What an invitation came to.
pub enum Effect {
    /// Somebody was invited.
    Made(u64),
    /// The key was known: the first answer again.
    Replayed(u64),
    /// The key was used for something else.
    Conflict,
}

impl Record {
    /// Keeps a call.
    pub fn call(&mut self, at_us: u64, endpoint: Endpoint, status: u16) {
        match endpoint {
            Endpoint::AddressLinks => self.counted.address_links += 1,
            Endpoint::Addresses => self.counted.addresses += 1,
            Endpoint::Invite => self.counted.invites += 1,
        }
        *self.counted.statuses.entry(status).or_insert(0) += 1;
        let second = self.seconds.entry(at_us / 1_000_000).or_insert(0);
        *second += 1;
        self.counted.most_in_a_second = self.counted.most_in_a_second.max(*second);
        if self.calls.len() < MOST_CALLS {
            self.calls.push(Call { at_us, endpoint, status });
        } else {
            self.counted.overflowed = true;
        }
    }

    /// Invites somebody, once for each key.
    pub fn invite(&mut self, key: Option<&str>, person: u64, body: u64) -> Effect {
        let answer = if let Some(key) = key {
            let key = hash(key);
            let answer = hash(("check", key));
            match self.keys.get(&key) {
                Some(made) if *made == body => {
                    self.counted.replays += 1;
                    return Effect::Replayed(answer);
                }
                Some(_) => return Effect::Conflict,
                None => self.keys.insert(key, body),
            };
            self.counted.effects += 1;
            answer
        } else {
            self.counted.unkeyed += 1;
            hash(("unkeyed", self.counted.unkeyed))
        };
        let invitations = self.people.entry(person).or_insert(0);
        *invitations += 1;
        if *invitations == 2 {
            self.counted.doubled += 1;
        }
        Effect::Made(answer)
    }

    /// What was counted.
    pub fn stats(&self) -> Stats {
        self.counted.clone()
    }

    /// The calls that were kept.
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }
}

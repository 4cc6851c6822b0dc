//! The connections that are open, and whether another one may be.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::connection::{Connection, Limits};
use crate::addresses::network;

/// Bytes of all unfinished heads together, beyond what each connection has for free.
const HEADS_BYTES: usize = 8 * 1024 * 1024;

/// All connections of a server.
#[derive(Debug)]
pub struct Connections {
    limits: Arc<Limits>,
    open: Mutex<Open>,
    /// Bytes of unfinished heads.
    heads: AtomicUsize,
    /// Connections that were given up or refused.
    turned_away: AtomicU64,
    /// Refused clients that are still reading why.
    lingering: AtomicUsize,
}

/// Refused clients that are waited for until they have read why.
const MOST_LINGERING: usize = 64;

/// One of them.
#[derive(Debug)]
pub struct Lingers(Arc<Connections>);

impl Drop for Lingers {
    fn drop(&mut self) {
        self.0.lingering.fetch_sub(1, Relaxed);
    }
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    places: HashMap<u64, Place>,
    by_address: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
struct Place {
    address: Option<IpAddr>,
    connection: Arc<Connection>,
}

/// A connection's place in the table; it is free again when this is dropped.
#[derive(Debug)]
pub struct Held {
    table: Arc<Connections>,
    id: u64,
    /// The connection.
    pub connection: Arc<Connection>,
}

impl Connections {
    /// An empty table.
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits: Arc::new(limits),
            open: Mutex::default(),
            heads: AtomicUsize::new(0),
            turned_away: AtomicU64::new(0),
            lingering: AtomicUsize::new(0),
        })
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.open().places.len()
    }

    /// How many were refused, or closed for another one.
    pub fn turned_away(&self) -> u64 {
        self.turned_away.load(Relaxed)
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection of this address; none when there is none, and nobody waits who could be closed for it.
    pub fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Held> {
        let address = (!self.limits.trusts(peer)).then(|| network(peer));
        let mut open = self.open();
        let of_address = address.and_then(|address| open.by_address.get(&address).copied()).unwrap_or(0);
        let full = if of_address >= self.limits.per_address {
            open.close_longest_waiting(address)
        } else if open.places.len() >= self.limits.most {
            open.close_longest_waiting(None)
        } else {
            None
        };
        let over = of_address >= self.limits.per_address || open.places.len() >= self.limits.most;
        if full.is_some() || over {
            self.turned_away.fetch_add(1, Relaxed);
        }
        if let Some(id) = full {
            open.remove(id);
        } else if over {
            return None;
        }
        let connection = Arc::new(Connection::new(self.limits.clone()));
        let id = open.insert(address, connection.clone());
        Some(Held { table: self.clone(), id, connection })
    }

    /// Leave to wait until a refused client has read why; none when enough are waited for.
    pub(super) fn linger(self: &Arc<Self>) -> Option<Lingers> {
        let before = self.lingering.fetch_add(1, Relaxed);
        let lingers = Lingers(self.clone());
        (before < MOST_LINGERING).then_some(lingers)
    }

    /// Takes bytes for an unfinished head; false when all heads together have too many.
    pub(super) fn take_head(&self, bytes: usize) -> bool {
        let before = self.heads.fetch_add(bytes, Relaxed);
        if before + bytes > HEADS_BYTES {
            self.heads.fetch_sub(bytes, Relaxed);
            return false;
        }
        true
    }

    pub(super) fn give_head(&self, bytes: usize) {
        self.heads.fetch_sub(bytes, Relaxed);
    }
}

impl Open {
    fn insert(&mut self, address: Option<IpAddr>, connection: Arc<Connection>) -> u64 {
        let id = self.next;
        self.next += 1;
        self.places.insert(id, Place { address, connection });
        if let Some(address) = address {
            *self.by_address.entry(address).or_default() += 1;
        }
        id
    }

    fn remove(&mut self, id: u64) {
        let Some(place) = self.places.remove(&id) else { return };
        let Some(address) = place.address else { return };
        if let Some(count) = self.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
    }

    /// Closes the connection that has waited longest for a request's head, of one address or of all.
    fn close_longest_waiting(&mut self, of: Option<IpAddr>) -> Option<u64> {
        let waiting = self.places.iter().filter(|(_, place)| of.is_none() || place.address == of);
        let (id, place) = waiting
            .filter(|(_, place)| place.connection.is_waiting())
            .min_by_key(|(_, place)| place.connection.since())?;
        place.connection.close();
        Some(*id)
    }
}

impl Held {
    /// The table.
    pub(super) fn table(&self) -> &Connections {
        &self.table
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.table.open().remove(self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::connection::{IDLE, Phase};
    use super::*;

    fn table(most: usize, per_address: usize) -> Arc<Connections> {
        Connections::new(Limits {
            most,
            per_address,
            head: Duration::from_secs(15),
            idle: IDLE,
            stalled: Duration::from_secs(60),
            trusted: vec!["192.0.2.0/24".parse().unwrap()],
        })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn the_one_that_waits_longest_makes_room() {
        let table = table(3, 3);
        let held: Vec<Held> =
            ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|address| table.admit(ip(address)).unwrap()).into();
        // The first has a request, the second had one just now.
        held[0].connection.request_began(false);
        held[1].connection.request_began(false);
        while held[1].connection.since().elapsed() < Duration::from_millis(2) {}
        held[1].connection.request_ended();
        let fourth = table.admit(ip("10.0.0.4")).unwrap();
        let closed: Vec<bool> = held.iter().map(|held| held.connection.is_closed()).collect();
        assert_eq!(closed, [false, false, true]);
        assert_eq!((table.count(), table.turned_away()), (3, 1));
        // When all are busy, nobody's answer is given up.
        held[1].connection.request_began(false);
        fourth.connection.request_began(false);
        assert!(table.admit(ip("10.0.0.5")).is_none());
        drop(held);
        drop(fourth);
        assert_eq!(table.count(), 0);
        assert!(table.open().by_address.is_empty());
    }

    #[tokio::test]
    async fn one_address_has_its_share_and_a_proxy_what_there_is() {
        let table = table(10, 2);
        let mut held: Vec<Held> = (0..2).map(|_| table.admit(ip("10.0.0.1")).unwrap()).collect();
        held.push(table.admit(ip("10.0.0.2")).unwrap());
        held.push(table.admit(ip("10.0.0.1")).unwrap());
        assert!(held[0].connection.is_closed() && !held[2].connection.is_closed(), "of its own address");
        let proxied: Vec<Held> = (0..5).map(|_| table.admit(ip("192.0.2.7")).unwrap()).collect();
        assert!(proxied.iter().all(|held| !held.connection.is_closed()));
        // All of an IPv6 network are one; a mapped address is the IPv4 one.
        let held: Vec<Held> =
            ["2001:db8::1", "2001:db8::2", "2001:db8::3"].map(|text| table.admit(ip(text)).unwrap()).into();
        assert!(held[0].connection.is_closed());
        assert_eq!(network(ip("::ffff:10.0.0.1")), ip("10.0.0.1"));
    }

    #[test]
    fn a_body_that_is_left_unread_is_no_head() {
        let connection = Connection::new(table(1, 1).limits.clone());
        connection.request_began(true);
        connection.request_ended();
        assert_eq!(connection.phase(), Phase::Rest);
        connection.request_began(true);
        connection.body_ended();
        connection.request_ended();
        assert_eq!(connection.phase(), Phase::Idle);
        connection.give(0);
        assert_eq!(connection.phase(), Phase::Idle);
        connection.give(1);
        assert_eq!(connection.phase(), Phase::Head);
    }
}

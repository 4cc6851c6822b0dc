//! One connection: what its stream, its requests and the table know of it, and how much it may take.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use futures::task::AtomicWaker;
use ipnet::IpNet;
use tokio::time::Instant;

/// How long a connection waits for its next request. Longer than proxies keep one that nothing comes over (usually 60 s): a request that
/// a proxy sends while the connection is being closed is lost, and its client is answered 502.
pub const IDLE: Duration = Duration::from_secs(75);

/// How much connections may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections in all.
    pub most: usize,
    /// Connections of one address; an IPv6 network of 64 bits counts as one.
    pub per_address: usize,
    /// How long a request's head may take, and how long a new connection may wait with its first.
    pub head: Duration,
    /// How long a connection may wait for its next request.
    pub idle: Duration,
    /// How long a client that is being sent an answer may take no byte of it.
    pub stalled: Duration,
    /// Addresses of proxies: they are connected for many clients, and what they say of a client's address is believed.
    pub trusted: Vec<IpNet>,
}

impl Limits {
    /// Whether an address is a trusted proxy's.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }
}

/// What is being read of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// A request's head, or nothing yet of the first.
    Head,
    /// A request that a handler has.
    Request,
    /// A body that its handler left unread; the connection ends, or goes on when the rest was read.
    Rest,
    /// Nothing yet of a further request.
    Idle,
}

/// One connection, as its stream, its requests and the table see it.
#[derive(Debug)]
pub struct Connection {
    limits: Arc<Limits>,
    phase: AtomicU8,
    /// When the phase began, in milliseconds from `born`.
    since: AtomicU64,
    born: Instant,
    /// Bytes given to the server since somebody last asked for more.
    given: AtomicUsize,
    /// Whether the stream stopped reading because enough was given.
    blocked: AtomicBool,
    /// Whether the request under way has a body of which not all was read.
    unread: AtomicBool,
    closed: AtomicBool,
    waker: AtomicWaker,
}

impl Connection {
    pub(super) fn new(limits: Arc<Limits>) -> Self {
        Self {
            limits,
            phase: AtomicU8::new(Phase::Head as u8),
            since: AtomicU64::new(0),
            born: Instant::now(),
            given: AtomicUsize::new(0),
            blocked: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Head,
            1 => Phase::Request,
            2 => Phase::Rest,
            _ => Phase::Idle,
        }
    }

    fn enter(&self, phase: Phase) {
        let since = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since.store(since, Relaxed);
        self.phase.store(phase as u8, Relaxed);
    }

    /// When the phase began.
    pub(super) fn since(&self) -> Instant {
        self.born + Duration::from_millis(self.since.load(Relaxed))
    }

    /// A handler has the request.
    pub fn request_began(&self, has_body: bool) {
        self.unread.store(has_body, Relaxed);
        self.enter(Phase::Request);
    }

    /// The request's answer is complete, or given up.
    pub fn request_ended(&self) {
        self.enter(if self.unread.load(Relaxed) { Phase::Rest } else { Phase::Idle });
        self.more_is_wanted();
    }

    /// Whoever reads the body has all that came, and waits.
    pub fn more_is_wanted(&self) {
        self.given.store(0, Relaxed);
        if self.blocked.swap(false, Relaxed) {
            self.waker.wake();
        }
    }

    /// The body was read to its end.
    pub fn body_ended(&self) {
        self.unread.store(false, Relaxed);
    }

    /// Bytes were given to the server.
    pub(super) fn give(&self, bytes: usize) {
        if bytes > 0 && self.phase() == Phase::Idle {
            self.enter(Phase::Head);
        }
        self.given.fetch_add(bytes, Relaxed);
    }

    pub(super) fn given(&self) -> usize {
        self.given.load(Relaxed)
    }

    /// The stream reads no more until somebody wants it to.
    pub(super) fn block(&self, cx: &std::task::Context<'_>) {
        self.waker.register(cx.waker());
        self.blocked.store(true, Relaxed);
    }

    pub(super) fn listen(&self, cx: &std::task::Context<'_>) {
        self.waker.register(cx.waker());
    }

    /// Whether it has to end, because its place was given to another.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Relaxed);
        self.waker.wake();
    }

    /// Whether no request is under way, so that it can be closed without anybody losing an answer.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.phase(), Phase::Head | Phase::Idle)
    }
}

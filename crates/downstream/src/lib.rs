//! Calls to dependencies. [`limiter`] decides when, in this process ([`local`]) or for all workers (`shared`, on
//! Redis); [`client`] makes one call, [`aside`](mod@aside) reads long answers beside the runtime; [`caller`] puts them together and has the answer judged;
//! [`metrics`] count, [`memory`](mod@memory) bounds what long answers take.

use std::time::Duration;

pub mod aside;
mod body;
mod budget;
pub mod caller;
pub mod client;
mod connect;
pub mod credentials;
pub mod delay;
pub mod failure;
mod failure_log;
#[cfg(feature = "redis")]
mod groups;
mod lateness;
pub mod limiter;
pub mod local;
pub mod memory;
pub mod metrics;
#[cfg(feature = "redis")]
mod permit_refresher;
mod proxy;
mod query;
mod recording_time;
pub mod reported_windows;
mod response;
mod retry_after;
#[cfg(feature = "redis")]
mod server;
#[cfg(feature = "redis")]
pub mod shared;
mod stage;
mod status_line;
mod tls;
mod transport;
mod wait_queue;
#[cfg(feature = "redis")]
mod wire;

pub use aside::aside;
pub use caller::{
    BELIEVED_FOR, CallWait, Called, Caller, Demand, LastUse, LiveLimits, LocalReservations, Note, PeriodKey,
    Reservations, Rules, WaitsFor,
};
pub use client::Client;
pub use credentials::oauth2::{KeptTokens, Refusal, TokenVault};
pub use failure::Failure;
pub use limiter::{CallLimits, CallMeter, Limiter, Permit, Spend};
pub use local::LocalLimiter;
pub use memory::Reserved;
pub use metrics::{CallMetrics, Histogram};
pub use response::Response;
pub use retry_after::{asked_pause, wait_until};
#[cfg(feature = "redis")]
pub use shared::SharedLimiter;
pub use stage::{Outgoing, OutgoingHeader, Recorded, Stage};

/// A call that would leave later than this long after it may is not made and asks again
/// ([`penstock_domain::limit::rate::LATE_US`]).
pub const LATE: Duration = Duration::from_micros(penstock_domain::limit::rate::LATE_US as u64);

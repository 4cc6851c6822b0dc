//! Calls to dependencies. [`limiter`] decides when, in this process ([`local`]) or for all workers (`shared`, on
//! Redis); [`client`] makes one call; [`caller`] puts them together and has the answer judged.

pub mod caller;
pub mod client;
pub mod limiter;
pub mod local;
pub mod retry_after;
#[cfg(feature = "redis")]
pub mod shared;

pub use caller::{Called, Caller, Demand};
pub use client::{Client, Response};
pub use limiter::{Grant, Limiter};
pub use local::LocalLimiter;
pub use retry_after::retry_after;


//! Callbacks: where they may go, and their delivery from the outbox.

pub mod address;
pub mod deliver;
pub mod secrets;
pub mod snapshot;

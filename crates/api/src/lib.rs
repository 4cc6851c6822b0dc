//! The HTTP API: thin handlers over the use cases.
//!
//! [`ingest`] takes files, [`batches`] and [`rows`] show and command, [`reports`] stream results, [`events`] tell
//! changes as they happen, [`callbacks`] and [`presigned`] are what their names say; [`auth`] knows owners by their
//! keys, [`problem`] words every refusal.

pub mod auth;
pub mod batches;
pub mod callbacks;
pub mod events;
pub mod health;
pub mod ingest;
pub mod openapi;
pub mod presigned;
pub mod problem;
pub mod reports;
pub mod rows;
pub mod server;
pub mod state;
mod trace;

pub use server::serve;
pub use state::ApiState;

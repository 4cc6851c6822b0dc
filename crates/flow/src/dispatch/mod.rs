//! The dispatcher: a run releases rows into the queue, after it has requeued those of workers that died.
//!
//! `run` sweeps, then `release` marks rows in SQL as `plan` shares them out and `lane_room` allows, and `packets` makes messages
//! of them. [`dead_workers`] requeues the rows of workers that died.

pub mod dead_workers;
pub(crate) mod lane_room;
mod packets;
mod plan;
mod policy;
pub(crate) mod release;
mod report;
pub mod run;

pub use policy::DispatchPolicy;
pub use report::{OwnerRelease, RunReport};

//! Processing: rows are received from the queue, claimed in groups, carried through their steps and settled.
//!
//! `state` is what a worker holds, `lifecycle` runs and drains it. The `queue_handler` receives messages; rows wait in
//! [`lanes`], those that run alone in `suspects`, and files go to `extraction`. The `claim_loop` chooses as `admission`, `slots`,
//! `owner_limits`, `uses` and `memory` allow, `claim` claims, and `start` starts a task in which [`row`] carries a row through its steps.
//! Rows of one batch may share a call ([`bulk`]). Of each batch [`batches`] keeps what its rows need. The [`intent_log`] records
//! calls that are made at most once, [`settle`] writes how rows end, and `replacements` releases others for those that wait for their
//! value's limit. A [`heartbeat`] keeps the [`leases`] of the rows in flight.

mod admission;
mod answer_counts;
pub(crate) mod answers;
pub mod batches;
pub mod bulk;
mod claim;
mod claim_loop;
mod extraction;
mod grouped;
pub mod heartbeat;
pub mod held;
pub mod intent_log;
mod keep_alive;
mod kept_answers;
mod kept_polls;
pub mod lanes;
pub mod leases;
mod lifecycle;
mod load;
pub mod lookups;
mod memory;
pub mod observe;
mod open;
mod owner_limits;
mod policy;
mod polls;
mod progress;
mod queue_handler;
mod replace;
mod replacements;
pub mod row;
pub mod settle;
pub mod settle_calls;
pub mod settled_row;
pub mod single;
mod slots;
mod start;
mod state;
pub(crate) mod suspects;
mod uses;

pub use crate::telemetry::worker_counters::WorkerMetrics;
pub use policy::WorkerPolicy;
pub use state::Worker;

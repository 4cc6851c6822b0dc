//! Processing: rows are heard of, claimed in groups, carried through their steps and handed to settlement.
//!
//! `queue_handler` receives messages, [`lanes`] hold what was heard of and `suspects` what runs alone, [`batches`] what is known of
//! its batches, [`scheduler`] chooses as `slots`, `owners` and `weights` allow what `claim` claims, `open` opens and [`row`] carries one row
//! with what `progress` knows of it. A [`heartbeat`] keeps the rows in flight, [`leases`] knows them, [`asked`] notes what may be
//! asked for only once; [`metrics`] count.

mod admission;
pub mod batches;
mod claim;
pub mod heartbeat;
pub mod intent_log;
mod keep_alive;
mod kept_answers;
pub mod lanes;
pub mod leases;
mod memory;
pub mod observe;
mod open;
mod owner_limits;
mod progress;
mod queue_handler;
pub mod row;
pub mod scheduler;
pub mod single;
pub(crate) mod suspects;

pub use crate::telemetry::worker_counters::WorkerMetrics;
pub use scheduler::{Worker, WorkerPolicy};
pub mod settle;

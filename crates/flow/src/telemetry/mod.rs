//! What is counted and traced. Nothing here knows a use case.

pub mod metrics;
pub mod traces;
pub mod worker_counters;

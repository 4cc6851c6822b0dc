//! What operators ask for, and what runs in the background.

pub mod adopt;
pub mod alerts;
mod call_metrics;
pub mod collect_metrics;
pub mod control;
pub mod delays;
pub mod dependencies;
pub mod duplicates;
pub mod finding;
pub mod health;
pub mod limit_use;
pub mod limits;
pub mod live_limits;
pub mod operations;
mod pipeline_metrics;
pub mod readiness;
pub mod reconcile;
pub mod retention;
pub mod rotation;
pub mod samples;
mod stored_files;
mod unfinished;

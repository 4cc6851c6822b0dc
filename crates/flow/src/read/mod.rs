//! What clients ask for: a batch, its rows, its reports, and why it waits.

pub mod allowed;
pub mod errors;
pub mod eta;
mod kept_answers;
pub mod lines;
pub mod links;
pub mod pipelines;
pub mod results;
mod row_effect;
pub mod row_view;
pub mod standing;
pub mod throughput;
pub mod view;
pub mod waiting;
mod waiting_calls;
pub mod waits;

//! What clients ask for: a batch, its rows, its reports, and why it waits.

pub mod eta;
pub mod links;
pub mod results;
pub mod row_view;
pub mod view;
pub mod waiting;

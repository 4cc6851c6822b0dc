//! One row through its steps. [`RowTask`] is what a row's task works with; `run` takes the row from step to step; a `step` is
//! `render`ed, waits for its permit and is sent (`call`), and `judge` decides what its answer means. `settlement` builds what
//! is written of a row that ends, `problem` and `detail` what its owner reads about it.

pub(crate) mod answer;
mod bulk;
mod cached;
mod call;
mod detail;
mod distribute;
mod duplicate;
mod intent;
mod judge;
mod lead;
mod poll;
mod problem;
mod render;
mod run;
mod sealed_answer;
mod settlement;
mod spend;
mod step;
mod task;

pub use run::RowEnd;
pub(crate) use settlement::failure_of;
pub use task::RowTask;

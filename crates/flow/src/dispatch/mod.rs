//! The dispatcher: a run releases rows into the queue, after it has requeued those of workers that died.

pub mod dead_workers;
pub mod run;

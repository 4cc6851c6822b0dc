//! Processing: rows are heard of, claimed in groups, carried through their steps and handed to settlement.
//!
//! [`lanes`] hold what was heard of, [`batches`] what is known of its batches, [`scheduler`] claims as `slots`
//! and `owners` allow, `open` opens and [`row`] carries one row with what `progress` knows of it, [`leases`] keeps them while they run, [`asked`] notes what may be asked for only once;
//! [`figures`] count.

pub mod asked;
pub mod batches;
pub mod figures;
mod kept;
pub mod lanes;
pub mod leases;
pub mod observe;
mod open;
mod owners;
mod progress;
pub mod row;
pub mod scheduler;
pub mod single;
mod slots;

pub use figures::WorkerFigures;
pub use scheduler::{Worker, WorkerPolicy};

//! Penstock's rules: everything that can be decided without I/O.
//!
//! No clock, no randomness, no database: time comes in as [`time::Timestamp`], randomness as a number, rows as
//! values; JSON of others is read by [`json`] only. The rooms, in the order in which a row meets them: [`csv`], [`pipeline`], [`batch`], [`row`],
//! [`fair`], [`limit`], [`ruling`], [`outcome`].

pub mod alert;
pub mod batch;
pub mod cause;
pub mod csv;
pub mod effect;
pub mod exchange;
pub mod fair;
pub mod ids;
pub mod json;
pub mod json_size;
pub mod ledger;
pub mod limit;
pub mod outcome;
pub mod pipeline;
pub mod query;
pub mod retry;
pub mod row;
pub mod ruling;
pub mod time;
pub mod xml;

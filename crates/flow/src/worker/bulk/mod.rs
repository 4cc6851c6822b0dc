//! Bulk calls: many rows in one.
//!
//! Each row is a task of its own, up to the step. There it joins a [`gather`]ing of its batch and waits; the first one to come
//! leads: it waits until the call is full, or nobody else can come, and makes the call for all (`row::lead`). A call that was refused
//! as a whole is divided, and a size that is too large is remembered in [`sizes`]. Then each row's task goes on with its own part of
//! the answer, and what all of them come to is written in one transaction ([`ends`]).
//!
//! A call that must not be made twice is recorded with all of its rows before it is made. When there is no answer, exactly these rows
//! are claimed together again, and gather by the call's name.

pub mod ends;
pub mod gather;
pub mod sizes;

pub use ends::Together;
pub use gather::Gatherer;

//! A worker in a test: tokio's clock is paused and moves on by itself when nothing is left to do, the store is a SQLite file
//! whose calls can fail, and the API is a server whose answers can be held back.

#![allow(clippy::unwrap_used, clippy::wildcard_imports, missing_docs, reason = "tests")]

mod api;
mod awake;
mod database_errors;
mod drain;
mod error_lists;
mod extraction;
mod harness;
mod leases;
mod limiter;
mod rows;
mod store;

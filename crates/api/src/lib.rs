//! The HTTP API: thin handlers over the use cases.
//!
//! | what | where |
//! |---|---|
//! | files come in | [`ingest`], [`form`] of [`multipart`], its [`fields`]; [`presigned`]; how far they are: [`progress`] |
//! | batches and rows are shown and commanded | [`batches`], [`rows`], [`retry`], [`events`], [`throughput`], [`history`], [`callbacks`], [`audit`], [`pipelines`]; for admin keys [`limits`], [`operations`] |
//! | the same as pages | `console` |
//! | results go out | [`reports`] (in [`ranges`], by what the [`report_index`] knows), [`downloads`] for clients without a key |
//! | keys, and who was refused | [`auth`], [`accesses`] |
//! | what clients may use | [`connections`] before anything is known of them, [`address_rates`] without a key, [`rates`], [`quotas`], [`budgets`] |
//! | requests are read strictly | [`query`], [`cursors`], [`body`], [`media`] |
//! | what is in every answer | [`problem`], [`headers`], [`coding`]; [`keyless`] for what is the same for everybody |

pub mod accesses;
pub mod address_rates;

mod addresses;
pub mod audit;
pub mod auth;
pub mod batches;
pub mod body;
pub mod budgets;
pub mod callbacks;
pub mod coding;
pub mod connections;
mod console;
pub mod cursors;
mod docs;
pub mod downloads;
mod error_files;
mod error_links;
mod errors;
pub mod events;
pub mod fields;
mod file_names;
pub mod form;
pub mod headers;
pub mod health;
pub mod history;
pub mod ingest;
pub mod keyless;
pub mod limits;
mod looks;
pub mod media;
mod middleware;
pub mod multipart;
pub mod openapi;
pub mod operations;
pub mod pipelines;
pub mod presigned;
pub mod problem;
pub mod progress;
pub mod query;
pub mod quotas;
pub mod ranges;
pub mod rates;
pub mod refusals;
pub mod report_index;
mod report_query;
pub mod reports;
pub mod retry;
pub mod routing;
mod rows;
mod seen;
pub mod server;
mod shared_answer;
pub mod state;
pub mod throughput;
mod token_bucket;
mod trace;
mod upload_end;
mod wording;

pub use console::one_time_path;
pub use server::start;
pub use state::ApiState;

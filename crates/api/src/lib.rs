//! The HTTP API: thin handlers over the use cases.
//!
//! [`ingest`] takes files (a [`form`] of [`multipart`], its [`fields`]), [`batches`], [`rows`] and [`retry`] show and command,
//! [`reports`] stream results (in [`ranges`], by what the [`report_index`] knows), [`downloads`] give them to who has no key,
//! [`events`] tell changes as they happen,
//! [`callbacks`], [`audit`] and [`presigned`] are what their names say; [`auth`] knows owners by their keys, [`accesses`] records who was refused and what admins read,
//! [`connections`] bounds what strangers cost before that, [`keyless`] what they are sent, [`coding`] what is compressed, [`budgets`] what clients take at a time, [`rates`] how often they ask, [`strangers`] how often who has no key, [`quotas`] how much they keep, [`query`], [`cursors`], [`body`] and [`media`] read requests strictly, [`problem`] words every refusal, [`headers`] are on every answer.

pub mod accesses;
pub mod audit;
pub mod auth;
pub mod batches;
pub mod body;
pub mod budgets;
pub mod callbacks;
pub mod coding;
pub mod connections;
pub mod cursors;
mod docs;
pub mod downloads;
pub mod events;
pub mod fields;
pub mod form;
pub mod headers;
pub mod health;
pub mod ingest;
pub mod keyless;
pub mod media;
pub mod multipart;
pub mod openapi;
pub mod presigned;
pub mod problem;
pub mod query;
pub mod quotas;
pub mod ranges;
pub mod rates;
pub mod refusals;
pub mod report_index;
pub mod reports;
pub mod retry;
pub mod rows;
pub mod server;
pub mod state;
pub mod strangers;
mod trace;
mod wording;

pub use server::start;
pub use state::ApiState;

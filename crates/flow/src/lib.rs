//! The use cases, in the order in which a row meets them: [`upload`] (or [`adopt`]) with its [`file`](mod@file),
//! [`extract`] with its [`reader`](mod@reader), [`dispatch`], [`process`], [`settle`], then what people ask for:
//! [`view`], [`results`] with their [`references`] and [`links`], [`control`], [`callbacks`] to their [`addresses`].
//!
//! Nothing here knows which services were chosen; they come in as [`services::Services`].

pub mod addresses;
pub mod adopt;
pub mod alerts;
pub mod budget;
pub mod callbacks;
pub mod control;
pub use penstock_store::crash;
pub mod definitions;
pub mod delays;
pub mod dependencies;
pub mod dispatch;
mod earlier;
pub mod services;
mod epochs;
pub mod error;
pub mod eta;
pub mod extract;
pub mod file;
mod kept;
pub mod keys;
pub mod links;
pub mod metrics;
pub mod pace;
pub mod parts;
pub mod presigned;
pub mod process;
mod reader;
pub mod readiness;
pub mod reconcile;
pub mod recovery;
pub mod references;
pub mod results;
pub mod retention;
pub mod rotation;
pub mod secrets;
pub mod settle;
pub mod signing;
pub mod standstill;
pub mod supervise;
pub mod traces;
mod unsealed;
pub mod upload;
pub mod view;
pub mod waiting;
pub mod weight;

pub use definitions::Definitions;
pub use services::Services;
pub use error::FlowError;

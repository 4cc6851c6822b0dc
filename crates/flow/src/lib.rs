//! The use cases, one folder for each stage, in the order in which a row meets them:
//!
//! [`intake`] (an upload becomes a batch) → [`extract`] (its file becomes rows) → [`dispatch`] (rows are released into the
//! queue) → [`worker`] (rows are claimed, called and settled) → [`callbacks`] (the client is told). [`read`] is what clients
//! ask for, [`operate`] what operators ask for and what runs in the background. All of them stand on [`context`] and
//! [`telemetry`]. A stage imports only from stages before it; `tests/imports.rs` sees to it.
//!
//! Nothing here knows which backends were chosen: they come in as [`Services`].

pub mod callbacks;
pub mod context;
pub mod dispatch;
pub mod extract;
pub mod intake;
pub mod operate;
pub mod read;
pub mod telemetry;
pub mod worker;

pub use context::definitions::Definitions;
pub use context::error::FlowError;
pub use context::services::Services;
pub use penstock_store::crash;

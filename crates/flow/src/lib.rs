//! The use cases, in the order in which a row meets them: [`upload`], [`extract`], [`dispatch`], [`process`],
//! [`settle`], then what people ask for: [`view`], [`results`], [`control`], [`callbacks`], [`reconcile`].
//!
//! Nothing here knows which engines were chosen; they come in as [`engines::Engines`].

pub mod dispatch;
pub mod engines;
pub mod error;
pub mod eta;
pub mod view;

pub use engines::Engines;
pub use error::FlowError;

//! What the programs share: settings, the choice of engines, telemetry and an orderly end.
//!
//! Nothing outside this crate (and the engines' own) knows which engine was chosen.

pub mod boot;
pub mod data_dir;
pub mod engines;
pub mod health;
#[cfg(feature = "otlp")]
mod otlp;
pub mod settings;
pub mod shutdown;
pub mod signing;
pub mod startup;
pub mod telemetry;

pub use engines::{Chosen, Role};
pub use settings::Settings;

/// A sentence for whoever started the program, with the mend in it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

impl StartError {
    /// A start error from anything that can be said.
    pub fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}

//! What the programs share: settings, the choice of services, telemetry and an orderly end.
//!
//! Nothing outside this crate (and the stores' own) knows which database was chosen.

// In the place of the standard one, which panics when stderr is closed.
macro_rules! eprintln {
    ($($text:tt)*) => { crate::terminal::note(format_args!("{}\n", format_args!($($text)*))) };
}

pub mod boot;
pub mod clock;
pub mod data_dir;
pub mod health;
pub mod live_files;
pub mod log_pipe;
mod logs;
pub mod oidc;
#[cfg(feature = "otlp")]
mod otlp;
pub mod owner_name;
mod panics;
pub mod permissions;
pub mod reload;
mod repeats;
pub mod secret_files;
pub mod services;
pub mod settings;
pub mod shutdown;
pub mod signing;
pub mod startup;
pub mod surface;
pub mod telemetry;
pub mod terminal;
pub mod variables;
mod waiting_room;

pub use services::{Chosen, Role};
pub use settings::Settings;
pub use variables::Variables;

/// A sentence for whoever started the program, with a hint in it.
#[derive(Debug, thiserror::Error)]
#[error("{sentence}")]
pub struct StartError {
    sentence: String,
    misused: bool,
}

impl StartError {
    /// Something failed.
    pub fn new(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), misused: false }
    }

    /// Nothing was tried: what was asked for makes no sense as it stands.
    pub fn misuse(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), misused: true }
    }

    /// Whether the program was misused (exit code 2), rather than unable (1).
    pub fn is_misuse(&self) -> bool {
        self.misused
    }
}

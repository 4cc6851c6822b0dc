//! `penstock pipelines`: what can be done with a definition without an installation.

mod check;

use std::path::PathBuf;

use clap::Subcommand;
use penstock_app::{Settings, StartError};

use crate::output::Output;

#[derive(Subcommand)]
pub enum Command {
    /// Reports all mistakes of definitions, each with its file, line and column
    Check {
        /// Definitions, and folders of them
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Neither variables nor files that definitions name have to exist
        #[arg(long)]
        without_env: bool,
    },
}

/// Carries a command out; false when a definition has mistakes.
pub fn run(settings: &Settings, command: Command, out: Output) -> Result<bool, StartError> {
    match command {
        Command::Check { files, without_env } => check::run(settings, &files, without_env, out),
    }
}

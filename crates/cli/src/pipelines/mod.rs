//! `penstock pipelines`: what can be done with a definition without an installation.

mod answers;
mod attempt;
mod cases;
mod check;
mod rehearse;

use std::path::PathBuf;

use clap::Subcommand;
use penstock_app::{Settings, StartError};
use serde_json::Value;

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
    /// Prints the JSON Schema (2020-12) of definitions, for editors
    Schema,
    /// Prints the requests that a file's first rows make, as they would be sent, with secrets masked
    Try {
        /// The definition
        file: PathBuf,
        /// Rows, as a client uploads them
        #[arg(value_name = "ROWS.csv")]
        rows_csv: PathBuf,
        /// How many rows are tried
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rows: u32,
        /// The upload's context, a JSON object
        #[arg(long, value_parser = json_object)]
        context: Option<Value>,
        /// Recorded answers, by which rows go on
        #[arg(long, conflicts_with = "send")]
        answers: Option<PathBuf>,
        /// Sends the requests
        #[arg(long)]
        send: bool,
    },
    /// Runs the cases beside definitions: DIR/tests/*.yaml
    Test {
        /// A folder of definitions
        dir: PathBuf,
    },
}

/// Reads a JSON object from the command line.
fn json_object(text: &str) -> Result<Value, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
    if value.is_object() { Ok(value) } else { Err("it is not a JSON object".to_owned()) }
}

/// Carries a command out; false when a definition has mistakes.
pub async fn run(settings: &Settings, command: Command, out: Output) -> Result<bool, StartError> {
    match command {
        Command::Schema => {
            let schema = serde_json::to_string_pretty(&penstock_domain::pipeline::schema());
            println!("{}", schema.map_err(crate::open::said)?);
            Ok(true)
        }
        Command::Try { file, rows_csv, rows, context, answers, send } => {
            let attempt = attempt::Attempt {
                file: &file,
                rows_csv: &rows_csv,
                rows,
                context,
                answers: answers.as_deref(),
                send,
            };
            attempt::run(settings, attempt, out).await
        }
        Command::Test { dir } => cases::run(settings, &dir, out).await,
        Command::Check { files, without_env } => check::run(settings, &files, without_env, out),
    }
}

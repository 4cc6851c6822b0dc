//! `penstock pipelines`: what can be done with a definition without an installation.

mod answers;
mod attempt;
mod cases;
mod check;
mod rehearse;
mod unlimited;

use std::path::PathBuf;

use clap::Subcommand;
use penstock_app::{Settings, StartError};
use penstock_domain::pipeline::OwnerView;
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
        /// The owner's name
        #[arg(long, default_value = "try", value_parser = penstock_app::owner_name::owner_name)]
        owner: String,
        /// A variable that a dependency reads as `owner.vars.NAME`
        #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
        var: Vec<(String, String)>,
        /// A secret that a dependency reads as `owner.secrets.NAME`
        #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
        secret: Vec<(String, String)>,
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

/// Reads a name and a value from the command line.
fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Carries a command out; false when a definition has mistakes.
pub async fn run(settings: &Settings, command: Command, out: Output) -> Result<bool, StartError> {
    match command {
        Command::Schema => {
            let schema = serde_json::to_string_pretty(&penstock_domain::pipeline::schema());
            println!("{}", schema.map_err(crate::open::said)?);
            Ok(true)
        }
        Command::Try { file, rows_csv, rows, context, answers, send, owner, var, secret } => {
            let (vars, secrets) = (var.into_iter().collect(), secret.into_iter().collect());
            let attempt = attempt::Attempt {
                file: &file,
                rows_csv: &rows_csv,
                rows,
                context,
                answers: answers.as_deref(),
                send,
                owner: OwnerView { name: owner, vars, secrets },
            };
            attempt::run(settings, attempt, out).await
        }
        Command::Test { dir } => cases::run(settings, &dir, out).await,
        Command::Check { files, without_env } => check::run(settings, &files, without_env, out),
    }
}

//! `penstock`: everything in one process, and the operator's commands.

// In the place of the standard ones, which panic when the output is closed.
macro_rules! print {
    ($($text:tt)*) => { penstock_app::terminal::write(format_args!($($text)*)) };
}
macro_rules! println {
    () => { print!("\n") };
    ($($text:tt)*) => { print!("{}\n", format_args!($($text)*)) };
}
macro_rules! eprint {
    ($($text:tt)*) => { penstock_app::terminal::note(format_args!($($text)*)) };
}
macro_rules! eprintln {
    () => { eprint!("\n") };
    ($($text:tt)*) => { eprint!("{}\n", format_args!($($text)*)) };
}

mod batches;
mod dedupe;
mod demo;
mod dev;
mod doctor;
mod keys;
mod limits;
mod manual;
mod open;
mod output;
mod owner_values;
mod owners;
mod pipelines;
mod reconcile;
mod smoke;
mod socket;
mod why;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{CommandFactory as _, Parser, Subcommand};
use penstock_app::settings::parse_span;
use penstock_app::startup::keyring_error;
use penstock_app::telemetry::{self, LogStyle};
use penstock_app::{Settings, StartError, boot};
use penstock_domain::ids::BatchId;

/// Where one machine keeps its data unless it is told otherwise.
const DEFAULT_DATA: &str = "./data";

/// Processes files of up to a million rows through rate-limited APIs, each row once.
#[derive(Parser)]
#[command(name = "penstock", version, propagate_version = true)]
struct Program {
    #[command(flatten)]
    settings: Settings,
    /// Where one machine keeps its data, unless URLs say otherwise
    #[arg(long, default_value = DEFAULT_DATA, global = true)]
    data: PathBuf,
    /// Prints JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs everything in one process, with a downstream API and a sample file
    Demo {
        /// Rows of the sample
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        rows: u32,
        /// Ends when the batch has ended, also in a terminal
        #[arg(long)]
        once: bool,
        /// Keeps running when the batch has ended, also where the output is not a terminal
        #[arg(long, conflicts_with = "once")]
        keep: bool,
    },
    /// Runs everything in one process, with your pipelines
    Dev {
        /// The time between two dispatcher runs
        #[arg(long, value_parser = parse_span, default_value = "60s")]
        every: Duration,
    },
    /// Brings the database's schema up to date
    Migrate,
    /// API keys
    #[command(subcommand)]
    Keys(keys::Command),
    /// Owners: quotas, weights, callback secrets
    #[command(subcommand)]
    Owners(owners::Command),
    /// Limits of dependencies: change, pause
    #[command(subcommand)]
    Limits(limits::Command),
    /// Keys of rows that were completed: forget
    #[command(subcommand)]
    Dedupe(dedupe::Command),
    /// Definitions: check, schema, try, test
    #[command(subcommand)]
    Pipelines(pipelines::Command),
    /// Batches: list, show, pause, resume, cancel, retry, erase
    #[command(subcommand)]
    Batches(batches::Command),
    /// Explains why a batch or a row waits, and until when
    Why {
        /// The batch
        #[arg(value_parser = open::batch_id)]
        batch: BatchId,
        /// The row's number
        row: Option<u32>,
    },
    /// Extracts a batch's file in this process, now
    Extract {
        /// The batch
        #[arg(value_parser = open::batch_id)]
        batch: BatchId,
        /// Required: a worker normally does this
        #[arg(long, required = true)]
        manual_run: bool,
    },
    /// Claims and processes one row in this process, now
    ProcessRow {
        /// The batch
        #[arg(value_parser = open::batch_id)]
        batch: BatchId,
        /// The row's number
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        row: u32,
        /// Also shows paths, the result, and the last request and answer of a step that failed; the audit log records it
        #[arg(long)]
        reveal: bool,
    },
    /// Lists what is stuck and how it would be repaired
    Reconcile {
        /// Applies the repairs
        #[arg(long)]
        apply: bool,
        /// Makes the batches of accepted uploads again that a restored database does not know
        #[arg(long)]
        adopt: bool,
    },
    /// Checks services, schema, keys and pipelines
    Doctor,
    /// Erases and deletes what is past its retention
    Prune,
    /// Sends one small file through a running installation and waits until it is done
    Smoke {
        /// The API's address
        #[arg(long, default_value = "http://127.0.0.1:8080")]
        api: String,
        /// The pipeline that gets it; the default one needs no downstream
        #[arg(long, default_value = "smoke")]
        pipeline: String,
        /// The CSV; without it, a header `id` and one row
        #[arg(long)]
        file: Option<PathBuf>,
        /// How long the batch may take
        #[arg(long, value_parser = parse_span, default_value = "3m")]
        within: Duration,
    },
    /// Sealing: keys of the keyring
    #[command(subcommand)]
    Crypto(CryptoCommand),
}

#[derive(Subcommand)]
enum CryptoCommand {
    /// Wraps every data key again with the keyring's first key
    Rewrap,
}

/// Whether `limits set` was given a `--concurrency`: without one it would have the setting of that name, which is a worker's.
fn writes_concurrency() -> bool {
    let matches = Program::command().get_matches();
    let set = matches.subcommand_matches("limits").and_then(|limits| limits.subcommand_matches("set"));
    set.and_then(|set| set.value_source("concurrency")) == Some(ValueSource::CommandLine)
}

fn main() -> ExitCode {
    let program = Program::parse();
    boot::prepare();
    let style = if matches!(program.command, Command::Dev { .. }) { LogStyle::Json } else { LogStyle::Text };
    let default = match program.command {
        Command::Dev { .. } => "info",
        Command::Demo { .. } => "error",
        _ => "warn",
    };
    let _telemetry = telemetry::start(style, "penstock", default);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("penstock: {error}");
            return ExitCode::FAILURE;
        }
    };
    let json = program.json;
    match runtime.block_on(run(program)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            if json {
                println!("{}", serde_json::json!({ "error": error.to_string() }));
            } else {
                eprintln!("penstock: {error}");
            }
            if error.is_misuse() { ExitCode::from(MISUSED) } else { ExitCode::FAILURE }
        }
    }
}

/// What clap exits with as well.
const MISUSED: u8 = 2;

/// Carries a command out; false when it did its work and the answer is no.
async fn run(mut program: Program) -> Result<bool, StartError> {
    program.settings.read_files()?;
    let out = output::Output { json: program.json };
    match program.command {
        Command::Demo { rows, once, keep } => {
            let stays = keep || !once && std::io::stdout().is_terminal() && !out.json;
            return demo::run(program.settings, &program.data, rows, stays, out).await;
        }
        Command::Dev { every } => return dev::run(program.settings, &program.data, every, out).await,
        Command::Pipelines(command) => return pipelines::run(&program.settings, command, out).await,
        _ => {}
    }
    let begins = matches!(
        program.command,
        Command::Keys(keys::Command::Create { .. }) | Command::Owners(owners::Command::Set { .. })
    );
    let makes = begins || matches!(program.command, Command::Migrate);
    let opened = open::operator(&mut program.settings, &program.data, makes).await?;
    if begins {
        keys::prepare(&opened).await?;
    } else if !makes && !matches!(program.command, Command::Doctor) {
        // The doctor tells it among the rest.
        opened.chosen.services.store.check_schema().await.map_err(open::said)?;
    }
    match program.command {
        Command::Demo { .. } | Command::Dev { .. } | Command::Pipelines(_) => Ok(true),
        Command::Migrate => {
            let services = &opened.chosen.services;
            let (from, to) = penstock_flow::operate::rotation::migrate(services, &open::operator_name())
                .await
                .map_err(|error| keyring_error(&error))?;
            out.say(&serde_json::json!({ "from": from, "to": to }), || {
                if from == to {
                    format!("the schema is up to date (version {to})")
                } else {
                    format!("the schema went from version {from} to {to}")
                }
            });
            Ok(true)
        }
        Command::Keys(command) => keys::run(&opened, command, out).await,
        Command::Owners(command) => owners::run(&opened, command, out).await,
        Command::Limits(command) => limits::run(&opened, command, writes_concurrency(), out).await,
        Command::Dedupe(command) => dedupe::run(&opened, command, out).await,
        Command::Batches(command) => batches::run(&opened, command, out).await,
        Command::Why { batch, row } => why::run(&opened, batch, row, out).await,
        Command::Extract { batch, .. } => manual::extract(&opened, batch, out).await,
        Command::ProcessRow { batch, row, reveal } => {
            manual::process_row(&opened, batch, row, reveal, out).await
        }
        Command::Reconcile { apply, adopt } => reconcile::run(&opened, apply, adopt, out).await,
        Command::Doctor => doctor::run(&opened, out).await,
        Command::Prune => manual::prune(&opened, out).await,
        Command::Smoke { api, pipeline, file, within } => {
            let smoke = smoke::Smoke { api: &api, pipeline: &pipeline, file: file.as_deref(), within };
            smoke::run(&opened, &smoke, out).await
        }
        Command::Crypto(CryptoCommand::Rewrap) => keys::rewrap(&opened, out).await,
    }
}

//! `penstock-dispatcher`: one run and exit, for a CronJob with `concurrencyPolicy: Forbid`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use penstock_app::reload::DefinitionsTask;
use penstock_app::services::choose;
use penstock_app::settings::parse_span;
use penstock_app::startup::{Patience, await_services};
use penstock_app::telemetry::{self, LogStyle};
use penstock_app::{Role, Settings, StartError, boot, shutdown};

// In the place of the standard one, which panics when the output is closed.
macro_rules! println {
    ($($text:tt)*) => { penstock_app::terminal::write(format_args!("{}\n", format_args!($($text)*))) };
}

/// Penstock's dispatcher: releases rows, and exits.
#[derive(Parser)]
#[command(version)]
struct Program {
    #[command(flatten)]
    settings: Settings,
    /// Prints what a run would do, without doing it
    #[arg(long)]
    dry_run: bool,
    /// Runs repeatedly with this interval, such as `60s`, for machines without cron
    #[arg(long, value_parser = parse_span)]
    every: Option<Duration>,
    /// Prints the run as JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let program = Program::parse();
    boot::prepare();
    let _telemetry = telemetry::start(
        LogStyle::Json,
        "penstock-dispatcher",
        if program.every.is_some() { "info" } else { "warn" },
    );
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            telemetry::last_words("penstock-dispatcher", &error);
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(program)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            telemetry::last_words("penstock-dispatcher", &error);
            ExitCode::FAILURE
        }
    }
}

async fn run(mut program: Program) -> Result<(), StartError> {
    program.settings.read_files()?;
    let pipelines = boot::pipelines_of(&program.settings, Role::Dispatcher)?;
    let chosen = choose(&program.settings, pipelines, Role::Dispatcher).await?;
    let policy = chosen.dispatch_policy(&program.settings);
    let stop = shutdown::on_signal();
    // A single run ends before anything could change.
    let definitions = program
        .every
        .and_then(|_| DefinitionsTask::of_service(&program.settings, Role::Dispatcher, &chosen.services));
    let patience = if program.every.is_some() { Patience::Service(None) } else { Patience::Run };
    await_services(&chosen, patience, &stop).await?;
    if let Some(every) = program.every {
        if let Some(definitions) = definitions {
            chosen.services.periodic.start(definitions, &stop);
        }
        let runs = penstock_dispatcher::Runs { services: chosen.services.clone(), policy, every };
        chosen.services.periodic.run(runs, &stop).await;
        return Ok(());
    }
    let report = penstock_dispatcher::once(&chosen.services, &policy, program.dry_run)
        .await
        .map_err(|error| StartError::new(error.to_string()))?;
    if program.json {
        println!("{}", serde_json::json!(report));
    } else {
        println!("{}", penstock_dispatcher::sentence(&report));
        if program.dry_run {
            for owner in &report.owners {
                println!("  {}: {} rows of {} batches", owner.owner, owner.rows, owner.batches);
            }
        }
    }
    Ok(())
}

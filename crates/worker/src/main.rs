//! `penstock-worker`: extracts files, processes rows, delivers callbacks.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use penstock_app::reload::DefinitionsTask;
use penstock_app::services::choose;
use penstock_app::startup::{Patience, await_services};
use penstock_app::telemetry::{self, LogStyle};
use penstock_app::{Role, Settings, StartError, boot, shutdown};

const SERVICE: &str = "penstock-worker";

/// Penstock's worker.
#[derive(Parser)]
#[command(version)]
struct Program {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Checks that a running worker is alive; for images without a shell
    Health,
}

fn main() -> ExitCode {
    let program = Program::parse();
    boot::prepare();
    if let Some(Command::Health) = program.command {
        return penstock_app::health::ask(program.settings.health_bind);
    }
    let _telemetry = telemetry::start(LogStyle::Json, SERVICE, "info");
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            telemetry::last_words("penstock-worker", &error);
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(program.settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            telemetry::last_words("penstock-worker", &error);
            ExitCode::FAILURE
        }
    }
}

async fn run(mut settings: Settings) -> Result<(), StartError> {
    settings.read_files()?;
    let pipelines = boot::pipelines_of(&settings, Role::Worker)?;
    let chosen = choose(&settings, pipelines, Role::Worker).await?;
    let stop = shutdown::on_signal();
    // It listens to SIGHUP from here on.
    let definitions = DefinitionsTask::of_service(&settings, Role::Worker, &chosen.services);
    await_services(&chosen, Patience::Service(Some(settings.health_bind)), &stop).await?;
    if let Some(definitions) = definitions {
        chosen.services.periodic.start(definitions, &stop);
    }
    let running = penstock_worker::start(&chosen, &settings, &stop)?;
    let sources = chosen.sources(Some(running.worker.metrics().clone()), None);
    let server = penstock_worker::health::serve(sources.clone(), settings.health_bind)
        .map_err(|error| StartError::new(format!("cannot listen on {}: {error}", settings.health_bind)))?;
    telemetry::send_metrics(sources, SERVICE, stop.clone());
    let handle = server.handle();
    let serving = tokio::spawn(server);
    tracing::info!(health = %settings.health_bind, "the worker works");
    running.wait().await;
    handle.stop(true).await;
    let _ = serving.await;
    tracing::info!("the worker has drained");
    Ok(())
}

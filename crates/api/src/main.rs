//! `penstock-api`: the HTTP API as a service of its own.

use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use penstock_app::reload::DefinitionsTask;
use penstock_app::services::choose;
use penstock_app::startup::{Patience, await_services};
use penstock_app::telemetry::{self, LogStyle};
use penstock_app::{Role, Settings, StartError, boot, shutdown};

const SERVICE: &str = "penstock-api";

/// Penstock's HTTP API.
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
    /// Checks that a running API is alive; for images without a shell
    Health,
}

fn main() -> ExitCode {
    let program = Program::parse();
    boot::prepare();
    if let Some(Command::Health) = program.command {
        return penstock_app::health::ask(program.settings.bind);
    }
    let _telemetry = telemetry::start(LogStyle::Json, SERVICE, "info");
    match actix_web::rt::System::new().block_on(run(program.settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            telemetry::last_words("penstock-api", &error);
            ExitCode::FAILURE
        }
    }
}

async fn run(mut settings: Settings) -> Result<(), StartError> {
    settings.read_files()?;
    let pipelines = boot::pipelines_of(&settings, Role::Api)?;
    let chosen = choose(&settings, pipelines, Role::Api).await?;
    let stop = shutdown::on_signal();
    // It listens to SIGHUP from here on.
    let definitions = DefinitionsTask::of_service(&settings, Role::Api, &chosen.services);
    await_services(&chosen, Patience::Service(Some(settings.bind)), &stop).await?;
    if let Some(definitions) = definitions {
        chosen.services.periodic.start(definitions, &stop);
    }
    let sources = chosen.sources(None, Some(Arc::default()));
    let (server, address) = penstock_api::start(&chosen, &settings, sources.clone(), stop.clone())?;
    tracing::info!(%address, "the API listens");
    telemetry::send_metrics(sources, SERVICE, stop.clone());
    let handle = server.handle();
    tokio::spawn(async move {
        stop.cancelled().await;
        handle.stop(true).await;
    });
    server.await.map_err(|error| StartError::new(error.to_string()))
}

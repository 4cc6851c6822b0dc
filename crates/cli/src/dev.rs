//! Everything in one process: `penstock dev`, and the ground of the demo.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use penstock_api::server::Handle;
use penstock_app::reload::DefinitionsTask;
use penstock_app::services::choose;
use penstock_app::startup::{Patience, await_services, keyring_error};
use penstock_app::{Chosen, Role, Settings, StartError, Variables, boot, data_dir, shutdown};
use penstock_domain::pipeline::Catalog;
use penstock_flow::context::tasks::spawn_part;
use penstock_flow::operate::rotation;
use tokio_util::sync::CancellationToken;

use serde_json::json;

use crate::open::said;
use crate::output::Output;
use crate::socket;

/// All services of one process.
pub struct Everything {
    pub chosen: Chosen,
    pub address: SocketAddr,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
    handle: Handle,
    worker: penstock_worker::Running,
    dispatcher: tokio::task::JoinHandle<()>,
    socket: tokio::task::JoinHandle<()>,
}

/// Starts everything. What a process before this one held is requeued first.
pub async fn start(
    settings: &Settings,
    pipelines: Catalog,
    every: Duration,
    stop: CancellationToken,
) -> Result<Everything, StartError> {
    let chosen = choose(settings, pipelines, Role::Everything).await?;
    let services = &chosen.services;
    if chosen.embedded {
        rotation::migrate(services, "operator:migration").await.map_err(|error| keyring_error(&error))?;
    }
    await_services(&chosen, Patience::Service(Some(settings.bind)), &stop).await?;
    if chosen.embedded {
        // One process serves this database: whatever was queued or held was its predecessor's.
        services.store.bury_services().await.map_err(said)?;
        let swept = services.store.sweep(services.clock.now(), 0, true).await.map_err(said)?;
        let lost_after = chosen.dispatch_policy(settings).lost_after;
        penstock_flow::dispatch::dead_workers::reclaim(services, lost_after).await.map_err(said)?;
        let messages = swept
            .extractions
            .iter()
            .map(|batch| penstock_flow::dispatch::run::extraction_message(*batch))
            .collect();
        services.queue.enqueue(messages).await.map_err(said)?;
    }
    let worker = penstock_worker::start(&chosen, settings, &stop)?;
    let sources = chosen.sources(Some(worker.worker.metrics().clone()), Some(Arc::default()));
    penstock_app::telemetry::send_metrics(sources.clone(), "penstock", stop.clone());
    let (server, address) = penstock_api::start(&chosen, settings, sources, stop.clone())?;
    let handle = server.handle();
    let server = tokio::spawn(server);
    let runs = penstock_dispatcher::Runs {
        services: services.clone(),
        policy: chosen.dispatch_policy(settings),
        every,
    };
    let dispatcher = services.periodic.start(runs, &stop);
    let socket = if chosen.local { socket::Service::open(&chosen, settings) } else { None };
    let answering = stop.clone();
    let socket = spawn_part(
        "operators' socket",
        async move {
            if let Some(socket) = socket {
                socket.run(answering).await;
            }
        },
        &stop,
    );
    Ok(Everything { chosen, address, stop, server, handle, worker, dispatcher, socket })
}

impl Everything {
    /// Stops everything in order: no more requests, no more releases, rows drained.
    pub async fn finish(self) -> Result<(), StartError> {
        self.stop.cancel();
        self.handle.stop(true).await;
        self.dispatcher.await.map_err(said)?;
        self.socket.await.map_err(said)?;
        self.worker.wait().await;
        self.server.await.map_err(said)?.map_err(said)
    }
}

/// `penstock dev`.
pub async fn run(
    mut settings: Settings,
    data: &Path,
    every: Duration,
    out: Output,
) -> Result<bool, StartError> {
    data_dir::fill(&mut settings, data)?;
    let folder = settings.pipelines.clone().unwrap_or_else(|| PathBuf::from("./pipelines"));
    let pipelines = boot::load_pipelines(&folder, &Variables::of(&settings, Role::Everything))?;
    let stop = shutdown::on_signal();
    let everything = start(&settings, pipelines, every, stop.clone()).await?;
    let services = &everything.chosen.services;
    services.periodic.start(DefinitionsTask::of_dev(folder, &settings, services), &stop);
    let address = format!("http://{}", everything.address);
    out.say(&json!({ "api": address, "documentation": format!("{address}/docs") }), || {
        format!(
            "Penstock listens on {address} (documentation: /docs)\nA key: penstock keys create --owner NAME"
        )
    });
    stop.cancelled().await;
    everything.finish().await?;
    Ok(true)
}

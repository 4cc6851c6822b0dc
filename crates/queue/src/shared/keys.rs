//! The names of the queue's keys.

use std::time::Duration;

use apalis_redis::Config;
use penstock_redis::Connection;

use crate::{Lane, QueueError};

/// The names of one installation's keys.
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    /// Those of the installation that a connection is for.
    pub(super) async fn of(connection: &Connection) -> Result<Self, QueueError> {
        Ok(Self { prefix: connection.prefix().await.map_err(QueueError::new)? })
    }

    /// The pipelines in whose lanes something was enqueued.
    pub(super) fn pipelines(&self) -> String {
        format!("{}pipelines", self.prefix)
    }

    /// What is written to see that writes are taken.
    pub(super) fn ready(&self) -> String {
        format!("{}ready", self.prefix)
    }

    /// The queue of a lane.
    pub(super) fn queue(&self, lane: &Lane) -> Config {
        let prefix = &self.prefix;
        let name = match lane {
            Lane::Extractions => format!("{prefix}extractions"),
            Lane::Suspects => format!("{prefix}suspects"),
            Lane::Rows(pipeline) => format!("{prefix}rows:{pipeline}"),
        };
        Config::default()
            .queue(name)
            .batch_size(1)
            .lock_tasks(false)
            .persist_results(false)
            .emit_events(false)
    }
}

/// How listeners show that they live.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heartbeats {
    /// How often a listener sends one. They are timed by Redis' clock.
    pub(super) every: Duration,
    /// After this many missed ones, what it had taken is given to others.
    pub(super) missed: usize,
}

impl Heartbeats {
    pub(super) fn of(self, queue: Config) -> Config {
        queue.heartbeat_interval(self.every).missed_heartbeats(self.missed)
    }
}

//! How a worker works.

use std::time::Duration;

use crate::extract::policy::ExtractPolicy;

/// How a worker works.
#[derive(Clone, Debug)]
pub struct WorkerPolicy {
    /// Its name, for people to read: unique among running workers.
    pub name: String,
    /// Rows in flight that do not wait for a limit.
    pub concurrency: usize,
    /// How long its heartbeat has to be missing, while other processes check for it, until its rows are requeued.
    pub silence: Duration,
    /// How long after its start time a queued row counts as lost.
    pub lost_after: Duration,
    /// How long it takes until every process uses the database's clock after that was set.
    pub clock_settles: Duration,
    /// How long rows in flight may continue after the worker was asked to stop.
    pub grace: Duration,
    /// How extraction is carried out.
    pub extract: ExtractPolicy,
    /// Memory for long rows in flight, in bytes.
    pub memory: usize,
}

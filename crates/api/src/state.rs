//! What every handler works with.

use std::sync::Arc;
use std::time::Duration;

use penstock_downstream::Caller;
use penstock_flow::Engines;
use penstock_flow::metrics::Sources;
use penstock_flow::signing::UrlSigner;
use tokio_util::sync::CancellationToken;

use crate::reports::Lengths;

/// The API's state. Cheap to clone.
#[derive(Clone)]
pub struct ApiState {
    /// The engines.
    pub engines: Engines,
    /// Rows in flight for an owner without a quota of its own, for estimates.
    pub rows_per_owner: u32,
    /// How long an upload may take.
    pub upload_time: Duration,
    /// How long an upload may stand still.
    pub upload_idle: Duration,
    /// Whether callbacks may go to private addresses.
    pub allow_private_callbacks: bool,
    /// Knows the dependencies' limits as they stand.
    pub caller: Option<Arc<Caller>>,
    /// What this process has to tell of.
    pub sources: Sources,
    /// How long reports are that were asked for in parts.
    pub lengths: Lengths,
    /// Makes URLs to which a client can PUT a file, when the object store can.
    pub signer: Option<Arc<dyn UrlSigner>>,
    /// Cancelled when the service stops: who listens to events is let go.
    pub stop: CancellationToken,
}

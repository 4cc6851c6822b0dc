//! What every handler works with.

use std::sync::Arc;
use std::time::Duration;

use penstock_app::{Chosen, Settings, StartError};
use penstock_downstream::Caller;
use penstock_flow::Services;
use penstock_flow::context::url_signer::UrlSigner;
use penstock_flow::operate::collect_metrics::Sources;
use penstock_flow::operate::reconcile::ReconcilePolicy;
use tokio_util::sync::CancellationToken;

use crate::accesses::Accesses;
use crate::address_rates::AddressRates;
use crate::budgets::Budgets;
use crate::connections::{Connections, IDLE, Limits};
use crate::console::Provider;
use crate::looks::OperatorPages;
use crate::quotas::{Most, Quotas};
use crate::rates::{PerMinute, Rates};
use crate::report_index::Reports;
use crate::seen::Watchers;

/// How long a client that is being sent an answer may take no byte of it.
const STALLED: Duration = Duration::from_secs(60);

/// Keys that are not valid, of one address, in a minute, before it has to wait.
const SIGN_INS_PER_MINUTE: u32 = 10;

/// The API's state. Cheap to clone.
#[derive(Clone)]
pub struct ApiState {
    /// The services.
    pub services: Services,
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
    /// What is known of reports that were written.
    pub reports: Reports,
    /// What clients may take at a time.
    pub budgets: Budgets,
    /// Records who was refused, and what admin keys read.
    pub accesses: Accesses,
    /// How often keys and owners ask.
    pub rates: Rates,
    /// How often an address asks without a valid key.
    pub address_rates: AddressRates,
    /// How much owners keep.
    pub quotas: Quotas,
    /// What links begin with: where clients reach the API. Never what a request says of that.
    pub base: String,
    /// Makes URLs to which a client can PUT a file, when the object store can.
    pub signer: Option<Arc<dyn UrlSigner>>,
    /// The connections that are open.
    pub connections: Arc<Connections>,
    /// How what is stuck is looked for.
    pub reconcile: ReconcilePolicy,
    /// Whether the console is served.
    pub console: bool,
    /// How often an address signs in with a key that is not valid.
    pub sign_ins: AddressRates,
    /// The OpenID Connect provider by which people sign in to the console.
    pub(crate) oidc: Option<Arc<Provider>>,
    /// What is seen of the batches whose pages somebody looks at.
    pub(crate) watchers: Watchers,
    /// What operators see, for every page that shows it.
    pub(crate) operator_pages: OperatorPages,
    /// Cancelled when the service stops: who listens to events is let go.
    pub stop: CancellationToken,
}

impl ApiState {
    /// The state of an API over these services.
    ///
    /// # Errors
    /// When the settings make no sense.
    pub fn new(
        chosen: &Chosen,
        settings: &Settings,
        sources: Sources,
        stop: CancellationToken,
    ) -> Result<Self, StartError> {
        let surface = &settings.surface;
        let provider = settings.oidc.provider()?.map(Provider::new).transpose();
        let oidc =
            provider.map_err(|error| StartError::new(format!("cannot set up TLS: {error}")))?.map(Arc::new);
        let connections = Connections::new(Limits {
            most: surface.connections(),
            per_address: surface.per_address(),
            head: surface.head(),
            idle: IDLE,
            stalled: STALLED,
            trusted: surface.trusted_proxies.clone(),
        });
        Ok(Self {
            services: chosen.services.clone(),
            rows_per_owner: settings.rows_per_owner,
            upload_time: Duration::from_secs(settings.upload_seconds),
            upload_idle: Duration::from_secs(settings.upload_idle_seconds),
            allow_private_callbacks: settings.allow_private_callbacks,
            caller: Some(chosen.caller.clone()),
            sources,
            reports: Reports::default(),
            budgets: Budgets::new(surface.memory_bytes(), chosen.reads_at_once()),
            accesses: Accesses::start(&chosen.services, &stop),
            rates: Rates::new(PerMinute {
                key_requests: surface.key_requests,
                owner_requests: surface.owner_requests,
                key_uploads: surface.key_uploads,
                owner_uploads: surface.owner_uploads,
            }),
            address_rates: AddressRates::new(surface.keyless_requests),
            quotas: Quotas::new(Most {
                batches: surface.owner_batches,
                bytes: surface.owner_stored_mib.saturating_mul(1024 * 1024),
            }),
            base: surface.public_base()?.unwrap_or_default(),
            signer: chosen.signer(),
            connections,
            reconcile: ReconcilePolicy {
                extraction_grace: chosen.dispatch_policy(settings).extraction_grace,
                // The queue is this process's own, or shared.
                messages_reach_workers: true,
            },
            console: surface.console,
            sign_ins: AddressRates::new(SIGN_INS_PER_MINUTE),
            oidc,
            watchers: Watchers::default(),
            operator_pages: OperatorPages::default(),
            stop,
        })
    }
}

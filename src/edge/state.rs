//! What all handlers share. It outlives restarts of the server.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use blyan_protocol::{ErrorCode, PublicError, RequestId};
use blyan_security::SecurityHandle;
use blyan_supervisors::Probe;
use metrics_exporter_prometheus::PrometheusHandle;
use rand::TryRngCore;
use rand::rngs::OsRng;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::adoption::AdoptionPort;
use super::chat::ChatDefaults;
use super::economy::EconomyPort;
use super::hosts::HostRules;
use super::keys::Keys;
use super::port::NodePort;
use super::rollback::RollbackPort;
use super::uploads::UploadPort;
use crate::config::{Config, EdgeConfig, PricingConfig};

/// Shared by all handlers of all generations of the server.
pub struct EdgeState {
    /// The node behind the edge.
    pub node: Arc<dyn NodePort>,
    /// Uploads of experts.
    pub uploads: Arc<dyn UploadPort>,
    /// Changes of the model.
    pub adoption: Arc<dyn AdoptionPort>,
    /// The way back to a snapshot.
    pub rollbacks: Arc<dyn RollbackPort>,
    /// What is paid for answers.
    pub economy: Arc<dyn EconomyPort>,
    /// One permit per piece of an upload on its way, whose bytes are in memory.
    pub pieces: Arc<Semaphore>,
    /// Who is in service, and who decides it.
    pub security: SecurityHandle,
    /// `[edge]`
    pub config: EdgeConfig,
    /// What a request gets that does not say otherwise.
    pub chat: ChatDefaults,
    /// `[pricing]`
    pub prices: PricingConfig,
    /// Who may do what.
    pub keys: Keys,
    /// Under which names and by which pages.
    pub hosts: HostRules,
    /// One permit per answer being made.
    pub streams: Arc<Semaphore>,
    /// How the node stops.
    pub stopping: Stopping,
    /// What `/metrics` renders.
    pub metrics: PrometheusHandle,
    /// Faults for tests.
    pub probe: Arc<dyn Probe>,
    /// The start of the process.
    pub started: Instant,
}

/// What the state is made of besides the configuration.
pub struct EdgeParts {
    /// The node behind the edge.
    pub node: Arc<dyn NodePort>,
    /// Uploads of experts.
    pub uploads: Arc<dyn UploadPort>,
    /// Changes of the model.
    pub adoption: Arc<dyn AdoptionPort>,
    /// The way back to a snapshot.
    pub rollbacks: Arc<dyn RollbackPort>,
    /// What is paid for answers.
    pub economy: Arc<dyn EconomyPort>,
    /// Who is in service, and who decides it.
    pub security: SecurityHandle,
    /// Who may do what.
    pub keys: Keys,
    /// The address in use.
    pub bound: SocketAddr,
    /// How the node stops.
    pub stopping: Stopping,
    /// What `/metrics` renders.
    pub metrics: PrometheusHandle,
    /// Faults for tests.
    pub probe: Arc<dyn Probe>,
}

/// The two steps of a stop.
#[derive(Clone, Default)]
pub struct Stopping {
    /// Nothing new is admitted; answers that are being made hear their end from whoever makes them.
    pub closing: CancellationToken,
    /// Answers that have not heard of their end are told so now.
    pub cut: CancellationToken,
    why: Arc<OnceLock<PublicError>>,
}

impl Stopping {
    /// Whoever is refused or cut off is told this, where nothing else was said before.
    pub fn because(&self, why: PublicError) {
        self.why.get_or_init(|| why);
    }

    /// What whoever is refused or cut off is told.
    pub fn why(&self) -> PublicError {
        self.why.get().cloned().unwrap_or_else(shutting_down)
    }
}

/// Of a node that is not back at once.
fn shutting_down() -> PublicError {
    PublicError::new(
        ErrorCode::ShuttingDown,
        "The node is shutting down.",
        "Ask again when it is back, or ask another node.",
    )
    .retry_after_ms(5000)
}

impl EdgeState {
    /// The state for a server at `parts.bound`.
    pub fn new(config: &Config, parts: EdgeParts) -> Self {
        Self {
            node: parts.node,
            uploads: parts.uploads,
            adoption: parts.adoption,
            rollbacks: parts.rollbacks,
            economy: parts.economy,
            pieces: Arc::new(Semaphore::new(config.uploads.open_max)),
            security: parts.security,
            hosts: HostRules::new(parts.bound, &config.edge.allowed_hosts),
            streams: Arc::new(Semaphore::new(config.edge.streams_max)),
            config: config.edge.clone(),
            chat: ChatDefaults::from(config),
            prices: config.pricing,
            keys: parts.keys,
            stopping: parts.stopping,
            metrics: parts.metrics,
            probe: parts.probe,
            started: Instant::now(),
        }
    }
}

/// A name for a request that nobody can guess.
pub fn new_request_id() -> Result<RequestId, PublicError> {
    random().map(RequestId::from_random)
}

/// A seed for a request that brings none.
pub fn new_seed() -> Result<u64, PublicError> {
    random().map(u64::from_le_bytes)
}

fn random<const N: usize>() -> Result<[u8; N], PublicError> {
    let mut bytes = [0; N];
    OsRng.try_fill_bytes(&mut bytes).map_err(|error| {
        let message = format!("The system gives no random numbers: {error}.");
        PublicError::new(ErrorCode::Internal, message, "Look at the node's log.")
    })?;
    Ok(bytes)
}

//! What the orchestrator asks of the rest of a node. The wiring implements these over the tree and the chain.

use std::sync::Arc;

use blyan_protocol::BoxFuture;

use crate::audit::Anchor;
use crate::core::{Alert, Component};

/// Why a port did not do what it was asked, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PortError(pub String);

impl PortError {
    /// From anything that can be said.
    pub fn new(why: impl ToString) -> Self {
        Self(why.to_string())
    }
}

/// The components of this node. A path is that of the tree, such as `serving/replicas/inference-1`; the wiring may
/// know more, for instance one expert; [`NODE`](crate::NODE) is the node as a whole.
///
/// All methods are idempotent: after a restart a decision may be carried out a second time.
pub trait Components: Send + Sync + 'static {
    /// All components as they are now. Must not wait: it is called before each decision. Empty while there is no
    /// tree yet.
    fn list(&self) -> Vec<Component>;

    /// Takes a component out of service until [`recover`](Self::recover).
    ///
    /// # Errors
    /// The component is not there, or the tree refuses. It is tried again at each tick.
    fn quarantine<'a>(
        &'a self,
        path: &'a str,
        reason: &'a str,
    ) -> BoxFuture<'a, Result<(), PortError>>;

    /// Starts a component that was taken out, and returns when it is ready.
    ///
    /// # Errors
    /// It did not become ready: the recovery failed.
    fn recover<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<(), PortError>>;

    /// Moves what runs on a component elsewhere at its next step, restarts it as a new generation, and returns when
    /// it is ready again.
    ///
    /// # Errors
    /// It did not become ready.
    fn fail_over<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<(), PortError>>;

    /// Verifies in full all stored data that a component rests on. Called while it is out of service.
    ///
    /// # Errors
    /// What is damaged.
    fn verify<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<(), PortError>>;
}

/// Puts an anchor of the audit log where the log's writer cannot take it back: a block on chain A.
pub trait AnchorSink: Send + Sync + 'static {
    /// Returns once the anchor is durable. Idempotent.
    ///
    /// # Errors
    /// It is tried again at the next tick, with what the log holds then.
    fn anchor(&self, anchor: Anchor) -> BoxFuture<'_, Result<(), PortError>>;
}

/// Tells people. Must not wait: queue, retry and dead letters are the sink's.
pub trait AlertSink: Send + Sync + 'static {
    /// Takes an alert that is already in the audit log.
    fn alert(&self, alert: &Alert);
}

/// Everything that [`SecurityOrchestrator`](crate::SecurityOrchestrator) is wired to.
#[derive(Clone)]
pub struct Ports {
    /// The tree.
    pub components: Arc<dyn Components>,
    /// Chain A.
    pub anchors: Arc<dyn AnchorSink>,
    /// Webhooks.
    pub alerts: Arc<dyn AlertSink>,
    /// Milliseconds since 1970-01-01 UTC.
    pub now_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
}

//! What is done after a decision is durable.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::core::{Effect, Orchestrator, Step};
use crate::{Components, PortError, SecurityError};

impl Effect {
    pub(crate) fn path(&self) -> &str {
        match self {
            Self::Quarantine { path, .. }
            | Self::Probe { path, .. }
            | Self::Failover { path, .. } => path,
        }
    }

    pub(crate) const fn is_quarantine(&self) -> bool {
        matches!(self, Self::Quarantine { .. })
    }
}

/// How an effect went.
pub(crate) struct Ended {
    pub(crate) effect: Effect,
    pub(crate) result: Result<(), String>,
}

impl Ended {
    /// What follows in turn.
    pub(crate) fn follow_up(&self, core: &Orchestrator, now_ms: u64) -> Step {
        let result = self.result.as_ref().copied().map_err(String::as_str);
        match (&self.effect, result) {
            (Effect::Probe { path, who, .. }, result) => core.probed(path, who, result, now_ms),
            (Effect::Failover { path, who }, Err(why)) => {
                core.failover_failed(path, who, why, now_ms)
            }
            (Effect::Quarantine { .. } | Effect::Failover { .. }, _) => Step::default(),
        }
    }

    /// What who ordered it hears.
    pub(crate) fn into_reply(self) -> Result<(), SecurityError> {
        let decision = match &self.effect {
            Effect::Quarantine { .. } => "quarantine",
            Effect::Probe { .. } => "recovery",
            Effect::Failover { .. } => "failover",
        };
        let path = self.effect.path().to_owned();
        self.result.map_err(|why| SecurityError::NotEffective {
            decision,
            path,
            why,
        })
    }
}

/// Does it; a component that does not answer within `limit` has failed.
pub(crate) async fn run(components: Arc<dyn Components>, effect: Effect, limit: Duration) -> Ended {
    let result = match &effect {
        Effect::Quarantine { path, reason } => {
            within(limit, components.quarantine(path, reason)).await
        }
        Effect::Failover { path, .. } => within(limit, components.fail_over(path)).await,
        Effect::Probe { path, verify, .. } => {
            probe(components.as_ref(), path, *verify, limit).await
        }
    };
    let result = result.map_err(|error| error.to_string());
    Ended { effect, result }
}

/// Does them one after the other.
pub(crate) async fn run_all(
    components: Arc<dyn Components>,
    effects: Vec<Effect>,
    limit: Duration,
) -> Vec<Ended> {
    let mut ended = Vec::with_capacity(effects.len());
    for effect in effects {
        ended.push(run(Arc::clone(&components), effect, limit).await);
    }
    ended
}

/// A full verification reads all that a component rests on and takes as long as that takes.
async fn probe(
    components: &dyn Components,
    path: &str,
    verify: bool,
    limit: Duration,
) -> Result<(), PortError> {
    if verify {
        components.verify(path).await?;
    }
    within(limit, components.recover(path)).await
}

async fn within(
    limit: Duration,
    work: impl Future<Output = Result<(), PortError>>,
) -> Result<(), PortError> {
    let ended = tokio::time::timeout(limit, work).await;
    ended.unwrap_or_else(|_| Err(PortError::new("it did not answer in time")))
}

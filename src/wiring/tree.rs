//! The supervision tree, as it stands in docs/architecture.md.

use std::sync::Arc;

use blyan_chain::{ChainActor, ChainConfig, ChainHandle, RocksStore};
use blyan_expert_cache::ExpertCacheHandle;
use blyan_inference::actor::InferenceActor;
use blyan_reward::RewardActor;
use blyan_security::SecurityOrchestrator;
use blyan_supervisors::{
    ChildSpec, Probe, SpecError, Strategy, SupervisorSpec, Tree, TreeHandle, TreeOptions,
};

use crate::config::SupervisionConfig;

/// The supervisor of the replicas.
pub const REPLICAS: &str = "serving/replicas";
/// The root's id.
pub const ROOT: &str = "node";

/// The chain's child, with the handle that outlives its restarts.
pub fn chain(
    store: Arc<RocksStore>,
    config: &ChainConfig,
    supervision: &SupervisionConfig,
) -> (ChildSpec<ChainActor<RocksStore>>, ChainHandle) {
    let spec = ChainActor::spec("chain", store, config)
        .window(supervision.child_window())
        .backoff(supervision.backoff());
    let handle = ChainHandle::new(spec.child_ref(), config);
    (spec, handle)
}

/// Starts the security orchestrator, storage and the cache. Replicas and edge are added when there is an engine for them.
///
/// # Errors
/// Windows and pauses of the configuration contradict each other.
pub fn start(
    security: ChildSpec<SecurityOrchestrator>,
    chain: ChildSpec<ChainActor<RocksStore>>,
    reward: ChildSpec<RewardActor>,
    cache: &ExpertCacheHandle,
    supervision: &SupervisionConfig,
    probe: Arc<dyn Probe>,
) -> Result<TreeHandle, SpecError> {
    let cache = cache
        .child_spec("expert_cache")
        .window(supervision.child_window())
        .backoff(supervision.backoff());
    let supervisor = |id: &str| {
        SupervisorSpec::new(id)
            .window(supervision.supervisor_window())
            .backoff(supervision.backoff())
    };
    let storage = supervisor("storage")
        .strategy(Strategy::RestForOne)
        .child(chain)
        .child(reward);
    let serving = supervisor("serving")
        .child(cache)
        .supervisor(supervisor("replicas"));
    let options = TreeOptions {
        probe,
        zombies_max: supervision.zombies_max,
        ..TreeOptions::default()
    };
    Tree::start(
        supervisor(ROOT)
            .child(security)
            .supervisor(storage)
            .supervisor(serving),
        options,
    )
}

/// A replica with the windows of the configuration.
pub fn replica(
    spec: ChildSpec<InferenceActor>,
    supervision: &SupervisionConfig,
) -> ChildSpec<InferenceActor> {
    spec.window(supervision.child_window())
        .backoff(supervision.backoff())
        .stuck_limit(supervision.replica_stuck())
}

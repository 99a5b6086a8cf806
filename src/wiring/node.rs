//! A node from its start to its end.

use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_rt::signal::unix::{Signal, SignalKind, signal};
use anyhow::{Context, Result};
use blyan_chain::snapshot::Snapshot;
use blyan_chain::{ChainHandle, RocksStore};
use blyan_expert_cache::ExpertCacheHandle;
use blyan_inference::actor::Wake;
use blyan_reward::LedgerHandle;
use blyan_security::SecurityHandle;
use blyan_supervisors::{Probe, TreeExit};
use metrics_exporter_prometheus::PrometheusHandle;

use super::adoption::Adopter;
use super::alerts::{self, Alerts, Inbox};
use super::disk::{self, Scrubbing};
use super::faults::{Poke, Seams};
use super::home::Home;
use super::port::{Port, Published};
use super::reward::{self, Rewards};
use super::rollback::{self, Rollbacks};
use super::security;
use super::serving::{self, ServeError};
use super::snapshots;
use super::tree::{self, ROOT};
use super::uploads::UploadDesk;
use crate::config::Config;
use crate::edge::{
    EconomyPort as _, EdgeActor, EdgeHandle, EdgeParts, EdgeState, Keys, NodePort, Stopping,
};

/// The root of the tree gave up.
const EXIT_ROOT: u8 = 70;
/// More threads are stuck for good than are allowed.
const EXIT_ZOMBIES: u8 = 71;
/// The supervision itself failed.
const EXIT_SUPERVISION: u8 = 72;

/// How long storage may take to come up: it reads and checks every header.
const STORAGE_START: Duration = Duration::from_secs(120);
/// Between two tries with a corrupt shared weight.
const MEND_PAUSE: Duration = Duration::from_secs(5);
/// Between two looks at whether the node is ready.
const READY_TICK: Duration = Duration::from_millis(20);
/// Shares of the stop's time: the answers' last words, then open connections.
const LAST_WORDS: (u32, u32) = (3, 9);
const CONNECTIONS: (u32, u32) = (2, 9);
/// Between two folds of what histograms have gathered.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);
/// How long a poked actor may take.
const POKE: Duration = Duration::from_secs(5);
/// How long the database may take to close.
const CLOSE: Duration = Duration::from_secs(1);
/// The same where this process opens it again.
const HAND_OVER: Duration = Duration::from_secs(30);

/// How a node ended.
#[derive(Debug)]
pub enum NodeEnd {
    /// It was asked to.
    Stopped,
    /// It goes back to a snapshot, which it has verified: [`super::resume`], and start it again.
    RollingBack(Option<Snapshot>),
    /// The tree gave up.
    Failed(TreeExit),
}

impl NodeEnd {
    /// The process's exit status.
    pub const fn exit_status(&self) -> u8 {
        match self {
            Self::Stopped
            | Self::RollingBack(_)
            | Self::Failed(TreeExit::Stopped | TreeExit::StopOverrun { .. }) => 0,
            Self::Failed(TreeExit::Escalated { .. }) => EXIT_ROOT,
            Self::Failed(TreeExit::TooManyZombies { .. }) => EXIT_ZOMBIES,
            Self::Failed(TreeExit::SupervisionLost) => EXIT_SUPERVISION,
        }
    }
}

/// SIGTERM and SIGINT.
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Listens from now on.
    ///
    /// # Errors
    /// The system takes no signal handlers.
    pub fn listen() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Resolves when one came.
    pub async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A node whose tree runs.
pub struct RunningNode {
    config: Config,
    store: Arc<RocksStore>,
    port: Arc<Port>,
    uploads: UploadDesk,
    rollbacks: Rollbacks,
    rewards: Rewards,
    security: SecurityHandle,
    alerts: Alerts,
    edge: EdgeHandle,
    stopping: Stopping,
    seams: Seams,
    url: String,
}

impl RunningNode {
    /// Brings storage, cache and edge up; [`run`](Self::run) adds the replicas.
    ///
    /// # Errors
    /// The model cannot be read, or the configuration contradicts itself.
    pub async fn start(
        config: Config,
        home: Home,
        listener: TcpListener,
        seams: Seams,
        metrics: PrometheusHandle,
    ) -> Result<Self> {
        let keys = Keys::load(&config.edge, &config.node.data_dir())?;
        let node = home.key.public_key().to_string();
        let (alerts, inbox) = alerts::begin(&config, &node)?;
        let (port, security, ledger) = start_storage(&config, &home, inbox, &seams.probe).await?;
        let uploads = UploadDesk::open(
            &home.store,
            &config.uploads,
            port.chain.clone(),
            Arc::clone(&home.key),
            security.clone(),
        )?;
        let rollbacks = Rollbacks::new(&config, &security);
        let node_key = home.key.public_key();
        let rewards = Rewards::new(&config, &port, ledger, &node_key);
        let bound = listener.local_addr()?;
        let stopping = Stopping::default();
        while_it_runs(&stopping, keep_metrics(metrics.clone()));
        let parts = EdgeParts {
            node: Arc::clone(&port) as Arc<dyn NodePort>,
            uploads: Arc::new(uploads.clone()),
            adoption: Arc::new(Adopter::new(&port, &config, &home.key, &security, &seams)),
            rollbacks: Arc::new(rollbacks.clone()),
            economy: Arc::new(rewards.clone()),
            security: security.clone(),
            keys,
            bound,
            stopping: stopping.clone(),
            metrics,
            probe: Arc::clone(&seams.probe),
        };
        let state = Arc::new(EdgeState::new(&config, parts));
        let edge = EdgeActor::spec("edge", state, listener, config.inference.request_timeout())
            .backoff(config.supervision.backoff());
        let node = Self {
            edge: EdgeHandle::new(edge.child_ref()),
            url: format!("http://{bound}"),
            store: home.store,
            config,
            port,
            uploads,
            rollbacks,
            rewards,
            security,
            alerts,
            stopping,
            seams,
        };
        node.port.tree.add_child(ROOT, edge).await?;
        Ok(node)
    }

    /// Brings the replicas up. A corrupt shared weight is no error: every chat is answered with its name until it is
    /// restored.
    async fn begin_serving(&self) -> Result<()> {
        match serving::begin(&self.config, &self.port, &self.security, &self.seams).await {
            Ok(()) => Ok(()),
            Err(error) if error.is_corrupt() => {
                tracing::error!(%error, "no chat is answered until this weight is restored");
                self.mend_in_background();
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Tries again until the weight is whole.
    fn mend_in_background(&self) {
        let (config, port, security, seams) = (
            self.config.clone(),
            Arc::clone(&self.port),
            self.security.clone(),
            self.seams.clone(),
        );
        let mending = async move {
            loop {
                tokio::time::sleep(MEND_PAUSE).await;
                serving::readmit_shared(&port).await;
                match serving::begin(&config, &port, &security, &seams).await {
                    Ok(()) => return tracing::info!("the weight is restored"),
                    Err(ServeError::Start(error)) if error.is_corrupt() => {}
                    Err(error) => {
                        return tracing::error!(%error, "the weight is restored, but nothing can serve it");
                    }
                }
            }
        };
        while_it_runs(&self.stopping, mending);
    }

    /// Hits the actor behind a fault point, from any thread.
    pub fn poke(&self) -> Poke {
        let (port, edge) = (Arc::clone(&self.port), self.edge.clone());
        let rewards = self.rewards.clone();
        let runtime = tokio::runtime::Handle::current();
        Arc::new(move |point| match point {
            "edge" => edge.poke(),
            "chain" => {
                let chain = port.chain.clone();
                runtime.spawn(async move { drop(chain.ping().await) });
            }
            "reward" => {
                let rewards = rewards.clone();
                runtime.spawn(async move { drop(rewards.supply().await) });
            }
            "expert_cache" => {
                let cache = port.cache.clone();
                runtime.spawn(async move { drop(cache.ping(POKE).await) });
            }
            replica => {
                let found = port
                    .replicas()
                    .iter()
                    .find(|child| child.path().ends_with(replica));
                // A child that is down has no need of a fault.
                let _ = found.map(|child| child.try_tell(Wake));
            }
        })
    }

    /// Serves until it is told to stop or the tree ends.
    ///
    /// # Errors
    /// ONNX Runtime cannot be used.
    pub async fn run(self, stop: &mut StopSignals) -> Result<NodeEnd> {
        let announcing = announce(Arc::clone(&self.port), self.url.clone());
        while_it_runs(&self.stopping, announcing);
        self.conclude_rollback();
        let (uploads, closing) = (self.uploads.clone(), self.stopping.closing.clone());
        actix_rt::spawn(uploads.keep_tidy(closing));
        if let Some(every) = self.config.chain.snapshot_every() {
            let (store, closing) = (Arc::clone(&self.store), self.stopping.closing.clone());
            actix_rt::spawn(snapshots::keep_making(store, every, closing));
        }
        self.watch_disk();
        while_it_runs(&self.stopping, self.rewards.clone().keep_crediting());
        while_it_runs(&self.stopping, self.rewards.clone().keep_distributing());
        let serve_for_good = async {
            self.begin_serving().await?;
            std::future::pending().await
        };
        let end = tokio::select! {
            exit = self.port.tree.wait() => Ok(NodeEnd::Failed(exit)),
            () = stop.recv() => Ok(self.stop().await),
            verified = self.rollbacks.ordered() => {
                self.stopping.because(rollback::rolling_back());
                match self.stop().await {
                    NodeEnd::Stopped => Ok(NodeEnd::RollingBack(verified)),
                    failed => Ok(failed),
                }
            }
            failed = serve_for_good => {
                self.stop().await;
                failed
            }
        };
        let patience = match end {
            Ok(NodeEnd::RollingBack(_)) => HAND_OVER,
            _ => CLOSE,
        };
        self.close(patience).await;
        end
    }

    /// Goes on with a rollback that this node was started for.
    fn conclude_rollback(&self) {
        let (config, port, security) = (
            self.config.clone(),
            Arc::clone(&self.port),
            self.security.clone(),
        );
        while_it_runs(&self.stopping, async move {
            rollback::conclude(&config, &port, &security).await;
        });
    }

    fn watch_disk(&self) {
        let (store, closing) = (Arc::clone(&self.store), self.stopping.closing.clone());
        actix_rt::spawn(disk::watch_room(store, closing));
        if self.config.chain.scrub_bytes_per_s > 0 {
            let scrubbing = Scrubbing {
                store: Arc::clone(&self.store),
                port: Arc::clone(&self.port),
                security: self.security.clone(),
                config: self.config.chain.clone(),
                closing: self.stopping.closing.clone(),
            };
            actix_rt::spawn(scrubbing.keep());
        }
    }

    /// Answers hear their end first, then open connections, then the tree from its last child to its first.
    async fn stop(&self) -> NodeEnd {
        let why = self.stopping.why();
        tracing::info!(why = why.message, "stopping");
        let began = Instant::now();
        let limit = self.config.node.shutdown();
        self.stopping.closing.cancel();
        if let Some(inference) = self.port.inference.get() {
            let last_words = limit * LAST_WORDS.0 / LAST_WORDS.1;
            let undone = inference.drain(&why, last_words).await;
            if undone > 0 {
                tracing::warn!(undone, "receipts that are not durable");
            }
        }
        self.stopping.cut.cancel();
        self.edge.drain(limit * CONNECTIONS.0 / CONNECTIONS.1).await;
        let rest = limit.saturating_sub(began.elapsed()).saturating_sub(CLOSE);
        match self.port.tree.stop(rest).await {
            exit @ (TreeExit::Stopped | TreeExit::StopOverrun { .. }) => {
                tracing::info!(%exit, took_ms = began.elapsed().as_millis(), "stopped");
                NodeEnd::Stopped
            }
            exit => NodeEnd::Failed(exit),
        }
    }

    /// Closes the database, unless a thread that is stuck still holds it.
    async fn close(self, patience: Duration) {
        let Self {
            store,
            port,
            edge,
            rewards,
            alerts,
            ..
        } = self;
        drop((port, edge, rewards));
        alerts.close().await;
        let closed = async {
            while Arc::strong_count(&store) > 1 {
                tokio::time::sleep(READY_TICK).await;
            }
        };
        if tokio::time::timeout(patience, closed).await.is_err() {
            tracing::debug!("the database is still held; what was written is durable");
        }
    }
}

/// Works beside the node, until it stops.
fn while_it_runs(stopping: &Stopping, work: impl Future<Output = ()> + 'static) {
    let closing = stopping.closing.clone();
    actix_rt::spawn(async move { closing.run_until_cancelled(work).await });
}

/// Folds what histograms have gathered, so that it does not pile up where nobody scrapes.
async fn keep_metrics(metrics: PrometheusHandle) {
    loop {
        tokio::time::sleep(METRICS_UPKEEP).await;
        metrics.run_upkeep();
    }
}

/// Prints once that the node listens, when it is ready.
async fn announce(port: Arc<Port>, url: String) {
    while port.ready().is_err() {
        tokio::time::sleep(READY_TICK).await;
    }
    let mut out = std::io::stdout().lock();
    // A node whose output nobody reads serves all the same.
    let _ = writeln!(out, "listening on {url}").and_then(|()| out.flush());
}

/// Starts the security orchestrator, chain, ledger and cache, and reads which model is served.
async fn start_storage(
    config: &Config,
    home: &Home,
    alerts: Inbox,
    probe: &Arc<dyn Probe>,
) -> Result<(Arc<Port>, SecurityHandle, LedgerHandle)> {
    let store = &home.store;
    let (chain, handle) = tree::chain(Arc::clone(store), &config.chain, &config.supervision);
    let cache = ExpertCacheHandle::new(config.expert_cache.clone(), Arc::new(handle.clone()))?;
    let (orchestrator, security, parts) = security::orchestrator(config, store, &home.key, alerts);
    let orchestrator = orchestrator.backoff(config.supervision.backoff());
    let (reward, ledger) = reward::child(config);
    let tree = tree::start(
        orchestrator,
        chain,
        reward,
        &cache,
        &config.supervision,
        Arc::clone(probe),
    )?;
    handle
        .child()
        .wait_running(STORAGE_START)
        .await
        .context("the chain did not come up")?;
    let published = published(&handle, config).await?;
    let port = Arc::new(Port::new(
        config,
        handle,
        Arc::clone(store),
        cache,
        tree,
        published,
    ));
    security::watch(&parts, &port, &security);
    Ok((port, security, ledger))
}

async fn published(chain: &ChainHandle, config: &Config) -> Result<Published> {
    let model = chain.model(None).await?;
    let manifest = chain.block(model.id.0).await?.block.header;
    let served = serving::served_model(&model, manifest.timestamp_ms, config);
    Ok(Published {
        model: Arc::new(model),
        served: Arc::new(served),
    })
}

//! What the security orchestrator sees and moves: the tree, the experts that failed their hash, and whoever is told.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use blyan_chain::{RocksStore, VerifyOptions, verify};
use blyan_formats::{NodeKey, TensorName};
use blyan_protocol::BoxFuture;
use blyan_security::audit::{Anchor, AuditOptions, RealDisk};
use blyan_security::{
    Alert, AlertSink, AnchorSink, Component, Components, NODE, PortError, Ports, Report,
    SecurityHandle, SecurityOrchestrator,
};
use blyan_supervisors::{ChildSpec, ChildState, Generation, NodeKind, TreeHandle, TreeNode};
use tokio::sync::broadcast::error::RecvError;

use super::engine::PAYLOAD;
use super::home::now_ms;
use super::port::Port;
use super::tree::REPLICAS;
use crate::config::Config;

const AUDIT_DIR: &str = "audit";
const EDGE: &str = "edge";
const SECURITY: &str = "security";
const STORAGE: &str = "storage";
/// How long a component may take to come back.
const BACK: Duration = Duration::from_secs(30);
/// Between two looks at a component that is to come back.
const LOOK: Duration = Duration::from_millis(5);
/// Between two looks at what the cache found corrupt.
const CORRUPT_LOOK: Duration = Duration::from_millis(500);

/// The node's parts, once they are there.
pub struct Parts {
    port: OnceLock<Arc<Port>>,
    store: Arc<RocksStore>,
}

/// The orchestrator's child, with the handle that outlives its restarts and the parts that it will see.
pub fn orchestrator(
    config: &Config,
    store: &Arc<RocksStore>,
    key: &Arc<NodeKey>,
) -> (ChildSpec<SecurityOrchestrator>, SecurityHandle, Arc<Parts>) {
    let parts = Arc::new(Parts {
        port: OnceLock::new(),
        store: Arc::clone(store),
    });
    let audit = AuditOptions {
        dir: audit_dir(&config.node.data_dir()),
        key: Arc::clone(key),
        segment_len_max: config.security.segment_len_max_bytes,
        disk: Arc::new(RealDisk),
    };
    let ports = Ports {
        components: Arc::clone(&parts) as Arc<dyn Components>,
        anchors: Arc::new(NoAnchors),
        alerts: Arc::new(Log),
        now_ms: Arc::new(now_ms),
    };
    let (spec, handle) = SecurityOrchestrator::spec(SECURITY, audit, ports, &config.security);
    (spec, handle, parts)
}

/// Where the audit log lies.
pub fn audit_dir(data_dir: &Path) -> std::path::PathBuf {
    data_dir.join(AUDIT_DIR)
}

/// From now on the orchestrator sees the node, and hears what happens in it.
pub fn watch(parts: &Parts, port: &Arc<Port>, security: &SecurityHandle) {
    parts.port.get_or_init(|| Arc::clone(port));
    actix_rt::spawn(tell_exits(port.tree.clone(), security.clone()));
    actix_rt::spawn(tell_corruption(Arc::downgrade(port), security.clone()));
}

async fn tell_exits(tree: TreeHandle, security: SecurityHandle) {
    let mut events = tree.subscribe();
    loop {
        match events.recv().await {
            Ok(event) => {
                if let Some(report) = Report::of(&event) {
                    tell(&security, report);
                }
            }
            // What the tree took out meanwhile the orchestrator sees at its next tick.
            Err(RecvError::Lagged(missed)) => tracing::warn!(missed, "exits that nobody judged"),
            Err(RecvError::Closed) => return,
        }
    }
}

async fn tell_corruption(port: std::sync::Weak<Port>, security: SecurityHandle) {
    let mut told = BTreeSet::new();
    while let Some(port) = port.upgrade() {
        let corrupt = port.cache.status().corrupt;
        told.retain(|payload| corrupt.iter().any(|record| record.payload == *payload));
        for record in corrupt {
            if !told.contains(&record.payload) {
                let report = Report::Corrupt {
                    path: record.name.to_string(),
                    what: format!("{}: {}", record.payload, record.fault),
                };
                if tell(&security, report) {
                    told.insert(record.payload);
                }
            }
        }
        drop(port);
        tokio::time::sleep(CORRUPT_LOOK).await;
    }
}

fn tell(security: &SecurityHandle, report: Report) -> bool {
    let told = security.report(report);
    if let Err(why) = &told {
        tracing::debug!(%why, "the orchestrator was not told");
    }
    told.is_ok()
}

impl Parts {
    fn port(&self) -> Result<&Arc<Port>, PortError> {
        let missing = || PortError::new("the node is still starting");
        self.port.get().ok_or_else(missing)
    }

    fn node(&self, path: &str) -> Result<TreeNode, PortError> {
        let tree = self.port()?.tree.describe();
        let missing = || PortError::new(format!("there is no component {path}"));
        tree.find(place_of(path)).cloned().ok_or_else(missing)
    }

    /// The expert or shared weight of this name among those that are corrupt.
    fn corrupt(&self, path: &str) -> Option<blyan_expert_cache::CorruptPayload> {
        let name: TensorName = path.parse().ok()?;
        let corrupt = self.port.get()?.cache.status().corrupt;
        corrupt.into_iter().find(|record| record.name == name)
    }

    async fn readmit(&self, path: &str) -> Result<(), PortError> {
        let port = self.port()?;
        match self.corrupt(path) {
            None => Ok(()),
            Some(record) => {
                let readmitted = port.cache.readmit(record.payload, PAYLOAD).await;
                readmitted.map_err(PortError::new)
            }
        }
    }

    async fn back(&self, path: &str, after: Option<Generation>) -> Result<(), PortError> {
        let returned = async {
            loop {
                let node = self.node(path)?;
                if node.state == ChildState::Running && after.is_none_or(|g| node.generation > g) {
                    return Ok(());
                }
                if node.state == ChildState::Quarantined {
                    let why = node.quarantine_reason.unwrap_or_default();
                    return Err(PortError::new(format!("it was quarantined again: {why}")));
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let in_time = tokio::time::timeout(BACK, returned).await;
        in_time.unwrap_or_else(|_| {
            Err(PortError::new(format!(
                "it is not ready after {} s",
                BACK.as_secs()
            )))
        })
    }
}

/// Where in the tree a component is moved: the node as a whole is its replicas, so that its admin is still answered.
fn place_of(path: &str) -> &str {
    if path == NODE { REPLICAS } else { path }
}

fn is_weight(path: &str) -> bool {
    path.parse::<TensorName>().is_ok()
}

fn collect(node: &TreeNode, held: bool, all: &mut Vec<Component>) {
    let quarantined = node.state == ChildState::Quarantined;
    let replica = node.kind == NodeKind::Worker && node.id.starts_with(REPLICAS);
    all.push(Component {
        path: node.id.clone(),
        serves: replica && !held && node.state == ChildState::Running,
        needed: [EDGE, SECURITY].contains(&node.id.as_str()),
        quarantined,
    });
    for child in &node.children {
        collect(child, held || quarantined, all);
    }
}

impl Components for Parts {
    fn list(&self) -> Vec<Component> {
        let Some(port) = self.port.get() else {
            return Vec::new();
        };
        let tree = port.tree.describe();
        let mut all = Vec::new();
        tree.children
            .iter()
            .for_each(|child| collect(child, false, &mut all));
        let replicas = all.iter().find(|component| component.path == REPLICAS);
        all.push(Component {
            path: NODE.to_owned(),
            serves: false,
            needed: false,
            quarantined: replicas.is_some_and(|replicas| replicas.quarantined),
        });
        let corrupt = port.cache.status().corrupt;
        all.extend(corrupt.iter().map(|record| Component {
            path: record.name.to_string(),
            serves: false,
            needed: false,
            quarantined: true,
        }));
        all
    }

    fn quarantine<'a>(
        &'a self,
        path: &'a str,
        reason: &'a str,
    ) -> BoxFuture<'a, Result<(), PortError>> {
        Box::pin(async move {
            // The cache gives out nothing that is corrupt.
            if is_weight(path) {
                return Ok(());
            }
            if self.node(path)?.state == ChildState::Quarantined {
                return Ok(());
            }
            let tree = &self.port()?.tree;
            let taken = tree.quarantine(place_of(path), reason).await;
            taken.map_err(PortError::new)
        })
    }

    fn recover<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<(), PortError>> {
        Box::pin(async move {
            if is_weight(path) {
                return self.readmit(path).await;
            }
            if self.node(path)?.state == ChildState::Quarantined {
                let tree = &self.port()?.tree;
                tree.recover(place_of(path)).await.map_err(PortError::new)?;
            }
            self.back(path, None).await
        })
    }

    fn fail_over<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<(), PortError>> {
        Box::pin(async move {
            if is_weight(path) {
                return Err(PortError::new("a weight has no work to move"));
            }
            let before = self.node(path)?.generation;
            let tree = &self.port()?.tree;
            tree.restart(place_of(path)).await.map_err(PortError::new)?;
            self.back(path, Some(before)).await
        })
    }

    fn verify<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<(), PortError>> {
        Box::pin(async move {
            if is_weight(path) {
                return self.readmit(path).await;
            }
            if !path.starts_with(STORAGE) {
                return Ok(());
            }
            let store = Arc::clone(&self.store);
            let options = || VerifyOptions {
                anchor: None,
                threads: 1,
                progress: &|_| {},
            };
            let checked = tokio::task::spawn_blocking(move || verify(&*store, options()).map(drop));
            let checked = checked.await.map_err(PortError::new)?;
            checked.map_err(PortError::new)
        })
    }
}

/// Chain A has no block for anchors yet: the log says so at each try, and the dashboard counts no record as anchored.
struct NoAnchors;

impl AnchorSink for NoAnchors {
    fn anchor(&self, _: Anchor) -> BoxFuture<'_, Result<(), PortError>> {
        let why = "chain A takes no anchors yet";
        Box::pin(async move { Err(PortError::new(why)) })
    }
}

/// Alerts go to the node's log; whoever reads it tells people.
struct Log;

impl AlertSink for Log {
    fn alert(&self, alert: &Alert) {
        tracing::error!(
            indicator = alert.indicator.as_str(),
            count = alert.count,
            subject = alert.subject,
            "alert: {}",
            alert.text
        );
    }
}

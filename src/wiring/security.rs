//! What the security orchestrator sees and moves: the tree, the experts that failed their hash, and whoever is told.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use blyan_chain::{
    BlockMeta, ChainHandle, ChainReader, Need, RocksStore, Store as _, VerifyOptions, verify,
};
use blyan_formats::bodies::Payload;
use blyan_formats::{AuditAnchorBody, BlockType, NodeKey, PublicKey, TensorName};
use blyan_protocol::{BoxFuture, PublicError};
use blyan_security::audit::{
    AUDIT_DIR, Action, Anchor, AuditDisk, AuditOptions, RealDisk, RecordOutcome,
};
use blyan_security::{
    AnchorSink, Component, Components, NODE, PortError, Ports, Report, SecurityHandle,
    SecurityOrchestrator,
};
use blyan_supervisors::{ChildSpec, ChildState, Generation, NodeKind, TreeHandle, TreeNode};
use tokio::sync::broadcast::error::RecvError;

use super::alerts::Inbox;
use super::chain_a;
use super::engine::PAYLOAD;
use super::home::now_ms;
use super::port::Port;
use super::tree::REPLICAS;
use crate::config::Config;

const EDGE: &str = "edge";
const SECURITY: &str = "security";
const STORAGE: &str = "storage";
/// How long a component may take to come back or to go.
const CHANGE: Duration = Duration::from_secs(30);
/// Between two looks at a component that is to change.
const LOOK: Duration = Duration::from_millis(5);
/// Between two looks at what the cache found corrupt.
pub(super) const CORRUPT_LOOK: Duration = Duration::from_millis(500);

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
    alerts: Inbox,
) -> (ChildSpec<SecurityOrchestrator>, SecurityHandle, Arc<Parts>) {
    let parts = Arc::new(Parts {
        port: OnceLock::new(),
        store: Arc::clone(store),
    });
    let audit = AuditOptions {
        dir: config.node.data_dir().join(AUDIT_DIR),
        key: Arc::clone(key),
        segment_len_max: config.security.segment_len_max_bytes,
        disk: Arc::new(RoomyDisk(Arc::clone(store))),
    };
    let ports = Ports {
        components: Arc::clone(&parts) as Arc<dyn Components>,
        anchors: Arc::new(OnChain {
            parts: Arc::clone(&parts),
            key: Arc::clone(key),
        }),
        alerts: Arc::new(alerts),
        now_ms: Arc::new(now_ms),
    };
    let (spec, handle) = SecurityOrchestrator::spec(SECURITY, audit, ports, &config.security);
    (spec, handle, parts)
}

/// From now on the orchestrator sees the node, and hears what happens in it.
pub fn watch(parts: &Parts, port: &Arc<Port>, security: &SecurityHandle) {
    parts.port.get_or_init(|| Arc::clone(port));
    actix_rt::spawn(tell_exits(port.tree.clone(), security.clone()));
    actix_rt::spawn(tell_corruption(Arc::downgrade(port), security.clone()));
}

/// The system's own calls, as long as the store's disk is not full: a record that is begun there and not ended would
/// cost this generation of the orchestrator, and each of those after it.
struct RoomyDisk(Arc<RocksStore>);

impl AuditDisk for RoomyDisk {
    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        RealDisk.write(file, bytes)
    }

    fn sync_file(&self, file: &File) -> io::Result<()> {
        RealDisk.sync_file(file)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }

    fn room(&self) -> io::Result<()> {
        let room = self.0.payloads().room().check(Need::Decisions);
        room.map_err(io::Error::other)
    }
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

pub(super) fn tell(security: &SecurityHandle, report: Report) -> bool {
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

    /// Checks a weight's whole payload; if it is as its block binds it, it is given out again.
    async fn readmit(&self, path: &str) -> Result<(), PortError> {
        let port = self.port()?;
        let name: TensorName = path.parse().map_err(PortError::new)?;
        let missing = || PortError::new(format!("the model has no weight {name}"));
        let model = port.model();
        let entry = model.entries.get(&name).ok_or_else(missing)?;
        let readmitted = port.cache.readmit(entry.payload, PAYLOAD).await;
        readmitted.map_err(PortError::new)
    }

    /// Waits until a component runs, if asked for in a later generation.
    async fn back(&self, path: &str, after: Option<Generation>) -> Result<(), PortError> {
        let runs = |node: &TreeNode| match node.state {
            ChildState::Quarantined => {
                let why = node.quarantine_reason.as_deref().unwrap_or_default();
                Err(PortError::new(format!("it was quarantined again: {why}")))
            }
            state => Ok(state == ChildState::Running && after.is_none_or(|g| node.generation > g)),
        };
        self.until(path, runs).await
    }

    async fn until(
        &self,
        path: &str,
        holds: impl Fn(&TreeNode) -> Result<bool, PortError>,
    ) -> Result<(), PortError> {
        let waiting = async {
            while !holds(&self.node(path)?)? {
                tokio::time::sleep(LOOK).await;
            }
            Ok(())
        };
        let late = || PortError::new(format!("it is not so after {} s", CHANGE.as_secs()));
        let in_time = tokio::time::timeout(CHANGE, waiting).await;
        in_time.unwrap_or_else(|_| Err(late()))
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
        needed: node.id == SECURITY,
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
        // Orders come through the edge: nobody could take its quarantine back.
        let moved = tree.children.iter().filter(|child| child.id != EDGE);
        moved.for_each(|child| collect(child, false, &mut all));
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
            taken.map_err(PortError::new)?;
            // It may still be in the middle of a step.
            self.until(path, |node| Ok(node.state == ChildState::Quarantined))
                .await
        })
    }

    fn recover<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<(), PortError>> {
        Box::pin(async move {
            if is_weight(path) {
                return self.readmit(path).await;
            }
            if self.node(path)?.state != ChildState::Running {
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

/// Anchors of the audit log as blocks on chain A.
struct OnChain {
    parts: Arc<Parts>,
    key: Arc<NodeKey>,
}

impl AnchorSink for OnChain {
    fn anchor(&self, anchor: Anchor) -> BoxFuture<'_, Result<(), PortError>> {
        Box::pin(async move {
            let chain = &self.parts.port()?.chain;
            let appended = append(chain, anchor, &self.key).await;
            appended.map_err(PortError::new)
        })
    }
}

async fn append(chain: &ChainHandle, anchor: Anchor, key: &NodeKey) -> anyhow::Result<()> {
    let body = AuditAnchorBody {
        count: anchor.count,
        head: anchor.head.into(),
    };
    chain_a::append(chain, key, BlockType::AuditAnchor, body.to_payload()?).await?;
    Ok(())
}

/// Writes down in the audit log what an admin does with the chain; returns once it is durable.
///
/// # Errors
/// The log takes no record, so it must not be done.
pub async fn note(
    security: &SecurityHandle,
    who: &str,
    action: Action,
    subject: &str,
    reason: String,
    outcome: RecordOutcome,
) -> Result<(), PublicError> {
    let report = Report::Administered {
        who: who.to_owned(),
        action,
        subject: subject.to_owned(),
        reason,
        outcome,
    };
    Ok(security.report_and_wait(report).await?)
}

/// The anchors on chain A that `key` signed, oldest first.
///
/// # Errors
/// The store is damaged.
pub fn anchors(reader: &ChainReader<RocksStore>, key: PublicKey) -> anyhow::Result<Vec<Anchor>> {
    let mut anchors = Vec::new();
    for hash in reader.index().chain_a() {
        let is_anchor = |block: &BlockMeta| block.block_type == BlockType::AuditAnchor;
        if reader.index().get(hash).is_some_and(is_anchor)
            && reader.block(*hash)?.block.header.miner_pub == key
        {
            let body = AuditAnchorBody::from_payload(&reader.body(*hash)?)?;
            anchors.push(Anchor {
                count: body.count,
                head: body.head.into(),
            });
        }
    }
    Ok(anchors)
}

use std::fs::File;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use blyan_formats::NodeKey;
use blyan_protocol::BoxFuture;
use blyan_security::audit::{Anchor, AuditDisk, AuditOptions, AuditReport, RealDisk, verify};
use blyan_security::{
    Alert, AlertSink, AnchorSink, Component, Components, Decision, Order, PortError, Ports,
    SecurityConfig, SecurityHandle, SecurityOrchestrator,
};
use blyan_supervisors::{NoProbe, Probe, SupervisorSpec, Tree, TreeHandle, TreeOptions};
use parking_lot::Mutex;
use tempfile::TempDir;

pub const ONE: &str = "serving/replicas/inference-1";
pub const TWO: &str = "serving/replicas/inference-2";
/// Long enough for anything that is going to happen on a loaded machine.
pub const LONG: Duration = Duration::from_secs(20);
pub const FIVE_MINUTES_MS: u64 = 300_000;

/// A node whose components do what they are told and note it.
pub struct Node {
    dir: PathBuf,
    key: Arc<NodeKey>,
    pub components: Mutex<Vec<Component>>,
    /// What was done, and how many records the log held then.
    pub done: Mutex<Vec<(String, u64)>>,
    /// What is answered to a verification.
    pub damaged: AtomicBool,
    pub startable: AtomicBool,
    pub anchors: Mutex<Vec<Anchor>>,
    pub anchorable: AtomicBool,
    pub alerts: Mutex<Vec<Alert>>,
    pub now_ms: AtomicU64,
}

impl Node {
    fn new(dir: PathBuf, key: Arc<NodeKey>) -> Arc<Self> {
        let component = |path: &str| Component {
            path: path.to_owned(),
            serves: true,
            needed: false,
            quarantined: false,
        };
        Arc::new(Self {
            dir,
            key,
            components: Mutex::new(vec![component(ONE), component(TWO)]),
            done: Mutex::default(),
            damaged: AtomicBool::new(false),
            startable: AtomicBool::new(true),
            anchors: Mutex::default(),
            anchorable: AtomicBool::new(true),
            alerts: Mutex::default(),
            now_ms: AtomicU64::new(1_000_000),
        })
    }

    fn set(&self, path: &str, out: bool) {
        for component in self.components.lock().iter_mut() {
            if component.path == path {
                (component.quarantined, component.serves) = (out, !out);
            }
        }
    }

    /// The log as another process would see it at this moment.
    fn note(&self, what: &str, path: &str) {
        let records = verify(&self.dir, self.key.public_key(), &[]).map(|report| report.end.count);
        let line = format!("{what} {path}");
        self.done.lock().push((line, records.unwrap_or(u64::MAX)));
    }

    pub fn did(&self, line: &str) -> bool {
        self.done.lock().iter().any(|(done, _)| done == line)
    }

    pub fn lines(&self) -> Vec<String> {
        let done = self.done.lock();
        done.iter().map(|(line, _)| line.clone()).collect()
    }
}

impl Components for Node {
    fn list(&self) -> Vec<Component> {
        self.components.lock().clone()
    }

    fn quarantine<'a>(
        &'a self,
        path: &'a str,
        _reason: &'a str,
    ) -> BoxFuture<'a, Result<(), PortError>> {
        Box::pin(async move {
            self.note("quarantine", path);
            self.set(path, true);
            Ok(())
        })
    }

    fn recover<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<(), PortError>> {
        Box::pin(async move {
            self.note("recover", path);
            if !self.startable.load(Ordering::SeqCst) {
                return Err(PortError::new("it does not start"));
            }
            self.set(path, false);
            Ok(())
        })
    }

    fn fail_over<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<(), PortError>> {
        Box::pin(async move {
            self.note("fail_over", path);
            match self.startable.load(Ordering::SeqCst) {
                true => Ok(()),
                false => Err(PortError::new("it does not start")),
            }
        })
    }

    fn verify<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<(), PortError>> {
        Box::pin(async move {
            self.note("verify", path);
            match self.damaged.load(Ordering::SeqCst) {
                true => Err(PortError::new("layer4.expert7 fails its hash")),
                false => Ok(()),
            }
        })
    }
}

impl AnchorSink for Node {
    fn anchor(&self, anchor: Anchor) -> BoxFuture<'_, Result<(), PortError>> {
        Box::pin(async move {
            if !self.anchorable.load(Ordering::SeqCst) {
                return Err(PortError::new("the chain is down"));
            }
            self.anchors.lock().push(anchor);
            Ok(())
        })
    }
}

impl AlertSink for Node {
    fn alert(&self, alert: &Alert) {
        self.alerts.lock().push(alert.clone());
    }
}

/// A disk whose syncs fail while it is told to, and one that is full.
#[derive(Default)]
pub struct SickDisk {
    pub sick: AtomicBool,
    pub full: AtomicBool,
}

impl AuditDisk for SickDisk {
    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        RealDisk.write(file, bytes)
    }

    fn sync_file(&self, file: &File) -> io::Result<()> {
        if self.sick.load(Ordering::SeqCst) {
            return Err(io::Error::other("the disk went away"));
        }
        RealDisk.sync_file(file)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }

    fn room(&self) -> io::Result<()> {
        match self.full.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
}

/// Everything that outlives a process.
pub struct House {
    folder: TempDir,
    key: Arc<NodeKey>,
    pub node: Arc<Node>,
    pub disk: Arc<SickDisk>,
    pub config: SecurityConfig,
}

impl House {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = Arc::new(NodeKey::from_secret_bytes([7; 32]).unwrap());
        Self {
            node: Node::new(folder.path().join("audit"), Arc::clone(&key)),
            disk: Arc::default(),
            config: SecurityConfig {
                tick_ms: 10,
                ..SecurityConfig::default()
            },
            folder,
            key,
        }
    }

    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("audit")
    }

    pub fn verified(&self) -> AuditReport {
        let anchors = self.node.anchors.lock().clone();
        verify(&self.dir(), self.key.public_key(), &anchors).unwrap()
    }

    pub fn open(&self) -> (TreeHandle, SecurityHandle) {
        self.open_with(Arc::new(NoProbe))
    }

    /// A process that runs the orchestrator alone.
    pub fn open_with(&self, probe: Arc<dyn Probe>) -> (TreeHandle, SecurityHandle) {
        let audit = AuditOptions {
            dir: self.dir(),
            key: Arc::clone(&self.key),
            segment_len_max: self.config.segment_len_max_bytes,
            disk: self.disk.clone(),
        };
        let node = Arc::clone(&self.node);
        let clock = Arc::clone(&node);
        let ports = Ports {
            components: node.clone(),
            anchors: node.clone(),
            alerts: node,
            now_ms: Arc::new(move || clock.now_ms.load(Ordering::SeqCst)),
        };
        let (spec, handle) = SecurityOrchestrator::spec("security", audit, ports, &self.config);
        let options = TreeOptions {
            probe,
            ..TreeOptions::default()
        };
        let tree = Tree::start(SupervisorSpec::new("node").child(spec), options).unwrap();
        (tree, handle)
    }

    pub fn pass(&self, ms: u64) {
        self.node.now_ms.fetch_add(ms, Ordering::SeqCst);
    }
}

pub fn order(decision: Decision, path: &str) -> Order {
    Order {
        decision,
        path: path.to_owned(),
        who: "admin".to_owned(),
        reason: "because".to_owned(),
        force: false,
    }
}

pub async fn up(handle: &SecurityHandle) {
    handle.child().wait_running(LONG).await.unwrap();
}

/// Waits for what must come to be.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let held = tokio::time::timeout(LONG, waiting).await;
    held.unwrap_or_else(|_| panic!("{what}"));
}
